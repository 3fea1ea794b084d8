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
from minari_distill.support import spread
from minari_distill.teachers import NetworkTeacher, Teacher, as_read, check_actions
from minari_distill.transitions import Transitions
from minari_distill.units import Units

_ASKED = 4096  # states of the best episodes whose values are compared


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


def clone_gap(
    transitions: Transitions,
    units: Units,
    teacher: Teacher,
    labels: Labels,
    among: np.ndarray,
    config: DistillConfig,
) -> float | None:
    """What the teacher's critic says that a clone of the best episodes loses, as a share of what the teacher is worth.

        gap = H · E_{s ~ D⁺} [q(s, π*(s)) − q(s, b⁺(s))] / |E_{s ~ D⁺} q(s, π*(s))|,       H = min(1/(1 − γ), mean length of D⁺),

    γ that of the values, which a teacher's metadata tell ("discount"), else that of the settings,

    by the performance difference lemma (Kakade and Langford, 2002), with the best episodes D⁺ for what b⁺ visits. Of a pessimistic
    critic, which thinks little of what is not in the data, it is rather too large than too small where b⁺ leaves them.

    Args:
        transitions, units, teacher, config: As of `label`.
        labels: With what the teacher and the clone do.
        among: (N,) bool, the states of the best episodes; some 4000 of them are asked.

    Returns:
        Below 0 where the critic prefers the clone; always finite. None where the values do not depend on the action at all: of such
        a critic nothing can be learnt about the clone.

    Raises:
        TeacherError: Values that are not finite.
    """
    assert labels.clone_act is not None and labels.teacher_act is not None
    some = spread(torch.from_numpy(among).nonzero()[:, 0], _ASKED)
    device = resolve_device(config.device)
    obs = as_read(teacher, transitions.observations[some.numpy()]).to(device)
    own, cloned = (  # in one and the same manner, so that values of the state alone are equal to the bit
        teacher.q(obs, units.unscale(act[some]).float().to(device)).double().cpu()
        for act in (labels.teacher_act, labels.clone_act)
    )
    _check_finite("values q", torch.stack((own, cloned)))
    if torch.equal(own, cloned):
        return None
    length = among.sum() / len(np.unique(transitions.episode_ids[among]))
    told = teacher.metadata.get("discount")
    discount = told if isinstance(told, int | float) and 0 <= told <= 1 else config.discount
    horizon = min(1 / (1 - discount), length) if discount < 1 else length
    lost, worth = (own - cloned).mean().item(), own.mean().abs().item()
    return horizon * lost / max(worth, 1e-9)


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
        if numbers is not None:
            _check_finite(name, numbers)
    for rows in blocks(n):
        check_actions(decided[rows].numpy(), codec, rows.start)
    return decided, value


def _check_finite(name: str, numbers: Tensor) -> None:
    if not bool(torch.isfinite(numbers).all()):
        raise TeacherError(
            f"The teacher's {name} hold NaN or infinite numbers at states of the dataset: it diverged, or is "
            "of another dataset. Learn it again with lower learning rates, or give another."
        )


def _makes_several_choices(codec: SpaceCodec) -> bool:
    return not codec.is_discrete and any("discrete" in part.kind for part in codec.parts)
