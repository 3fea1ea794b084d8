"""The input metric: how much each direction of the observations matters to the teacher.

    M = E_s [J(s)ᵀ J(s)],   J(s) = ∂π*/∂x at normalised x(s),      D = c · M^½

a student that reads x D instead of x sees states as far apart as the teacher's actions differ there. M is the average
gradient outer product that kernel machines and trained networks learn their features from (Radhakrishnan, Beaglehole,
Pandit and Belkin, Science 2024); here the teacher gives it away. c leaves the states' mean square as it is. J is taken
by central differences over a fifth of a standard deviation, which any teacher answers, one without gradients too.

This D is the outer loop's first: it learns D on with the pairs (`outer.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minari_distill.errors import TeacherError

WIDEST = 1024
"""Observations of more numbers (pictures) have no metric: it would take more to learn and to store than it tells."""
FULL = 64
"""Observations of more numbers are weighted one by one: the diagonal of M, and of D, alone."""
_STEP = 0.1  # in standard deviations; a teacher's kinks are averaged over twice this
_ASKED = 2048  # states, fewer where observations are wide


def input_metric(decide: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """D (obs_dim, obs_dim), symmetric; the identity where the teacher does the same everywhere.

    Args:
        decide: The teacher: normalised observations (n, obs_dim) to actions (n, act_dim) in [−1, 1] or probabilities.
        x: (N, obs_dim) normalised states of the dataset; at most 2048 of them, at equal distances, are asked.

    Raises:
        TeacherError: The teacher gives NaN or infinite numbers beside the dataset's states.
    """
    obs_dim = x.shape[1]
    asked = min(_ASKED, _ASKED * FULL // obs_dim)  # no more questions than 64 numbers take
    x = x[torch.linspace(0, len(x) - 1, min(asked, len(x)), dtype=torch.float64).long()]
    if obs_dim > FULL:
        D = torch.diag(torch.stack([_slope(decide, x, i).square().mean() for i in range(obs_dim)]).sqrt())
    else:
        J = torch.stack([_slope(decide, x, i) for i in range(obs_dim)])  # (obs_dim, n, act_dim)
        values, vectors = torch.linalg.eigh(torch.einsum("ink,jnk->ij", J, J) / len(x))
        D = vectors * values.clamp_min(0).sqrt() @ vectors.T
    size = (x @ D).square().sum()
    return D * (x.square().sum() / size).sqrt() if size > 0 else torch.eye(obs_dim, dtype=x.dtype)


def _slope(decide: Callable[[Tensor], Tensor], x: Tensor, i: int) -> Tensor:
    """∂π*/∂x_i at each state, (n, act_dim)."""
    step = torch.zeros(x.shape[1], dtype=x.dtype)
    step[i] = _STEP
    slope = (decide(x + step) - decide(x - step)).to(x.dtype) / (2 * _STEP)
    if not bool(torch.isfinite(slope).all()):
        raise TeacherError(
            f"The teacher's actions hold NaN or infinite numbers {_STEP} standard deviations beside states of the dataset. "
            "Give another teacher, or metric_share=0 (--set metric_share=0)."
        )
    return slope
