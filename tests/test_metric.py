"""Laws of the input metric: what it is for a known teacher, what reading in it means, where it comes and goes."""

import dataclasses
import itertools
import math

import gymnasium
import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill.errors import ConfigError, SynsetError, TeacherError
from minari_distill.loading import load_synset
from minari_distill.metric import input_metric
from minari_distill.networks import Architecture, fold_metric, forward, initialize, views
from minari_distill.outer import OuterLoop
from minari_distill.pose import fit_to, pose
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.runs import Run
from minari_distill.students import train_students
from minari_distill.teachers.function_teacher import FunctionTeacher
from tests.small_transitions import point_mass
from tests.synsets import assert_same, make_synset
from tests.test_outer import CPU, gradients, problem, run, small


def states(n=500, dim=4, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_teachers_metric_is_the_root_of_its_gram_matrix():
    """π*(x) = x W: D ∝ (W Wᵀ)^½, with the states' mean square as it was."""
    x, W = states(dim=3), states(3, 4, seed=1)
    D = input_metric(lambda s: s @ W, x)
    shape = D @ D
    torch.testing.assert_close(shape / shape.trace(), W @ W.T / (W @ W.T).trace())
    torch.testing.assert_close(D, D.T)
    torch.testing.assert_close((x @ D).square().sum(), x.square().sum())


def test_a_networks_metric_is_its_average_gradient_outer_product():
    """Central differences against autograd's Jacobians of a smooth network, within a percent."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype) / 2
            )
    x = states()
    jacobians = torch.func.vmap(torch.func.jacrev(lambda s: net(s)))(x)
    M = torch.einsum("noi,noj->ij", jacobians, jacobians).detach()
    with torch.no_grad():
        D = input_metric(net, x)
    torch.testing.assert_close(D @ D / (D @ D).trace(), M / M.trace(), atol=1e-2, rtol=0)


def test_a_teacher_that_never_changes_has_the_identity():
    """Nothing to tell directions apart by: students read the states as they are."""
    torch.testing.assert_close(
        input_metric(lambda s: torch.zeros(len(s), 2, dtype=s.dtype), states()),
        torch.eye(4, dtype=torch.float64),
    )


def test_wide_observations_are_weighted_one_by_one():
    """Above 64 numbers the metric is the diagonal: rms slopes, zero where the teacher does not look."""
    x = states(50, 70)
    D = input_metric(lambda s: torch.stack([3 * s[:, 0], s[:, 1]], 1), x)
    assert torch.equal(D, torch.diag(D.diagonal()))
    torch.testing.assert_close(D[0, 0] / D[1, 1], torch.tensor(3.0, dtype=torch.float64))
    assert not D.diagonal()[2:].any()


@pytest.mark.parametrize("residual", [False, True])
def test_a_folded_student_needs_no_metric(residual):
    """With D W_1 in its first layer it does at x what it did at x D."""
    arch = Architecture(4, 2, (8, 8), residual=residual)
    theta = initialize(arch, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, D = states(), states(4, 4, seed=2)
    torch.testing.assert_close(forward(fold_metric(theta, D, arch), x, arch), forward(theta, x @ D, arch))


@pytest.mark.parametrize("pool", [0, 3])
@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
def test_an_outer_step_in_the_metric_is_one_of_transformed_states(meta_gradient, pool):
    """∂H/∂S through S D is Dᵀ's of the problem whose states are x D already; ∂H/∂A and H are the same."""
    settings = {"meta_gradient": meta_gradient, "student_pool": pool, "precision": "float64"}
    p, S, A = problem()
    p = dataclasses.replace(
        p, **{k: v.double() for k, v in vars(p).items() if isinstance(v, torch.Tensor) and k != "metric"}
    )
    D = states(4, 4, seed=3)
    there = dataclasses.replace(p, obs=p.obs @ D, held_obs=p.held_obs @ D)
    same = {"metric_init": "orthogonal", "metric_output_gain": 0.01}  # as small() has it for those outside
    inside = OuterLoop(
        dataclasses.replace(p, metric=D), S, A, small(**settings, **same, metric_share=1.0), CPU
    )
    outside = OuterLoop(there, S.double() @ D, A, small(**settings, metric_share=0.0), CPU)
    torch.testing.assert_close(inside.held_out_loss(), outside.held_out_loss())
    h, gS, gA, _ = gradients(inside)
    h_, gS_, gA_, none = gradients(outside)
    assert none is None
    torch.testing.assert_close((h, gS, gA), (h_, gS_ @ D.T, gA_))


def learning(D, meta_gradient="kernel", **overrides):
    """An outer loop that learns D from its first step, in float64."""
    p, S, A = problem()
    settings = {"meta_gradient": meta_gradient, "precision": "float64", "metric_share": 1.0, "metric_lr": 0.1}
    config = small(**settings | overrides)
    return OuterLoop(dataclasses.replace(p, metric=D), S, A, config, CPU)


@pytest.mark.parametrize("forgiving", [0.0, 0.2])
@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
def test_the_metrics_gradient_is_that_of_finite_differences(meta_gradient, forgiving):
    """∂H/∂D of two students against (H(D + εV) − H(D − εV)) / 2ε. The kernel holds students fixed: they do not train here."""
    still = {"window": 0} if meta_gradient == "unroll" else {"inner_lr": 1e-30}
    still |= {"metric_init": "torch", "metric_output_gain": 1.0}
    D, V, eps = torch.eye(4).double() + 0.1 * states(4, 4, seed=5), states(4, 4, seed=6), 1e-6

    def at(D):
        loop = learning(D, meta_gradient, **still)
        loop._outer.forgiving = forgiving
        loop.problem = dataclasses.replace(loop.problem, forgiving=forgiving)
        return gradients(loop)

    told = (at(D)[3] * V).sum()
    measured = (at(D + eps * V)[0] - at(D - eps * V)[0]) / (2 * eps)
    torch.testing.assert_close(told, measured, rtol=1e-5, atol=1e-9)


def test_the_metric_is_learnt_where_it_is_read_and_nowhere_else():
    """It moves at the steps in the metric alone, and by nothing at all with a rate of zero; a rate is a share of its entries."""
    D = torch.eye(4)
    loop = learning(D, metric_share=0.5, student_pool=2)
    loop.step()
    first = loop.metric.clone()
    torch.testing.assert_close(
        (first - D).abs(), torch.full((4, 4), 0.1 * 0.5).double(), rtol=1e-3, atol=0
    )  # rms ½
    loop.step()
    assert torch.equal(loop.metric, first) and loop.metric_count == 1
    loop.step()
    assert not torch.equal(loop.metric, first)
    assert torch.equal(
        run(learning(D, metric_lr=0.0).config, 3, learning(D, metric_lr=0.0)).metric, D.double()
    )


def test_a_learnt_metric_finds_what_the_targets_look_at():
    """Story: targets of one direction in four. From the identity, D comes to stretch it the most, and the loss falls lower than without."""
    p, S, _ = problem()
    look = torch.tensor([0.6, 0.8, 0.0, 0.0])

    def asked(x):
        return torch.tanh(3 * torch.sin(2 * x @ look))[:, None].expand(-1, 2)

    p = dataclasses.replace(p, target=asked(p.obs), held_target=asked(p.held_obs), metric=torch.eye(4))
    losses = {0.0: 0.0, 0.05: 0.0}
    for seed, rate in itertools.product((1, 2), losses):
        config = small(
            meta_gradient="kernel",
            metric_share=1.0,
            metric_lr=rate,
            inner_steps=40,
            window=10,
            outer_steps=150,
            n_students=1,
            seed=seed,
        )
        loop = run(config, 150, OuterLoop(p, S, asked(S), config, CPU))
        losses[rate] += (
            loop.held_out_loss()
        )  # of two runs: one alone is between 0.3 and 0.9, by the processor
        if rate:
            stretched = (loop.metric @ loop.metric.T).double()
            along = look.double() @ stretched @ look.double()
            assert along > 2 * (stretched.trace() - along) / 3
    assert losses[0.05] < 0.8 * losses[0.0]


def test_a_learnt_metric_is_resumed_and_kept_with_its_pairs(tmp_path):
    """Resume equals unbroken with D, its moments and its count in it, and a synset's D is that of the step its pairs are of."""
    whole = run(small(), 7, learning(torch.eye(4), metric_share=0.5, student_pool=2))
    begun = run(small(), 4, learning(torch.eye(4), metric_share=0.5, student_pool=2))
    again = learning(torch.eye(4), metric_share=0.5, student_pool=2)
    again.load_state({k: v.clone() for k, v in begun.whole_state().items()})
    run(small(), 3, again)
    assert torch.equal(again.metric, whole.metric) and torch.equal(again.S, whole.S)

    kept = Run(tmp_path)
    kept.note(begun, None, 1.0)
    at_four = begun.metric.clone()
    run(small(), 2, begun)
    kept.note(begun, None, 2.0)  # worse: the pairs of before stay, and so does their metric
    kept.keep(begun)
    assert torch.equal(kept.best.metric, at_four) and not torch.equal(begun.metric, at_four)
    back = Run(tmp_path)
    back._read_checkpoint()
    back.restore(again)
    assert torch.equal(back.best.metric, at_four) and torch.equal(again.metric, begun.metric)


def test_half_of_the_pool_reads_in_the_metric_and_keeps_to_it():
    """Every other set; the first of all, so that a pool of one does as its recipe's students will."""
    p, S, A = problem()
    loop = OuterLoop(
        dataclasses.replace(p, metric=torch.eye(4)), S, A, small(student_pool=4, metric_share=0.5), CPU
    )
    turns = []
    for step in range(8):
        loop.step_count = step
        turns.append(loop._metric_now() is not None)
    assert turns == [True, False, True, False] * 2
    alone = OuterLoop(
        dataclasses.replace(p, metric=torch.eye(4)), S, A, small(student_pool=1, metric_share=0.5), CPU
    )
    assert alone._metric_now() is not None


def test_students_start_as_those_do_who_will_read_the_pairs():
    """In the metric as the recipe's students, the others as the inner recipe has it, each in its own turn of the pool."""
    p, S, A = problem()
    config = small(
        student_pool=2, metric_share=0.5, metric_output_gain=0.0, student_init="torch", output_gain=1.0
    )
    assert (config.recipe.init, config.recipe.output_gain) == ("orthogonal", 0.0)
    loop = OuterLoop(dataclasses.replace(p, metric=torch.eye(4)), S, A, config, CPU)
    begun = []
    start = loop.inner.start
    loop.inner.start = lambda theta: (begun.append(theta.clone()), start(theta))
    loop.step()
    loop.step()
    in_metric, plain = (views(theta, loop.arch) for theta in begun)
    W, b = in_metric
    torch.testing.assert_close(W[1][0].T @ W[1][0], 2 * torch.eye(16))  # orthogonal, gain √2
    assert not W[-1].any() and not b[0].any()
    W, b = plain
    assert W[-1].any() and b[0].any() and W[1].abs().max() <= 1 / 4  # uniform in ±1/√16


def test_without_a_metric_nothing_is_read_in_one():
    """A share says nothing where there was no teacher: the same pairs, bit for bit."""
    runs = []
    for share in (0.0, 1.0):
        loop = OuterLoop(*problem(), small(metric_share=share), CPU)
        loop.step()
        runs.append(loop.S)
    assert torch.equal(*runs)


def test_cloning_reads_in_the_metric_and_acts_without_it():
    """The policy is an ordinary one on normalised observations, and does what its students learnt at x D."""
    synset = make_synset()
    recipe = GENERAL_RECIPE.replace(hidden_width=16, steps=20, in_metric=True)
    policy = md.behavior_clone(synset, recipe=recipe, n_policies=2, seed=3)
    units = synset.units()
    S = units.normalise(torch.as_tensor(synset.observations).float()) @ torch.as_tensor(synset.input_metric)
    A = units.scale(torch.as_tensor(synset.actions).float())
    theta = train_students(S, A, recipe, 2, torch.Generator().manual_seed(3))
    expected = units.unscale(forward(theta, S, policy.arch)).numpy()
    np.testing.assert_allclose(policy.each_act_vectors(synset.observations), expected, rtol=1e-4, atol=1e-5)


def test_a_synset_keeps_its_metric_full_diagonal_or_none(tmp_path):
    """Every bit of it, and a diagonal one in one number an observation."""
    dim = make_synset().observation_codec.dim
    diagonal = np.diag(np.linspace(0.1, 1.7, dim)).astype(np.float32)
    for name, fields in {
        "full": {},
        "diagonal": {"input_metric": diagonal},
        "none": {"input_metric": None, "recipe": GENERAL_RECIPE},
    }.items():
        synset = make_synset(**fields)
        synset.save(tmp_path / name)
        assert_same(synset, load_synset(tmp_path / name))
    assert make_synset(input_metric=diagonal)._record()["input_metric"] == diagonal.diagonal().tolist()


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((2, 3)), np.full((3, 3), math.nan)])
def test_a_metric_that_does_not_fit_is_refused(bad):
    """Shape or numbers, at once and not in the middle of a cloning."""
    with pytest.raises(
        SynsetError, match=r"input_metric of shape .* given, \(3, 3\) finite numbers expected"
    ):
        make_synset(input_metric=bad)


