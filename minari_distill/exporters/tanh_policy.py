"""The head of a student for Stable-Baselines3's Gaussian policies: a mean that cannot leave the action bounds.

    >>> import gymnasium
    >>> from stable_baselines3 import PPO
    >>> model = PPO(TanhActorCriticPolicy, gymnasium.make("Pendulum-v1"), device="cpu")
    >>> model.policy.action_net
    Sequential(
      (0): Linear(in_features=64, out_features=1, bias=True)
      (1): Tanh()
      (2): FromUnit()
    )

The mean of `ActorCriticPolicy` ("MlpPolicy" of PPO, the policy of imitation's BC) is a linear layer, clipped by the
environment. Synsets are distilled for students that end in a tanh, and teach one without it half as well.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from minari_distill.errors import ExportError
from minari_distill.exporters.require import needs

with needs("stable_baselines3"):
    from stable_baselines3.common.policies import ActorCriticPolicy


class FromUnit(nn.Module):
    """[−1, 1] to the action space, as `BasePolicy.unscale_action` does: (low + high)/2 + u (high − low)/2."""

    centre: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Box):
        super().__init__()
        low, high = (torch.tensor(bound.ravel()) for bound in (space.low, space.high))
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)

    def forward(self, u: Tensor) -> Tensor:
        """(…, act_dim) in [−1, 1] to (…, act_dim) within the bounds."""
        return self.centre + u * self.half_range


class TanhActorCriticPolicy(ActorCriticPolicy):
    """`ActorCriticPolicy` whose mean action goes through tanh to the action bounds; for PPO, A2C and imitation's BC.

    Everything else is as in Stable-Baselines3: arguments, initialisation, noise (log std in the action's own units), critic,
    saving and loading. Discrete actions have no mean, their logits stay as they are; gSDE with squash_output=True ends in a
    tanh of its own.

    Raises:
        ExportError: The action space is unbounded.
    """

    action_net: nn.Module

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # initialises the linear layer, and hands its parameters to the optimiser
        if isinstance(self.action_space, spaces.Box) and not self.squash_output:
            if not self.action_space.is_bounded():
                raise ExportError(
                    f"{self.action_space} is unbounded, and a tanh needs finite bounds: use ActorCriticPolicy."
                )
            self.action_net = nn.Sequential(self.action_net, nn.Tanh(), FromUnit(self.action_space))
