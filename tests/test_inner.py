"""Laws of the inner loop: its meta-gradient is that of double-precision autograd, whatever the loop."""

import pytest
import torch

from benchmarks import autograd_reference
from minari_distill.inner import InnerLoop, mlp
from minari_distill.inner.mlp import Passes
from minari_distill.networks import Architecture, forward, initialize, views
from minari_distill.recipe import StudentRecipe

OBS, ACT, N = 5, 3, 12


def make(seed=0, K=2, **recipe):
    recipe = StudentRecipe(
        **{"hidden_layers": 2, "hidden_width": 8, "lr": 0.1, "steps": 7, "optimizer": "sgd", "eps": 1e-3}
        | recipe
    )
    g = torch.Generator().manual_seed(seed)
    arch = Architecture.of(recipe, OBS, ACT)
    theta_0 = initialize(arch, K, generator=g, dtype=torch.float64)
    theta_0 += 0.05 * torch.randn(theta_0.shape, generator=g, dtype=torch.float64)  # biases off zero
    S = torch.randn(N, OBS, generator=g, dtype=torch.float64)
    A = torch.randn(N, ACT, generator=g, dtype=torch.float64)
    A = torch.softmax(A, -1) if recipe.head == "softmax" else torch.tanh(A)
    outer = torch.randn(20, OBS, generator=g, dtype=torch.float64)
    target = torch.tanh(torch.randn(20, ACT, generator=g, dtype=torch.float64))
    return recipe, arch, theta_0, S, A, outer, target


def bc_loss(theta, S, A, arch):
    """Summed over students, so that each student's gradient is its own."""
    if arch.head == "softmax":
        return -(A * torch.log_softmax(forward(theta, S, arch, logits=True), -1)).mean(1).sum()
    return ((forward(theta, S, arch) - A) ** 2).mean((1, 2)).sum()


