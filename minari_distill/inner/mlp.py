"""The three hand-written passes of an MLP under a weighted BC loss: forward, backward, and their tangents.

Notation, for layer l of L, batched over K students; c_i is the weight of pair i (1/(n·act_dim) inside):

    forward    h_0 = S,  z_l = h_{l-1} W_l + b_l,  h_l = relu(z_l),  y = head(z_L)
    backward   δ_L = ∂L/∂z_L,  δ_{l-1} = (δ_l W_lᵀ) ⊙ [h_{l-1} > 0]
               ∂L/∂W_l = h_{l-1}ᵀ δ_l,  ∂L/∂b_l = Σ_i δ_l
    tangent    the directional derivative of both along a direction V = (V_l, v_l) of the parameters:
               ż_l = ḣ_{l-1} W_l + h_{l-1} V_l + v_l,        ḣ_l = ż_l ⊙ [h_l > 0],  ḣ_0 = 0
               δ̇_{l-1} = (δ̇_l W_lᵀ + δ_l V_lᵀ) ⊙ [h_{l-1} > 0]
               (∇²L V)_{W_l} = h_{l-1}ᵀ δ̇_l + ḣ_{l-1}ᵀ δ_l,   (∇²L V)_{b_l} = Σ_i δ̇_l

By the symmetry of second derivatives the same two tangent passes give what the synset is charged with:

    ∇_S⟨∇_θ L, V⟩ = δ̇_1 W_1ᵀ + δ_1 V_1ᵀ,      ∇_A⟨∇_θ L, V⟩ = d/dε ∂L/∂A (θ + εV)

That is 3 matrix products a layer for the gradient and 6 for the tangents, 9 in all, and no graph
(Pearlmutter, 1994, "Fast exact multiplication by the Hessian"). Every product that ends in a sum is
accumulated where the sum is kept (`baddbmm_`), so little but matrix products is left to pay for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.errors import ConfigError
from minari_distill.networks import Architecture, views

_mask = torch.ops.aten.threshold_backward.grad_input  # (d, h, 0) → d ⊙ [h > 0], one kernel


@dataclass
class Parameters:
    """A flat parameter vector (K, P) with its layers as views, made once and used at every step."""

    flat: Tensor
    weights: list[Tensor]  # (K, in, out)
    weights_T: list[Tensor]  # (K, out, in)
    biases: list[Tensor]  # (K, 1, out)

    @classmethod
    def of(cls, flat: Tensor, arch: Architecture) -> Parameters:
        """Wrap `flat` (K, P)."""
        weights, biases = views(flat, arch)
        return cls(flat, weights, _transposed(weights), biases)


def _transposed(tensors: list[Tensor]) -> list[Tensor]:
    return [t.transpose(1, 2) for t in tensors]


@dataclass
class Record:
    """What one gradient leaves behind for its tangent: the tape of one inner step."""

    hidden: list[Tensor]  # h_1 … h_{L-1}, each (K, n, width)
    hidden_T: list[Tensor]
    deltas: list[Tensor]  # δ_1 … δ_L, each (K, n, out)
    output: Tensor  # y, (K, n, act_dim), in the wide type

    @classmethod
    def empty(
        cls,
        arch: Architecture,
        K: int,
        n: int,
        *,
        dtype: torch.dtype,
        wide: torch.dtype,
        device: torch.device,
    ) -> Record:
        """Room for one step; reused, since fresh memory would cost a page fault at every step."""

        def room(width: int) -> Tensor:
            return torch.empty(K, n, width, dtype=dtype, device=device)

        hidden = [room(w) for w in arch.hidden]
        output = torch.empty(K, n, arch.act_dim, dtype=wide, device=device)
        return cls(hidden, _transposed(hidden), [room(o) for _, o in arch.shapes], output)

    @staticmethod
    def numbers(arch: Architecture, n: int) -> int:
        """How many numbers a record holds for each student."""
        return n * (sum(arch.hidden) + sum(o for _, o in arch.shapes) + arch.act_dim)


class Passes:
    """The passes for K students on n pairs, with the scratch memory that they share.

    `weight` is c: one number, or (K, n, 1) for weighted pairs. `targets` A is (K or 1, n, act_dim).
    `dtype` is the type of the hidden layers and of the parameters given; the head, A and the weight stay in
    `wide`, since y − A is a small difference of large numbers.
    """

    def __init__(
        self,
        arch: Architecture,
        K: int,
        n: int,
        *,
        dtype: torch.dtype,
        wide: torch.dtype,
        device: torch.device,
    ):
        if arch.residual:
            raise ConfigError(
                "The inner loop differentiates plain MLPs; residual students can only be trained."
            )
        self.arch, self.K, self.n = arch, K, n

        def room(width: int) -> Tensor:
            return torch.empty(K, n, width, dtype=dtype, device=device)

        self._tangents = [room(w) for w in arch.hidden]  # ḣ_l
        self._tangents_T = _transposed(self._tangents)
        self._delta_dots = [room(o) for _, o in arch.shapes]  # δ̇_l
        self._head = room(arch.act_dim)  # z_L or ż_L as the last product leaves it
        self._head_wide, self._slope = (
            torch.empty(K, n, arch.act_dim, dtype=wide, device=device) for _ in range(2)
        )

    def gradient(
        self, theta: Parameters, S: Tensor, A: Tensor, weight: Tensor | float, tape: Record, grad: Parameters
    ) -> None:
        """Write ∂L/∂θ into `grad` and h, δ, y into `tape`; S is (K, n, obs_dim)."""
        last = len(theta.weights) - 1
        h = S
        for l in range(last):
            # bmm, then add: baddbmm with a broadcast bias is a fifth slower on a CPU.
            z = torch.bmm(h, theta.weights[l], out=tape.hidden[l]).add_(theta.biases[l])
            h = z.relu_()
        torch.bmm(h, theta.weights[last], out=self._head).add_(theta.biases[last])
        self._head_delta(A, weight, tape)
        for l in range(last, -1, -1):
            delta = tape.deltas[l]
            torch.bmm(tape.hidden_T[l - 1] if l else S.transpose(1, 2), delta, out=grad.weights[l])
            torch.sum(delta, 1, keepdim=True, out=grad.biases[l])
            if l:
                back = torch.bmm(delta, theta.weights_T[l], out=tape.deltas[l - 1])
                _mask(back, tape.hidden[l - 1], 0, grad_input=back)

    def tangent(
        self,
        theta: Parameters,
        S: Tensor,
        A: Tensor,
        weight: Tensor | float,
        tape: Record,
        V: Parameters,
        *,
        hvp: Parameters,
        dS: Tensor,
        dA: Tensor,
    ) -> None:
        """Write ∇²L V into `hvp`, and add ∇_S⟨∇_θ L, V⟩, ∇_A⟨∇_θ L, V⟩ to `dS` and `dA` (K, n, ·)."""
        last = len(theta.weights) - 1
        for l in range(last):
            dot = self._tangents[l]
            self._tangent_layer(theta, S, tape, V, l, dot)
            _mask(dot, tape.hidden[l], 0, grad_input=dot)
        self._tangent_layer(theta, S, tape, V, last, self._head)
        self._head_delta_dot(A, weight, tape, dA)
        for l in range(last, -1, -1):
            delta, delta_dot = tape.deltas[l], self._delta_dots[l]
            torch.bmm(tape.hidden_T[l - 1] if l else S.transpose(1, 2), delta_dot, out=hvp.weights[l])
            torch.sum(delta_dot, 1, keepdim=True, out=hvp.biases[l])
            if l:
                hvp.weights[l].baddbmm_(self._tangents_T[l - 1], delta)
                back = torch.bmm(delta_dot, theta.weights_T[l], out=self._delta_dots[l - 1])
                back.baddbmm_(delta, V.weights_T[l])
                _mask(back, tape.hidden[l - 1], 0, grad_input=back)
            else:
                dS.add_(torch.bmm(delta_dot, theta.weights_T[0]).baddbmm_(delta, V.weights_T[0]))

    def _tangent_layer(
        self, theta: Parameters, S: Tensor, tape: Record, V: Parameters, l: int, out: Tensor
    ) -> None:
        """ż_l = ḣ_{l-1} W_l + h_{l-1} V_l + v_l."""
        torch.bmm(tape.hidden[l - 1] if l else S, V.weights[l], out=out).add_(V.biases[l])
        if l:
            out.baddbmm_(self._tangents[l - 1], theta.weights[l])

    # The heads. With c the weight and r = y − A:
    #   linear   L = Σ c r²,            δ = 2c r,          δ̇ = 2c ż,               ∂L/∂A ↦ −2c ż
    #   tanh     y = tanh z,            δ = 2c r (1−y²),   δ̇ = 2c ẏ (1−y² − 2ry),  ∂L/∂A ↦ −2c ẏ
    #   softmax  L = −Σ c A·log p(z),   δ = c (p ΣA − A),  δ̇ = c ṗ ΣA,             ∂L/∂A ↦ −c (ż − Σpż)
    # where ẏ = (1−y²) ż and ṗ = p ⊙ (ż − Σpż).

    def _head_delta(self, A: Tensor, weight: Tensor | float, tape: Record) -> None:
        """Write y and δ_L from z_L."""
        y, delta = tape.output.copy_(self._head), self._head_wide
        if self.arch.head == "softmax":
            y.copy_(torch.softmax(y, -1))
            torch.mul(y, A.sum(-1, keepdim=True), out=delta)
            delta.sub_(A).mul_(weight)
        else:
            if self.arch.head == "tanh":
                y.tanh_()
            torch.sub(y, A, out=delta)
            if self.arch.head == "tanh":
                delta.mul_(self._one_minus_square(y))
            delta.mul_(weight).mul_(2.0)
        tape.deltas[-1].copy_(delta)

    def _head_delta_dot(self, A: Tensor, weight: Tensor | float, tape: Record, dA: Tensor) -> None:
        """Write δ̇_L from ż_L, and charge A with its share."""
        y, zdot = tape.output, self._head_wide.copy_(self._head)
        if self.arch.head == "softmax":
            zdot.sub_((y * zdot).sum(-1, keepdim=True)).mul_(weight)  # c (ż − Σpż)
            dA.sub_(zdot)
            zdot.mul_(y).mul_(A.sum(-1, keepdim=True))
        else:
            zdot.mul_(weight).mul_(2.0)
            if self.arch.head == "tanh":
                slope = self._one_minus_square(y)
                zdot.mul_(slope)  # 2c ẏ
            dA.sub_(zdot)
            if self.arch.head == "tanh":
                zdot.mul_(slope.sub_((y - A).mul_(y), alpha=2.0))
        self._delta_dots[-1].copy_(zdot)

    def _one_minus_square(self, y: Tensor) -> Tensor:
        return torch.mul(y, y, out=self._slope).neg_().add_(1.0)

    def loss(self, tape: Record, A: Tensor, weight: Tensor | float) -> Tensor:
        """L of each student (K,), from the outputs in `tape`."""
        if self.arch.head == "softmax":
            terms = -(A * torch.log(tape.output.clamp_min(torch.finfo(tape.output.dtype).tiny)))
        else:
            terms = (tape.output - A).square_()
        return (terms * weight).sum((1, 2))
