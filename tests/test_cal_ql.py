"""Cal-QL: its step against plain PyTorch, its laws, its equations worked by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.plain_cal_ql import Batch, Noise, PlainCalQL
from minari_distill.config import DistillConfig, make_config
from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, initialize, views
from minari_distill.teachers.cal_ql import CalQL
from minari_distill.teachers.conservative import ConservativeLoss, Question
from minari_distill.teachers.mlp import Layers
from minari_distill.teachers.tanh_gaussian import Gaussian
from tests.small_transitions import point_mass

CPU = torch.device("cpu")


def settings(**overrides: Any) -> DistillConfig:
    small = {
        "teacher_method": "cal_ql",
        "teacher_batch": 96,
        "cql_n_actions": 10,
        "precision": "float64",
        "actor_lr": 3e-4,
    }
    return make_config(**{**small, **overrides})


def load_sequential(module: torch.nn.Module, theta: torch.Tensor, arch: Architecture) -> None:
    """Copy one network of a flat vector into an nn.Sequential of linear layers."""
    linear = [m for m in module if isinstance(m, torch.nn.Linear)]
    for layer, W, b in zip(linear, *views(theta[None], arch), strict=True):
        layer.weight.data.copy_(W[0].T)
        layer.bias.data.copy_(b[0, 0])


def flat(module: torch.nn.Module) -> torch.Tensor:
    """The flat vector of an nn.Sequential of linear layers."""
    linear = [m for m in module if isinstance(m, torch.nn.Linear)]
    return torch.cat([torch.cat([m.weight.T.reshape(-1), m.bias]) for m in linear]).detach()


def plain_twin(trainer: CalQL) -> PlainCalQL:
    """Plain PyTorch at the same parameters, in double precision."""
    c = trainer.config
    plain = PlainCalQL(
        trainer.obs_dim,
        trainer.act_dim,
        discount=c.discount,
        actor_lr=c.actor_lr,
        critic_lr=c.critic_lr,
        target_rate=c.target_rate,
        cql_alpha=c.cql_alpha,
    )
    for module in (plain.actor, plain.critic_1, plain.critic_2, plain.target_1, plain.target_2):
        module.double()
    plain.log_alpha.data = plain.log_alpha.data.double()
    load_sequential(plain.actor.network, trainer.policy[0, :-3], trainer.actor_arch)
    for k, module in enumerate((plain.critic_1, plain.critic_2, plain.target_1, plain.target_2)):
        load_sequential(module.network, trainer.critics[k], trainer.critic_arch)
    return plain


def parameters_of(plain: PlainCalQL) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain PyTorch's parameters, as `CalQL` holds them."""
    policy = [flat(plain.actor.network), plain.actor.log_std_multiplier, plain.actor.log_std_offset]
    policy = torch.cat([*policy, plain.log_alpha]).detach()[None]
    critics = (plain.critic_1, plain.critic_2, plain.target_1, plain.target_2)
    return policy, torch.stack([flat(c.network) for c in critics])


