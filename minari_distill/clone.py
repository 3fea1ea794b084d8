"""What the data do, as a function: networks cloned on all of it, their actions averaged.

    θ_k = argmin_θ E_{(s, a) ~ D} |tanh f_θ(x) − u|²     (cross-entropy for discrete actions),      b(s) = mean_k π_{θ_k}(s)

x is the normalised state and u the action in [−1, 1]. The data's own actions are draws: those of one state differ, and of
256 pairs none can tell a draw. b tells what is done there in the mean, where one behaviour is in the data or where the
state tells which of several it is; and unlike a table of actions it has slopes, hence an input metric (`metric.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minari_distill.networks import Architecture, forward, initialize

_NETWORKS = 3
_HIDDEN = (256, 256, 256)  # two layers fall short of an expert (docs/results.md)
_BATCH = 512
_LR = 1e-3  # falls to zero by a cosine: the last steps average the noise of the actions away
_PASSES = 20  # over the data at most: a small dataset's noise would be learnt by heart
_LEAST = (
    50  # steps of the smallest dataset: fewer leave the networks as they began, which is no behaviour at all
)
_CHUNK = 8192  # states asked at once


class Clone:
    """b(s), from normalised states to actions in [−1, 1], or to probabilities.

    Args:
        theta: (K, P) parameters of `arch`.
        arch: Of the networks.
    """

    def __init__(self, theta: Tensor, arch: Architecture):
        self.theta, self.arch = theta, arch

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(n, act_dim) float32 on the CPU, for x (n, obs_dim) of any type."""
        K, where = len(self.theta), self.theta.device
        chunks = (c.to(where, torch.float32).expand(K, *c.shape) for c in x.split(_CHUNK))
        return torch.cat([forward(self.theta, c, self.arch).mean(0).cpu() for c in chunks])


def clone_data(
    obs: Tensor, act: Tensor, known: Tensor, *, discrete: bool, steps: int, generator: torch.Generator
) -> Clone:
    """Networks of three hidden ReLU layers of 256, by Adam on minibatches of 512; the same generator gives the same clone.

    Args:
        obs, act: (N, obs_dim) normalised states and (N, act_dim) actions in [−1, 1], or probabilities; on the CPU.
        known: (N,) bool, the states that may be learnt from.
        discrete: Whether actions are probabilities.
        steps: Gradient steps, at most; no more than 20 passes over the data take, or 50 steps where that is more.
        generator: Of the initial parameters and the minibatches; the networks are trained where it is.
    """
    arch = Architecture(obs.shape[1], act.shape[1], _HIDDEN, "softmax" if discrete else "tanh")
    theta = initialize(arch, _NETWORKS, scheme="torch", generator=generator).requires_grad_()
    rows = known.nonzero()[:, 0]
    steps = min(steps, max(_LEAST, math.ceil(_PASSES * len(rows) / _BATCH)))
    optimizer = torch.optim.Adam([theta], _LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        drawn = torch.randint(len(rows), (_NETWORKS, _BATCH), generator=generator, device=generator.device)
        i = rows[drawn.cpu()]
        x, u = obs[i].to(theta), act[i].to(theta)
        with torch.enable_grad():
            y = forward(theta, x, arch, logits=discrete)
            loss = -(u * torch.log_softmax(y, -1)).sum(-1) if discrete else (y - u).square().mean(-1)
            loss.mean(1).sum().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return Clone(theta.detach(), arch)
