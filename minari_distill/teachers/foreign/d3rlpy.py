"""Algorithms of d3rlpy as teachers; their scalers stay inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minari_distill.errors import TeacherError, missing_package
from minari_distill.teachers.foreign.files import check_exists
from minari_distill.teachers.function_teacher import FunctionTeacher


def from_d3rlpy(agent: Any) -> FunctionTeacher:
    """A teacher from a d3rlpy algorithm, or the path of its `.d3` file; its scalers stay inside.

    q is `predict_value`. Algorithms that cannot say it (BC, Decision Transformers) make teachers without.

    Args:
        agent: The algorithm, built or loaded, or a path. A file runs code that it holds: open those you trust.

    Raises:
        TeacherError: The file is no such algorithm, or the algorithm is not built yet.
    """
    if isinstance(agent, str | os.PathLike):
        agent = _open_d3rlpy(Path(agent))
    if not hasattr(agent, "predict") or not hasattr(agent, "impl"):
        raise TeacherError(
            f"from_d3rlpy takes an algorithm or the path of its .d3 file, not a {type(agent).__name__}."
        )
    name = type(agent).__name__
    if agent.impl is None:
        raise TeacherError(
            f"This {name} has no networks yet: fit it, or call build_with_dataset and load_model."
        )
    shape, discrete = tuple(agent.observation_shape), agent.get_action_type().name == "DISCRETE"

    def states(obs: Tensor) -> np.ndarray:
        return np.ascontiguousarray(obs.cpu().numpy().reshape(-1, *shape))

    def act(obs: Tensor) -> np.ndarray:
        action = agent.predict(states(obs))
        return action.astype(np.int64) if discrete else action

    def q(obs: Tensor, action: Tensor) -> np.ndarray:
        taken = action.argmax(1) if discrete else action
        return agent.predict_value(states(obs), taken.cpu().numpy())

    return FunctionTeacher(
        act,
        q if _d3rlpy_knows_values(agent, shape, discrete) else None,
        obs_dim=int(np.prod(shape)),
        act_dim=int(agent.action_size),
        metadata={"method": "d3rlpy", "algorithm": name},
    )


def _d3rlpy_knows_values(agent: Any, shape: tuple[int, ...], discrete: bool) -> bool:
    action = np.zeros(1, np.int64) if discrete else np.zeros((1, agent.action_size), np.float32)
    try:
        agent.predict_value(np.zeros((1, *shape), np.float32), action)
    except NotImplementedError:
        return False
    return True


def _open_d3rlpy(path: Path) -> Any:
    try:
        import d3rlpy
    except ImportError as error:
        raise TeacherError(missing_package(f"Reading '{path.name}'", "d3rlpy", "d3rlpy")) from error
    check_exists(path)
    try:
        return d3rlpy.load_learnable(str(path), device="cpu")
    except Exception as fault:  # a pickle may fail in any way
        raise TeacherError(
            f"'{path}' holds no d3rlpy algorithm ({type(fault).__name__}: {fault}). Write one with algo.save('agent.d3')."
        ) from fault
