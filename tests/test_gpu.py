"""The CUDA path: the same numbers as on the CPU, captured graphs that equal eager steps, no host waits."""

import dataclasses

import pytest
import torch

from minari_distill.inner import InnerLoop
from minari_distill.networks import Architecture, initialize
from minari_distill.outer import OuterLoop
from minari_distill.recipe import StudentRecipe
from tests.test_outer import problem, small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("head", ["tanh", "linear", "softmax"])
def test_the_meta_gradient_is_the_cpus(optimizer, head):
    """In float64, relative error below 1e-9."""
    recipe = StudentRecipe(
        hidden_layers=2, hidden_width=32, optimizer=optimizer, lr=0.05, head=head, eps=1e-3, steps=8
    )
    g = torch.Generator().manual_seed(0)
    theta_0 = initialize(Architecture.of(recipe, 4, 3), 2, generator=g, dtype=torch.float64)
    S, A = (
        torch.randn(16, 4, generator=g).double(),
        torch.softmax(torch.randn(16, 3, generator=g), -1).double(),
    )
    results = []
    for device in ("cpu", "cuda"):
        loop = InnerLoop(
            recipe, obs_dim=4, act_dim=3, n_syn=16, n_students=2, window=5, device=device, precision="float64"
        )
        theta = loop.train(theta_0.to(device), S.to(device), A.to(device), steps=8, window=5).clone()
        results.append([x.cpu() for x in (theta, *loop.meta_gradient(torch.sin(theta)))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def captured_and_eager(p, S, A, config):
    """Ten steps each of a loop whose last ones replay graphs, and of one that has none."""
    captured, eager = (OuterLoop(p, S, A, config, CUDA) for _ in range(2))
    for replayed in (eager._replay_advance, eager._replay_finish, eager._replay_finish_in_metric):
        replayed.device = torch.device("cpu")  # called as it is
    for _ in range(10):
        captured.step()
        eager.step()
    return captured, eager


@pytest.mark.parametrize("pool", [0, 2])
@pytest.mark.parametrize("inner", ["momentum", "adam"])
@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
@pytest.mark.parametrize("forgiving", [0.0, 0.5])
def test_a_captured_step_equals_an_eager_one(pool, inner, meta_gradient, forgiving):
    """Ten steps, the last of which replay graphs, are ten eager ones; those in the metric have a graph of their own."""
    config = small(
        student_pool=pool,
        inner_optimizer=inner,
        inner_lr=0.01,
        inner_eps=1e-3,
        meta_gradient=meta_gradient,
        metric_share=0.5,  # steps in the metric and plain ones take turns
    )
    p, S, A = problem()
    p = dataclasses.replace(p, metric=torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1])), forgiving=forgiving)
    captured, eager = captured_and_eager(p, S, A, config)
    assert captured._replay_finish.graph is not None and eager._replay_finish.graph is None
    assert captured._replay_finish_in_metric.graph is not None
    torch.testing.assert_close(captured.S, eager.S, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(captured.A, eager.A, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(captured.metric, eager.metric, rtol=1e-5, atol=1e-6)
    assert not torch.equal(captured.metric.cpu(), p.metric)


@pytest.mark.parametrize("metric_share", [0.5, 1.0])
def test_a_captured_step_at_infinite_width_equals_an_eager_one(metric_share):
    """Alone, and in turn with steps for networks: the same pairs and the same metric."""
    config = dataclasses.replace(small(), infinite_width=True, metric_share=metric_share, metric_lr=2e-2)
    p, S, A = problem()
    p = dataclasses.replace(p, metric=torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1])))
    captured, eager = captured_and_eager(p, S, A, config)
    assert captured._replay_finish_in_metric.graph is not None
    assert eager._replay_finish_in_metric.graph is None
    for name in ("S", "A", "metric"):
        torch.testing.assert_close(getattr(captured, name), getattr(eager, name), rtol=1e-5, atol=1e-6)
    assert not torch.equal(captured.metric.cpu(), p.metric)
    assert captured.held_out_loss() == pytest.approx(eager.held_out_loss(), rel=1e-4)


@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
def test_a_step_never_waits_for_the_device(meta_gradient):
    """PyTorch's own detector of host synchronisation stays silent over captured steps."""
    loop = OuterLoop(*problem(), small(student_init="torch", meta_gradient=meta_gradient), CUDA)
    for _ in range(4):
        loop.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            loop.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bfloat16_keeps_the_direction_of_the_meta_gradient():
    """Cosine with float32 above 0.9 at full width."""
    recipe = StudentRecipe(optimizer="momentum", lr=0.2, output_gain=0.01, steps=40)
    g = torch.Generator().manual_seed(0)
    theta_0 = initialize(Architecture.of(recipe, 5, 3), 1, output_gain=0.01, generator=g).cuda()
    S, A = torch.randn(64, 5, generator=g).cuda(), torch.tanh(torch.randn(64, 3, generator=g)).cuda()
    gradients = []
    for precision in ("float32", "bfloat16"):
        loop = InnerLoop(recipe, obs_dim=5, act_dim=3, n_syn=64, window=20, device=CUDA, precision=precision)
        theta = loop.train(theta_0, S, A, steps=40, window=20)
        gradients.append(torch.cat([x.flatten() for x in loop.meta_gradient(torch.sin(3 * theta))]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9


def test_long_and_wide_fits_the_budget():
    """T = 1000 differentiated steps of K = 16 students at full width stay below 24 GB."""
    config = small(
        n_syn=256,
        hidden_layers=3,
        hidden_width=256,
        inner_steps=1000,
        window=0,
        n_students=16,
        outer_batch=256,
        inner_lr=0.01,
    )
    torch.cuda.reset_peak_memory_stats()
    loop = OuterLoop(*_at_256(), config, CUDA)
    loop.step()
    assert torch.cuda.max_memory_allocated() < 24e9
    assert int(loop.update.skipped) == 0


def _at_256():
    p, _, _ = problem()
    g = torch.Generator().manual_seed(0)
    return p, torch.randn(256, 4, generator=g), torch.tanh(torch.randn(256, 2, generator=g))
