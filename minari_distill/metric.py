"""The input metric: how much each direction of the observations matters to the teacher.

    M = E_s [J(s)ᵀ J(s)],   J(s) = ∂π*/∂x at normalised x(s),      D = c · M^½

a student that reads x D instead of x sees states as far apart as the teacher's actions differ there. M is the average
gradient outer product that kernel machines and trained networks learn their features from (Radhakrishnan, Beaglehole,
Pandit and Belkin, Science 2024); here the teacher gives it away. c leaves the states' mean square as it is. J is taken
by central differences over a fifth of a standard deviation, which any teacher answers, one without gradients too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEP = 0.1  # in standard deviations; a teacher's kinks are averaged over twice this
_ASKED = 2048  # states
_FULL = 64  # observations of more numbers are weighted one by one: M's diagonal alone


def input_metric(decide: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """D (obs_dim, obs_dim), symmetric; the identity where the teacher does the same everywhere.

    Args:
        decide: The teacher: normalised observations (n, obs_dim) to actions (n, act_dim) in [−1, 1] or probabilities.
        x: (N, obs_dim) normalised states of the dataset; at most 2048 of them, at equal distances, are asked.
    """
    x = x[:: max(1, len(x) // _ASKED)][:_ASKED]
    obs_dim = x.shape[1]
    J = torch.stack([_slope(decide, x, i) for i in range(obs_dim)])  # (obs_dim, n, act_dim)
    if obs_dim > _FULL:
        D = torch.diag(J.square().mean((1, 2)).sqrt())
    else:
        values, vectors = torch.linalg.eigh(torch.einsum("ink,jnk->ij", J, J) / len(x))
        D = vectors * values.clamp_min(0).sqrt() @ vectors.T
    scale = (x.square().sum() / (x @ D).square().sum()).sqrt()
    return D * scale if torch.isfinite(scale) else torch.eye(obs_dim, dtype=x.dtype)


def _slope(decide: Callable[[Tensor], Tensor], x: Tensor, i: int) -> Tensor:
    """∂π*/∂x_i at each state, (n, act_dim)."""
    step = torch.zeros(x.shape[1], dtype=x.dtype)
    step[i] = _STEP
    return (decide(x + step) - decide(x - step)).to(x.dtype) / (2 * _STEP)
