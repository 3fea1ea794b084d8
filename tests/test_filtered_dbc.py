"""Laws of `filtered_dbc`: it asks the states of the best episodes, what is done there, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minari_distill as md
from minari_distill.best_episodes import best_transitions
from minari_distill.errors import DatasetError
from minari_distill.pose import pose
from minari_distill.progress import silent
from minari_distill.teachers import Teacher
from minari_distill.transitions import EMBEDDED_ID
from tests.small_transitions import point_mass


def posed(transitions, teacher=None, **overrides):
    config = md.make_config(
        **{"n_syn": 8, "objective": "filtered_dbc", "clone_steps": 0, "precision": "float32", **overrides}
    )
    heard = []
    return pose(transitions, teacher, config, heard.append), heard


def rows(x):
    return {tuple(row) for row in x.numpy().round(5).tolist()}


@given(share=st.floats(0.05, 1.0), held=st.floats(0.02, 0.5), seed=st.integers(0, 9), discrete=st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_state_of_the_best_episodes_is_asked_or_held_out(share, held, seed, discrete):
    transitions = point_mass(20, discrete=discrete, seed=seed)
    problem = posed(transitions, top_fraction=share, holdout_fraction=held, seed=seed)[0].problem
    best = best_transitions(transitions, share)
    units = transitions.units()
    x = units.normalise(torch.as_tensor(transitions.observations[best])).float()
    seen, kept = rows(problem.obs), rows(problem.held_obs)
    assert seen | kept == rows(x) and not seen & kept
    assert len(kept) == pytest.approx(held * len(best), abs=25)  # whole episodes of 25, or the end of one
    assert len(kept) >= 1 and len(seen) >= len(kept)
    what = units.scale(torch.as_tensor(transitions.actions[best])).float()
    pairs = torch.cat([problem.obs, problem.target], 1), torch.cat([problem.held_obs, problem.held_target], 1)
    assert rows(pairs[0]) | rows(pairs[1]) == rows(torch.cat([x, what], 1))
    assert (problem.weight == 1).all() and problem.forgiving == 0.0


def test_the_clone_is_one_of_the_best_episodes():
    """Worked: the better half pushes right, the worse half left; the clone of all pushes nowhere, that of the best right."""
    transitions = point_mass(200)
    good = np.arange(len(transitions)) < len(transitions) / 2
    transitions.rewards[:], transitions.actions[:] = good, np.where(good, 1.0, -1.0)[:, None]
    best, heard = posed(transitions, clone_steps=300)
    everything, _ = posed(transitions, objective="robust_dbc", clone_steps=300)
    units = transitions.units()
    right = units.scale(torch.ones(1, 2)).float()
    torch.testing.assert_close(best.problem.target.mean(0, keepdim=True), right, atol=0.02, rtol=0)
    assert (everything.problem.target.mean(0).abs() < 0.5 * right.abs()).all()
    assert heard == [
        "First the actions of the best episodes are cloned, for filtered_dbc: a few minutes on a CPU core at most."
    ]
    again, _ = posed(transitions, clone_steps=300)
    assert torch.equal(again.problem.target, best.problem.target)
    assert torch.equal(again.problem.metric, best.problem.metric)


def test_too_few_good_states_are_told_of():
    transitions = point_mass()
    n = len(best_transitions(transitions, 0.1))
    with pytest.raises(DatasetError, match="states alone, those of the best episodes. Give n_syn of at most"):
        posed(transitions, n_syn=n)
    assert len(posed(transitions, n_syn=n, top_fraction=1.0)[0].S) == n


def test_auto_asks_all_states_where_the_good_ones_are_too_few():
    """It alone finds out what is matched once a teacher is learnt, which must not be lost for that."""
    transitions = point_mass()
    n = len(best_transitions(transitions, 0.1))
    far = Teacher.from_callable(
        lambda obs: 0 * obs + 1, lambda obs, act: act[:, 0] * 0 + 1, obs_dim=2, act_dim=2
    )
    auto = {"objective": "auto", "preset": "infinite"}
    chosen, heard = posed(transitions, far, n_syn=n, **auto)
    assert chosen.teacher_distance > 2 and chosen.config.objective == "robust_dbc" and len(chosen.S) == n
    assert f"The best episodes hold too few states for n_syn={n}: all are asked." in heard
    assert posed(transitions, far, n_syn=4, **auto)[0].config.objective == "filtered_dbc"


def test_random_pairs_are_pairs_of_the_best_episodes():
    transitions = point_mass()
    start = posed(transitions, initializer="random")[0]
    units, best = transitions.units(), best_transitions(transitions, 0.1)
    x = units.normalise(torch.as_tensor(transitions.observations[best])).float()
    u = units.scale(torch.as_tensor(transitions.actions[best])).float().clamp(-1, 1)
    assert rows(torch.cat([start.S, start.A], 1)) <= rows(torch.cat([x, u], 1))


def test_a_synset_of_the_best_episodes_needs_no_teacher():
    """A short real story, at infinite width."""
    synset = md.distill(
        EMBEDDED_ID,
        preset="infinite",
        objective="filtered_dbc",
        n_syn=8,
        outer_steps=4,
        clone_steps=20,
        report=silent,
    )
    assert synset.config.objective == "filtered_dbc" and synset.metadata["teacher"] is None
    assert md.behavior_clone(synset).act(synset.observations[0]).shape == (3,)