def test_reading_in_a_metric_that_is_not_there_is_refused():
    """In a synset's own recipe, and in one that is given."""
    with pytest.raises(SynsetError, match="Give input_metric, or a recipe with in_metric=False"):
        make_synset(input_metric=None)
    plain = make_synset(input_metric=None, recipe=GENERAL_RECIPE)
    with pytest.raises(ConfigError, match="Give in_metric=False"):
        md.behavior_clone(plain, in_metric=True, steps=1)


def test_a_teacher_brings_a_metric_and_the_data_alone_learn_one_from_nothing():
    """The teacher's, at states that are not held out; objectives that match the data begin with the identity, if they may learn."""
    transitions = point_mass()
    teacher = FunctionTeacher(lambda s: torch.tanh(s @ torch.tensor([[2.0, 0.0], [0.5, 0.1]])))
    posed = pose(transitions, teacher, md.make_config(n_syn=4, metric_share=0.5, objective="pbc"))
    assert posed.config.recipe.in_metric
    expected = input_metric(
        lambda x: posed.units.scale(teacher.policy(posed.units.denormalise(x))), posed.problem.obs
    )
    torch.testing.assert_close(posed.problem.metric, expected)
    # a teacher that is there but not matched tells nothing of the data's actions
    for asked in (None, teacher):
        alone = pose(transitions, asked, md.make_config(n_syn=4, objective="dbc"))
        assert torch.equal(alone.problem.metric, torch.eye(2)) and alone.config.recipe.in_metric
        fixed = pose(transitions, asked, md.make_config(n_syn=4, objective="dbc", metric_lr=0.0))
        assert fixed.problem.metric is None and not fixed.config.recipe.in_metric
    off = pose(transitions, teacher, md.make_config(n_syn=4, metric_share=0.0, objective="pbc"))
    assert off.problem.metric is None


