"""Cal-QL for discrete actions: every sum over actions is exact, and no actor is needed.

Two critics s → Q(s, ·) of the policy that they themselves define, pushed down by a soft maximum over all actions and
up on the data's (CQL(H); Kumar et al., 2020, arXiv 2006.04779, equation 4), though never below the behaviour's own
return (Nakamoto et al., 2023, arXiv 2303.05479, equation 5.1). On a batch of B transitions (s, a, r, s', d), states
normalised, with G the discounted return to go at least (`cut_episodes`); r and G are divided by the standard deviation of
the returns to go, so that the settings mean the same whatever the scale of the rewards:

    π      = softmax(min_i Q_i / τ)                                                                      (1)
    y      = r + γ (1 − d) Σ_b π(b|s') min_i Q̄_i(s', b)                                                  (2)
    v_ib   = max(Q_i(s, b), G)                                                                           (3)
    loss_i = E [ (Q_i(s, a) − y)² + α_cql (τ log Σ_b exp(v_ib / τ) − Q_i(s, a)) ]                        (4)
    Q̄_i   ← (1 − ρ) Q̄_i + ρ Q_i                                   (parameters; ρ is `target_rate`)     (5)

With p_i = softmax(v_i / τ), what goes down the networks is

    ∂loss_i/∂Q_i(s, b) = ( [b = a] (2 (Q_i(s, a) − y) − α_cql) + α_cql p_ib [Q_i(s, b) > G] ) / B         (6)

π is the teacher: of all policies the one at which the soft maximum, max_π E_π[Q] + τ H(π) = τ log Σ exp(Q / τ), is
attained. It is also the one whose values (2) asks for: E_π[Q] then errs on the low side (theorem 3.2 of CQL), where
max_b Q would be too high by what the data's actions were pushed up. As α_cql grows, π becomes the behaviour's own
policy; at α_cql = 0 and τ → 0 this is plain Q-learning. d is 1 only where the episode ended by itself, not at a
time limit. There is no entropy in y (no entropy backup), as in `cal_ql`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, initialize
from minari_distill.teachers.cut_episodes import least_returns_to_go
from minari_distill.teachers.mlp import Layers, activations, backward
from minari_distill.teachers.q_teacher import QTeacher
from minari_distill.teachers.training import Adam, SteppingTrainer
from minari_distill.transitions import Transitions

_N_CRITICS = 2


class DiscreteCalQL(SteppingTrainer):
    """Two critics and two target critics in one batched network, on their device.

    Attributes:
        q_scale: Standard deviation of the returns to go: what the critics' numbers are multiples of.
    """

    method, usual_steps = "cal_ql", 1_000_000

    def __init__(self, transitions: Transitions, config: DistillConfig, device: torch.device) -> None:
        super().__init__(transitions, config, device)
        if not self.units.discrete:
            raise TeacherError("Discrete Cal-QL learns a choice among actions; these actions are continuous.")
        self.obs_dim, self.n_actions = transitions.obs_dim, transitions.act_dim
        returns = torch.as_tensor(transitions.returns_to_go(config.discount))
        self.q_scale = float(returns.double().std(correction=0)) or 1.0
        least = torch.as_tensor(least_returns_to_go(transitions, config.discount))
        self.table = self.tabulate(transitions, self._columns(transitions, least))

        self.critic_arch = Architecture(self.obs_dim, self.n_actions, (256, 256), "linear")
        fresh = initialize(self.critic_arch, _N_CRITICS, generator=self.generator, dtype=self.dtype)
        self.critics = torch.cat([fresh, fresh])  # the second half are the targets
        online, targets = self.critics[:_N_CRITICS], self.critics[_N_CRITICS:]
        self._online, self._targets = (Layers.of(half, self.critic_arch) for half in (online, targets))
        self.adam = Adam([online], [config.critic_lr])
        self._grad = Layers.of(self.adam.gradients[0], self.critic_arch)

    def _columns(self, t: Transitions, least: Tensor) -> Callable[[slice], list[Tensor]]:
        """x | index of a | r | γ(1 − d) | G | x' of some transitions, so that a batch is one gather."""

        def columns(rows: slice) -> list[Tensor]:
            return [
                self.units.normalise(torch.as_tensor(t.observations[rows])),
                torch.as_tensor(t.actions[rows]).argmax(1, keepdim=True),
                torch.as_tensor(t.rewards[rows])[:, None] / self.q_scale,
                self.config.discount * (1 - torch.as_tensor(t.terminations[rows])[:, None].float()),
                least[rows, None] / self.q_scale,
                self.units.normalise(torch.as_tensor(t.next_observations[rows])),
            ]

        return columns

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and moments."""
        return {"critics": self.critics, **self.adam.moments}

    def _step(self) -> None:
        size = (self.config.teacher_batch,)
        i = torch.randint(len(self.table), size, generator=self.generator, device=self.device)
        self.update(self.table[i])

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """One gradient step (1) to (5) on `batch` (B, ·), rows of `table`."""
        obs, action, reward, discount, bound, next_obs = batch.split(
            (self.obs_dim, 1, 1, 1, 1, self.obs_dim), 1
        )
        B, config = len(batch), self.config
        chosen = action.long().expand(_N_CRITICS, -1, -1)  # (C, B, 1)

        # Q_i at s and at s', in one pass
        x = torch.cat([obs, next_obs]).expand(_N_CRITICS, -1, -1)  # (C, 2B, obs_dim)
        hs = activations(self._online, x)
        q, q_next = hs[-1][:, :B], hs[-1][:, B:]  # (C, B, n_actions)

        # (1), (2)
        policy = (q_next.amin(0) / config.q_temperature).softmax(1)  # (B, n_actions)
        of_targets = activations(self._targets, x[:, B:])[-1].amin(0)  # (B, n_actions)
        y = reward + discount * (policy * of_targets).sum(1, keepdim=True)  # (B, 1)

        # (3), (4), (6)
        v = torch.maximum(q, bound) / config.q_temperature
        log_sum = v.logsumexp(-1, keepdim=True)
        q_data = q.gather(2, chosen)
        gap = config.q_temperature * log_sum - q_data
        self._loss += ((q_data - y).square() + config.discrete_cql_alpha * gap).mean()
        to_q = config.discrete_cql_alpha * (v - log_sum).exp() * (q > bound)
        to_q.scatter_add_(2, chosen, 2 * (q_data - y) - config.discrete_cql_alpha)
        backward(self._online, x[:, :B], [h[:, :B] for h in hs], to_q / B, self._grad)
        self.adam.step()

        # (5)
        self._targets.flat.lerp_(self._online.flat, config.target_rate)

    def teacher(self) -> QTeacher:
        """The teacher as learnt so far."""
        return QTeacher(
            critic=self.critics[:_N_CRITICS].clone(),
            critic_arch=self.critic_arch,
            temperature=self.config.q_temperature,
            units=self.units.to(self.device),
            metadata=self.metadata,
            q_scale=self.q_scale,
        )
