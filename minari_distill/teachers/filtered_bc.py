"""Filtered behavioural cloning: π* imitates the best episodes, q is fitted to returns to go.

With D⁺ the best episodes (`best_episodes.py`), x the normalised state and u the action scaled to [−1, 1]:

    π* = argmin_π E_{(s,a) ~ D⁺} |tanh π(x) − u|²          (cross-entropy for discrete actions)        (1)
    q  = argmin_Q E_{(s,a) ~ D}  w (Q(x, u) − (G − mean G) / std G)²,   G_t = Σ_k γ^k r_{t+k}          (2)

An episode cut off by a time limit hides the rest of its return: k steps before the cut a share 1 − γ^k of
the discount is seen, and that is the weight w in (2); it is 1 in episodes that end by themselves.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from minari_distill.best_episodes import best_transitions
from minari_distill.config import DistillConfig
from minari_distill.networks import Architecture, initialize
from minari_distill.teachers.cut_episodes import seen_share
from minari_distill.teachers.mlp import Layers, activations, backward
from minari_distill.teachers.teacher import NetworkTeacher
from minari_distill.teachers.training import Adam, Trainer
from minari_distill.transitions import Transitions

_LR = 1e-3  # decays to zero by a cosine: the last steps average the noise of the actions away
_WEIGHT_DECAY = 0.1
_OBS_NOISE = 0.05  # in standard deviations: few episodes leave gaps between their states


class FilteredBC(Trainer):
    """One actor and two critics, trained side by side."""

    method, usual_steps = "filtered_bc", 5_000

    def __init__(self, transitions: Transitions, config: DistillConfig, device: torch.device) -> None:
        super().__init__(transitions, config, device)
        t = transitions
        self.obs = self.tabulate(
            t, lambda rows: [self.units.normalise(torch.as_tensor(t.observations[rows]))]
        )
        self.action = self.tabulate(t, lambda rows: [self.units.scale(torch.as_tensor(t.actions[rows]))])
        self.best = torch.as_tensor(best_transitions(transitions, config.top_fraction), device=device)
        returns = transitions.returns_to_go(config.discount)
        self.q_shift = float(returns.mean(dtype=np.float64))
        self.q_scale = float(returns.std(dtype=np.float64)) or 1.0
        self.target = self.on_device((returns - self.q_shift) / self.q_scale)
        self.seen = self.on_device(seen_share(transitions, config.discount))
        self.units = self.units.to(device)

        obs_dim, act_dim = transitions.obs_dim, transitions.act_dim
        head = "softmax" if self.units.discrete else "tanh"
        self.actor_arch = Architecture(obs_dim, act_dim, (256, 256, 256), head)
        self.critic_arch = Architecture(obs_dim + act_dim, 1, (256, 256), "linear")
        fresh = partial(initialize, scheme="torch", generator=self.generator, dtype=self.dtype)
        self.actor, self.critic = fresh(self.actor_arch, 1), fresh(self.critic_arch, 2)
        self.adam = Adam([self.actor, self.critic], [_LR, _LR], _WEIGHT_DECAY)
        self._actor, self._critic = (
            Layers.of(self.actor, self.actor_arch),
            Layers.of(self.critic, self.critic_arch),
        )
        self._actor_grad = Layers.of(self.adam.gradients[0], self.actor_arch)
        self._critic_grad = Layers.of(self.adam.gradients[1], self.critic_arch)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and moments."""
        return {"actor": self.actor, "critic": self.critic, **self.adam.moments}

    def advance(self, n_steps: int) -> float:
        """Do `n_steps` gradient steps; returns the mean imitation loss (1)."""
        total, of_critics = torch.zeros((2,), dtype=self.dtype, device=self.device)
        for _ in range(n_steps):
            lr = _LR * (1 + math.cos(math.pi * self.step_count / self.total_steps)) / 2
            self.adam.set_lr([lr, lr])
            total += self._actor_gradient(self._draw(self.best))
            of_critics += self._critic_gradient(self._draw(None))
            self.adam.step()
            self.step_count += 1
        self.check_finite(float(of_critics))
        return self.check_finite(float(total / n_steps))

    def _draw(self, among: Tensor | None) -> Tensor:
        n = len(self.obs) if among is None else len(among)
        i = torch.randint(n, (self.config.teacher_batch,), generator=self.generator, device=self.device)
        return i if among is None else among[i]

    def _actor_gradient(self, i: Tensor) -> Tensor:
        """∂(1)/∂θ into the actor's gradient; returns the loss."""
        u = self.action[i]
        noise = torch.empty_like(self.obs[i]).normal_(0, _OBS_NOISE, generator=self.generator)
        x = (self.obs[i] + noise).unsqueeze(0)
        hs = activations(self._actor, x)
        if self.units.discrete:
            y = hs[-1][0].softmax(-1)
            loss = -(u * hs[-1][0].log_softmax(-1)).sum(-1).mean()
            delta = (y - u) / len(u)
        else:
            y = hs[-1][0].tanh()
            loss = (y - u).square().mean()
            delta = 2 * (y - u) * (1 - y * y) / u.numel()
        backward(self._actor, x, hs, delta.unsqueeze(0), self._actor_grad)
        return loss

    def _critic_gradient(self, i: Tensor) -> Tensor:
        """∂(2)/∂θ into the critics' gradient, who differ by their initialisation; returns the loss, summed over them."""
        x = torch.cat([self.obs[i], self.action[i]], 1).expand(2, -1, -1)
        hs = activations(self._critic, x)
        error = hs[-1][..., 0] - self.target[i]
        weight = self.seen[i] / self.seen[i].sum().clamp_min(1e-6)
        backward(self._critic, x, hs, (2 * weight * error).unsqueeze(-1), self._critic_grad)
        return (weight * error.square()).sum()

    def teacher(self) -> NetworkTeacher:
        """The teacher as learnt so far."""
        return NetworkTeacher(
            actor=self.actor.clone(),
            actor_arch=self.actor_arch,
            critic=self.critic.clone(),
            critic_arch=self.critic_arch,
            reduction="mean",
            units=self.units,
            metadata={**self.metadata, "transitions_imitated": len(self.best)},
            q_scale=self.q_scale,
            q_shift=self.q_shift,
        )
