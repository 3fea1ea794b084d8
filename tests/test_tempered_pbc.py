"""Laws of `tempered_pbc`: halfway between the teacher and a clone of the best episodes, with the teacher's weights, on all states."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill.best_episodes import best_transitions
from minari_distill.distill import pose
from minari_distill.errors import ConfigError, DatasetError
from minari_distill.metric import input_metric
from minari_distill.progress import silent
from minari_distill.teachers import Teacher
from tests.small_transitions import point_mass


def teacher(action: float = 1.0) -> Teacher:
    """Does one thing everywhere; its values grow along the first axis."""
    return Teacher.from_callable(
        lambda obs: torch.full_like(obs, action), lambda obs, act: 2 + obs[:, 0], obs_dim=2, act_dim=2
    )


def posed(transitions, given, **changes):
    settings = {"n_syn": 8, "objective": "tempered_pbc", "clone_steps": 300, "precision": "float32"} | changes
    return pose(transitions, given, md.make_config(**settings))


def test_targets_lie_halfway():
    """Worked: the better half of the episodes pushes right by 1, the worse one left, the teacher left by 2; halfway is left by ½."""
    transitions = point_mass(200)
    good = np.arange(len(transitions)) < len(transitions) / 2
    transitions.rewards[:], transitions.actions[:] = good, np.where(good, 1.0, -1.0)[:, None]
    tempered, matched = (posed(transitions, teacher(-2.0), objective=o) for o in ("tempered_pbc", "av_pbc"))
    expected = transitions.units().scale(torch.full((1, 2), -0.5)).float()
    target = tempered.problem.target
    assert len(target) == len(matched.problem.target)  # all states, not those of the best episodes alone
    torch.testing.assert_close(target.mean(0, keepdim=True), expected, atol=0.02, rtol=0)
    assert (target - expected).abs().max() < 0.2  # wherever the clone knows but little
    assert torch.equal(tempered.problem.weight, matched.problem.weight)


def test_the_metric_is_that_of_both():
    """Students read by the slopes of what they are asked for."""
    transitions = point_mass(200)
    steep = Teacher.from_callable(
        lambda obs: torch.tanh(4 * obs[:, :1]).expand(-1, 2),
        lambda obs, act: 0 * obs[:, 0] + 1,
        obs_dim=2,
        act_dim=2,
    )
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
    assert 0 < told < 8


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
