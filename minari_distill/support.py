"""Whether the data show what the teacher does, told without the environment.

    ρ = E ‖π*(s) − ā(s)‖² / E ‖a − ā(s)‖²,      ā(s): mean action of the dataset states nearest to s

over held-out s, in normalised units. A teacher that does on average what the data do has a ρ of nearly 0; one as far from
that as the data's own actions are has 1. Far beyond, its own states are not in the data: labels on the data's states cannot
tell a student what to do there, however well it matches them (docs/results.md, "Why medium-expert is different").
"""

from __future__ import annotations

import torch
from torch import Tensor

_NEIGHBOURS = 10
_ASKED = 1000  # held-out states
_KNOWN = 20_000  # states among which their neighbours are looked for


def teacher_distance(obs: Tensor, act: Tensor, teacher_act: Tensor, held: Tensor) -> float:
    """ρ.

    Args:
        obs: (N, obs_dim) normalised states.
        act, teacher_act: (N, act_dim) the dataset's and the teacher's actions, in [−1, 1] or probabilities.
        held: (N,) bool, the states that are asked; their neighbours are looked for among the others.

    Returns:
        ρ, always finite; huge where the data's actions have no spread at all and the teacher differs from them.
    """
    asked, usual = _usual(obs, act, held)
    teacher, data = ((x[asked] - usual).square().mean().item() for x in (teacher_act, act))
    return teacher / max(data, 1e-9)


def action_spread(obs: Tensor, act: Tensor, held: Tensor) -> float:
    """E ‖a − ā(s)‖² / act_dim, how far the data's actions are from the usual one; arguments as of `teacher_distance`."""
    asked, usual = _usual(obs, act, held)
    return (act[asked] - usual).square().mean().item()


def _usual(obs: Tensor, act: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the held-out states that are asked, and ā there."""
    asked, known = spread(held.nonzero()[:, 0], _ASKED), spread((~held).nonzero()[:, 0], _KNOWN)
    apart = torch.cdist(obs[asked].float(), obs[known].float())
    nearest = apart.topk(min(_NEIGHBOURS, len(known)), largest=False).indices
    return asked, act[known][nearest].mean(1)


def spread(indices: Tensor, count: int) -> Tensor:
    """`count` of the indices at equal distances, or all."""
    if len(indices) <= count:
        return indices
    return indices[torch.linspace(0, len(indices) - 1, count, dtype=torch.float64).long()]
