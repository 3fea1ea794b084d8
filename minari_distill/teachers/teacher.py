"""`Teacher`: the near-expert π* and its action value q, whatever trained them.

Observations and actions are in the units of the source dataset on both sides:

>>> teacher = load_teacher("hopper.safetensors")  # doctest: +SKIP
>>> teacher.policy(obs)       # (N, obs_dim) -> (N, act_dim)  # doctest: +SKIP
>>> teacher.q(obs, action)    # -> (N,)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, forward, views
from minari_distill.spaces import SpaceCodec
from minari_distill.units import Units

CHUNK = 1 << 15
"""States a forward pass holds at once: bounds the memory of labelling a whole dataset."""


class Teacher(ABC):
    """π*(s), a deterministic greedy policy, and q(s, a), its action value.

    Attributes:
        obs_dim: Length of an observation vector.
        act_dim: Length of an action vector; the number of actions where they are discrete.
        metadata: How it came to be (method, gradient steps, source ids, seed, versions); JSON types only.
        has_q: Whether `q` can be asked. The objective "av_pbc" needs it.
        reads_float64: Whether it takes float64 observations, and normalises them before rounding.
    """

    obs_dim: int
    act_dim: int
    metadata: dict[str, Any]
    has_q: bool = True
    reads_float64: bool = False

    @abstractmethod
    def policy(self, obs: Tensor) -> Tensor:
        """Greedy actions (N, act_dim) at observations (N, obs_dim); probabilities for discrete actions."""

    @abstractmethod
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Action values (N,) of actions (N, act_dim) taken at observations (N, obs_dim).

        Raises:
            TeacherError: The teacher knows a policy only.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher with its parameters on `device`."""

    @staticmethod
    def from_callable(
        policy: Callable[[Tensor], Any],
        q: Callable[[Tensor, Tensor], Any] | None = None,
        *,
        obs_dim: int,
        act_dim: int,
        metadata: dict[str, Any] | None = None,
    ) -> Teacher:
        """A teacher made of your own functions, in the source's units; they answer with tensors or arrays.

        >>> Teacher.from_callable(lambda obs: -obs, obs_dim=3, act_dim=3).policy(torch.ones(1, 3))
        tensor([[-1., -1., -1.]])

        Args:
            policy: Observations (N, obs_dim) to actions (N, act_dim); for discrete actions to probabilities of that
                shape, or to (N,) integers from 0.
            q: Observations and actions to values (N,). Without it the objective must be "pbc" or one of DBC's.
            obs_dim, act_dim: Lengths of the vectors; act_dim is the number of actions where they are discrete.
            metadata: What the synset shall remember of it, in JSON types.
        """
        from minari_distill.teachers.function_teacher import FunctionTeacher

        return FunctionTeacher(policy, q, obs_dim=obs_dim, act_dim=act_dim, metadata=metadata)

    @staticmethod
    def from_stable_baselines3(agent: Any, vec_normalize: Any = None) -> Teacher:
        """A teacher from a Stable-Baselines3 model or its zip file; see `foreign.from_stable_baselines3`."""
        from minari_distill.teachers.foreign import from_stable_baselines3

        return from_stable_baselines3(agent, vec_normalize)

    @staticmethod
    def from_d3rlpy(agent: Any) -> Teacher:
        """A teacher from a d3rlpy algorithm or its `.d3` file; see `foreign.from_d3rlpy`."""
        from minari_distill.teachers.foreign import from_d3rlpy

        return from_d3rlpy(agent)

    @staticmethod
    def from_torchscript(
        path: str | PathLike[str], *, obs_dim: int | None = None, act_dim: int | None = None
    ) -> Teacher:
        """A teacher from a TorchScript file; see `foreign.from_torchscript`."""
        from minari_distill.teachers.foreign import from_torchscript

        return from_torchscript(path, obs_dim=obs_dim, act_dim=act_dim)

    @staticmethod
    def from_onnx(path: str | PathLike[str]) -> Teacher:
        """A teacher from an ONNX file; see `foreign.from_onnx`."""
        from minari_distill.teachers.foreign import from_onnx

        return from_onnx(path)

    def check_fits(self, obs_dim: int, act_dim: int, source: str = "the dataset") -> None:
        """Refuse a teacher whose vectors have another length than the dataset's.

        Raises:
            TeacherError: The dimensions differ; both are named.
        """
        if (self.obs_dim, self.act_dim) != (obs_dim, act_dim):
            raise TeacherError(
                f"The teacher maps {self.obs_dim} observation numbers to {self.act_dim} action numbers, but "
                f"{source} has {obs_dim} and {act_dim}: give the teacher of this dataset, or leave "
                "`teacher` out to learn one."
            )

    def check_has_q(self, objective: str) -> None:
        """Refuse a teacher without q for an objective that weighs by it: nothing stands in for q.

        Raises:
            TeacherError: It has none.
        """
        if not self.has_q:
            raise TeacherError(
                f"objective={objective!r} weighs states by the teacher's q, and this teacher "
                f"({self.metadata.get('method', 'of unknown make')}) has no q: choose objective='pbc' (--objective pbc), "
                "which weighs all states alike, or give one: Teacher.from_callable(policy, q, obs_dim=…, act_dim=…)."
            )