def test_a_teacher_that_fails_beside_the_data_is_refused():
    """Its actions at the states themselves are finite and were checked; those beside them are new."""
    x = states().clamp(-1, 1)
    with pytest.raises(TeacherError, match="beside states of the dataset"):
        input_metric(lambda s: torch.where(s.abs() > 1, torch.nan, s), x)


def test_pictures_have_no_metric(monkeypatch):
    """Observations of more numbers than `WIDEST` are distilled and read as they are."""
    monkeypatch.setitem(pose.__globals__, "WIDEST", 1)
    teacher, heard = FunctionTeacher(torch.tanh), []
    config = fit_to(md.make_config(n_syn=4, objective="pbc"), point_mass(), heard.append)
    posed = pose(point_mass(), teacher, config)
    assert posed.problem.metric is None and not posed.config.recipe.in_metric and not heard
    config = fit_to(md.make_config("infinite", n_syn=4), point_mass(), heard.append)
    assert not config.recipe.infinite and config.student_pool == md.make_config().student_pool
    assert len(heard) == 1 and "for networks and not for infinite width" in heard[0]


def test_a_distilled_synset_says_so():
    """From the dataset that ships with the package: metric, recipe and settings agree, and a policy runs."""
    synset = md.distill(
        "demo/hopper-medium-replay-v0",
        n_syn=16,
        teacher_method="filtered_bc",
        teacher_steps=20,
        hidden_width=16,
        outer_steps=4,
        validate_every=2,
        report=lambda _: None,
    )
    assert synset.input_metric.shape == (11, 11) and synset.recipe.in_metric
    assert synset.config.metric_share == 0.3
    env = gymnasium.make("Hopper-v5")
    assert md.behavior_clone(synset, steps=5).act(env.reset(seed=0)[0]) in env.action_space


@pytest.mark.parametrize("n", [2048, 4095, 6100])
def test_all_of_the_dataset_is_asked(n):
    """The first half turns on x_0 and the second on x_1: both matter alike, whatever the number of states."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    x[n // 2 :, 1] += 10
    D = input_metric(lambda s: torch.where(s[:, 1:] < 5, s[:, :1], s[:, 1:]), x)
    torch.testing.assert_close(D.diagonal()[0], D.diagonal()[1], rtol=0.05, atol=0.0)
