"""Laws of the outer loop: determinism, resume, sharing over ranks, projection, bad gradients."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minari_distill.config import make_config
from minari_distill.draws import fresh_students
from minari_distill.errors import ConfigError, Diverged
from minari_distill.initializers import initial_indices
from minari_distill.inner import InnerLoop
from minari_distill.networks import Architecture, forward
from minari_distill.objectives import Labels, av_pbc, dbc, pbc
from minari_distill.outer import OuterLoop, Problem
from minari_distill.outer_update import project_to_simplex
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.teachers import settle_teacher

CPU = torch.device("cpu")


def small(**overrides):
    settings = {
        "n_syn": 8,
        "hidden_layers": 2,
        "hidden_width": 16,
        "inner_steps": 12,
        "student_widening": 1,
        "student_length": 1.0,
        "window": 5,
        "n_students": 2,
        "outer_batch": 32,
        "outer_steps": 20,
        "outer_lr_obs": 0.05,
        "outer_lr_act": 0.05,
        "precision": "float32",
        "inner_optimizer": "momentum",
        "inner_lr": 0.2,
        "student_init": "orthogonal",
        "output_gain": 0.01,
        "student_pool": 0,
        "pool_life": 0,
        "meta_gradient": "unroll",
    }
    return make_config(**(settings | overrides))


def problem(seed=0, act_dim=2):
    """Actions tanh(M s) of a random linear teacher."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(300, 4, generator=g)
    target = torch.tanh(obs @ torch.randn(4, act_dim, generator=g))
    weight = torch.rand(300, 1, generator=g) + 0.5
    unbounded = torch.full((4,), math.inf)
    p = Problem(
        obs[:250], target[:250], weight[:250], obs[250:], target[250:], weight[250:], -unbounded, unbounded
    )
    return p, obs[:8].clone(), target[:8].clone()


def run(config, steps, loop=None):
    loop = loop or OuterLoop(*problem(), config, CPU)
    for _ in range(steps):
        loop.step()
    return loop


def gradients(loop):
    """H, and ∂H/∂S, ∂H/∂A, ∂H/∂D of the next step, which is not taken."""
    taken = []
    loop.update.step = lambda *g, **steps: taken.extend(g)
    loop.step()
    return (loop.loss_sum.clone(), *taken)


def test_distilling_lowers_the_held_out_loss():
    """Story: 60 outer steps on a small problem take a quarter off the loss of students on states never used."""
    config = small(outer_steps=60)
    loop = OuterLoop(*problem(), config, CPU)
    before = loop.held_out_loss()
    assert run(config, 60, loop).held_out_loss() < 0.75 * before


def test_same_seed_same_synset_and_another_seed_another():
    """Every bit is a function of the seed."""
    a, b, c = (run(small(seed=s), 5) for s in (0, 0, 1))
    assert torch.equal(a.S, b.S) and torch.equal(a.A, b.A)
    assert not torch.equal(a.S, c.S)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("pool", [0, 3])
