"""What a student is asked to match: the outer objectives, each one function.

A student π_θ, trained on the synset, is charged on states s of the dataset D (arXiv 2410.22728, section 4):

    H(θ) = E_{s ~ D} [ w(s) · d(π_θ(s), y(s)) ]                                                    (1)

with d the mean squared error over action dimensions, or the cross-entropy for discrete actions.

    DBC      y = the dataset's own action,   w = 1
    PBC      y = π*(s),                      w = 1
    Av-PBC   y = π*(s),                      w = q(s, π*(s))                                        (2)

An objective is a function (labels) → (y, w); add yours to `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.errors import TeacherError


@dataclass(frozen=True)
class Labels:
    """What the dataset and the teacher say of its N states.

    Attributes:
        act: (N, act_dim) the dataset's actions, in [−1, 1] (probabilities if discrete).
        teacher_act: (N, act_dim) π*(s), likewise; None where no teacher was asked.
        teacher_q: (N,) q(s, π*(s)); None likewise.
    """

    act: Tensor
    teacher_act: Tensor | None = None
    teacher_q: Tensor | None = None


Objective = Callable[[Labels, DistillConfig], tuple[Tensor, Tensor]]


def dbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Data-based BC: match the dataset's actions. Returns y (N, act_dim) and w (N, 1)."""
    return labels.act, torch.ones_like(labels.act[:, :1])


def pbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Policy-based BC: match the teacher's actions. Returns y (N, act_dim) and w (N, 1)."""
    y = _known(labels.teacher_act, "pbc")
    return y, torch.ones_like(y[:, :1])


def av_pbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Action-value weighted PBC. Returns y (N, act_dim) and w (N, 1).

    The paper weights by 0.02·q (`q_scale=0.02`). As q's scale then sets the outer learning rate, the default
    divides it out: w = max(q, 0)^p / mean max(q, 0)^p, p = `q_power`, so that DBC, PBC and Av-PBC compare at
    one rate.
    """
    y = _known(labels.teacher_act, "av_pbc")
    q = _known(labels.teacher_q, "av_pbc").unsqueeze(1)
    if config.q_scale:
        return y, config.q_scale * q
    positive = q.clamp_min(0.0)
    if not positive.any():  # every value is negative, as with costs: rank by the distance above the worst
        positive = q - q.min()
    positive = (positive / positive.max().clamp_min(1e-12)) ** config.q_power
    mean = positive.mean()
    return y, positive / mean if mean > 0 else torch.ones_like(q)


OBJECTIVES: dict[str, Objective] = {"dbc": dbc, "pbc": pbc, "av_pbc": av_pbc}


def needs_teacher(objective: str) -> bool:
    """Whether `objective` asks a teacher."""
    return objective != "dbc"


def _known(value: Tensor | None, objective: str) -> Tensor:
    if value is None:
        raise TeacherError(f"objective={objective!r} needs a teacher's actions and values; give `teacher=`.")
    return value
