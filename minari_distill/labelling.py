"""What the dataset and the teacher say of every state, block by block: the labels that an objective chooses from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.devices import resolve_device
from minari_distill.errors import TeacherError
from minari_distill.objectives import Labels, find_objective
from minari_distill.room import blocks
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers import NetworkTeacher, Teacher, as_read, check_actions
from minari_distill.transitions import Transitions
from minari_distill.units import Units


def label(transitions: Transitions, units: Units, teacher: Teacher | None, config: DistillConfig) -> Labels:
    """Labels of all N states in normalised numbers; mapped where the transitions are.

    Raises:
        TeacherError: The teacher does not fit, or gives numbers that are no actions or no values.
    """
    n, room = len(transitions), transitions.room
    wide = "float64" if config.precision == "float64" else "float32"

    def x(rows: slice) -> Tensor:  # of float64 observations: normalise before rounding
        return units.normalise(torch.as_tensor(transitions.observations[rows]))

    def u(rows: slice) -> Tensor:
        return units.scale(torch.as_tensor(transitions.actions[rows]).float())

    obs = torch.from_numpy(room.filled(n, (transitions.obs_dim,), wide, x))
    act = torch.from_numpy(room.filled(n, (transitions.act_dim,), "float32", u))
    if teacher is None:
        return Labels(act, obs=obs)
    decided, value = _ask(teacher, transitions, config)
    scaled = room.filled(n, tuple(act.shape[1:]), "float32", lambda rows: units.scale(decided[rows]))
    return Labels(act, torch.from_numpy(scaled), value, obs)


def _ask(teacher: Teacher, transitions: Transitions, config: DistillConfig) -> tuple[Tensor, Tensor | None]:
    """π*(s) (N, act_dim) in the source's units, and q(s, π*(s)) (N,) if the objective reads it."""
    n, codec, device = len(transitions), transitions.action_codec, resolve_device(config.device)
    teacher.check_fits(transitions.obs_dim, transitions.act_dim)

    fixed = codec.low == codec.high

    def raw(rows: slice) -> Tensor:
        return as_read(teacher, transitions.observations[rows]).to(device)

    def decide(rows: slice) -> np.ndarray:
        actions = teacher.policy(raw(rows)).cpu().numpy()
        actions = np.where(fixed & np.isfinite(actions), codec.low, actions)  # nothing is to be decided there
        if isinstance(teacher, NetworkTeacher) and _makes_several_choices(codec):
            # a network knows each category's number alone: the nearest probabilities are meant
            actions = np.where(np.isfinite(actions), codec.project(actions, soft=True), actions)
        return actions

    decided = torch.from_numpy(transitions.room.filled(n, (transitions.act_dim,), "float32", decide))
    value = None
    if find_objective(config.objective).needs_q:
        value = torch.cat([teacher.q(raw(rows), decided[rows].to(device)).cpu() for rows in blocks(n)])
    for name, numbers in (("actions", decided), ("values q", value)):
        if numbers is not None and not bool(torch.isfinite(numbers).all()):
            raise TeacherError(
                f"The teacher's {name} hold NaN or infinite numbers at states of the dataset: it diverged, or is "
                "of another dataset. Learn it again with lower learning rates, or give another."
            )
    for rows in blocks(n):
        check_actions(decided[rows].numpy(), codec, rows.start)
    return decided, value


def _makes_several_choices(codec: SpaceCodec) -> bool:
    return not codec.is_discrete and any("discrete" in part.kind for part in codec.parts)