def unrolled(recipe, arch, theta, S, A, steps, window):
    """θ_T by autograd, differentiable in S and A through the last `window` steps."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(steps):
        live = t >= steps - window
        theta = theta if theta.requires_grad else theta.requires_grad_()
        s, a = (S, A) if live else (S.detach(), A.detach())
        (g,) = torch.autograd.grad(bc_loss(theta, s, a, arch), theta, create_graph=True)
        if recipe.optimizer == "sgd":
            theta = theta - recipe.lr * g
        elif recipe.optimizer == "momentum":
            m = recipe.momentum * m + g
            theta = theta - recipe.lr * m
        else:
            (b1, b2), t1 = recipe.betas, t + 1
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            root = torch.where(v > 0, v, 1.0).div(1 - b2**t1).sqrt() * (v > 0)
            theta = theta - recipe.lr * (m / (1 - b1**t1)) / (root + recipe.eps)
        if not live:
            theta, m, v = theta.detach(), m.detach(), v.detach()
    return theta


def outer_loss(theta, obs, target, arch):
    return ((forward(theta, obs, arch) - target) ** 2).mean((1, 2)).sum()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("head", ["tanh", "linear", "softmax"])
@pytest.mark.parametrize(("window", "K", "layers"), [(7, 1, 1), (7, 3, 3), (3, 2, 2), (1, 1, 2)])
def test_meta_gradient_equals_double_precision_autograd(optimizer, head, window, K, layers):
    """For every inner optimiser, head, window, depth and K: relative error below 1e-10."""
    recipe, arch, theta_0, S, A, obs, target = make(K=K, optimizer=optimizer, head=head, hidden_layers=layers)
    loop = InnerLoop(
        recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, n_students=K, window=window, precision="float64"
    )
    theta_T = loop.train(theta_0, S, A, steps=7, window=window)

    S_, A_ = S.clone().requires_grad_(), A.clone().requires_grad_()
    expected_T = unrolled(recipe, arch, theta_0, S_, A_, 7, window)
    assert relative(theta_T, expected_T) < 1e-12

    leaf = theta_T.clone().requires_grad_()
    (lam,) = torch.autograd.grad(outer_loss(leaf, obs, target, arch), leaf)
    dS, dA = loop.meta_gradient(lam)
    gS, gA = torch.autograd.grad(outer_loss(expected_T, obs, target, arch), [S_, A_])
    assert relative(dS, gS) < 1e-10
    assert relative(dA, gA) < 1e-10


@pytest.mark.parametrize("head", ["tanh", "softmax"])
@pytest.mark.parametrize(("K", "layers"), [(1, 3), (3, 2), (2, 1)])
def test_products_joined_in_twos_are_the_products_apart(head, K, layers):
    """What bfloat16 does for speed is the same arithmetic: equal to 1e-12 in double precision."""
    recipe, arch, theta_0, S, A, *_ = make(K=K, optimizer="momentum", head=head, hidden_layers=layers)
    result = []
    for joined in (False, True):
        loop = InnerLoop(
            recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, n_students=K, window=7, precision="float64"
        )
        double, cpu = torch.float64, torch.device("cpu")
        loop.passes = Passes(arch, K, N, dtype=double, wide=double, device=cpu, joined=joined)
        theta_T = loop.train(theta_0, S, A, steps=7, window=7)
        result.append(loop.meta_gradient(torch.sin(theta_T)))
    for apart, together in zip(*result, strict=True):
        assert relative(together, apart) < 1e-12


@pytest.mark.parametrize("layers", [2, 3])
def test_weight_gradients_in_one_batch_are_those_of_each_layer(monkeypatch, layers):
    """As for one student in bfloat16; in double precision, to 1e-12."""
    recipe, arch, theta_0, S, A, *_ = make(K=1, optimizer="momentum", hidden_layers=layers)
    double, cpu = torch.float64, torch.device("cpu")
    result = []
    for batched in (False, True):
        monkeypatch.setattr(mlp, "_batched", lambda *_, batched=batched: batched)
        loop = InnerLoop(recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, window=7, precision="float64")
        assert (loop.grad.between is not None) == batched
        loop.passes = Passes(arch, 1, N, dtype=double, wide=double, device=cpu, joined=True)
        theta_T = loop.train(theta_0, S, A, steps=7, window=7)
        result.append((theta_T.clone(), *loop.meta_gradient(torch.sin(theta_T))))
    for apart, together in zip(*result, strict=True):
        assert relative(together, apart) < 1e-12


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("rows", [5, 1])
def test_a_copy_of_bfloat16_is_the_same_numbers(width, rows):
    """Copied in fours or one by one, into a place between others, one row for all or each its own."""
    place = torch.zeros(2, 5, 2, width, dtype=torch.bfloat16)
    numbers = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    mlp.Viewed.of(place.select(2, 1)).take(mlp.Viewed.of(numbers))
    assert torch.equal(place[:, :, 1], numbers.expand(2, 5, width))
    assert not place[:, :, 0].any()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_meta_gradient_equals_finite_differences(optimizer):
    """dH along a random direction of the synset equals (H(+ε) − H(−ε)) / 2ε."""
    recipe, arch, theta_0, S, A, obs, target = make(K=1, optimizer=optimizer)
    loop = InnerLoop(recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, window=7, precision="float64")
    g = torch.Generator().manual_seed(3)
    uS = torch.randn(S.shape, generator=g, dtype=torch.float64)
    uA = torch.randn(A.shape, generator=g, dtype=torch.float64)

    def H(eps):
        theta = loop.train(theta_0, S + eps * uS, A + eps * uA, steps=7, window=7)
        return outer_loss(theta, obs, target, arch).item()

    eps = 1e-6
    slope = (H(eps) - H(-eps)) / (2 * eps)
    leaf = loop.train(theta_0, S, A, steps=7, window=7).clone().requires_grad_()
    (lam,) = torch.autograd.grad(outer_loss(leaf, obs, target, arch), leaf)
    dS, dA = loop.meta_gradient(lam)
    assert ((dS * uS).sum() + (dA * uA).sum()).item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_small_memory_budget_changes_nothing(optimizer):
    """Segments run again give bit for bit what records kept give."""
    recipe, _, theta_0, S, A, *_ = make(optimizer=optimizer)
    gradients = []
    for budget in (1e9, 35_000.0, 1.0):
        loop = InnerLoop(
            recipe,
            obs_dim=OBS,
            act_dim=ACT,
            n_syn=N,
            n_students=2,
            window=6,
            precision="float64",
            memory_budget=budget,
        )
        theta = loop.train(theta_0, S, A, steps=7, window=6)
        gradients.append((loop.segment, theta.clone(), *loop.meta_gradient(torch.sin(theta))))
    segments = [g[0] for g in gradients]
    assert segments[0] == 6 and 1 < segments[1] < 6 and segments[2] == 1
    for other in gradients[1:]:
        for a, b in zip(gradients[0][1:], other[1:], strict=True):
            assert torch.equal(a, b)


def test_k_students_at_once_are_k_students_alone():
    """Batching over K changes no student, and adds their charges up."""
    recipe, _, theta_0, S, A, *_ = make(K=3, optimizer="momentum")

    def run(theta):
        K = theta.shape[0]
        loop = InnerLoop(
            recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, n_students=K, window=7, precision="float64"
        )
        end = loop.train(theta, S, A, steps=7, window=7).clone()
        return end, *loop.meta_gradient(torch.cos(end))

    together = run(theta_0)
    alone = [run(theta_0[k : k + 1]) for k in range(3)]
    assert relative(together[0], torch.cat([a[0] for a in alone])) < 1e-13
    assert relative(together[1], sum(a[1] for a in alone)) < 1e-12
    assert relative(together[2], sum(a[2] for a in alone)) < 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_the_published_procedure(momentum):
    """The engine and the straightforward nested-autograd reference that benchmarks time it against agree."""
    recipe, arch, theta_0, S, A, obs, target = make(
        K=1, optimizer="momentum" if momentum else "sgd", momentum=momentum
    )
    student = autograd_reference.make_student(OBS, ACT, width=8, hidden_layers=2).double()
    weights, biases = views(theta_0, arch)
    with torch.no_grad():
        for layer, W, b in zip(student[::2], weights, biases, strict=True):
            layer.weight.copy_(W[0].T)
            layer.bias.copy_(b[0, 0])
    ones = torch.ones(len(obs), 1, dtype=torch.float64)
    H, dS, dA = autograd_reference.meta_gradient(
        student, S, A, obs, target, ones, lr=recipe.lr, steps=7, momentum=momentum
    )
    loop = InnerLoop(recipe, obs_dim=OBS, act_dim=ACT, n_syn=N, window=7, precision="float64")
    leaf = loop.train(theta_0, S, A, steps=7, window=7).clone().requires_grad_()
    loss = outer_loss(leaf, obs, target, arch)
    (lam,) = torch.autograd.grad(loss, leaf)
    mine = loop.meta_gradient(lam)
    assert loss.item() == pytest.approx(H.item(), rel=1e-12)
    assert relative(mine[0], dS) < 1e-10
    assert relative(mine[1], dA) < 1e-10


def test_bfloat16_products_stay_near():
    """Rounded hidden layers keep the meta-gradient's direction (cosine above 0.9) at full width."""
    recipe = StudentRecipe(optimizer="momentum", lr=0.2, output_gain=0.01, steps=40)
    g = torch.Generator().manual_seed(0)
    arch = Architecture.of(recipe, OBS, ACT)
    theta_0 = initialize(arch, 1, output_gain=0.01, generator=g)
    S, A = torch.randn(64, OBS, generator=g), torch.tanh(torch.randn(64, ACT, generator=g))
    result = []
    for precision in ("float32", "bfloat16"):
        loop = InnerLoop(recipe, obs_dim=OBS, act_dim=ACT, n_syn=64, window=20, precision=precision)
        leaf = loop.train(theta_0, S, A, steps=40, window=20).clone().requires_grad_()
        (lam,) = torch.autograd.grad(outer_loss(leaf, S.flip(0), A, arch), leaf)
        result.append(torch.cat([x.flatten() for x in loop.meta_gradient(lam)]))
    assert torch.nn.functional.cosine_similarity(*result, dim=0) > 0.9
