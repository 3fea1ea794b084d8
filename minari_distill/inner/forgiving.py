"""A distance that gives up on what is far: Welsch's loss of a state's error.

    e = mean over action dimensions of (π(s) − y(s))²
    d(e) = 2δ² (1 − exp(−e / 2δ²)),        d′(e) = exp(−e / 2δ²)

d is e where e ≪ δ², and 2δ² at most (Dennis and Welsch, 1978). Where two behaviours are mixed, squared errors ask for
the action between them, which neither takes; d asks for the one that can be had.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forgiven(e: Tensor, delta: float) -> Tensor:
    """d(e) for δ = `delta`; e itself for δ = 0, which forgives nothing."""
    return -2 * delta**2 * torch.expm1(e / (-2 * delta**2)) if delta else e


def still_counted(e: Tensor, delta: float) -> Tensor:
    """d′(e): how much of a small change in e still counts."""
    return torch.exp(e / (-2 * delta**2)) if delta else torch.ones_like(e)
