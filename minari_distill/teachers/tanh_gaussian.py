"""The tanh-Gaussian policy of SAC (Haarnoja et al., 2018, appendix C), sampled and differentiated by hand.

A network gives raw numbers (m, ρ); with two learnt numbers κ and ι that start at 1 and −1, as in CORL:

    log σ = clip(κ ρ + ι, −20, 2),   u = m + σ ε,   a = tanh u,   ε ~ N(0, 1)                          (1)
    log π(a|s) = Σ_j [ −ε²/2 − log σ − log(2π)/2 − log(1 − a²) ]                                      (2)
    log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u))          (no cancellation at large |u|)          (3)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0


@dataclass(frozen=True)
class Gaussian:
    """The policy's normal distribution before tanh, at n states.

    Attributes:
        mean: (n, act_dim)
        rho: (n, act_dim), raw log-std.
        unclipped: (n, act_dim), κ ρ + ι.
        std: (n, act_dim)
    """

    mean: Tensor
    rho: Tensor
    unclipped: Tensor
    std: Tensor

    @classmethod
    def of(cls, output: Tensor, kappa_iota: Tensor) -> Gaussian:
        """From the network's output (n, 2·act_dim) and (κ, ι)."""
        mean, rho = output.chunk(2, -1)
        unclipped = kappa_iota[0] * rho + kappa_iota[1]
        return cls(mean, rho, unclipped, unclipped.clamp(_LOG_STD_MIN, _LOG_STD_MAX).exp())

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (n, k, act_dim) and their log-densities (n, k), from k draws of noise a state."""
        std = self.std.unsqueeze(1)
        u = torch.addcmul(self.mean.unsqueeze(1), std, noise)
        log_normal = noise.square().mul_(-0.5).sub_(std.log() + 0.5 * math.log(2 * math.pi))
        log_slope = (math.log(2) - u - F.softplus(-2 * u)).mul_(2)
        return u.tanh(), (log_normal - log_slope).sum(-1)

    def gradient(
        self, action: Tensor, noise: Tensor, alpha: Tensor, to_action: Tensor, kappa_iota: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradient of Σ_i α log π(a_i|s_i) + f(a_i) through one draw a state, ε held fixed.

            ∂/∂u = 2 α a + f'(a) (1 − a²),   ∂/∂m = ∂/∂u,   ∂/∂log σ = ∂/∂u · σ ε − α

        Args:
            action, noise: (n, act_dim), that draw.
            alpha: α, a number.
            to_action: f'(a), (n, act_dim).
            kappa_iota: (2,)

        Returns:
            The gradient on the network's output (n, 2·act_dim), and on (κ, ι) (2,).
        """
        to_u = 2 * alpha * action + to_action * (1 - action.square())
        inside = (self.unclipped >= _LOG_STD_MIN) & (self.unclipped <= _LOG_STD_MAX)
        to_log_std = torch.where(inside, to_u * self.std * noise - alpha, 0.0)
        to_output = torch.cat([to_u, kappa_iota[0] * to_log_std], -1)
        return to_output, torch.stack([(to_log_std * self.rho).sum(), to_log_std.sum()])
