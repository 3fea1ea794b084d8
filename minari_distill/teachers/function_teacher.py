"""`FunctionTeacher`: π* and q as functions, each answer checked; what agents of other codebases become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minari_distill.errors import TeacherError
from minari_distill.teachers.teacher import Teacher

CHUNK = 1 << 13
"""States a foreign policy is asked about at once: its memory is not ours to know."""


class FunctionTeacher(Teacher):
    """π* and q as functions of tensors; every answer's shape and dtype is checked.

    Attributes:
        obs_dim, act_dim: Those of the dataset that it met last (None before), where whoever made it did not know them.
    """

    obs_dim: int | None  # type: ignore[assignment]
    act_dim: int | None  # type: ignore[assignment]

    def __init__(
        self,
        policy: Callable[[Tensor], Any],
        q: Callable[[Tensor, Tensor], Any] | None = None,
        *,
        obs_dim: int | None = None,
        act_dim: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._policy, self._q = policy, q
        self.obs_dim, self.act_dim = self._known = obs_dim, act_dim
        self.metadata = metadata or {"method": "callable"}
        self.has_q = q is not None

    @torch.no_grad()
    def policy(self, obs: Tensor) -> Tensor:
        """Actions (N, act_dim); where the function answers with N integers, one-hot vectors of them."""
        return torch.cat([self._act(o) for o in obs.split(CHUNK)])

    def _act(self, obs: Tensor) -> Tensor:
        action = _answer(self._policy, "policy", obs)
        if action.dim() == 1 and not action.is_floating_point() and len(action) == len(obs):
            return self._one_hot(action).to(obs.dtype)
        if not action.is_floating_point():
            raise TeacherError(
                f"The teacher's policy returned {action.dtype} of shape {tuple(action.shape)}; expected floating-point "
                f"actions {self._shape(len(obs))}, or ({len(obs)},) integers for discrete actions."
            )
        if action.dim() != 2 or len(action) != len(obs) or self.act_dim not in (None, action.shape[1]):
            raise TeacherError(
                f"The teacher's policy returned shape {tuple(action.shape)}; expected {self._shape(len(obs))}: an action "
                f"for each of the {len(obs)} observations of a batch."
            )
        return action.to(obs.dtype)

    def _shape(self, n: int) -> str:
        return f"({n}, {self.act_dim or 'act_dim'})"

    def _one_hot(self, action: Tensor) -> Tensor:
        n = self.act_dim
        if n is None:
            raise TeacherError(
                "The teacher's policy returned integers, but the number of actions is unknown: give `act_dim=`."
            )
        if action.min() < 0 or action.max() >= n:
            raise TeacherError(
                f"The teacher's policy returned actions from {int(action.min())} to {int(action.max())}; expected 0 to "
                f"{n - 1}: subtract the first action's number in your function."
            )
        return torch.nn.functional.one_hot(action.long(), n)

    @torch.no_grad()
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values (N,).

        Raises:
            TeacherError: The agent has no q.
        """
        if self._q is None:
            raise TeacherError(
                "This teacher has a policy but no q: give `q=` to Teacher.from_callable, or choose objective='pbc', which "
                "weighs all states alike."
            )
        return torch.cat(
            [self._value(o, a) for o, a in zip(obs.split(CHUNK), action.split(CHUNK), strict=True)]
        )

    def _value(self, obs: Tensor, action: Tensor) -> Tensor:
        assert self._q is not None
        value = _answer(self._q, "q", obs, action)
        if tuple(value.shape) != (len(obs),) or not value.is_floating_point():
            raise TeacherError(
                f"The teacher's q returned {value.dtype} of shape {tuple(value.shape)}; expected floating-point "
                f"({len(obs)},), one value a row."
            )
        return value.to(obs.dtype)

    def to(self, device: torch.device | str) -> FunctionTeacher:
        """Itself: a function runs where its input lies."""
        return self

    def check_fits(self, obs_dim: int, act_dim: int, source: str = "the dataset") -> None:
        """As `Teacher.check_fits`; dimensions that nobody knew are taken to be this dataset's."""
        known_obs_dim, known_act_dim = self._known
        self.obs_dim = obs_dim if known_obs_dim is None else known_obs_dim
        self.act_dim = act_dim if known_act_dim is None else known_act_dim
        super().check_fits(obs_dim, act_dim, source)


def _answer(function: Callable[..., Any], name: str, *given: Tensor) -> Tensor:
    """A function's answer as a tensor on the device of what it is given.

    Raises:
        TeacherError: It fails, or answers with no numbers.
    """
    try:
        value = function(*given)
    except TeacherError:
        raise
    except Exception as fault:  # whatever another codebase raises
        why = ([line for line in str(fault).splitlines() if line.strip()] or [""])[-1]
        told = " and ".join(f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}" for x in given)
        raise TeacherError(
            f"The teacher's {name} fails on {told}: {type(fault).__name__}: {why.strip()} (--verbose, or the error's cause, "
            "tells all). Is it of this dataset?"
        ) from fault
    try:
        return torch.as_tensor(value).to(given[0].device)
    except (TypeError, ValueError, RuntimeError) as fault:
        raise TeacherError(
            f"The teacher's {name} returned a {type(value).__name__}; expected a tensor or an array ({fault})."
        ) from fault
