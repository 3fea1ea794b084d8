"""How far a teacher acts from the data, and the objective that is chosen by it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minari_distill as md
from minari_distill.config import make_config
from minari_distill.errors import TeacherError
from minari_distill.objectives import FARTHEST, Labels, settled
from minari_distill.pose import pose
from minari_distill.progress import silent
from minari_distill.support import teacher_distance
from minari_distill.teachers import Teacher
from minari_distill.transitions import EMBEDDED_ID
from tests.small_transitions import point_mass

TINY = {
    "n_syn": 8,
    "hidden_width": 8,
    "inner_steps": 4,
    "window": 2,
    "outer_steps": 2,
    "outer_batch": 16,
    "clone_steps": 20,
}


def behaviour(spread, n=6000, seed=0):
    """States in a square, actions 0.3·s + noise, and which of the states are held out."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.rand(n, 2, generator=g) * 2 - 1
    act = 0.3 * obs + spread * torch.randn(n, 2, generator=g)
    return obs, act, torch.arange(n) % 10 == 0


@given(spread=st.floats(0.05, 0.3), shift=st.floats(0.0, 1.0), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_distance_of_a_shifted_teacher(spread, shift, seed):
    """Law: a teacher c beside the mean behaviour of spread σ has ρ = (c² + σ²/10) / (σ² + σ²/10), for ten neighbours."""
    obs, act, held = behaviour(spread, seed=seed)
    rho = teacher_distance(obs, act, 0.3 * obs + shift, held)
    assert rho == pytest.approx((shift**2 + spread**2 / 10) / (1.1 * spread**2), rel=0.3, abs=0.05)


def test_the_data_themselves_are_at_one():
    """Worked: a teacher that repeats the data's actions is exactly as far from the usual as they are; units do not count."""
    obs, act, held = behaviour(0.2)
    assert teacher_distance(obs, act, act, held) == 1.0
    shifted = 0.3 * obs + 0.5
    assert teacher_distance(obs, 2 * act, 2 * shifted, held) == pytest.approx(
        teacher_distance(obs, act, shifted, held)
    )
    still = torch.zeros(len(obs), 2)
    assert teacher_distance(obs, still, still, held) == 0.0
    assert 1e6 < teacher_distance(obs, still, still + 0.1, held) < float("inf")  # JSON holds it


def test_auto_is_settled_by_the_distance():
    """Up to FARTHEST the teacher is matched; other names stand for themselves."""
    act, networks, infinite = torch.zeros(1, 1), make_config(), make_config("infinite")
    near, far = (Labels(act, teacher_distance=rho) for rho in (FARTHEST, FARTHEST + 0.1))
    assert settled("auto", near, networks) == settled("auto", near, infinite, tempers=True) == "av_pbc"
    assert settled("auto", near, networks, tempers=True) == "tempered_pbc"
    assert settled("auto", near, networks.replace(clone_steps=0), tempers=True) == "av_pbc"
    assert settled("auto", far, networks) == "robust_dbc"
    assert settled("auto", far, infinite) == "filtered_dbc"
    assert (
        settled("auto", far, infinite.replace(metric_share=0.0, infinite_width=False)) == "robust_dbc"
    )  # nobody reads at infinite width
    assert settled("pbc", Labels(act), networks) == "pbc"
    with pytest.raises(TeacherError, match="give `teacher=`"):
        settled("auto", Labels(act), networks)


@pytest.mark.parametrize(
    ("gain", "preset", "chosen"),
    [
        (-1.0, "default", "tempered_pbc"),
        (1.0, "default", "robust_dbc"),
        (-1.0, "infinite", "av_pbc"),
        (1.0, "infinite", "filtered_dbc"),
    ],
)
def test_a_problem_is_posed_with_the_objective_chosen(gain, preset, chosen):
    """Towards the origin, as the data do, or away from it: targets and weights are those of the objective itself."""
    transitions = point_mass()

    def act(obs):
        return (gain * obs).clamp(-2, 2)

    agent = Teacher.from_callable(act, q=lambda obs, act: 5 - obs.square().sum(1), obs_dim=2, act_dim=2)
    config = make_config(preset, n_syn=8, precision="float32", clone_steps=20)
    auto = pose(transitions, agent, config)
    itself = pose(transitions, agent, config.replace(objective=chosen))
    assert auto.config == itself.config and auto.config.objective == chosen
    assert (auto.teacher_distance > FARTHEST) == (gain > 0) and itself.teacher_distance is None
    assert torch.equal(auto.problem.target, itself.problem.target)
    assert torch.equal(auto.problem.weight, itself.problem.weight)
    assert auto.problem.forgiving == itself.problem.forgiving
    assert torch.equal(auto.S, itself.S) and torch.equal(auto.A, itself.A)


def test_a_teacher_outside_of_the_data_is_told_of():
    """A teacher that always pushes to one side: the pairs match the data, the synset says so, and so does the run."""
    agent = Teacher.from_callable(
        lambda obs: torch.ones(len(obs), 3), q=lambda obs, act: obs[:, 0], obs_dim=11, act_dim=3
    )
    said = []
    synset = md.distill(EMBEDDED_ID, teacher=agent, report=lambda p: said.append(p.text), **TINY)
    assert synset.config.objective == "robust_dbc" and synset.metadata["teacher_distance"] > FARTHEST
    assert any("To match the teacher all the same: objective=av_pbc" in text for text in said)
    insisted = md.distill(EMBEDDED_ID, teacher=agent, report=silent, objective="av_pbc", **TINY)
    assert insisted.config.objective == "av_pbc" and insisted.metadata["teacher_distance"] is None
    plain = md.distill(EMBEDDED_ID, report=silent, objective="robust_dbc", **TINY)
    assert (synset.observations == plain.observations).all() and (synset.actions == plain.actions).all()
