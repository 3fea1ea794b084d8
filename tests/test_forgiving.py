"""Errors that are given up: Welsch's loss, its gradients, and what it does between two behaviours."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from minari_distill import objectives
from minari_distill.config import make_config
from minari_distill.inner.batch_loss import BatchLoss
from minari_distill.inner.forgiving import forgiven, still_counted
from minari_distill.inner.kernel import kernel_meta_gradient
from minari_distill.networks import forward
from minari_distill.objectives import objective
from minari_distill.outer import OuterLoop, Problem
from minari_distill.pose import pose
from minari_distill.support import action_spread
from tests.small_transitions import point_mass
from tests.test_kernel import ARCH, case, settings
from tests.test_outer import CPU, small


@given(e=st.floats(0, 4), delta=st.floats(0.05, 2))
@examples(deadline=None)
def test_small_errors_count_whole_and_large_ones_no_more(e, delta):
    """Laws: at most e and 2δ², e itself at first order, its slope `still_counted`, which starts at 1 and falls to 0."""
    x = torch.tensor(e, dtype=torch.float64, requires_grad=True)
    d = forgiven(x, delta)
    assert 0 <= d.item() <= min(e, 2 * delta**2) + 1e-15
    assert d.item() >= e - e**2 / (4 * delta**2) - 1e-15
    (slope,) = torch.autograd.grad(d, x)
    torch.testing.assert_close(slope, still_counted(x.detach(), delta))
    assert 0 <= slope.item() <= 1


def test_by_hand():
    """Worked: δ = 0.2, e = 0.08: d = 0.08 (1 − 1/e) = 0.050570, slope 1/e = 0.367879; δ = 0 forgives nothing."""
    e = torch.tensor([0.08], dtype=torch.float64)
    assert forgiven(e, 0.2).item() == pytest.approx(0.050570, abs=1e-6)
    assert still_counted(e, 0.2).item() == pytest.approx(0.367879, abs=1e-6)
    assert torch.equal(forgiven(e, 0.0), e) and still_counted(e, 0.0).item() == 1.0


def test_a_batch_has_the_gradient_of_its_loss():
    """H = Σ w·act_dim·d(mean squared error) and ∂H/∂θ, against double-precision autograd; δ = 0 is the squared error."""
    theta, _, _, obs, target, weight = case(ARCH)
    for delta in (0.0, 0.3):
        batch = BatchLoss(ARCH, 2, 6, precision="float64", device=CPU, forgiving=delta)
        for k in range(2):
            batch.load(k, obs[k], target[k], weight[k], torch.arange(6))
        H, gradient = batch.gradient(theta)
        at = theta.clone().requires_grad_()
        e = (forward(at, obs, ARCH) - target).square().mean(-1, keepdim=True)
        d = 2 * delta**2 * (1 - torch.exp(-e / (2 * delta**2))) if delta else e
        expected = (weight * d).mean((1, 2))
        torch.testing.assert_close(H, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(batch.value(theta), H)
        (slope,) = torch.autograd.grad(expected.sum(), at)
        torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-12)


def test_the_kernel_charges_the_same_loss():
    """Forgiving much, d is the squared error; else it is less, and its gradient is that of central differences."""
    theta, S, A, obs, target, weight = case(ARCH)

    def H(S, delta):
        return kernel_meta_gradient(theta, S, A, obs, target, weight, **settings(ARCH), forgiving=delta)[:3]

    for squared, far in zip(H(S, 0.0), H(S, 1e4), strict=True):
        torch.testing.assert_close(far, squared, rtol=1e-6, atol=1e-9)
    assert (H(S, 0.3)[0] < H(S, 0.0)[0]).all()
    step = torch.zeros_like(S)
    step[1, 2] = 1e-6
    difference = (H(S + step, 0.3)[0].sum() - H(S - step, 0.3)[0].sum()) / 2e-6
    torch.testing.assert_close(H(S, 0.3)[1][1, 2], difference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
def test_between_two_behaviours_it_takes_one(meta_gradient):
    """Story: of four episodes three go right and one goes left. Squared errors ask for the middle, which none took."""
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(400, 3, generator=g)
    act = torch.where(torch.arange(400)[:, None] % 4 == 0, -0.8, 0.8)
    one, unbounded = torch.ones(400, 1), torch.full((3,), math.inf)
    p = Problem(obs, act, one, obs, act, one, -unbounded, unbounded)

    def middle(problem):
        """The mean action of students trained on what is distilled."""
        config = small(meta_gradient=meta_gradient, inner_steps=60, window=10, outer_steps=60)
        loop = OuterLoop(problem, obs[:8], torch.zeros(8, 1), config, CPU)
        before = loop.held_out_loss()
        for _ in range(60):
            loop.step()
        assert loop.held_out_loss() < before
        theta = loop.validation.train(loop.validation_start, loop.S, loop.A, steps=60)
        return forward(theta, obs, loop.validation.arch).mean().item()

    assert middle(p) == pytest.approx(0.4, abs=0.08)
    assert middle(dataclasses.replace(p, forgiving=0.5)) > 0.65


def test_delta_follows_the_spread_of_the_actions(monkeypatch: pytest.MonkeyPatch):
    """δ² is half of the actions' spread, and δ no less than the objective says; dbc and discrete actions forgive nothing."""
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))

    @objective("narrow", needs_teacher=False, forgiving=1e-3)
    def narrow(labels, config):
        return labels.act, torch.ones_like(labels.act[:, :1])

    @objective("wide", needs_teacher=False, forgiving=0.7)
    def wide(labels, config):
        return narrow(labels, config)

    def posed(name, clone_steps=0, **kind):
        config = make_config(n_syn=8, objective=name, precision="float32", clone_steps=clone_steps)
        return pose(point_mass(**kind), None, config).problem

    spread = 2 * posed("narrow").forgiving ** 2
    assert 0.02 < spread < 0.2  # actions of [−2, 2] with noise of 0.3 and differing skill, in [−1, 1]
    assert posed("wide").forgiving == 0.7
    assert posed("robust_dbc", clone_steps=0).forgiving == max(0.2, math.sqrt(spread / 2))
    assert posed("robust_dbc", clone_steps=50).forgiving == 0.2  # the clone's actions have no noise
    assert posed("dbc").forgiving == 0.0
    assert torch.equal(posed("dbc").target, posed("robust_dbc", clone_steps=0).target)
    assert posed("robust_dbc", discrete=True, clone_steps=1).forgiving == 0.0


def test_the_spread_of_actions():
    """Law: noise of variance σ² around a slowly varying mean has a spread of σ² + σ²/10, with ten neighbours."""
    g = torch.Generator().manual_seed(0)
    obs, held = torch.rand(5000, 2, generator=g), torch.arange(5000) % 10 == 0
    act = 0.3 * obs + 0.5 * torch.randn(5000, 2, generator=g)
    assert action_spread(obs, act, held) == pytest.approx(0.25 * 1.1, rel=0.1)
