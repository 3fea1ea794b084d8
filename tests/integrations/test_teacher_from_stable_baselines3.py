"""Agents of Stable-Baselines3 as teachers: the same greedy actions, and its own critics' values."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from minari_distill.errors import TeacherError
from minari_distill.teachers import Teacher, load_teacher

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402


class Goal(gymnasium.Env):
    """Dict observations, actions in [0, 5]."""

    observation_space = spaces.Dict(goal=spaces.Box(-1, 1, (2,)), state=spaces.Box(-9, 9, (3,)))
    action_space = spaces.Box(0, 5, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), float(action.sum()), False, True, {}


def pendulum_observations(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32) * np.float32([1, 1, 8])


def small(algorithm: str, env: Any, **changes: Any) -> Any:
    """An untrained model with a small network."""
    kind = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    settings = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"} | changes
    return getattr(sb3, algorithm)(kind, env, **settings)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TD3", "DDPG"])
@pytest.mark.parametrize("from_file", [False, True])
def test_continuous_agents(tmp_path, algorithm, from_file):
    """predict(deterministic=True) row by row; q is the least critic's value of the scaled action; PPO has none."""
    model = small(algorithm, gymnasium.make("Pendulum-v1"))
    obs = pendulum_observations()
    expected = np.stack([model.predict(o, deterministic=True)[0] for o in obs])
    if from_file:
        model.save(tmp_path / "agent.zip")
        teacher = load_teacher(tmp_path / "agent.zip")
    else:
        teacher = Teacher.from_stable_baselines3(model)
    assert (teacher.obs_dim, teacher.act_dim) == (3, 1)
    action = teacher.policy(torch.as_tensor(obs))
    np.testing.assert_allclose(action, expected, atol=1e-6)
    assert teacher.has_q == (algorithm in ("SAC", "TD3", "DDPG"))
    if teacher.has_q:
        with torch.no_grad():
            values = model.critic(torch.as_tensor(obs), torch.as_tensor(expected) / 2)  # actions in [−2, 2]
        np.testing.assert_allclose(
            teacher.q(torch.as_tensor(obs), action), torch.cat(values, 1).amin(1), atol=1e-5
        )


def test_discrete_agents():
    """DQN: greedy actions one-hot, q of the action taken."""
    model = small("DQN", gymnasium.make("CartPole-v1"))
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    teacher = Teacher.from_stable_baselines3(model)
    action = teacher.policy(torch.as_tensor(obs))
    expected, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(action.argmax(1), expected) and torch.equal(action.sum(1), torch.ones(6))
    with torch.no_grad():
        values = model.q_net(torch.as_tensor(obs))
    torch.testing.assert_close(teacher.q(torch.as_tensor(obs), action), values.amax(1))
    other = torch.eye(2)[1 - action.argmax(1)]
    torch.testing.assert_close(teacher.q(torch.as_tensor(obs), other), values.amin(1))


def test_dict_observations_come_from_vectors():
    """The vectors of a Dict's codec, keys in sorted order."""
    model = small("SAC", Goal())
    vectors = np.random.default_rng(0).uniform(-1, 1, (5, 5)).astype(np.float32)
    teacher = Teacher.from_stable_baselines3(model)
    expected, _ = model.predict({"goal": vectors[:, :2], "state": vectors[:, 2:]}, deterministic=True)
    action = teacher.policy(torch.as_tensor(vectors))
    np.testing.assert_allclose(action, expected, atol=1e-6)
    assert teacher.q(torch.as_tensor(vectors), action).shape == (5,)


def test_statistics_of_vec_normalize_are_kept_or_asked_for(tmp_path):
    """Raw observations in; a file trained behind VecNormalize is not used without it."""
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    model = small("PPO", env, n_steps=32, batch_size=32).learn(32)
    env.obs_rms.mean, env.obs_rms.var = np.array([0.5, -0.5, 2.0]), np.array([4.0, 9.0, 16.0])
    obs = pendulum_observations()
    x = ((obs - [0.5, -0.5, 2.0]) / [2, 3, 4]).astype(np.float32)
    expected, _ = model.predict(x, deterministic=True)
    behind = Teacher.from_stable_baselines3(model)
    np.testing.assert_allclose(behind.policy(torch.as_tensor(obs)), expected, atol=1e-5)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(TeacherError, match=re.escape("give vec_normalize='vecnormalize.pkl'")):
        load_teacher(tmp_path / "agent.zip")
    read = Teacher.from_stable_baselines3(tmp_path / "agent.zip", tmp_path / "vecnormalize.pkl")
    np.testing.assert_allclose(read.policy(torch.as_tensor(obs)), expected, atol=1e-5)


def test_what_is_no_agent_is_refused(tmp_path):
    """Files and objects."""
    (tmp_path / "agent.zip").write_bytes(b"PK no zip")
    with pytest.raises(TeacherError, match="holds no Stable-Baselines3 model"):
        load_teacher(tmp_path / "agent.zip")
    with pytest.raises(TeacherError, match=r"takes a model or the path of its zip file, not a int"):
        Teacher.from_stable_baselines3(3)
