"""The three hand-written passes of an MLP under a weighted BC loss: forward, backward, and their tangents.

Notation, for layer l of L, batched over K students; c_i is the weight of pair i (1/(n·act_dim) inside):

    forward    h_0 = S,  z_l = h_{l-1} W_l + b_l,  h_l = relu(z_l),  y = head(z_L)
    backward   δ_L = ∂L/∂z_L,  δ_{l-1} = (δ_l W_lᵀ) ⊙ [h_{l-1} > 0]
               ∂L/∂W_l = h_{l-1}ᵀ δ_l,  ∂L/∂b_l = Σ_i δ_l
    tangent    the directional derivative of both along a direction V = (V_l, v_l) of the parameters:
               ż_l = h_{l-1} V_l + ḣ_{l-1} W_l + v_l,        ḣ_l = ż_l ⊙ [h_l > 0],  ḣ_0 = 0
               δ̇_{l-1} = (δ̇_l W_lᵀ + δ_l V_lᵀ) ⊙ [h_{l-1} > 0]
               (∇²L V)_{W_l} = h_{l-1}ᵀ δ̇_l + ḣ_{l-1}ᵀ δ_l,   (∇²L V)_{b_l} = Σ_i δ̇_l

By the symmetry of second derivatives the same two tangent passes give what the synset is charged with:

    ∇_S⟨∇_θ L, V⟩ = δ̇_1 W_1ᵀ + δ_1 V_1ᵀ,      ∇_A⟨∇_θ L, V⟩ = d/dε ∂L/∂A (θ + εV)

That is 3 matrix products a layer for the gradient and 6 for the tangents, 9 in all, and no graph
(Pearlmutter, 1994, "Fast exact multiplication by the Hessian"). The 6 come in twos that are summed. In bfloat16,
where a call costs as much as its work, two are carried out as one product of twice the inner size:

    ż_l = [h ḣ] [V; W] + v,    δ̇ = [δ̇ δ] [W V]ᵀ ⊙ [h > 0],    (∇²L V)_W = [h; ḣ]ᵀ [δ̇; δ]

S comes with a last column of ones, which makes b_1 one more row of W_1. The last layer has few columns, which CPUs'
product routines are slow at: its hᵀδ is carried out as (δᵀh)ᵀ, in half the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.errors import ConfigError
from minari_distill.networks import Architecture, views

_mask = torch.ops.aten.threshold_backward.grad_input  # (d, h, 0) → d ⊙ [h > 0], one kernel


def _bits(x: Tensor) -> Tensor:
    """A bfloat16 as the integer of the same sign that its bits make; other types as they are.

    Signs are all that relu and its mask look at, and integers spare a CPU the way to float32 and back.
    """
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _affine(b: Tensor, h: Tensor, W: Tensor, *, out: Tensor) -> Tensor:
    """h W + b; which way is faster on a CPU depends on the type."""
    if out.dtype == torch.bfloat16:
        return torch.baddbmm(b, h, W, out=out)
    return torch.bmm(h, W, out=out).add_(b)


@dataclass
class Parameters:
    """A flat parameter vector (K, P) with its layers as views, made once and used at every step."""

    flat: Tensor
    weights: list[Tensor]  # W_l, (K, in, out)
    weights_T: list[Tensor]  # (K, out, in)
    biases: list[Tensor]  # b_l, (K, 1, out)
    first: Tensor  # [W_1; b_1], (K, obs_dim + 1, out)

    @classmethod
    def of(cls, flat: Tensor, arch: Architecture) -> Parameters:
        """Wrap `flat` (K, P)."""
        weights, biases = views(flat, arch)
        i, o = arch.shapes[0]
        return cls(flat, weights, [W.mT for W in weights], biases, flat[:, : (i + 1) * o].view(-1, i + 1, o))


@dataclass
class Record:
    """What one gradient leaves behind for its tangent: the tape of one inner step."""

    hidden: list[Tensor]  # h_1 … h_{L-1}, each (K, n, width)
    hidden_T: list[Tensor]
    hidden_bits: list[Tensor]
    deltas: list[Tensor]  # δ_1 … δ_L, each (K, n, out)
    delta_bits: list[Tensor]
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

        hidden, deltas = [room(w) for w in arch.hidden], [room(o) for _, o in arch.shapes]
        return cls(
            hidden,
            [h.mT for h in hidden],
            [_bits(h) for h in hidden],
            deltas,
            [_bits(d) for d in deltas],
            torch.empty(K, n, arch.act_dim, dtype=wide, device=device),
        )

    @staticmethod
    def numbers(arch: Architecture, n: int) -> int:
        """How many numbers a record holds for each student."""
        return n * (sum(arch.hidden) + sum(o for _, o in arch.shapes) + arch.act_dim)


class _Pair:
    """An activation of the tangent pass and its counterpart on the tape: ḣ with h, or δ̇ with δ.

    `joined`, they lie row by row in one place, (K, n, 2, width), and the tape's is copied there.
    """

    def __init__(self, shape: tuple[int, int, int], *, at: int, joined: bool, like: Tensor):
        K, n, width = shape
        self.joined = joined
        if joined:
            room = like.new_empty(K, n, 2, width)
            self.own, self.taped = room.select(2, at), room.select(2, 1 - at)
            self.beside = room.flatten(2)  # (K, n, 2·width)
            self.below = room.flatten(1, 2)  # (K, 2n, width)
            self.below_T = self.below.mT
        else:
            self.own = like.new_empty(K, n, width)
            self.own_T = self.own.mT
        self.own_bits = _bits(self.own)

    def take(self, taped: Tensor) -> None:
        """Bring the tape's activation to its place."""
        if self.joined:
            self.taped.copy_(taped)
        else:
            self.taped = taped


