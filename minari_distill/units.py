"""Units: between the source dataset's numbers and the ones that networks see.

    x = (s − mean) / std,      u = 2 (a − low) / (high − low) − 1      (u in [−1, 1])

Probabilities of discrete actions stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Times the actions: bounds farther away leave them a hundredth of [−1, 1], which no student resolves.
_FARTHEST = 100


@dataclass(frozen=True)
class Units:
    """Statistics of the observations and the actions' finite range.

    Attributes:
        obs_mean, obs_std: (obs_dim,); std is the divisor itself, nothing is added to it.
        act_low, act_high: (act_dim,), finite.
        discrete: the actions are probabilities and are not scaled.
    """

    obs_mean: Tensor
    obs_std: Tensor
    act_low: Tensor
    act_high: Tensor
    discrete: bool = False

    @classmethod
    def of(cls, obs_mean, obs_std, act_low, act_high, *, discrete: bool = False, actions=None) -> Units:
        """Units from arrays; where a bound is infinite, or 100 times what `actions` hold, their range stands in."""
        low, high = np.array(act_low, dtype=np.float64), np.array(act_high, dtype=np.float64)
        if actions is not None:
            least, most = actions.min(0).astype(np.float64), actions.max(0).astype(np.float64)
            size = np.maximum(np.abs(least), np.abs(most))
            reach = np.where(size > 0, _FARTHEST * size, np.finfo(np.float32).max / 2)
            low, high = np.where(low >= -reach, low, least), np.where(high <= reach, high, most)
        high = np.where(high > low, high, low + 1.0)  # a constant action: any scale will do
        mean, std, lo, hi = (
            torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (obs_mean, obs_std, low, high)
        )
        return cls(mean, std, lo, hi, discrete)

    def to(self, device: torch.device | str) -> Units:
        """The same units on `device`."""
        mean, std, low, high = (
            t.to(device) for t in (self.obs_mean, self.obs_std, self.act_low, self.act_high)
        )
        return Units(mean, std, low, high, self.discrete)

    def normalise(self, obs: Tensor) -> Tensor:
        """Observations (…, obs_dim) to x."""
        return (obs - self.obs_mean) / self.obs_std

    def denormalise(self, x: Tensor) -> Tensor:
        """x to observations (…, obs_dim)."""
        return x * self.obs_std + self.obs_mean

    def scale(self, act: Tensor) -> Tensor:
        """Actions (…, act_dim) to u."""
        if self.discrete:
            return act
        return 2 * (act - self.act_low) / (self.act_high - self.act_low) - 1

    def unscale(self, u: Tensor) -> Tensor:
        """u to actions (…, act_dim), held inside the bounds."""
        if self.discrete:
            return u
        act = self.act_low + (u.clamp(-1, 1) + 1) / 2 * (self.act_high - self.act_low)
        return torch.minimum(torch.maximum(act, self.act_low), self.act_high)
