"""How the synset moves down its meta-gradient: clip, then a step of Adam or momentum, without asking the device anything.

    clip      "relative"   m ← 0.95 m + 0.05 min(‖g‖, 3m),   g ← g · min(1, c m/‖g‖)
              "norm"       g ← g · min(1, c/‖g‖)                                          c = `outer_clip_at`
    step      S, A and D each at its own rate, which falls to 2 % by a cosine unless `outer_schedule` says otherwise

‖g‖ is the joint norm of ∂H/∂S and ∂H/∂A; ∂H/∂D is scaled along with them. A gradient that is not finite moves nothing and is counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.metric import FULL


class OuterUpdate:
    """The outer optimiser and its state; S, A and the metric D, where there is one, are moved in place."""

    def __init__(self, config: DistillConfig, S: Tensor, A: Tensor, metric: Tensor | None):
        self.config = config
        self.moved = [(S, config.outer_lr_obs), (A, config.outer_lr_act)]
        if metric is not None:
            entries = metric.diagonal() if len(metric) > FULL else metric
            self.moved.append((metric, config.metric_lr * entries.square().mean().sqrt().item()))
        self.moments = [torch.zeros_like(x) for x, _ in self.moved for _ in range(2)]  # m_S, v_S, m_A, v_A, …
        self.norm_mean = S.new_zeros(())  # running mean of the gradient norm; 0 = none yet
        self.skipped = S.new_zeros((), dtype=torch.int64)  # steps without a finite gradient
        self.in_a_row = S.new_zeros((), dtype=torch.int64)

    def step(self, gS: Tensor, gA: Tensor, gD: Tensor | None, *, before: int, before_D: int) -> None:
        """One step, after `before` of the pairs and `before_D` of the metric; `gD` is None where D stays."""
        ok, factor = self._clip(gS, gA, gD)
        anneal = self._anneal(before)
        for i, (g, steps) in enumerate(((gS, before), (gA, before), (gD, before_D))):
            if g is None:
                continue
            (x, lr), m, v = self.moved[i], self.moments[2 * i], self.moments[2 * i + 1]
            new_m, new_v, move = self._rule(g * factor, m, v, steps + 1)
            m.copy_(torch.where(ok, new_m, m))
            v.copy_(torch.where(ok, new_v, v))
            x.copy_(torch.where(ok, x - lr * anneal * move, x))

    def _clip(self, gS: Tensor, gA: Tensor, gD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Whether the gradient is finite, and what it is multiplied with."""
        config = self.config
        norm = torch.sqrt(gS.square().sum() + gA.square().sum())
        ok = torch.isfinite(norm) if gD is None else torch.isfinite(norm) & torch.isfinite(gD).all()
        divisor = norm.clamp_min(torch.finfo(norm.dtype).tiny)  # a batch of zero weights has no gradient
        self.skipped += ~ok
        self.in_a_row.copy_(torch.where(ok, 0, self.in_a_row + 1))
        if config.outer_clip == "norm":
            return ok, (config.outer_clip_at / divisor).clamp_max(1.0)
        mean = torch.where(
            self.norm_mean > 0,
            0.95 * self.norm_mean + 0.05 * torch.minimum(norm, 3 * self.norm_mean),
            norm,
        )
        self.norm_mean.copy_(torch.where(ok, mean, self.norm_mean))
        return ok, (config.outer_clip_at * self.norm_mean / divisor).clamp_max(1.0)

    def _rule(self, g: Tensor, m: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """The new moments, and the move that the rate is multiplied with, at step t from 1 on."""
        config = self.config
        if config.outer_optimizer == "momentum":
            new_m = config.outer_momentum * m + g
            return new_m, v, new_m
        b1, b2 = config.outer_betas
        new_m, new_v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g.square()
        return new_m, new_v, (new_m / (1 - b1**t)) / ((new_v / (1 - b2**t)).sqrt() + 1e-8)

    def _anneal(self, step: int) -> float:
        if self.config.outer_schedule == "constant":
            return 1.0
        share = step / self.config.outer_steps
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, but for what is moved."""
        return {
            "norm_mean": self.norm_mean,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            **{f"moments.{i}": m for i, m in enumerate(self.moments)},
        }


def project_to_simplex(a: Tensor) -> Tensor:
    """The nearest probabilities to each row of `a` (n, k) (Duchi et al., 2008, figure 1)."""
    u = a.sort(-1, descending=True).values
    excess = (u.cumsum(-1) - 1) / torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=a.dtype)
    support = (u > excess).sum(-1, keepdim=True)
    return (a - excess.gather(-1, support - 1)).clamp_min_(0.0)