def test_resume_equals_unbroken(optimizer, pool):
    """State saved after 3 of 8 steps and loaded into a fresh loop gives the same bits after the other 5."""
    config = small(outer_optimizer=optimizer, student_pool=pool)
    unbroken = run(config, 8)
    first = run(config, 3)
    second = OuterLoop(*problem(), config, CPU)
    second.load_state({k: v.clone() for k, v in first.whole_state().items()})
    run(config, 5, second)
    for name, value in unbroken.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_a_pool_of_one_is_one_long_training():
    """With the synset standing still, a set that lives T = 3 W steps ends where T steps at once end."""
    config = small(student_pool=1, inner_steps=15, window=5, outer_lr_obs=1e-30, outer_lr_act=1e-30)
    loop = OuterLoop(*problem(), config, CPU)
    lives = []
    for t in range(4):
        fresh = loop._fresh_students(None)
        loop.step()
        lives.append((t, fresh, loop.pool.sets[0][0].clone()))
    # the first life of set 0 is one window long; the second, from step 1 to 3, is whole
    _, theta_0, _ = lives[1]
    expected = loop.inner.train(theta_0, loop.S, loop.A, steps=15)
    torch.testing.assert_close(lives[3][2], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("meta_gradient", ["unroll", "kernel"])
def test_students_shared_by_two_ranks_equal_one_rank(meta_gradient):
    """The charges of students {0} and {1, 2}, computed apart and added up, are those of {0, 1, 2}."""
    config = small(n_students=3, precision="float64", meta_gradient=meta_gradient)
    whole = OuterLoop(*problem(), config, CPU)

    def charge(students):
        loop = OuterLoop.__new__(OuterLoop)
        original = type(whole.team).share
        type(whole.team).share = lambda self, n: students
        try:
            loop.__init__(*problem(), config, CPU)
        finally:
            type(whole.team).share = original
        start, _ = loop._draw()
        loop.inner.begin(loop._fresh_students(None), loop.S, loop.A)
        for _ in range(start):
            loop.inner.advance()
        return loop._replay_finish()[:3]

    parts = [charge(range(0, 1)), charge(range(1, 3))]
    together = charge(range(3))
    for a, b, c in zip(*parts, together, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-10, atol=1e-14)


def test_team_shares_every_student_once():
    """Whatever R and K, the ranks' shares are a partition of the students in order."""
    loop = OuterLoop(*problem(), small(), CPU)
    for size in range(1, 5):
        for K in range(size, 9):
            shares = []
            for rank in range(size):
                loop.team.rank, loop.team.size = rank, size
                shares += list(loop.team.share(K))
            assert shares == list(range(K))


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_projection_gives_the_nearest_probabilities(rows):
    """The result is a distribution, and no point of a random set of distributions is nearer."""
    a = torch.tensor(rows, dtype=torch.float64)
    p = project_to_simplex(a)
    assert (p >= 0).all() and torch.allclose(p.sum(-1), torch.ones(len(a), dtype=torch.float64))
    others = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((200,))
    nearest = ((others[None] - a[:, None]) ** 2).sum(-1).amin(1)
    assert (((p - a) ** 2).sum(-1) <= nearest + 1e-9).all()


def test_actions_stay_in_their_range_by_construction():
    """With a huge outer rate every action is still inside [−1, 1] after each step."""
    config = small(outer_lr_act=5.0)
    loop = OuterLoop(*problem(), config, CPU)
    for _ in range(5):
        loop.step()
        assert loop.A.abs().max() <= 1


def test_a_gradient_that_is_not_finite_is_skipped_counted_and_then_reported():
    """NaN targets move nothing; 20 in a row end the run with advice."""
    p, S, A = problem()
    p.target.fill_(math.nan)
    loop = OuterLoop(p, S, A, small(), CPU)
    run(None, 3, loop)
    assert torch.equal(loop.S, S) and torch.equal(loop.A, A)
    assert int(loop.update.skipped) == 3
    loop.read_loss()
    run(None, 17, loop)
    with pytest.raises(Diverged, match=r"20 steps in a row, up to step 20.*lower inner_lr"):
        loop.read_loss()


def test_the_loss_that_is_told_is_of_the_finite_steps():
    """One bad step of four is counted as skipped, and does not make the mean NaN."""
    p, S, A = problem()
    loop = OuterLoop(p, S, A, small(), CPU)
    run(None, 3, loop)
    mean = float(loop.loss_sum) / 3
    p.target.fill_(math.nan)
    run(None, 1, loop)
    assert int(loop.update.skipped) == 1 and loop.read_loss() == pytest.approx(mean)


@pytest.mark.parametrize("pool", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_share_of_the_students_reads_in_the_metric(pool, share):
    """That share of all steps, whatever the size of the pool; a set of it keeps to one way of reading for life."""
    p, S, A = problem()
    p = dataclasses.replace(p, metric=torch.eye(S.shape[1]))
    settings = {
        "metric_share": share,
        "student_pool": pool,
        "pool_life": 10,
        "outer_batch": 4,
        "outer_steps": 240,
    }
    loop = OuterLoop(p, S, A, small(**settings, n_students=1, hidden_width=4, metric_lr=0), CPU)
    read = []
    for step in range(240):
        read.append(loop._metric_now() is not None)
        if pool and not int(loop.pool.left[step % pool]) < loop.pool.window:
            assert read[-1] == read[-1 - pool]
        loop.step()
    assert sum(read) / 240 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("clip", ["relative", "norm"])
def test_a_batch_without_weight_moves_nothing(clip):
    """All-zero weights give a zero gradient, not 0/0."""
    p, S, A = problem()
    p.weight.zero_()
    loop = run(None, 2, OuterLoop(p, S, A, small(outer_clip=clip), CPU))
    assert torch.equal(loop.S, S) and torch.equal(loop.A, A) and int(loop.update.skipped) == 0


def test_norm_clip_holds_the_joint_gradient_to_its_bound():
    """outer_clip='norm': SGD moves S and A together by at most lr · clip."""
    config = small(
        outer_optimizer="momentum",
        outer_clip="norm",
        outer_clip_at=1e-3,
        outer_lr_obs=0.1,
        outer_lr_act=0.1,
        outer_schedule="constant",
    )
    p, S, A = problem()
    loop = run(config, 1, OuterLoop(p, S, A * 0.5, config, CPU))
    moved = torch.cat([(loop.S - S).flatten(), (loop.A - A * 0.5).flatten()]).norm()
    assert moved.item() == pytest.approx(1e-4, rel=1e-4)


def test_objectives_on_two_states_by_hand():
    """q = (3, 1): Av-PBC's weights are 3/2 and 1/2 (mean 1), or 0.02·q with the paper's scale."""
    labels = Labels(
        act=torch.tensor([[0.1], [0.2]]),
        teacher_act=torch.tensor([[0.5], [-0.5]]),
        teacher_q=torch.tensor([3.0, 1.0]),
    )
    config = make_config()
    y, w = dbc(labels, config)
    assert y.tolist() == labels.act.tolist() and w.tolist() == [[1.0], [1.0]]
    y, w = pbc(labels, config)
    assert y.tolist() == [[0.5], [-0.5]] and w.tolist() == [[1.0], [1.0]]
    y, w = av_pbc(labels, config)
    assert y.tolist() == [[0.5], [-0.5]] and w.tolist() == [[1.5], [0.5]]
    assert av_pbc(labels, make_config("paper"))[1].flatten().tolist() == pytest.approx([0.06, 0.02])
    # squared: 9 and 1, mean 5
    sharp = av_pbc(labels, make_config(q_power=2.0))[1].flatten().tolist()
    assert sharp == pytest.approx([9 / 5, 1 / 5])
    # all-negative values: distances above the worst, 2 and 0, mean 1
    costs = Labels(labels.act, labels.teacher_act, torch.tensor([-1.0, -3.0]))
    assert av_pbc(costs, config)[1].tolist() == [[2.0], [0.0]]


def test_values_of_costs_that_the_critic_errs_above_zero():
    """q = −3, −2, 0.3, of which two are costs: the distances 0, 1 and 3.3 above the worst, and not all weight on the third."""
    act = torch.zeros(3, 1)
    costs = Labels(act, act, torch.tensor([-3.0, -2.0, 0.3]))
    weights = av_pbc(costs, make_config())[1].flatten().tolist()
    assert weights == pytest.approx([0, 1 / (4.3 / 3), 3.3 / (4.3 / 3)], rel=1e-5)
    with pytest.raises(ConfigError, match="q_scale=0.02 .* negative in most .* objective='pbc'"):
        av_pbc(costs, make_config("paper"))
    sparse = Labels(act, act, torch.tensor([0.0, 0.0, 2.0]))  # nothing is not a cost
    assert av_pbc(sparse, make_config("paper"))[1].flatten().tolist() == pytest.approx([0, 0, 0.04])
    gains = Labels(
        act, act, torch.tensor([3.0, 2.0, -1.0])
    )  # one hopeless state among good ones has no weight
    assert av_pbc(gains, make_config())[1].flatten().tolist() == pytest.approx([1.8, 1.2, 0])
    assert av_pbc(gains, make_config("paper"))[1].flatten().tolist() == pytest.approx([0.06, 0.04, 0])


def test_the_outer_loss_of_two_states_by_hand():
    """H = mean over states and dimensions of w (π − y)²: a zero network gives mean(1.5·0.25, 0.5·0.25) = 0.25."""
    loop = OuterLoop(*problem(act_dim=1), small(outer_batch=2, n_students=1), CPU)
    indices = torch.tensor([0, 1])
    target, weight = torch.tensor([[0.5], [-0.5]]), torch.tensor([[1.5], [0.5]])
    loop._outer.load(0, loop.problem.obs, target, weight, indices)
    nothing = torch.zeros(1, loop.arch.n_parameters)
    assert loop._outer.value(nothing).item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["random", "relabelled", "kmeans"])
def test_initial_states_are_distinct_and_seeded(name):
    """n_syn different indices, the same for the same seed."""
    obs = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    a, b = (initial_indices(name, obs, 50, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(a, b) and len(a.unique()) == 50


def test_kmeans_seeding_reaches_a_far_cluster():
    """Two states far from 500 crowded ones: seeding picks both among 4, uniform draws almost never would."""
    obs = torch.randn(502, 2, generator=torch.Generator().manual_seed(0)) * 0.01
    obs[-2:] = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    chosen = initial_indices("kmeans", obs, 4, torch.Generator().manual_seed(0))
    assert {500, 501} <= set(chosen.tolist())


def test_the_recipe_is_the_inner_loops_but_for_width_length_and_metric():
    """`default` widens and shortens the general recipe, which its inner loop follows, and reads in the metric; the
    other presets do not."""
    c = make_config()
    assert c.inner_recipe == GENERAL_RECIPE
    assert c.recipe == GENERAL_RECIPE.replace(
        hidden_width=512, steps=500, in_metric=True, init="orthogonal", output_gain=0.1
    )
    for preset in ("quick", "paper"):
        c = make_config(preset)
        assert c.recipe == c.inner_recipe
    endless = make_config("infinite").recipe
    assert endless.infinite and endless.in_metric and endless.ridge == make_config("infinite").ridge


def test_held_out_losses_are_those_of_the_recipes_students():
    """The validation trains what `behavior_clone` will: same widths, steps and loss as students made by hand."""
    config = small(student_widening=2, student_length=0.5, validation_students=3)
    loop = OuterLoop(*problem(), config, CPU)
    arch = Architecture.of(config.recipe, loop.S.shape[1], loop.A.shape[1])
    assert (arch.hidden, loop.arch.hidden) == ((32, 32), (16, 16))
    theta_0 = fresh_students(arch, config.recipe, config.seed, -1, range(3), device=CPU, dtype=torch.float32)
    inner = InnerLoop(
        config.recipe, obs_dim=loop.S.shape[1], act_dim=loop.A.shape[1], n_syn=len(loop.S), n_students=3
    )
    theta = inner.train(theta_0, loop.S, loop.A, steps=6)
    p, i = loop.problem, loop._held_indices
    error = (forward(theta, p.held_obs[i].expand(3, -1, -1), arch) - p.held_target[i]).square()
    assert loop.held_out_loss() == pytest.approx((p.held_weight[i] * error).mean().item(), rel=1e-5)


def test_the_paper_preset_is_the_papers_procedure():
    """Every number that a comparison rests on."""
    c = make_config("paper")
    r = c.recipe
    assert (r.hidden_layers, r.hidden_width, r.head, r.init, r.output_gain) == (
        3,
        256,
        "tanh",
        "orthogonal",
        1.0,
    )
    assert (r.optimizer, r.lr, r.steps, c.window_steps, c.student_pool) == ("sgd", 0.1, 100, 100, 0)
    assert (c.outer_optimizer, c.outer_lr_obs, c.outer_lr_act, c.outer_momentum) == (
        "momentum",
        0.1,
        0.1,
        0.9,
    )
    assert (c.outer_clip, c.outer_clip_at, c.outer_schedule) == ("norm", 2.0, "constant")
    assert (c.n_syn, c.initializer, c.outer_batch, c.q_scale) == (256, "random", 2560, 0.02)
    c = settle_teacher(c)
    assert (c.teacher_method, c.teacher_steps, c.cql_alpha, c.cql_n_actions) == ("cal_ql", 10**6, 10.0, 10)
