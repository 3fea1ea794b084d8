"""Laws of agents from elsewhere as teachers: the same actions and values as the agent itself, in raw units."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import minari_distill as md
from minari_distill.config import make_config
from minari_distill.errors import TeacherError
from minari_distill.labelling import label
from minari_distill.pose import pose
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers import Teacher, check_actions, function_teacher, learn_teacher, load_teacher
from tests.small_transitions import point_mass

OBS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------- functions


def test_functions_may_answer_with_arrays_and_in_any_float_type():
    """NumPy arrays and float64 come back as tensors of the observations' dtype."""
    teacher = Teacher.from_callable(
        lambda o: o.numpy()[:, :2].astype(np.float64),
        lambda o, a: a.double().sum(1).numpy(),
        obs_dim=3,
        act_dim=2,
    )
    action = teacher.policy(OBS)
    assert action.dtype == torch.float32 and torch.equal(action, OBS[:, :2])
    assert teacher.has_q and torch.allclose(teacher.q(OBS, action), OBS[:, :2].sum(1))


def test_integers_are_actions_one_hot():
    """N integers of a policy over discrete actions become N one-hot rows."""
    teacher = Teacher.from_callable(lambda o: (o[:, 0] > 0).long(), obs_dim=3, act_dim=2)
    assert torch.equal(teacher.policy(OBS).argmax(1), (OBS[:, 0] > 0).long())
    assert torch.equal(teacher.policy(OBS).sum(1), torch.ones(7))


def test_a_large_dataset_is_asked_about_in_chunks(monkeypatch):
    """No call sees more rows than the limit, and the answers lie in order."""
    monkeypatch.setattr(function_teacher, "CHUNK", 3)
    seen: list[int] = []

    def policy(obs):
        seen.append(len(obs))
        return obs[:, :2]

    teacher = Teacher.from_callable(policy, lambda o, a: a.sum(1), obs_dim=3, act_dim=2)
    assert torch.equal(teacher.policy(OBS), OBS[:, :2]) and seen == [3, 3, 1]
    assert torch.equal(teacher.q(OBS, OBS[:, :2]), OBS[:, :2].sum(1))


