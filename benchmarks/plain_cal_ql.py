"""Cal-QL as it is ordinarily written in PyTorch: the reference that the package's own step is tested against.

One module a network, one forward pass a kind of sampled action, observations repeated once a sample,
torch.optim.Adam, autograd. `PlainCalQL.update` takes its batch and its noise as arguments, so that
`minari_distill.teachers.cal_ql` can be given the same ones and compared number by number.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal


@dataclass(frozen=True)
class Batch:
    """B transitions: observations normalised, actions in [−1, 1]."""

    obs: Tensor  # (B, obs_dim)
    action: Tensor  # (B, act_dim)
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, obs_dim)
    termination: Tensor  # (B,) 1 where the episode ended in a terminal state
    return_to_go: Tensor  # (B,) discounted Monte-Carlo return


@dataclass(frozen=True)
class Noise:
    """The randomness of one update: standard normal, or uniform in [−1, 1]."""

    new: Tensor  # (B, act_dim), action of the actor's loss
    target: Tensor  # (B, act_dim), action of the TD target
    uniform: Tensor  # (B, n, act_dim), random actions
    current: Tensor  # (B, n, act_dim), policy actions at s
    following: Tensor  # (B, n, act_dim), policy actions at s'


def sample_noise(batch_size: int, n_actions: int, act_dim: int, device: torch.device | None = None) -> Noise:
    """Fresh noise from the device's global generator."""
    one, several = (batch_size, act_dim), (batch_size, n_actions, act_dim)
    return Noise(
        new=torch.randn(one, device=device),
        target=torch.randn(one, device=device),
        uniform=torch.rand(several, device=device) * 2 - 1,
        current=torch.randn(several, device=device),
        following=torch.randn(several, device=device),
    )


class Actor(nn.Module):
    """Tanh-Gaussian policy whose log-std is scaled and shifted by two learnt numbers."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(obs_dim, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 2 * act_dim),
        )
        self.network.apply(orthogonal)
        self.log_std_multiplier = nn.Parameter(torch.ones(1))
        self.log_std_offset = nn.Parameter(-torch.ones(1))

    def forward(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An action and its log-density for every row of noise; obs is repeated where noise is (B, n, ·)."""
        if noise.dim() == 3:
            obs = obs.unsqueeze(1).repeat_interleave(noise.shape[1], 1)
        mean, log_std = self.network(obs).chunk(2, -1)
        log_std = (self.log_std_multiplier * log_std + self.log_std_offset).clamp(-20, 2)
        u = mean + log_std.exp() * noise
        log_density = Normal(mean, log_std.exp()).log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), log_density.sum(-1)


class Critic(nn.Module):
    """Q(s, a) of one action, or of several actions a state."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(obs_dim + act_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
        )
        self.network.apply(orthogonal)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """(B,) for actions (B, act_dim), (B, n) for actions (B, n, act_dim)."""
        if action.dim() == 3:
            obs = obs.unsqueeze(1).repeat_interleave(action.shape[1], 1)
        return self.network(torch.cat([obs, action], -1)).squeeze(-1)


def orthogonal(module: nn.Module) -> None:
    """Orthogonal weights times √2, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain=math.sqrt(2))
        nn.init.zeros_(module.bias)


class PlainCalQL:
    """Networks, optimisers and one update of Cal-QL."""

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        *,
        discount: float = 0.99,
        actor_lr: float = 3e-5,
        critic_lr: float = 3e-4,
        target_rate: float = 5e-3,
        cql_alpha: float = 10.0,
        device: torch.device | None = None,
    ) -> None:
        self.act_dim, self.discount = act_dim, discount
        self.target_rate, self.cql_alpha = target_rate, cql_alpha
        self.actor = Actor(obs_dim, act_dim).to(device)
        self.critic_1, self.critic_2 = (Critic(obs_dim, act_dim).to(device) for _ in range(2))
        self.target_1, self.target_2 = copy.deepcopy(self.critic_1), copy.deepcopy(self.critic_2)
        self.log_alpha = nn.Parameter(torch.zeros(1, device=device))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), actor_lr)
        self.critic_1_optimizer = torch.optim.Adam(self.critic_1.parameters(), critic_lr)
        self.critic_2_optimizer = torch.optim.Adam(self.critic_2.parameters(), critic_lr)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], actor_lr)

    def update(self, batch: Batch, noise: Noise) -> None:
        """One gradient step of temperature, actor and both critics, and of the targets."""
        new_action, log_pi = self.actor(batch.obs, noise.new)
        alpha_loss = -(self.log_alpha * (log_pi - self.act_dim).detach()).mean()
        alpha = self.log_alpha.exp().detach()
        q_new = torch.min(self.critic_1(batch.obs, new_action), self.critic_2(batch.obs, new_action))
        actor_loss = (alpha * log_pi - q_new).mean()

        with torch.no_grad():
            next_action, _ = self.actor(batch.next_obs, noise.target)
            q_next = torch.min(
                self.target_1(batch.next_obs, next_action), self.target_2(batch.next_obs, next_action)
            )
            td_target = batch.reward + self.discount * (1 - batch.termination) * q_next
            current, log_current = self.actor(batch.obs, noise.current)
            following, log_following = self.actor(batch.next_obs, noise.following)

        critic_loss = sum(
            self.critic_loss(critic, batch, td_target, noise, current, log_current, following, log_following)
            for critic in (self.critic_1, self.critic_2)
        )

        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.critic_1_optimizer.zero_grad()
        self.critic_2_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_1_optimizer.step()
        self.critic_2_optimizer.step()

        with torch.no_grad():
            for critic, target in ((self.critic_1, self.target_1), (self.critic_2, self.target_2)):
                for p, p_target in zip(critic.parameters(), target.parameters(), strict=True):
                    p_target.lerp_(p, self.target_rate)

    def critic_loss(
        self,
        critic: Critic,
        batch: Batch,
        td_target: Tensor,
        noise: Noise,
        current: Tensor,
        log_current: Tensor,
        following: Tensor,
        log_following: Tensor,
    ) -> Tensor:
        """TD error plus α times the calibrated conservative gap, of one critic."""
        q = critic(batch.obs, batch.action)
        bound = batch.return_to_go.unsqueeze(1)
        samples = torch.cat(
            [
                critic(batch.obs, noise.uniform) - math.log(0.5**self.act_dim),
                torch.maximum(critic(batch.obs, following), bound) - log_following,
                torch.maximum(critic(batch.obs, current), bound) - log_current,
            ],
            1,
        )
        gap = (torch.logsumexp(samples, 1) - q).mean()
        return F.mse_loss(q, td_target) + self.cql_alpha * gap
