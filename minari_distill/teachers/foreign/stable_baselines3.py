"""Agents of Stable-Baselines3 and sb3-contrib as teachers.

SAC, TD3, DDPG, TQC    q(s, a) = min over critics (TQC: of their mean quantile)
DQN                    q(s, a) = Q-network
PPO, A2C               none: they know V alone
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from minari_distill.errors import TeacherError, missing_package
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers.foreign.files import check_exists
from minari_distill.teachers.function_teacher import FunctionTeacher


def from_stable_baselines3(agent: Any, vec_normalize: Any = None) -> FunctionTeacher:
    """A teacher from a Stable-Baselines3 (or sb3-contrib) model, or the path of its zip file.

    The policy acts deterministically; q is the least of the critics (SAC, TD3, DDPG, TQC) or the Q-network (DQN). PPO
    and A2C know V alone: their teachers have no q.

    Args:
        agent: The model, or a path. A file runs code that it holds: open those you trust.
        vec_normalize: The `VecNormalize` that it was trained behind, or the path of its pickle; found by itself
            where the model still has its environment.

    Raises:
        TeacherError: The file is no such model, or was trained behind a `VecNormalize` that is not given.
    """
    if isinstance(agent, str | os.PathLike):
        policy, behind, name = _open_sb3(Path(agent))
        found = None
    else:
        if not hasattr(agent, "policy") or not hasattr(agent, "observation_space"):
            raise TeacherError(
                f"from_stable_baselines3 takes a model or the path of its zip file, not a {type(agent).__name__}."
            )
        policy, name = agent.policy, type(agent).__name__
        behind = getattr(agent, "_last_original_obs", None) is not None
        found = agent.get_vec_normalize_env()
    statistics = found if vec_normalize is None else _open_vec_normalize(vec_normalize)
    if statistics is None and behind:
        raise TeacherError(
            f"This {name} was trained behind VecNormalize, whose statistics its file does not hold: give "
            "vec_normalize='vecnormalize.pkl', the file that VecNormalize.save wrote."
        )
    observations, actions = SpaceCodec(policy.observation_space), SpaceCodec(policy.action_space)

    def normalised(obs: Tensor) -> Any:
        vectors, space = obs.cpu().numpy(), policy.observation_space
        if isinstance(space, spaces.Box):  # as it is: what lies outside the declared bounds is not moved
            values = vectors.reshape(-1, *space.shape)
            if np.issubdtype(space.dtype, np.integer):  # which would wrap around, and round towards zero
                values = np.rint(values).clip(space.low, space.high)
            values = values.astype(space.dtype)
        else:
            values = observations.decode(vectors)
        return values if statistics is None else statistics.normalize_obs(values)

    def act(obs: Tensor) -> np.ndarray:
        return actions.encode(policy.predict(normalised(obs), deterministic=True)[0])

    def q(obs: Tensor, action: Tensor) -> Tensor:
        states = policy.obs_to_tensor(normalised(obs))[0]
        if hasattr(policy, "q_net"):
            values = policy.q_net(states)
            return values.gather(1, action.to(values.device).argmax(1, keepdim=True))[:, 0]
        scaled = policy.scale_action(action.cpu().numpy().reshape(-1, *policy.action_space.shape))
        flat = torch.as_tensor(scaled, dtype=torch.float32, device=policy.device).flatten(1)
        values = policy.critic(states, flat)
        if isinstance(values, tuple):
            return torch.cat(values, 1).amin(1)
        return values.mean(2).amin(1)  # TQC: (N, critics, quantiles)

    policy.set_training_mode(False)
    has_q = hasattr(policy, "q_net") or getattr(policy, "critic", None) is not None
    return FunctionTeacher(
        act,
        q if has_q else None,
        obs_dim=observations.dim,
        act_dim=actions.dim,
        metadata={"method": "stable_baselines3", "algorithm": name},
    )


def _open_sb3(path: Path) -> tuple[Any, bool, str]:
    """The policy of a zip file, whether it was trained behind VecNormalize, and its name."""
    try:
        from stable_baselines3.common.save_util import load_from_zip_file
    except ImportError as error:
        raise TeacherError(
            missing_package(f"Reading '{path.name}'", "stable-baselines3", "stable-baselines3")
        ) from error
    check_exists(path)
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu")
        assert data is not None
        sde = {"use_sde": True} if data.get("use_sde") else {}
        kwargs = {**data["policy_kwargs"], **sde}
        policy = data["policy_class"](
            data["observation_space"], data["action_space"], lambda progress: 0.0, **kwargs
        )
        policy.load_state_dict(parameters["policy"])
    except (AssertionError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as fault:
        raise TeacherError(
            f"'{path}' holds no Stable-Baselines3 model that can be read ({type(fault).__name__}: {fault}). Load it in "
            "Python and give the model: Teacher.from_stable_baselines3(SAC.load('agent.zip'))."
        ) from fault
    return policy, data.get("_last_original_obs") is not None, type(policy).__name__


def _open_vec_normalize(given: Any) -> Any:
    if not isinstance(given, str | os.PathLike):
        return given
    path = Path(given)
    check_exists(path)
    with path.open("rb") as file:
        return pickle.load(file)
