"""Cal-QL: calibrated conservative Q-learning (Nakamoto et al., NeurIPS 2023, arXiv 2303.05479).

SAC's actor and critics, offline; the critics are pushed down on sampled actions and up on the data's
(CQL(H); Kumar et al., 2020, arXiv 2006.04779), though never below the behaviour's own return. On a batch of
transitions (s, a, r, s', d), states normalised, actions in [−1, 1], rewards as they are, G the discounted
return to go at least (`cut_episodes`):

    temperature  log α ← Adam on −log α · E[log π(ã|s) + H̄],            H̄ = −act_dim                  (1)
    actor        θ ← Adam on E[α log π(ã|s) − min_i Q_i(s, ã)],          ã ~ π_θ(·|s)                  (2)
    critics      φ_i ← Adam on E[(Q_i(s, a) − y)² + α_cql (log Σ_j exp v_ij − Q_i(s, a))],              (3)
                 y = r + γ (1 − d) min_i Q̄_i(s', ã'),                    ã' ~ π_θ(·|s')
    targets      φ̄_i ← (1 − τ) φ̄_i + τ φ_i                                                            (4)

with v_ij as in `conservative`; all gradients are taken at the parameters from before the step. Sizes and
rates are those of the OBD paper's teachers (CORL's defaults): see `DistillConfig`. d is 1 only where the
episode ended by itself, not at a time limit. The entropy term is left out of y (no entropy backup).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, initialize
from minari_distill.teachers.conservative import ConservativeLoss, Question
from minari_distill.teachers.cut_episodes import least_returns_to_go
from minari_distill.teachers.mlp import Layers, activations, backward
from minari_distill.teachers.tanh_gaussian import Gaussian
from minari_distill.teachers.teacher import NetworkTeacher, pack_layers
from minari_distill.teachers.training import Adam, SteppingTrainer
from minari_distill.transitions import Transitions

_N_CRITICS = 2


class CalQL(SteppingTrainer):
    """One actor, two critics, two target critics and a temperature, on their device."""

    method, usual_steps = "cal_ql", 1_000_000

    def __init__(self, transitions: Transitions, config: DistillConfig, device: torch.device) -> None:
        super().__init__(transitions, config, device)
        if self.units.discrete:
            raise TeacherError(
                "This Cal-QL learns continuous actions; these are discrete: DiscreteCalQL learns them."
            )
        self.obs_dim, self.act_dim = transitions.obs_dim, transitions.act_dim
        self.table = self.tabulate(transitions, self._columns(transitions))

        fresh = partial(initialize, generator=self.generator, dtype=self.dtype)
        self.actor_arch = Architecture(self.obs_dim, 2 * self.act_dim, (256, 256, 256), "linear")
        self.critic_arch = Architecture(self.obs_dim + self.act_dim, 1, (256, 256), "linear")
        actor, critics = fresh(self.actor_arch, 1), fresh(self.critic_arch, _N_CRITICS)
        # (1) and (2) share Adam and its rate, so the actor, (κ, ι) and log α are one vector.
        self.policy = torch.cat([actor, actor.new_tensor([[1.0, -1.0, 0.0]])], 1)
        self.critics = torch.cat([critics, critics])  # the second half are the targets
        online = self.critics[:_N_CRITICS]
        self.adam = Adam([self.policy, online], [config.actor_lr, config.critic_lr])

        n = self.actor_arch.n_parameters
        self._actor = Layers.of(self.policy[:, :n], self.actor_arch)
        self._kappa_iota, self._log_alpha = self.policy[0, n : n + 2], self.policy[0, n + 2]
        self._critics = Layers.of(self.critics, self.critic_arch)
        self._online, self._targets = Layers.of(online, self.critic_arch), self.critics[_N_CRITICS:]
        self._policy_grad = self.adam.gradients[0]
        self._actor_grad = Layers.of(self._policy_grad[:, :n], self.actor_arch)
        critic_grad = Layers.of(self.adam.gradients[1], self.critic_arch)
        self.conservative = ConservativeLoss(
            self.critic_arch,
            self._online,
            critic_grad,
            config.teacher_batch,
            1 + 3 * config.cql_n_actions,
            config.cql_alpha,
        )

    def _columns(self, transitions: Transitions) -> Callable[[slice], list[Tensor]]:
        """x | u | r | γ(1 − d) | G | x' of some transitions, so that a batch is one gather."""
        t, returns = transitions, torch.as_tensor(least_returns_to_go(transitions, self.config.discount))

        def columns(rows: slice) -> list[Tensor]:
            return [
                self.units.normalise(torch.as_tensor(t.observations[rows])),
                self.units.scale(torch.as_tensor(t.actions[rows])),
                torch.as_tensor(t.rewards[rows])[:, None],
                self.config.discount * (1 - torch.as_tensor(t.terminations[rows])[:, None].float()),
                returns[rows, None],
                self.units.normalise(torch.as_tensor(t.next_observations[rows])),
            ]

        return columns

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and moments."""
        return {"policy": self.policy, "critics": self.critics, **self.adam.moments}

    def cost_as_late(self) -> None:
        """Take every row of the critics' gradient, of which early steps need few."""
        self.conservative.every_row()

    def _step(self) -> None:
        B, n = self.config.teacher_batch, self.config.cql_n_actions
        i = torch.randint(len(self.table), (B,), generator=self.generator, device=self.device)
        noise = self.table.new_empty(2 * B, 1 + n, self.act_dim).normal_(generator=self.generator)
        uniform = self.table.new_empty(B, n, self.act_dim).uniform_(-1, 1, generator=self.generator)
        self.update(self.table[i], noise, uniform)

    @torch.no_grad()
    def update(self, batch: Tensor, noise: Tensor, uniform: Tensor) -> None:
        """One gradient step (1) to (4).

        Args:
            batch: (B, ·), rows of `table`.
            noise: (2B, 1 + n, act_dim), standard normal; the first B states are s, the others s'. The first
                draw a state is ã or ã', the other n are the sampled actions of (3).
            uniform: (B, n, act_dim), in [−1, 1].
        """
        widths = (self.obs_dim, self.act_dim, 1, 1, 1, self.obs_dim)
        obs, data_action, reward, discount, bound, next_obs = batch.split(widths, 1)
        B, n = uniform.shape[:2]

        # The policy at s and s', and all actions it is asked for, in one pass
        both = torch.cat([obs, next_obs]).unsqueeze(0)  # (1, 2B, obs_dim)
        hs = activations(self._actor, both)
        gaussian = Gaussian.of(hs[-1][0], self._kappa_iota)
        action, log_density = gaussian.sample(noise)  # (2B, 1 + n, act_dim), (2B, 1 + n)

        # The critics at (s, ã) and the targets at (s', ã'): four networks, one action a state
        x = torch.cat([both[0], action[:, 0]], 1).view(2, B, -1)
        x = x.repeat_interleave(_N_CRITICS, 0)  # (2·C, B, obs_dim + act_dim)
        critic_hs = activations(self._critics, x)
        q = critic_hs[-1][..., 0]
        target = reward[:, 0] + discount[:, 0] * q[_N_CRITICS:].amin(0)

        # (1) and (2)
        alpha = self._log_alpha.exp()
        lowest = torch.zeros_like(q[:_N_CRITICS]).scatter_(0, q[:_N_CRITICS].argmin(0, keepdim=True), -1 / B)
        online_hs = [h[:_N_CRITICS] for h in critic_hs]
        to_x = backward(self._online, x[:_N_CRITICS], online_hs, lowest.unsqueeze(-1), None, to_input=True)
        assert to_x is not None
        at_s = Gaussian(*(t[:B] for t in vars(gaussian).values()))
        to_output, to_kappa_iota = at_s.gradient(
            action[:B, 0], noise[:B, 0], alpha / B, to_x[..., self.obs_dim :].sum(0), self._kappa_iota
        )
        backward(self._actor, both[:, :B], [h[:, :B] for h in hs], to_output.unsqueeze(0), self._actor_grad)
        to_log_alpha = self.act_dim - log_density[:B, :1].mean(0)
        self._policy_grad[0, -3:] = torch.cat([to_kappa_iota, to_log_alpha])

        # (3)
        policy_bound = bound.expand(B, 2 * n)
        self._loss += self.conservative(
            Question(
                obs,
                torch.cat([data_action.unsqueeze(1), uniform, action[B:, 1:], action[:B, 1:]], 1),
                target,
                torch.cat([torch.full_like(policy_bound[:, :n], -math.inf), policy_bound], 1),
                torch.cat(
                    [
                        torch.full_like(policy_bound[:, :n], -self.act_dim * math.log(2)),
                        log_density[B:, 1:],
                        log_density[:B, 1:],
                    ],
                    1,
                ),
            )
        )
        self.adam.step()

        # (4)
        self._targets.lerp_(self.critics[:_N_CRITICS], self.config.target_rate)

    def teacher(self) -> NetworkTeacher:
        """The greedy policy tanh m and q = min_i Q_i, as learnt so far."""
        layers = [
            (W.clone(), b[:, 0].clone()) for W, b in zip(self._actor.weights, self._actor.biases, strict=True)
        ]
        W, b = layers[-1]
        layers[-1] = (W[..., : self.act_dim], b[..., : self.act_dim])
        actor, actor_arch = pack_layers(layers, "tanh")
        return NetworkTeacher(
            actor=actor,
            actor_arch=actor_arch,
            critic=self.critics[:_N_CRITICS].clone(),
            critic_arch=self.critic_arch,
            reduction="min",
            units=self.units.to(self.device),
            metadata=self.metadata,
        )
