"""The critics' loss of Cal-QL and its gradient: most of a training step's work.

At state s with data action a, let b_j be the sampled actions: n uniform ones, n of the policy at the next
state, n of the policy at s, each with log-density log μ_j. CQL(H) with importance sampling (Kumar et al.,
2020, arXiv 2006.04779, equation 4 and appendix F), its policy terms calibrated by the behaviour's return G
(Nakamoto et al., 2023, arXiv 2303.05479, equation 5.1):

    v_j = Q(s, b_j) − log μ_j  (uniform),      v_j = max(Q(s, b_j), G) − log μ_j  (policy)             (1)
    loss = E_s [ (Q(s, a) − y)² + α_cql ( log Σ_j exp v_j − Q(s, a) ) ]                               (2)

Since ∂/∂v log Σ exp v = softmax(v) =: p,

    ∂loss/∂Q(s, a) = (2 (Q(s, a) − y) − α_cql) / B,    ∂loss/∂Q(s, b_j) = α_cql p_j [Q(s, b_j) > G] / B   (3)

On a CPU two things make this fast. States go through in blocks whose activations stay in the cache, forward
and backward at once, into scratch memory that is reused. And rows of (3) that are zero, or so small that all
of them together are less than the rounding of a state's sum, take no part in the backward pass: early in
training nearly all of them, a fifth to a half at its end. A GPU takes all states and rows at once, in shapes
that a CUDA graph can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.networks import Architecture
from minari_distill.teachers.mlp import Layers, mask_

_BLOCK_ROWS = 1024  # 1 MiB a layer of 256 units in float32


@dataclass(frozen=True)
class Question:
    """What the critics are asked and told at B states.

    Attributes:
        obs: (B, obs_dim), normalised.
        action: (B, 1 + 3n, act_dim): the data's, n uniform, n next-state policy, n policy actions.
        target: (B,), y, the TD target.
        bound: (B, 3n), lower bound of each sample's Q; −inf for the uniform ones.
        log_density: (B, 3n), log μ.
    """

    obs: Tensor
    action: Tensor
    target: Tensor
    bound: Tensor
    log_density: Tensor

    def block(self, states: slice) -> Question:
        """The same for some of the states."""
        return Question(*(t[states] for t in vars(self).values()))


class ConservativeLoss:
    """Equation (2) for C critics at B states of S rows each, with its scratch memory.

    Args:
        arch: One critic, obs_dim + act_dim → 1.
        theta: The critics' parameters, C of them.
        grad: Where the gradient is written.
        n_states: B.
        n_rows: S = 1 + 3n.
        cql_alpha: α_cql.

    Attributes:
        rows_used: How many of the B·S rows took part in the last backward pass.
    """

    def __init__(
        self, arch: Architecture, theta: Layers, grad: Layers, n_states: int, n_rows: int, cql_alpha: float
    ) -> None:
        self.theta, self.grad, self.cql_alpha = theta, grad, cql_alpha
        flat = theta.flat
        self._sparse = flat.device.type == "cpu"
        self._states = max(1, min(n_states, _BLOCK_ROWS // n_rows)) if self._sparse else n_states
        rows = self._states * n_rows
        room = [flat.new_empty(len(flat), rows, width) for width in arch.hidden]
        self._hidden, self._deltas = room, [torch.empty_like(r) for r in room]
        self._kept = [torch.empty_like(r) for r in room] if self._sparse else []
        self._negligible = torch.finfo(flat.dtype).eps / n_rows
        self.rows_used = 0

    def every_row(self) -> None:
        """Leave no row out of the backward pass from now on."""
        self._sparse = False

    def __call__(self, question: Question) -> Tensor:
        """Write the gradient into `grad`; returns the mean over the critics of (2)."""
        self.grad.flat.zero_()
        self.rows_used = 0
        n_states = len(question.obs)
        total = question.obs.new_zeros(())
        for start in range(0, n_states, self._states):
            block = question.block(slice(start, start + self._states))
            q, hidden = self._values(block)
            loss, to_q, weight = self._loss(q, block, n_states)
            total += loss
            if self._sparse:
                self._backward_some(block, hidden, to_q, weight)
            else:
                self._backward(block, hidden, to_q)
        return total

    def _values(self, block: Question) -> tuple[Tensor, list[Tensor]]:
        """Q (C, b, S) and the hidden activations (C, b·S, width).

        The first layer's share of the observation is the same in a state's S rows, and computed once.
        """
        C = len(self.theta.flat)
        b, S, act_dim = block.action.shape
        W, obs_dim = self.theta.weights[0], block.obs.shape[1]
        once = torch.bmm(block.obs.expand(C, -1, -1), W[:, :obs_dim]).add_(self.theta.biases[0])
        h = self._hidden[0][:, : b * S]
        h.view(C, b, S, -1).copy_(once.unsqueeze(2))
        h.baddbmm_(block.action.reshape(1, b * S, act_dim).expand(C, -1, -1), W[:, obs_dim:]).clamp_min_(0.0)
        hidden = [h]
        for l in range(1, len(self._hidden)):
            z = torch.bmm(h, self.theta.weights[l], out=self._hidden[l][:, : b * S])
            h = z.add_(self.theta.biases[l]).clamp_min_(0.0)
            hidden.append(h)
        q = torch.bmm(h, self.theta.weights[-1]).add_(self.theta.biases[-1])
        return q.view(C, b, S), hidden

    def _loss(self, q: Tensor, block: Question, n_states: int) -> tuple[Tensor, Tensor, Tensor]:
        """This block's share of (2), its gradient (3) on q (C, b, S), and p (C, b, S − 1)."""
        q_data, q_sampled = q[..., 0], q[..., 1:]
        v = torch.maximum(q_sampled, block.bound) - block.log_density
        log_sum = v.logsumexp(-1, keepdim=True)
        p = (v - log_sum).exp_().mul_(q_sampled > block.bound)
        error = q_data - block.target
        gap = log_sum[..., 0] - q_data
        loss = (error.square() + self.cql_alpha * gap).sum() / (len(q) * n_states)
        to_data = (2 * error - self.cql_alpha).unsqueeze(-1)
        return loss, torch.cat([to_data, self.cql_alpha * p], -1).div_(n_states), p

    def _backward(self, block: Question, hidden: list[Tensor], to_q: Tensor) -> None:
        """Add every row's gradient."""
        C, (b, S, act_dim), obs_dim = len(to_q), block.action.shape, block.obs.shape[1]
        delta = self._down_to_first(hidden, to_q.view(C, b * S, 1))
        action = block.action.reshape(1, b * S, act_dim).expand(C, -1, -1)
        self.grad.weights[0][:, obs_dim:].baddbmm_(action.transpose(1, 2), delta)
        by_state = delta.view(C, b, S, -1).sum(2)
        self.grad.weights[0][:, :obs_dim].baddbmm_(block.obs.expand(C, -1, -1).transpose(1, 2), by_state)
        self.grad.biases[0].add_(by_state.sum(1, keepdim=True))

    def _backward_some(self, block: Question, hidden: list[Tensor], to_q: Tensor, p: Tensor) -> None:
        """Add the gradient of the rows that matter to any of the critics."""
        C, (b, S, act_dim) = len(to_q), block.action.shape
        matters = torch.cat(
            [torch.ones_like(p[0, :, :1], dtype=torch.bool), (p > self._negligible).any(0)], 1
        )
        rows = matters.view(-1).nonzero()[:, 0]
        kept = [
            torch.index_select(h, 1, rows, out=room[:, : len(rows)])
            for h, room in zip(hidden, self._kept, strict=True)
        ]
        delta = self._down_to_first(kept, to_q.view(C, b * S, 1)[:, rows])
        inputs = torch.cat(
            [block.obs[rows.div(S, rounding_mode="floor")], block.action.reshape(b * S, act_dim)[rows]], 1
        )
        self.grad.weights[0].baddbmm_(inputs.T.expand(C, -1, -1), delta)
        self.grad.biases[0].add_(delta.sum(1, keepdim=True))

    def _down_to_first(self, hidden: list[Tensor], delta: Tensor) -> Tensor:
        """Add the gradients of all layers but the first; returns δ_1 (C, rows, width)."""
        self.rows_used += delta.shape[1]
        for l in range(len(hidden), 0, -1):
            h = hidden[l - 1]
            self.grad.weights[l].baddbmm_(h.transpose(1, 2), delta)
            self.grad.biases[l].add_(delta.sum(1, keepdim=True))
            below = self._deltas[l - 1][:, : delta.shape[1]]
            delta = torch.bmm(delta, self.theta.weights[l].transpose(1, 2), out=below)
            mask_(delta, h, 0, grad_input=delta)
        return delta
