"""What students are charged on a batch of states: H, and ∂H/∂θ by the hand-written passes."""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.inner.forgiving import forgiven, still_counted
from minari_distill.inner.loop import NARROW, WIDE
from minari_distill.inner.mlp import Parameters, Passes, Record
from minari_distill.networks import Architecture


class BatchLoss:
    """H of K students, each on its own B states: value, and gradient by the hand-written passes.

    With `forgiving` δ > 0 a state's error counts as `forgiving.py` has it (heads "tanh" and "linear").
    """

    def __init__(
        self,
        arch: Architecture,
        K: int,
        B: int,
        *,
        precision: str,
        device: torch.device,
        forgiving: float = 0.0,
    ):
        self.forgiving = forgiving
        wide, narrow = WIDE[precision], NARROW[precision]
        self.passes = Passes(arch, K, B, dtype=narrow, wide=wide, device=device)
        self.record = Record.empty(arch, K, B, dtype=narrow, wide=wide, device=device)
        self.theta, self.grad = (Parameters.zeros(arch, K, dtype=narrow, device=device) for _ in range(2))
        self.obs = torch.ones(K, B, arch.obs_dim + 1, dtype=narrow, device=device)
        self.target = torch.zeros(K, B, arch.act_dim, dtype=wide, device=device)
        self.weight = torch.zeros(K, B, 1, dtype=wide, device=device)
        self.scale = 1.0 / B if arch.head == "softmax" else 1.0 / (B * arch.act_dim)

    def load(
        self,
        k: int,
        obs: Tensor,
        target: Tensor,
        weight: Tensor,
        indices: Tensor,
        metric: Tensor | None = None,
    ) -> None:
        """States `indices` for student k, who reads them in `metric` (obs_dim, obs_dim)."""
        asked = obs[indices]
        self.obs[k, :, :-1].copy_(asked if metric is None else asked.to(metric.dtype) @ metric)
        self.target[k].copy_(target[indices])
        self.weight[k].copy_(weight[indices]).mul_(self.scale)

    def gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(H of each student (K,), ∂H/∂θ (K, P)) of `theta` (K, P)."""
        self.theta.flat.copy_(theta)
        self.passes.forward(self.theta, self.obs, self.record)
        H, counted = self._charge()
        self.passes.backward(self.theta, self.obs, self.target, counted, self.record, self.grad)
        return H, self.grad.flat

    def obs_gradient(self) -> Tensor:
        """∂H/∂x (K, B, obs_dim) at the states as read, of the `gradient` just taken: δ_1 W_1ᵀ."""
        return self.record.deltas[0].x @ self.theta.weights[0].T

    def value(self, theta: Tensor) -> Tensor:
        """H of each student (K,)."""
        self.theta.flat.copy_(theta)
        self.passes.forward(self.theta, self.obs, self.record)
        return self._charge()[0]

    def _charge(self) -> tuple[Tensor, Tensor]:
        """H (K,), and the weights (K, B, 1) with which squared errors have its gradient."""
        if not self.forgiving:
            return self.passes.loss(self.record, self.target, self.weight), self.weight
        e = (self.record.output - self.target).square_().mean(-1, keepdim=True)
        act_dim = self.target.shape[-1]  # the weight holds 1/act_dim, which e has taken already
        H = (act_dim * self.weight * forgiven(e, self.forgiving)).sum((1, 2))
        return H, self.weight * still_counted(e, self.forgiving)
