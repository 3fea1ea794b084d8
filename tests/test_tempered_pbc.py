"""Laws of `tempered_pbc`: as near to a clone of the best episodes as the teacher's critic thinks it good, with its weights, on all states."""

from __future__ import annotations

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill import objectives
from minari_distill.best_episodes import best_transitions
from minari_distill.errors import ConfigError, DatasetError, TeacherError
from minari_distill.metric import input_metric
from minari_distill.pose import fit_to, pose
from minari_distill.progress import silent
from minari_distill.teachers import Teacher
from tests.small_transitions import point_mass


def teacher(action: float = 1.0, loss: float = 1e-6, worth: float = 2.0) -> Teacher:
    """Does one thing everywhere, and thinks that every unit of distance from it costs `loss` once."""
    return Teacher.from_callable(
        lambda obs: torch.full_like(obs, action),
        lambda obs, act: worth + 0.1 * obs[:, 0] - loss * (act - action).abs().mean(1),
        obs_dim=2,
        act_dim=2,
    )


def right_is_good(n_episodes: int = 200):
    """The better half of the episodes pushes right by 1, the worse one left; of 20 steps each."""
    transitions = point_mass(n_episodes)
    good = np.arange(len(transitions)) < len(transitions) / 2
    transitions.rewards[:], transitions.actions[:] = good, np.where(good, 1.0, -1.0)[:, None]
    return transitions


TEMPERED = {"n_syn": 8, "objective": "tempered_pbc", "clone_steps": 300, "precision": "float32"}


def posed(transitions, given, **changes):
    return pose(transitions, given, md.make_config(**TEMPERED | changes))


@pytest.mark.parametrize(
    ("share", "target"), [(0.0, -2.0), (0.5, -0.5), (0.8, 0.4), (0.999, 1.0), (1.5, 1.0)]
)
def test_targets_lie_where_the_critic_says(share, target):
    """Worked: the teacher pushes left by 2, a clone right by 1, 3 units away; a critic that says so much is lost has them meet there."""
    transitions = right_is_good()
    length = len(transitions) / transitions.n_episodes  # shorter than 1/(1 − γ)
    given = teacher(-2.0, loss=(1 - share) * 2 / length / 3)
    tempered, matched = (posed(transitions, given, objective=o) for o in ("tempered_pbc", "av_pbc"))
    assert tempered.clone_gap == pytest.approx(1 - share, abs=0.05)
    assert matched.clone_gap is None
    expected = transitions.units().scale(torch.full((1, 2), target)).float()
    asked = tempered.problem.target
    assert len(asked) == len(matched.problem.target)  # all states, not those of the best episodes alone
    torch.testing.assert_close(asked.mean(0, keepdim=True), expected, atol=0.04, rtol=0)
    assert (asked - expected).abs().max() < 0.3  # wherever the clone knows but little
    assert torch.equal(tempered.problem.weight, matched.problem.weight)


def test_the_metric_is_that_of_both():
    """Students read by the slopes of what they are asked for."""
    transitions = point_mass(200)

    def steep(loss: float) -> Teacher:
        def policy(obs):
            return torch.tanh(4 * obs[:, :1]).expand(-1, 2)

        def q(obs, act):
            return 1 - loss * (act - policy(obs)).abs().mean(1)

        return Teacher.from_callable(policy, q, obs_dim=2, act_dim=2)

    gap = posed(transitions, steep(1.0)).clone_gap
    steep = steep(0.5 / gap)  # β = ½
    alone, both = (posed(transitions, steep, objective=o).problem for o in ("av_pbc", "tempered_pbc"))
    clone = posed(transitions, steep, objective="filtered_dbc").problem
    assert not torch.allclose(both.metric, alone.metric, atol=0.05)
    assert not torch.allclose(both.metric, clone.metric, atol=0.05)
    slopes = input_metric(lambda x: 0.5 * torch.tanh(4 * x[:, :1] * transitions.observation_std[0]), both.obs)
    assert (
        both.metric[0, 0] > 0.5 * slopes[0, 0] and both.metric[1, 1] > 0.1
    )  # the teacher's one axis, and the clone's two