WRONG = {
    "one action for all": (lambda o: o[0, :2], "shape (2,); expected (7, 2)"),
    "another length": (lambda o: o, "shape (7, 3); expected (7, 2)"),
    "transposed": (lambda o: o[:, :2].T, "shape (2, 7); expected (7, 2)"),
    "integers of two columns": (lambda o: o[:, :2].long(), "torch.int64 of shape (7, 2); expected floating"),
    "booleans": (lambda o: o[:, :2] > 0, "torch.bool of shape (7, 2); expected floating"),
    "an action that is none": (lambda o: torch.full((7,), 2), "actions from 2 to 2; expected 0 to 1"),
    "no array": (lambda o: "left", "returned a str; expected a tensor or an array"),
    "objects": (lambda o: np.array([None] * 7), "returned a ndarray; expected a tensor or an array"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_that_answers_wrongly_is_told_what_is_expected(name):
    """Shape and dtype, given and expected."""
    policy, message = WRONG[name]
    with pytest.raises(TeacherError, match=re.escape(message)):
        Teacher.from_callable(policy, obs_dim=3, act_dim=2).policy(OBS)


@pytest.mark.parametrize("q", [lambda o, a: a, lambda o, a: a.sum(), lambda o, a: a.argmax(1)])
def test_a_q_gives_one_number_a_row(q):
    """Columns, a single number and integers are refused."""
    teacher = Teacher.from_callable(lambda o: o[:, :2], q, obs_dim=3, act_dim=2)
    with pytest.raises(TeacherError, match=r"expected floating-point \(7,\), one value a row"):
        teacher.q(OBS, OBS[:, :2])


def test_actions_in_other_units_are_refused_and_rounding_is_not():
    """A hair beyond the bounds is the bound's; twice the bound, or logits, are not an action."""
    box = SpaceCodec(spaces.Box(-1, 1, (2,), np.float32))
    check_actions(np.full((3, 2), 1 + 1e-6, np.float32), box)
    with pytest.raises(TeacherError, match=r"is 2\.0 in row 0, outside \[-1, 1\].*raw actions"):
        check_actions(np.full((3, 2), 2.0, np.float32), box)
    discrete = SpaceCodec(spaces.Discrete(2))
    check_actions(np.float32([[0.25, 0.75]]), discrete)
    with pytest.raises(TeacherError, match="add up to"):
        check_actions(np.float32([[1.0, 0.9]]), discrete)


def test_own_agents_are_distilled(tmp_path):
    """A function of raw observations steers a distillation: targets are its actions, the loss falls."""
    transitions = point_mass()
    agent = Teacher.from_callable(lambda obs: (-2 * obs).clamp(-2, 2), obs_dim=2, act_dim=2)
    config = make_config("quick", objective="pbc", n_syn=8, outer_steps=1, precision="float32")
    posed = pose(transitions, agent, config)
    units, problem = posed.units, posed.problem
    raw = units.denormalise(problem.obs)
    torch.testing.assert_close(units.unscale(problem.target), (-2 * raw).clamp(-2, 2), atol=1e-5, rtol=0)
    assert torch.equal(problem.weight, torch.ones(len(problem.obs), 1))
    with pytest.raises(TeacherError, match=r"is 4\.\d+ in row|is -4\.\d+ in row|outside \[-2, 2\]"):
        pose(transitions, Teacher.from_callable(lambda obs: -9 * obs, obs_dim=2, act_dim=2), config)


def test_no_q_is_said_before_anything_is_read():
    """The default objective needs q; nothing stands in for it."""
    agent = Teacher.from_callable(lambda obs: obs, obs_dim=2, act_dim=2)
    with pytest.raises(
        TeacherError, match=r"\(callable\) has no q: choose objective='pbc' \(--objective pbc\)"
    ):
        md.distill("no/such-dataset-v0", teacher=agent)


# ---------------------------------------------------------------------------------- TorchScript and ONNX


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


def script(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def test_a_torchscript_module_is_the_teacher_of_any_dataset_that_it_fits(tmp_path):
    """Same actions; the dimensions are those of the dataset that it meets, and what it does not take it refuses."""
    module = TwoLayers()
    path = script(module, tmp_path / "policy.pt")
    teacher = load_teacher(path)
    torch.testing.assert_close(teacher.policy(OBS), module(OBS).detach())
    assert teacher.metadata == {"method": "torchscript", "file": "policy.pt"}
    teacher.check_fits(11, 3)
    with pytest.raises(
        TeacherError,
        match=r"policy fails on float32 of shape \(50, 11\): RuntimeError: .*mat1 and mat2 .*of this dataset",
    ):
        teacher.policy(torch.zeros(50, 11))
    teacher.check_fits(3, 2)  # a dataset that it did not fit leaves nothing behind
    torch.testing.assert_close(teacher.policy(OBS), module(OBS).detach())
    assert Teacher.from_torchscript(path, obs_dim=3, act_dim=2).act_dim == 2


def test_files_that_are_no_agents_are_refused(tmp_path):
    """Each by what it is."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match="is not TorchScript .*it is a pickle"):
        load_teacher(tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match=r"agent\.zip' does not exist"):
        Teacher.from_torchscript(tmp_path / "agent.zip")
    with pytest.raises(TeacherError, match="is a folder"):
        Teacher.from_torchscript(tmp_path)


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `package` were not installed."""
    monkeypatch.setitem(__import__("sys").modules, package, None)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.onnx", "onnxruntime", "onnx"),
        ("a.zip", "stable_baselines3.common.save_util", "stable-baselines3"),
        ("a.d3", "d3rlpy", "d3rlpy"),
    ],
)
def test_a_missing_library_answers_with_the_command(tmp_path, monkeypatch, name, package, extra):
    """The extra that brings it."""
    without(package, monkeypatch)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(TeacherError, match=re.escape(f"pip install 'minari-distill[{extra}]'")):
        load_teacher(tmp_path / name)


def test_q_is_asked_of_the_teachers_own_actions():
    """q(s, π*(s)), and not of what the data do there."""
    data = point_mass()
    teacher = Teacher.from_callable(lambda obs: -obs, lambda obs, action: action[:, 0], obs_dim=2, act_dim=2)
    labels = label(data, data.units(), teacher, make_config(objective="av_pbc"))
    assert torch.equal(labels.teacher_q, -torch.as_tensor(data.observations[:, 0]))


def test_own_networks_read_float64_before_rounding():
    """States of 10⁶ ± 1: in float32 four numbers a unit are left of them; a teacher of this package reads them as they are."""
    data = point_mass()
    near = data.observations.astype(np.float64)
    far = dataclasses.replace(data, observations=near + 1e6, next_observations=data.next_observations + 1e6)
    config = make_config(teacher_method="filtered_bc", teacher_steps=20, objective="av_pbc")
    teacher = learn_teacher(far, config)
    labels = label(far, far.units(), teacher, config)
    exact = teacher.policy(torch.as_tensor(far.observations))
    torch.testing.assert_close(far.units().unscale(labels.teacher_act), exact.float(), atol=1e-6, rtol=0)
    rounded = teacher.policy(torch.as_tensor(far.observations).float())
    assert (rounded - exact).abs().max() > 1e-3


def test_a_component_without_a_choice_needs_none():
    """Bounds [−1, 0] to [1, 0]: whatever a teacher says of the second action, 0 is meant."""
    data = point_mass()
    actions = np.stack([data.actions[:, 0] / 2, np.zeros(len(data), np.float32)], 1)
    box = spaces.Box(np.float32([-1, 0]), np.float32([1, 0]))
    data = dataclasses.replace(data, actions=actions, action_codec=SpaceCodec(box))
    config = make_config(teacher_method="filtered_bc", teacher_steps=20, objective="av_pbc")
    labels = label(data, data.units(), learn_teacher(data, config), config)
    assert (data.units().unscale(labels.teacher_act)[:, 1] == 0).all()


def test_a_row_that_does_not_fit_is_told_wherever_it_lies():
    """Rows are counted from the first of the dataset, in whichever block they are checked."""
    codec = SpaceCodec(spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(TeacherError, match="in row 7, outside"):
        check_actions(np.float32([[0], [0], [3]]), codec, 5)


def test_actions_that_students_cannot_reach_are_told_of():
    """In unbounded spaces students act in the range of the data: of a teacher beyond it, how much is said."""
    data = point_mass()
    unbounded = SpaceCodec(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    data = dataclasses.replace(data, action_codec=unbounded)
    heard = []
    for size in (9.0, 0.1):
        teacher = Teacher.from_callable(
            lambda obs, size=size: torch.full_like(obs, size), obs_dim=2, act_dim=2
        )
        posed = pose(data, teacher, make_config(objective="pbc", n_syn=8), heard.append)
        assert posed.problem.target.abs().max() <= 1 and posed.problem.held_target.abs().max() <= 1
    assert len(heard) == 1 and heard[0].startswith("100% of the teacher's actions lie outside")


def test_a_teacher_is_not_asked_where_nothing_reads_its_answers():
    """DBC matches the data alone: a teacher that is given with it says nothing."""

    def fails(obs):
        raise AssertionError("asked")

    teacher = Teacher.from_callable(fails, obs_dim=2, act_dim=2)
    pose(point_mass(), teacher, make_config(objective="dbc", n_syn=8))
