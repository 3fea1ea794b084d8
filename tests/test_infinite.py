"""Laws of the student of infinite width: what wide networks tend to, what its gradients are, how it travels."""

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill.config import make_config
from minari_distill.errors import ConfigError, Diverged
from minari_distill.infinite import regress, tangent_kernel
from minari_distill.inner.kernel import infinite_meta_gradient
from minari_distill.networks import Architecture, forward
from minari_distill.outer import OuterLoop
from minari_distill.recipe import GENERAL_RECIPE, StudentRecipe
from minari_distill.students import train_students
from minari_distill.team import Team
from tests.synsets import make_synset
from tests.test_outer import CPU, problem, run, small

RECIPE = StudentRecipe(infinite=True, hidden_layers=2)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_wide_networks_have_the_kernel_of_infinite_width(layers):
    """The products of real networks' gradients, with the stated gains and biases: 20 of width 400 on average, within 6 %."""
    x, g = draws(6, 3), torch.Generator().manual_seed(1)
    sizes, n = [3, *[400] * layers, 1], 20
    pairs = list(itertools.pairwise(sizes))
    W = [torch.randn(n, i, o, generator=g, dtype=torch.float64) for i, o in pairs]
    b = [torch.randn(n, o, generator=g, dtype=torch.float64) for o in sizes[1:]]

    def network(W, b, s):
        h = s @ W[0] / 3**0.5 + b[0]
        for V, c in zip(W[1:], b[1:], strict=True):
            h = torch.relu(h) @ V * (2 / len(V)) ** 0.5 + 0.1**0.5 * c
        return h.squeeze(-1)

    slopes = torch.func.vmap(torch.func.grad(network, argnums=(0, 1)), in_dims=(None, None, 0))
    seen = torch.zeros(6, 6, dtype=torch.float64)
    for k in range(n):
        J = torch.cat(
            [s.flatten(1) for part in slopes([w[k] for w in W], [c[k] for c in b], x) for s in part], 1
        )
        seen += J @ J.T / n
    told = tangent_kernel(x, x, layers)
    assert ((seen - told).abs() / told.diagonal().mean()).max() < 0.06


def test_the_kernel_of_a_right_angle_and_of_no_angle():
    """By hand, one layer, two inputs: Σ_0 = 3 on x = (2, 0), whose Θ_1 = 3 + 0.1 + 3; and 1/3 = cos φ with y = (0, 2)."""
    x = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    phi = np.arccos(1 / 3)
    kappa_0, kappa_1 = (np.pi - phi) / np.pi, (np.sin(phi) + (np.pi - phi) / 3) / np.pi
    told = tangent_kernel(x, x, 1)
    assert told[0, 0].item() == pytest.approx(6.1, rel=2e-3)  # the angle is kept away from 0
    assert told[0, 1].item() == pytest.approx(3 * kappa_1 + 0.1 + 1 * kappa_0)


@pytest.mark.parametrize("head", ["tanh", "linear", "softmax"])
def test_it_knows_its_pairs(head):
    """With hardly a ridge, its actions on the pairs are the pairs' own (labels of ±1 reach ±0.9995)."""
    S, A = draws(9, 4), torch.tanh(draws(9, 3, seed=1)).clamp(-0.9, 0.9)
    if head == "softmax":
        A = torch.softmax(draws(9, 3, seed=1), -1)
    recipe = RECIPE.replace(head=head, ridge=1e-9)
    theta = train_students(S, A, recipe, 2, torch.Generator())
    assert len(theta) == 1  # no draw in it: however many are asked, there is one
    acts = forward(theta, S, Architecture.of(recipe, 4, 3))
    torch.testing.assert_close(acts[0], A, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("head", "forgiving"), [("tanh", 0.0), ("tanh", 0.2), ("linear", 0.0), ("softmax", 0.0)]
)
def test_its_meta_gradient_is_that_of_finite_differences(head, forgiving):
    """(∂H/∂S, ∂H/∂A, ∂H/∂x) along random directions, in double precision, of two students with batches of their own."""
    S, A, x, y = draws(7, 4), torch.softmax(draws(7, 3, seed=1), -1), draws(2, 11, 4, seed=2), draws(2, 11, 3)
    y, w = torch.softmax(y, -1), draws(2, 11, 1, seed=3).abs()

    def at(S, A, x):
        return infinite_meta_gradient(
            S, A, x, y, w, layers=2, head=head, ridge=1e-2, forgiving=forgiving, charge_obs=True
        )

    H, gS, gA, gX = at(S, A, x)
    assert H.shape == (2,)
    dS, dA, dX, eps = draws(7, 4, seed=5), draws(7, 3, seed=6), draws(2, 11, 4, seed=7), 1e-5
    told = (gS * dS).sum() + (gA * dA).sum() + (gX * dX).sum()
    ahead, behind = (at(S + e * dS, A + e * dA, x + e * dX)[0].sum() for e in (eps, -eps))
    torch.testing.assert_close(told, (ahead - behind) / (2 * eps), rtol=1e-5, atol=1e-9)


def learning(**settings):
    p, S, A = problem()
    config = small(infinite_width=True, meta_gradient="kernel", student_pool=2, metric_share=0.5, **settings)
    return OuterLoop(dataclasses.replace(p, metric=torch.eye(4)), S, A, config, CPU)