@pytest.mark.parametrize("reward_scale", [1.0, 30.0], ids=["q-near-0", "bounds-far-below"])
def test_five_updates_equal_plain_pytorch(reward_scale):
    """(1) to (4), Adam included, agree with autograd over ordinary modules to double precision.

    Targets differ from critics from the second update on, and some samples of the policy are calibrated and
    some are not.
    """
    trainer = CalQL(point_mass(ends=True), settings(), CPU)
    trainer.table[:, 6] *= reward_scale  # returns to go
    plain, generator = plain_twin(trainer), torch.Generator().manual_seed(1)
    B, n, d = 96, 10, 2
    for _ in range(5):
        rows = trainer.table[torch.randint(len(trainer.table), (B,), generator=generator)]
        noise = torch.randn(2 * B, 1 + n, d, generator=generator, dtype=torch.float64)
        uniform = torch.rand(B, n, d, generator=generator, dtype=torch.float64) * 2 - 1
        trainer.update(rows, noise, uniform)
        s, u, r, not_done, G, s2 = rows.split((2, 2, 1, 1, 1, 2), 1)
        plain.update(
            Batch(s, u, r[:, 0], s2, 1 - not_done[:, 0] / 0.99, G[:, 0]),
            Noise(noise[:B, 0], noise[B:, 0], uniform, noise[:B, 1:], noise[B:, 1:]),
        )
    policy, critics = parameters_of(plain)
    torch.testing.assert_close(trainer.policy, policy, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(trainer.critics, critics, rtol=1e-9, atol=1e-11)


def conservative(sparse: bool, q_bias: float = 0.0, dtype: torch.dtype = torch.float64):
    """The critics' loss at random numbers; returns loss, gradient, and what was asked."""
    generator = torch.Generator().manual_seed(0)
    arch, B, n = Architecture(5, 1, (32, 32), "linear"), 70, 10
    theta = initialize(arch, 2, generator=generator, dtype=dtype)
    views(theta, arch)[0][-1].mul_(20)  # peaked softmax weights: many rows of no account
    grad = Layers.of(torch.full_like(theta, 7.0), arch)  # what was there before must not matter
    loss = ConservativeLoss(arch, Layers.of(theta, arch), grad, B, 1 + 3 * n, 5.0)
    if not sparse:
        loss.every_row()
    normal = {"generator": generator, "dtype": dtype}
    bound = torch.cat([torch.full((B, n), -math.inf, dtype=dtype), torch.randn(B, 2 * n, **normal) * 5], 1)
    question = Question(
        torch.randn(B, 3, **normal),
        torch.rand(B, 1 + 3 * n, 2, **normal) * 2 - 1,
        torch.randn(B, **normal),
        bound,
        torch.randn(B, 3 * n, **normal),
    )
    return loss(question), grad.flat, theta, arch, question


@pytest.mark.parametrize("sparse", [True, False], ids=["rows-that-matter", "all-rows"])
def test_the_critics_gradient_is_autograd_s(sparse):
    """Equations (2) and (3), with the rows left out and without."""
    loss, grad, theta, arch, question = conservative(sparse)
    theta = theta.clone().requires_grad_()
    W, b = views(theta, arch)
    x = torch.cat([question.obs[:, None].expand(-1, 31, -1), question.action], -1)
    h = x.reshape(1, -1, 5).expand(2, -1, -1)
    for l in range(2):
        h = torch.relu(torch.baddbmm(b[l], h, W[l]))
    q = torch.baddbmm(b[2], h, W[2]).view(2, 70, 31)
    v = torch.maximum(q[..., 1:], question.bound) - question.log_density
    gap = v.logsumexp(-1) - q[..., 0]
    expected = ((q[..., 0] - question.target).square() + 5 * gap).mean()
    torch.testing.assert_close(loss, expected.detach())
    (expected_grad,) = torch.autograd.grad(expected * 2, theta)  # a sum over critics, each a mean over states
    torch.testing.assert_close(grad, expected_grad)


def test_rows_left_out_weigh_less_than_rounding():
    """In single precision, leaving rows out changes the gradient by no more than its own rounding."""
    some, every = (conservative(sparse, dtype=torch.float32)[1] for sparse in (True, False))
    exact = conservative(False)[1]
    assert not torch.equal(some, every)
    assert (some - every).abs().max() <= 4 * (every - exact).abs().max()


def test_calibration_by_hand():
    """One state, one sample of each kind, critics that are constant.

    Q = 3 everywhere (weights 0, last bias 3), y = 1, α_cql = 5, act_dim 1, log-densities 0 for the policy.
    uniform: 3 + log 2 = 3.693; next-state policy: max(3, G); policy likewise.
        G = 10: v = (3.693, 10, 10), log Σ exp v = 10.694, loss = (3 − 1)² + 5 (10.694 − 3) = 42.47;
                p = (0.0009, ·, ·) and the calibrated rows have no gradient, so ∂loss/∂Q(s, a) = 2·2 − 5 = −1
                and the last bias gets −1 + 5·0.00091 = −0.9955.
        G = 0:  v = (3.693, 3, 3), log Σ exp v = 4.386, loss = 4 + 5·1.386 = 10.93; p sums to 1: −1 + 5 = 4.
    """
    arch = Architecture(2, 1, (4,), "linear")
    theta = torch.zeros(1, arch.n_parameters, dtype=torch.float64)
    views(theta, arch)[1][-1].fill_(3.0)
    for G, loss_by_hand, bias_by_hand in ((10.0, 42.47, -0.9955), (0.0, 10.93, 4.0)):
        grad = Layers.of(torch.zeros_like(theta), arch)
        question = Question(
            torch.zeros(1, 1, dtype=torch.float64),
            torch.zeros(1, 4, 1, dtype=torch.float64),
            torch.ones(1, dtype=torch.float64),
            torch.tensor([[-math.inf, G, G]], dtype=torch.float64),
            torch.tensor([[-math.log(2), 0.0, 0.0]], dtype=torch.float64),
        )
        loss = ConservativeLoss(arch, Layers.of(theta, arch), grad, 1, 4, 5.0)(question)
        assert float(loss) == pytest.approx(loss_by_hand, abs=5e-3)
        assert float(grad.biases[-1]) == pytest.approx(bias_by_hand, abs=5e-4)


def test_log_densities_are_those_of_a_transformed_normal():
    """(2) of the policy equals torch.distributions' tanh-transformed normal, far out too."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(30, 6, generator=generator, dtype=torch.float64) * 3
    kappa_iota = torch.tensor([0.7, -0.5], dtype=torch.float64)
    noise = torch.randn(30, 4, 3, generator=generator, dtype=torch.float64)
    action, log_density = Gaussian.of(output, kappa_iota).sample(noise)
    std = (0.7 * output[:, None, 3:] - 0.5).clamp(-20, 2).exp()
    normal = torch.distributions.Normal(output[:, None, :3], std)
    u = normal.mean + std * noise
    slope = torch.distributions.TanhTransform().log_abs_det_jacobian(u, u.tanh())
    torch.testing.assert_close(log_density, (normal.log_prob(u) - slope).sum(-1))
    torch.testing.assert_close(action, u.tanh())


def test_the_same_seed_gives_the_same_teacher():
    """Bit for bit; another seed gives another."""
    data = point_mass()
    one, same, other = (CalQL(data, settings(seed=s, precision="float32"), CPU) for s in (3, 3, 4))
    for trainer, parts in ((one, (5,)), (same, (2, 3)), (other, (5,))):
        for n_steps in parts:
            trainer.advance(n_steps)
    assert torch.equal(one.policy, same.policy)
    assert torch.equal(one.critics, same.critics)
    assert not torch.equal(one.policy, other.policy)


def test_resume_equals_unbroken():
    """A fresh trainer that takes over the state goes on bit for bit."""
    data, config = point_mass(), settings(precision="float32")
    unbroken = CalQL(data, config, CPU)
    unbroken.advance(6)
    broken = CalQL(data, config, CPU)
    broken.advance(2)
    resumed = CalQL(data, config, CPU)
    resumed.load_state_dict(broken.state_dict())
    resumed.advance(4)
    assert resumed.step_count == 6
    assert torch.equal(unbroken.policy, resumed.policy)
    assert torch.equal(unbroken.critics, resumed.critics)


def test_a_state_of_other_sizes_is_refused():
    state = CalQL(point_mass(), settings(), CPU).state_dict()
    state["policy"] = state["policy"][:, :-1]
    with pytest.raises(TeacherError, match="not one of this cal_ql training"):
        CalQL(point_mass(), settings(), CPU).load_state_dict(state)


def test_the_teacher_is_the_actor_s_mean_and_the_lower_critic():
    """π* = low + (tanh m + 1)/2 (high − low) in the dataset's units, q = min_i Q_i."""
    data = point_mass()
    trainer = CalQL(data, settings(), CPU)
    trainer.advance(3)
    teacher, plain = trainer.teacher(), plain_twin(trainer)
    obs = torch.as_tensor(data.observations[:20]).double()
    x = trainer.units.normalise(obs)
    u = plain.actor.network(x)[:, :2].tanh()
    torch.testing.assert_close(teacher.policy(obs), 2 * u)
    xu = torch.cat([x, u], 1)
    q = torch.min(plain.critic_1.network(xu), plain.critic_2.network(xu))[:, 0]
    torch.testing.assert_close(teacher.q(obs, 2 * u), q)
    before = teacher.actor.clone()
    trainer.advance(1)
    assert torch.equal(teacher.actor, before)  # the teacher keeps still while training goes on


def test_a_row_of_the_table_by_hand():
    """x | u | r | γ(1 − d) | G | x' of the last two steps of an episode that ends, and of one that is cut off.

    r = (−1, 2), γ = 0.5: ended, G = −1 + 0.5·2 = 0 and 2; cut, the rest may be −1 for ever, 0 − 0.5²·2 and 2 − 0.5·2.
    """
    data = dataclasses.replace(point_mass(2, 2, ends=True), rewards=np.float32([-1, 2, -1, 2]))
    table = CalQL(data, settings(discount=0.5), CPU).table
    mean, std = data.observation_mean, data.observation_std
    np.testing.assert_allclose(table[:, :2], (data.observations - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(table[:, 2:4], data.actions / 2, rtol=1e-6)  # bounds of ±2
    assert table[:, 4].tolist() == [-1, 2, -1, 2]
    assert table[:, 5].tolist() == [0.5, 0, 0.5, 0.5]
    assert table[:, 6].tolist() == [0, 2, -0.5, 1]
    np.testing.assert_allclose(table[:, 7:], (data.next_observations - mean) / std, rtol=1e-6)


def test_values_rise_to_the_returns_of_the_data():
    """Story: after a few hundred steps, q of the data's actions follows the returns to go."""
    data = point_mass(ends=True)
    trainer = CalQL(
        data,
        settings(precision="float32", discount=0.8, teacher_batch=64, critic_lr=1e-3, cql_alpha=1.0),
        CPU,
    )
    whole = np.repeat(np.arange(40) % 2 == 0, 25)  # of the episodes that end by themselves
    returns = torch.as_tensor(data.returns_to_go(0.8))[whole]
    obs, action = torch.as_tensor(data.observations)[whole], torch.as_tensor(data.actions)[whole]

    def correlation() -> float:
        return float(torch.corrcoef(torch.stack([trainer.teacher().q(obs, action), returns]))[0, 1])

    before = correlation()
    trainer.advance(400)
    assert before < 0.75
    assert correlation() > 0.85


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_captured_step_equals_the_plain_one():
    """A CUDA graph replays the very step: same losses as step by step on the CPU's numbers, and resumable."""
    data, config, gpu = point_mass(), settings(), torch.device("cuda")
    captured, stepwise = CalQL(data, config, gpu), CalQL(data, config, gpu)
    captured.advance(4)
    for _ in range(4):
        stepwise._step()
    torch.testing.assert_close(captured.policy, stepwise.policy, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(captured.critics, stepwise.critics, rtol=1e-9, atol=1e-11)
    resumed = CalQL(data, config, gpu)
    resumed.load_state_dict(captured.state_dict())
    captured.advance(3)
    resumed.advance(3)
    torch.testing.assert_close(captured.policy, resumed.policy, rtol=1e-9, atol=1e-11)
