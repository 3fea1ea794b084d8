"""Algorithms of d3rlpy as teachers: the same actions, and their own values."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from minari_distill.errors import TeacherError
from minari_distill.teachers import Teacher, load_teacher

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the old gym, which it imports
    d3rlpy = pytest.importorskip("d3rlpy")

OBS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def build(name: str):
    """An untrained algorithm with scalers: raw units on both sides."""
    scalers = {
        "observation_scaler": d3rlpy.preprocessing.StandardObservationScaler(
            np.float32([1, 2, 3]), np.float32([2, 2, 2])
        )
    }
    if not name.startswith("D"):
        scalers["action_scaler"] = d3rlpy.preprocessing.MinMaxActionScaler(
            np.float32([-2, 0]), np.float32([2, 9])
        )
    algo = getattr(d3rlpy.algos, f"{name}Config")(**scalers).create(device="cpu")
    algo.create_impl((3,), 2)
    return algo


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(("name", "has_q"), [("TD3PlusBC", True), ("CQL", True), ("BC", False)])
def test_continuous_algorithms(tmp_path, name, has_q, from_file):
    """predict and predict_value in raw units; BC has no values."""
    algo = build(name)
    if from_file:
        algo.save(str(tmp_path / "agent.d3"))
    teacher = load_teacher(tmp_path / "agent.d3") if from_file else Teacher.from_d3rlpy(algo)
    assert (teacher.obs_dim, teacher.act_dim, teacher.has_q) == (3, 2, has_q)
    action = teacher.policy(torch.as_tensor(OBS))
    np.testing.assert_allclose(action, algo.predict(OBS), atol=1e-6)
    assert action.max() > 2  # not the networks' [−1, 1]
    if has_q:
        value = algo.predict_value(OBS, algo.predict(OBS))
        np.testing.assert_allclose(teacher.q(torch.as_tensor(OBS), action), value, atol=1e-5)


@pytest.mark.parametrize(("name", "has_q"), [("DQN", True), ("DiscreteBC", False)])
def test_discrete_algorithms(name, has_q):
    """One-hot greedy actions; the value of the action taken."""
    algo = build(name)
    teacher = Teacher.from_d3rlpy(algo)
    action = teacher.policy(torch.as_tensor(OBS))
    assert np.array_equal(action.argmax(1), algo.predict(OBS)) and torch.equal(action.sum(1), torch.ones(6))
    assert teacher.has_q == has_q
    if has_q:
        other = torch.eye(2)[1 - action.argmax(1)]
        value = algo.predict_value(OBS, 1 - algo.predict(OBS))
        np.testing.assert_allclose(teacher.q(torch.as_tensor(OBS), other), value, atol=1e-5)


def test_what_is_no_algorithm_is_refused(tmp_path):
    """An algorithm without networks, another object, another file."""
    with pytest.raises(TeacherError, match="no networks yet: fit it"):
        Teacher.from_d3rlpy(d3rlpy.algos.BCConfig().create(device="cpu"))
    with pytest.raises(TeacherError, match=r"takes an algorithm or the path of its \.d3 file, not a int"):
        Teacher.from_d3rlpy(3)
    (tmp_path / "agent.d3").write_bytes(b"noise")
    with pytest.raises(TeacherError, match="holds no d3rlpy algorithm"):
        load_teacher(tmp_path / "agent.d3")
