"""`QTeacher`: a teacher of discrete actions that is its action values, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, forward
from minari_distill.teachers.teacher import CHUNK, Teacher, unfit_numbers
from minari_distill.units import Units


class QTeacher(Teacher):
    """An ensemble of critics s → Q_k(s, ·), as flat parameter vectors (`networks`).

    With x the normalised observation and n actions a:

        Q(s, a)  = min_k Q_k(x)_a
        π*(s)    = softmax(Q(s, ·) / τ)                        probabilities (n,)
        q(s, p)  = q_scale · Σ_a p_a Q(s, a)                   of probabilities p: the sum over actions is exact

    Args:
        critic: (C, P) parameters of `critic_arch`: obs_dim → number of actions, head "linear".
        temperature: τ, in the critics' own numbers: in raw returns it is q_scale · τ.
        units: Statistics of the observations.
        metadata: How it came to be, see `Teacher`.
        q_scale: From the critics' numbers to discounted raw returns.

    Raises:
        TeacherError: Shapes or numbers that cannot form a teacher.
    """

    reads_float64 = True

    def __init__(
        self,
        *,
        critic: Tensor,
        critic_arch: Architecture,
        temperature: float,
        units: Units,
        metadata: dict[str, Any],
        q_scale: float = 1.0,
    ) -> None:
        self.critic, self.critic_arch, self.temperature = critic, critic_arch, temperature
        self.units, self.metadata, self.q_scale = units, metadata, q_scale
        self.obs_dim, self.act_dim = critic_arch.obs_dim, critic_arch.act_dim
        if reason := self._unfit():
            raise TeacherError(
                f"The teacher ({self.obs_dim} observation numbers, {self.act_dim} actions) cannot be used: {reason}."
            )

    def _unfit(self) -> str | None:
        if not self.temperature > 0:
            return f"its temperature is {self.temperature}, expected a positive number"
        if not 0 < self.q_scale < float("inf"):
            return f"its q_scale is {self.q_scale}, expected a positive number"
        if not self.units.discrete:
            return "its units are those of continuous actions"
        shape = (*self.critic.shape[:1], self.critic_arch.n_parameters)
        return unfit_numbers({"critic": (self.critic, shape)}, self.units, self.obs_dim, self.act_dim)

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """Q(s, a) of every action (N, n) in the critics' numbers, in chunks of states and in the dtype of `obs`."""
        return torch.cat([self._values(o) for o in obs.split(CHUNK)]).to(obs.dtype)

    def _values(self, obs: Tensor) -> Tensor:
        x = self.units.normalise(obs).to(self.critic.dtype)
        return forward(self.critic, x, self.critic_arch).amin(0)

    @torch.no_grad()
    def policy(self, obs: Tensor) -> Tensor:
        """Probabilities (N, n)."""
        return torch.softmax(self.values(obs) / self.temperature, 1)

    @torch.no_grad()
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Discounted raw returns (N,) expected of probabilities (N, n)."""
        return self.q_scale * (action.to(obs.dtype) * self.values(obs)).sum(1)

    def to(self, device: torch.device | str) -> QTeacher:
        """The same teacher with its parameters on `device`."""
        return QTeacher(
            critic=self.critic.to(device),
            critic_arch=self.critic_arch,
            temperature=self.temperature,
            units=self.units.to(device),
            metadata=self.metadata,
            q_scale=self.q_scale,
        )