class Passes:
    """The passes for K students on n pairs, with the scratch memory that they share.

    `weight` is c: one number, or (K, n, 1) for weighted pairs. `targets` A is (K or 1, n, act_dim).
    `dtype` is the type of the hidden layers and of the parameters given; the head, A and the weight stay in
    `wide`, since y − A is a small difference of large numbers. `joined` carries the tangents' products out in
    twos; by default it is done in bfloat16 alone.
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
        joined: bool | None = None,
    ):
        if arch.residual:
            raise ConfigError(
                "The inner loop differentiates plain MLPs; residual students can only be trained."
            )
        self.arch, self.K, self.n = arch, K, n
        self._last = len(arch.shapes) - 1

        def room(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(K, *shape, dtype=dtype, device=device)

        self._joined = joined = dtype == torch.bfloat16 if joined is None else joined
        like = room(0)
        self._hidden = [_Pair((K, n, w), at=1, joined=joined, like=like) for w in arch.hidden]  # h_l, ḣ_l
        self._deltas = [_Pair((K, n, o), at=0, joined=joined, like=like) for _, o in arch.shapes]  # δ̇_l, δ_l
        if joined:  # one place for all layers in turn, which the processor keeps near
            place = room(max(2 * i * o for i, o in arch.shapes))
            self._below = [place[:, : 2 * i * o].view(K, 2, i, o) for i, o in arch.shapes]  # V_l, W_l
            self._below_flat = [both.flatten(1, 2) for both in self._below]
            self._beside = [place[:, : 2 * i * o].view(K, i, 2, o) for i, o in arch.shapes]  # W_l, V_l
            self._beside_T = [both.flatten(2).mT for both in self._beside]
        self._head = room(n, arch.act_dim)  # z_L or ż_L as the last product leaves it
        self._thin = room(arch.act_dim, arch.shapes[-1][0])  # (hᵀδ)ᵀ of the last layer
        self._head_wide, self._slope = (room(n, arch.act_dim, dtype=wide) for _ in range(2))
        self._ones = torch.ones((), dtype=wide, device=device)

    def forward(self, theta: Parameters, S: Tensor, tape: Record) -> None:
        """Write h and y into `tape`; S is (K, n, obs_dim + 1), its last column ones."""
        h = torch.bmm(S, theta.first, out=tape.hidden[0])
        tape.hidden_bits[0].clamp_min_(0)
        for l in range(1, self._last):
            h = _affine(theta.biases[l], h, theta.weights[l], out=tape.hidden[l])
            tape.hidden_bits[l].clamp_min_(0)
        y = tape.output.copy_(_affine(theta.biases[-1], h, theta.weights[-1], out=self._head))
        if self.arch.head == "tanh":
            y.tanh_()
        elif self.arch.head == "softmax":
            y.copy_(torch.softmax(y, -1))

    def gradient(
        self, theta: Parameters, S: Tensor, A: Tensor, weight: Tensor | float, tape: Record, grad: Parameters
    ) -> None:
        """Write ∂L/∂θ into `grad` and h, δ, y into `tape`; S as in `forward`."""
        self.forward(theta, S, tape)
        self.backward(theta, S, A, weight, tape, grad)

    def backward(
        self, theta: Parameters, S: Tensor, A: Tensor, weight: Tensor | float, tape: Record, grad: Parameters
    ) -> None:
        """Write ∂L/∂θ into `grad` and δ into `tape`, which holds h and y already."""
        self._head_delta(A, weight, tape)
        for l in range(self._last, 0, -1):
            delta = tape.deltas[l]
            if l == self._last:
                torch.bmm(delta.mT, tape.hidden[l - 1], out=self._thin)
                grad.weights[l].copy_(self._thin.mT)
            else:
                torch.bmm(tape.hidden_T[l - 1], delta, out=grad.weights[l])
            torch.sum(delta, 1, keepdim=True, out=grad.biases[l])
            torch.bmm(delta, theta.weights_T[l], out=tape.deltas[l - 1])
            back = tape.delta_bits[l - 1]
            _mask(back, tape.hidden_bits[l - 1], 0, grad_input=back)
        torch.bmm(S.mT, tape.deltas[0], out=grad.first)

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
        for l, h in enumerate(self._hidden):
            h.take(tape.hidden[l])
            if l == 0:
                torch.bmm(S, V.first, out=h.own)
            else:
                self._tangent_layer(theta, V, l, out=h.own)
            _mask(h.own_bits, tape.hidden_bits[l], 0, grad_input=h.own_bits)
        self._tangent_layer(theta, V, self._last, out=self._head)
        self._head_delta_dot(A, weight, tape, dA)
        for l in range(self._last, -1, -1):
            delta = self._deltas[l]
            delta.take(tape.deltas[l])
            if l == 0:
                torch.bmm(S.mT, delta.own, out=hvp.first)
                dS.add_(self._tangent_back(theta, V, 0))
                break
            h, back = self._hidden[l - 1], self._deltas[l - 1]
            if l == self._last:
                if self._joined:
                    torch.bmm(delta.below_T, h.below, out=self._thin)
                else:
                    torch.bmm(delta.own_T, h.taped, out=self._thin).baddbmm_(delta.taped.mT, h.own)
                hvp.weights[l].copy_(self._thin.mT)
            elif self._joined:
                torch.bmm(h.below_T, delta.below, out=hvp.weights[l])
            else:
                torch.bmm(tape.hidden_T[l - 1], delta.own, out=hvp.weights[l]).baddbmm_(h.own_T, delta.taped)
            torch.sum(delta.own, 1, keepdim=True, out=hvp.biases[l])
            self._tangent_back(theta, V, l, out=back.own)
            _mask(back.own_bits, tape.hidden_bits[l - 1], 0, grad_input=back.own_bits)

    def _tangent_layer(self, theta: Parameters, V: Parameters, l: int, out: Tensor) -> None:
        """ż = h V + ḣ W + v, for every layer but the first."""
        h, V_l, W_l = self._hidden[l - 1], V.weights[l], theta.weights[l]
        if self._joined:
            torch.stack((V_l, W_l), 1, out=self._below[l])
            _affine(V.biases[l], h.beside, self._below_flat[l], out=out)
        else:
            _affine(V.biases[l], h.taped, V_l, out=out).baddbmm_(h.own, W_l)

    def _tangent_back(self, theta: Parameters, V: Parameters, l: int, out: Tensor | None = None) -> Tensor:
        """δ̇ Wᵀ + δ Vᵀ."""
        delta = self._deltas[l]
        if self._joined:
            torch.stack((theta.weights[l], V.weights[l]), 2, out=self._beside[l])
            return torch.bmm(delta.beside, self._beside_T[l], out=out)
        return torch.bmm(delta.own, theta.weights_T[l], out=out).baddbmm_(delta.taped, V.weights_T[l])

    # The heads. With c the weight and r = y − A:
    #   linear   L = Σ c r²,            δ = 2c r,          δ̇ = 2c ż,               ∂L/∂A ↦ −2c ż
    #   tanh     y = tanh z,            δ = 2c r (1−y²),   δ̇ = 2c ẏ (1−y² − 2ry),  ∂L/∂A ↦ −2c ẏ
    #   softmax  L = −Σ c A·log p(z),   δ = c (p ΣA − A),  δ̇ = c ṗ ΣA,             ∂L/∂A ↦ −c (ż − Σpż)
    # where ẏ = (1−y²) ż and ṗ = p ⊙ (ż − Σpż).

    def _head_delta(self, A: Tensor, weight: Tensor | float, tape: Record) -> None:
        """Write δ_L from y."""
        y, delta = tape.output, self._head_wide
        if self.arch.head == "softmax":
            torch.mul(y, A.sum(-1, keepdim=True), out=delta).sub_(A).mul_(weight)
        else:
            torch.sub(y, A, out=delta)
            if self.arch.head == "tanh":
                delta.mul_(self._one_minus_square(y))
            delta.mul_(2.0 * weight)
        tape.deltas[-1].copy_(delta)

    def _head_delta_dot(self, A: Tensor, weight: Tensor | float, tape: Record, dA: Tensor) -> None:
        """Write δ̇_L from ż_L, and charge A with its share."""
        y, zdot = tape.output, self._head_wide.copy_(self._head)
        if self.arch.head == "softmax":
            zdot.sub_((y * zdot).sum(-1, keepdim=True)).mul_(weight)  # c (ż − Σpż)
            dA.sub_(zdot)
            zdot.mul_(y).mul_(A.sum(-1, keepdim=True))
        else:
            zdot.mul_(2.0 * weight)
            if self.arch.head == "tanh":
                slope = self._one_minus_square(y)
                zdot.mul_(slope)  # 2c ẏ
            dA.sub_(zdot)
            if self.arch.head == "tanh":
                zdot.mul_(slope.sub_((y - A).mul_(y), alpha=2.0))
        self._deltas[-1].own.copy_(zdot)

    def _one_minus_square(self, y: Tensor) -> Tensor:
        return torch.addcmul(self._ones, y, y, value=-1.0, out=self._slope)

    def loss(self, tape: Record, A: Tensor, weight: Tensor | float) -> Tensor:
        """L of each student (K,), from the outputs in `tape`."""
        if self.arch.head == "softmax":
            terms = -(A * torch.log(tape.output.clamp_min(torch.finfo(tape.output.dtype).tiny)))
        else:
            terms = (tape.output - A).square_()
        return (terms * weight).sum((1, 2))