def as_read(teacher: Teacher, obs: np.ndarray) -> Tensor:
    """Observations (N, obs_dim) in the numbers that a teacher takes."""
    x = torch.as_tensor(obs)
    return x if teacher.reads_float64 else x.float()


def check_actions(actions: np.ndarray, codec: SpaceCodec, first: int = 0) -> None:
    """Refuse a teacher's actions (N, act_dim), rows from `first` on, that the dataset's action space does not hold, but for rounding.

    Raises:
        TeacherError: They are in other units, or logits instead of probabilities.
    """
    near = np.clip(actions, codec.low, codec.high)
    with np.errstate(invalid="ignore"):
        slack = np.where(np.isfinite(codec.high - codec.low), 1e-4 * (codec.high - codec.low), 0.0)
    fault = codec.fault(np.where(np.abs(near - actions) <= slack, near, actions), first)
    if fault:
        raise TeacherError(
            f"The teacher's actions do not lie in the dataset's action space {codec.space}: {fault}. A teacher takes raw "
            "observations and gives raw actions (for discrete ones, probabilities): scale or clip in your function."
        )


class NetworkTeacher(Teacher):
    """An ensemble of actors and one of critics, as flat parameter vectors (`networks`).

    With x the normalised observation and u the action scaled to [−1, 1] (`units`):

        u*(s) = mean over actors of head(z_k(x)),   π*(s) = u*(s) in the source's units
        q(s, a) = scale · (min or mean over critics of Q_k([x, u])) + shift

    Discrete actions have a softmax head and stay unscaled.

    Args:
        actor: (A, P) parameters of `actor_arch`: obs_dim → act_dim, head "tanh" or "softmax".
        critic: (C, P') parameters of `critic_arch`: obs_dim + act_dim → 1, head "linear".
        reduction: "min" or "mean" over the critics.
        units: Statistics of the observations, bounds of the actions.
        q_scale, q_shift: From the critics' numbers to discounted raw returns.
        metadata: How it came to be, see `Teacher`.

    Raises:
        TeacherError: Shapes or numbers that cannot form a teacher.
    """

    reads_float64 = True

    def __init__(
        self,
        *,
        actor: Tensor,
        actor_arch: Architecture,
        critic: Tensor,
        critic_arch: Architecture,
        reduction: str,
        units: Units,
        metadata: dict[str, Any],
        q_scale: float = 1.0,
        q_shift: float = 0.0,
    ) -> None:
        self.actor, self.actor_arch = actor, actor_arch
        self.critic, self.critic_arch = critic, critic_arch
        self.reduction, self.units, self.metadata = reduction, units, metadata
        self.q_scale, self.q_shift = q_scale, q_shift
        self.obs_dim, self.act_dim = actor_arch.obs_dim, actor_arch.act_dim
        if reason := self._unfit():
            raise TeacherError(
                f"The teacher ({self.obs_dim} observation and {self.act_dim} action numbers) cannot be used: "
                f"{reason}."
            )

    def _unfit(self) -> str | None:
        obs_dim, act_dim, units = self.obs_dim, self.act_dim, self.units
        if self.actor_arch.head not in ("tanh", "softmax"):
            return f"its actor's head is {self.actor_arch.head!r}, expected 'tanh' or 'softmax'"
        if self.reduction not in ("min", "mean"):
            return f"its critics are reduced by {self.reduction!r}, expected 'min' or 'mean'"
        if (self.critic_arch.obs_dim, self.critic_arch.act_dim) != (obs_dim + act_dim, 1):
            return (
                f"its critics map {self.critic_arch.obs_dim} numbers to {self.critic_arch.act_dim}, "
                f"expected {obs_dim + act_dim} to 1"
            )
        parameters = {
            "actor": (self.actor, (*self.actor.shape[:1], self.actor_arch.n_parameters)),
            "critic": (self.critic, (*self.critic.shape[:1], self.critic_arch.n_parameters)),
        }
        if not (self.q_scale > 0 and math.isfinite(self.q_scale) and math.isfinite(self.q_shift)):
            return f"q = {self.q_scale}·Q + {self.q_shift}: expected a positive factor, and finite numbers"
        return unfit_numbers(parameters, units, obs_dim, act_dim)

    @torch.no_grad()
    def policy(self, obs: Tensor) -> Tensor:
        """Greedy actions (N, act_dim), in chunks of states and in the dtype of `obs`."""
        return torch.cat([self._policy(o) for o in obs.split(CHUNK)]).to(obs.dtype)

    def _policy(self, obs: Tensor) -> Tensor:
        return self.units.unscale(forward(self.actor, self._normalised(obs), self.actor_arch).mean(0))

    @torch.no_grad()
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Action values (N,), in chunks of states and in the dtype of `obs`."""
        parts = zip(obs.split(CHUNK), action.split(CHUNK), strict=True)
        return torch.cat([self._q(o, a) for o, a in parts]).to(obs.dtype)

    def _q(self, obs: Tensor, action: Tensor) -> Tensor:
        u = self.units.scale(action.to(self.critic.dtype))
        x = torch.cat([self._normalised(obs), u], 1)
        values = forward(self.critic, x, self.critic_arch)[..., 0]  # (C, N)
        value = values.amin(0) if self.reduction == "min" else values.mean(0)
        return self.q_scale * value + self.q_shift

    def _normalised(self, obs: Tensor) -> Tensor:
        return self.units.normalise(obs).to(self.actor.dtype)  # of float64 observations: before rounding

    def to(self, device: torch.device | str) -> NetworkTeacher:
        """The same teacher with its parameters on `device`."""
        return NetworkTeacher(
            actor=self.actor.to(device),
            actor_arch=self.actor_arch,
            critic=self.critic.to(device),
            critic_arch=self.critic_arch,
            reduction=self.reduction,
            units=self.units.to(device),
            metadata=self.metadata,
            q_scale=self.q_scale,
            q_shift=self.q_shift,
        )


def unfit_numbers(
    parameters: dict[str, tuple[Tensor, tuple[int, ...]]], units: Units, obs_dim: int, act_dim: int
) -> str | None:
    """What is wrong with parameters (each with its expected shape) and statistics, in words; None if nothing is."""
    statistics = {
        "obs_mean": (units.obs_mean, (obs_dim,)),
        "obs_std": (units.obs_std, (obs_dim,)),
        "act_low": (units.act_low, (act_dim,)),
        "act_high": (units.act_high, (act_dim,)),
    }
    for name, (tensor, shape) in (parameters | statistics).items():
        if tuple(tensor.shape) != shape:
            return f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} holds NaN or infinite values"
    if not bool((units.obs_std > 0).all()):
        return "obs_std must be positive"
    if not bool((units.act_high > units.act_low).all()):
        return "every act_high must lie above its act_low"
    return None


def pack_layers(layers: list[tuple[Tensor, Tensor]], head: str) -> tuple[Tensor, Architecture]:
    """Layers, each (weight (K, in, out), bias (K, out)), as one vector (K, P), and the MLP they form.

    Raises:
        TeacherError: A layer's outputs are not as many as the next one's inputs.
    """
    shapes = [weight.shape for weight, _ in layers]
    for (_, _, out), (_, into, _) in pairwise(shapes):
        if out != into:
            raise TeacherError(f"a layer of {out} outputs is followed by one of {into} inputs")
    arch = Architecture(shapes[0][1], shapes[-1][2], tuple(s[2] for s in shapes[:-1]), head)
    theta = layers[0][0].new_empty(shapes[0][0], arch.n_parameters)
    weights, biases = views(theta, arch)
    for (W, b), to_W, to_b in zip(layers, weights, biases, strict=True):
        to_W.copy_(W)
        to_b.copy_(b.unsqueeze(1))
    return theta, arch