def test_without_a_clone_there_is_no_middle():
    with pytest.raises(ConfigError, match="needs a clone of the best episodes, and clone_steps=0 makes none"):
        posed(point_mass(), teacher(), clone_steps=0)


def test_best_episodes_that_are_all_held_out():
    """Of two episodes one is held out: told, if it is the better one, and only then."""
    transitions, told = point_mass(2), 0
    best = best_transitions(transitions, 0.1)
    for seed in range(8):
        settings = {"seed": seed, "clone_steps": 1, "n_syn": 4}
        held = posed(transitions, teacher(), objective="av_pbc", **settings).problem.held_obs
        x = transitions.units().normalise(torch.as_tensor(transitions.observations[best])).float()
        lost = torch.equal(held, x)
        with pytest.raises(DatasetError, match="all of them are held out. Give") if lost else nullcontext():
            posed(transitions, teacher(), **settings)
        told += lost
        with pytest.raises(DatasetError, match="Give a top_fraction") if lost else nullcontext():
            fit_to(
                md.make_config(**{"objective": "tempered_pbc", "n_syn": 1} | settings), transitions, silent
            )
    assert 0 < told < 8


def test_without_a_clone_it_is_refused_before_the_teacher_is_learnt(tmp_path):
    """In the first second, and not after hours."""
    with pytest.raises(ConfigError, match="clone_steps=0 makes none"):
        md.distill(
            "embedded", objective="tempered_pbc", clone_steps=0, run_dir=tmp_path / "run", report=silent
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loss", "told"), [(-0.01, "loses nothing of"), (0.01, "loses 1[0-9]% of"), (0.5, "loses all of")]
)
def test_the_run_says_what_is_matched(loss, told):
    """In words that fit: between the two, the clone alone, or the teacher alone."""
    said = []
    pose(right_is_good(), teacher(0.0, loss=loss), md.make_config(**TEMPERED), said.append)
    assert re.search(told, " ".join(said))


def test_gamma_is_the_teachers():
    """Its values are discounted as it learnt them, whatever the settings of this run say."""
    given = teacher(0.0, loss=0.01)
    given.metadata["discount"] = 0.9
    assert posed(right_is_good(), given).clone_gap == pytest.approx(10 * 0.01 / 2, rel=0.1)
    given.metadata["discount"] = "unknown"  # whatever people write there
    assert posed(right_is_good(), given).clone_gap == pytest.approx(25 * 0.01 / 2, rel=0.1)


def test_a_short_story():
    """From data to a policy; the synset names the objective."""
    tiny = {
        "n_syn": 8,
        "outer_steps": 2,
        "hidden_width": 32,
        "inner_steps": 20,
        "window": 5,
        "clone_steps": 20,
    }
    synset = md.distill(
        "demo/hopper-medium-replay-v0", objective="tempered_pbc", teacher_steps=50, report=silent, **tiny
    )
    assert synset.config.objective == "tempered_pbc"
    assert md.behavior_clone(synset, steps=20).act(synset.observations[0]).shape == (3,)


def test_the_gap_is_the_lemmas():
    """Worked: a clone that gives up 0.01 a step, of episodes of 25 steps and a value of 2, gives up 1/8; γ = 0.9 sees ten of the steps."""
    transitions = right_is_good()
    assert len(transitions) == 25 * transitions.n_episodes
    for settings, steps in (({}, 25), ({"discount": 0.9}, 10), ({"discount": 1.0}, 25)):
        gap = posed(transitions, teacher(0.0, loss=0.01), **settings).clone_gap  # 1 unit away everywhere
        assert gap == pytest.approx(steps * 0.01 / 2, rel=0.1)
    negative = posed(transitions, teacher(0.0, loss=0.01, worth=-2.0)).clone_gap  # of costs as of rewards
    assert negative == pytest.approx(0.125, rel=0.1)
    assert posed(transitions, teacher(0.0, loss=-0.01)).clone_gap < 0  # the clone is preferred
    nothing = posed(transitions, teacher(0.0, loss=0.01, worth=0.0)).clone_gap
    assert 1 < nothing < float("inf")  # JSON holds it