def test_distilling_lowers_the_loss_of_the_very_student_that_will_read():
    """Held-out loss is that of `train_students` in the metric, and falls to less than half in 60 steps, one in two its own."""
    loop = learning(outer_steps=60)
    before = loop.held_out_loss()
    run(loop.config, 60, loop)
    D, recipe, p, i = loop.metric, loop.config.recipe, loop.problem, loop._held_indices
    assert recipe.infinite and recipe.in_metric
    theta = train_students(loop.S @ D, loop.A, recipe, 1, torch.Generator())
    acts = forward(theta, p.held_obs[i] @ D, Architecture.of(recipe, 4, loop.A.shape[1]))[0]
    told = (p.held_weight[i] * (acts - p.held_target[i]).square()).mean().item()
    assert loop.held_out_loss() == pytest.approx(told, rel=1e-4)
    assert told < before / 2


def test_batches_shared_by_two_ranks_equal_one_rank(monkeypatch):
    """The charges, by S, A and D, on batches {0} and {1, 2}, computed apart and added up, are those on {0, 1, 2}."""

    def charge(students):
        monkeypatch.setattr(Team, "share", lambda self, n: students)
        loop = learning(n_students=3, precision="float64")
        metric = loop.metric
        loop._draw(metric)
        loop._S_read.copy_(loop.S @ metric)
        return loop._gradient(metric)

    parts, together = [charge(range(0, 1)), charge(range(1, 3))], charge(range(3))
    assert together[3].abs().max() > 0
    for a, b, c in zip(*parts, together, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-10, atol=1e-14)


def test_resume_equals_unbroken():
    """Steps of infinite width leave the pool alone, and all that they need is in the checkpoint."""
    whole = run(small(), 7, learning())
    begun, again = run(small(), 4, learning()), learning()
    again.load_state({k: v.clone() for k, v in begun.whole_state().items()})
    run(small(), 3, again)
    assert torch.equal(again.S, whole.S) and torch.equal(again.metric, whole.metric)


def test_its_policy_travels_as_any_other(tmp_path):
    """Raw observations to raw actions, in the metric: by hand, from safetensors and from TorchScript."""
    plain = make_synset()
    obs_dim = plain.observations.shape[1]
    D = np.eye(obs_dim, dtype=np.float32) + 0.3 * draws(obs_dim, obs_dim).float().numpy()
    synset = dataclasses.replace(plain, recipe=RECIPE.replace(in_metric=True), input_metric=D)
    policy, units = md.behavior_clone(synset), synset.units()
    x = synset.observations + 0.1
    S = units.normalise(torch.as_tensor(synset.observations)).float() @ torch.as_tensor(D)
    A = units.scale(torch.as_tensor(synset.actions)).float()
    c = regress(S, A, layers=2, head="tanh", ridge=1e-2)
    z = tangent_kernel(units.normalise(torch.as_tensor(x)).float() @ torch.as_tensor(D), S, 2) @ c
    expected = units.unscale(torch.tanh(z)).numpy()
    np.testing.assert_allclose(policy.act_vectors(x), expected, atol=2e-4)
    read = md.load_policy(policy.save(tmp_path / "policy.safetensors"))
    np.testing.assert_array_equal(read.act_vectors(x), policy.act_vectors(x))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        scripted = torch.jit.load(policy.save(tmp_path / "policy.pt"))
    shape = plain.observation_codec.space.shape
    acted = scripted(torch.as_tensor(x).float().reshape(-1, *shape)).reshape(len(x), -1)
    np.testing.assert_allclose(acted.numpy(), policy.act_vectors(x), atol=1e-4)


def test_what_means_nothing_to_it_is_refused():
    """A width or an optimiser asked of a student of infinite width is a mistake; infinite=False is the way to one."""
    synset = dataclasses.replace(make_synset(), recipe=RECIPE)
    with pytest.raises(ConfigError, match=r"optimizer.*infinite=False"):
        md.behavior_clone(synset, optimizer="sgd")
    net = md.behavior_clone(synset, optimizer="sgd", steps=2, hidden_width=8, infinite=False)
    assert net.recipe.hidden_width == 8 and not net.arch.infinite
    assert md.behavior_clone(synset, hidden_layers=1).recipe.hidden_layers == 1
    assert not GENERAL_RECIPE.infinite
    with pytest.raises(ConfigError, match="residual"):
        RECIPE.replace(residual=True)
    with pytest.raises(ConfigError, match=r"^hidden_width, inner_lr: settings of networks.*preset='default'"):
        make_config("infinite", hidden_width=64, inner_lr=0.1, n_syn=8)
    with pytest.raises(ConfigError, match="inner_steps: settings of networks"):
        make_config("infinite").replace(inner_steps=50)
    assert make_config("infinite", hidden_width=256, metric_share=0.5, inner_lr=0.1).inner_lr == 0.1


def test_a_singular_kernel_moves_nothing_and_is_told_of():
    """The same pair again and again, and next to no ridge: NaN rather than wrong numbers, and what to raise."""
    p, S, A = problem()
    p = dataclasses.replace(p, metric=torch.eye(S.shape[1]))
    config = dataclasses.replace(small(), infinite_width=True, metric_share=1.0, ridge=1e-30)
    loop = OuterLoop(p, S[:1].repeat(len(S), 1), A, config, CPU)
    before = loop.S.clone()
    for _ in range(20):
        loop.step()
    assert torch.equal(loop.S, before)
    with pytest.raises(Diverged, match="kernel is singular: raise ridge"):
        loop.read_loss()