def test_a_critic_of_states_alone_does_not_speak_for_the_clone():
    """Values that do not depend on the action leave the teacher as it is, and the run says why."""
    told, transitions = [], right_is_good()
    W = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    given = Teacher.from_callable(  # a network, whose last bits depend on how many states are asked at once
        torch.zeros_like, lambda obs, act: torch.relu(obs @ W) @ W[0].abs(), obs_dim=2, act_dim=2
    )
    config = md.make_config(n_syn=8, clone_steps=50, precision="float32")
    auto = pose(transitions, given, config, told.append)
    assert auto.clone_gap is None and any("do not depend on the action" in text for text in told)
    itself = pose(transitions, given, config.replace(objective="av_pbc"))
    assert torch.equal(auto.problem.target, itself.problem.target)
    torch.testing.assert_close(auto.problem.metric, itself.problem.metric)


def test_a_critic_that_fails_on_the_clone():
    """Values that are finite for the teacher's own actions alone are refused."""
    given = Teacher.from_callable(
        lambda obs: torch.full_like(obs, 2.0),
        lambda obs, act: torch.where(act[:, 0] < 1.99, torch.nan, 1.0),
        obs_dim=2,
        act_dim=2,
    )
    with pytest.raises(TeacherError, match="values q hold NaN"):
        posed(right_is_good(), given)


@pytest.mark.parametrize(
    ("changes", "method", "chosen"),
    [
        ({}, "cal_ql", "tempered_pbc"),
        ({}, "callable", "tempered_pbc"),
        ({}, "filtered_bc", "av_pbc"),  # is such a clone already
        ({"clone_steps": 0}, "cal_ql", "av_pbc"),
        ({"infinite_width": True}, "cal_ql", "av_pbc"),  # who can tell every teacher
    ],
)
def test_auto_tempers_where_a_clone_says_something_new(changes, method, chosen):
    given, told = teacher(), []
    given.metadata = {"method": method}
    settings = {"n_syn": 8, "clone_steps": 10, "precision": "float32"} | changes
    problem = pose(right_is_good(), given, md.make_config("default", **settings), told.append)
    assert problem.config.objective == chosen
    assert any("The teacher's critic says" in text for text in told) == (chosen == "tempered_pbc")


def test_auto_does_without_a_clone_of_episodes_that_are_held_out():
    """Where `tempered_pbc` itself is refused, `auto` is Av-PBC."""
    transitions, seen = point_mass(2), set()
    for seed in range(8):
        config = md.make_config(seed=seed, clone_steps=1, n_syn=4, precision="float32")
        seen.add(pose(transitions, teacher(0.0), config).config.objective)
    assert seen == {"tempered_pbc", "av_pbc"}


def test_an_objective_of_ones_own_may_have_the_clone_alone(monkeypatch):
    """Without values nobody says what the clone loses: it is matched, and its metric read."""
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))

    @objectives.objective("best_pbc", needs_teacher=False, needs_clone=True, best_clone=True)
    def best_pbc(labels, config):
        return labels.clone_act, torch.ones_like(labels.act[:, :1])

    problem = posed(right_is_good(), None, objective="best_pbc")
    right = right_is_good().units().scale(torch.ones(1, 2)).float()
    torch.testing.assert_close(problem.problem.target.mean(0, keepdim=True), right, atol=0.02, rtol=0)
    assert problem.clone_gap is None
