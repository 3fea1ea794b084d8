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

There too the hᵀδ of all inner layers of one student are one batched product, a core for each.

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


def _whole(x: Tensor) -> Tensor:
    """Four bfloat16 as one long integer, where they lie so; other tensors as they are.

    For copies: torch divides more than 32768 numbers among threads, who wait for each other longer than a copy takes.
    """
    fours = (*x.stride()[:-1], x.shape[-1], x.storage_offset())
    return x.view(torch.int64) if x.dtype == torch.bfloat16 and all(s % 4 == 0 for s in fours) else x


@dataclass
class Viewed:
    """A tensor, and views of it made once: making one costs as much as a small product."""

    x: Tensor
    T: Tensor
    bits: Tensor
    whole: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Viewed:
        """`x` (K, rows, columns) with its views."""
        return cls(x, x.mT, _bits(x), _whole(x))

    def take(self, other: Viewed) -> None:
        """Copy `other` here; its rows may be fewer, and are then repeated."""
        if self.whole.dtype == other.whole.dtype:
            self.whole.copy_(other.whole)
        else:
            self.x.copy_(other.x)


def _affine(b: Viewed, h: Tensor, W: Tensor, *, out: Viewed) -> Tensor:
    """h W + b; which way is faster on a CPU depends on the type."""
    if out.x.dtype == torch.bfloat16:
        out.take(b)
        return out.x.baddbmm_(h, W)
    return torch.bmm(h, W, out=out.x).add_(b.x)


def _batched(arch: Architecture, K: int, dtype: torch.dtype) -> bool:
    """Whether the weights between hidden layers have their gradient in one product: of equal layers of one student."""
    return K == 1 and dtype == torch.bfloat16 and len(arch.hidden) > 1 and len(set(arch.hidden)) == 1


@dataclass
class Parameters:
    """A flat parameter vector (K, P) with its layers as views, made once and used at every step."""

    flat: Tensor
    weights: list[Viewed]  # W_l, (K, in, out)
    biases: list[Viewed]  # b_l, (K, 1, out)
    first: Tensor  # [W_1; b_1], (K, obs_dim + 1, out)
    between: Tensor | None  # W_2 … W_{L-1} as a batch (L-2, width, width), where `_batched`

    @classmethod
    def zeros(cls, arch: Architecture, K: int, *, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Room for K students, each beginning at a multiple of four numbers."""
        P = arch.n_parameters
        flat = torch.zeros(K, -(-P // 4) * 4, dtype=dtype, device=device)[:, :P]
        weights, biases = views(flat, arch)
        i, o = arch.shapes[0]
        first, between = flat[:, : (i + 1) * o].view(K, i + 1, o), None
        if _batched(arch, K, dtype):
            layer = o * o + o
            inner = flat[0, (i + 1) * o :][: (len(arch.hidden) - 1) * layer]
            between = inner.view(-1, layer)[:, : o * o].view(-1, o, o)
        return cls(flat, [Viewed.of(W) for W in weights], [Viewed.of(b) for b in biases], first, between)


@dataclass
class Record:
    """What one gradient leaves behind for its tangent: the tape of one inner step."""

    hidden: list[Viewed]  # h_1 … h_{L-1}, each (K, n, width)
    deltas: list[Viewed]  # δ_1 … δ_L, each (K, n, out)
    output: Tensor  # y, (K, n, act_dim), in the wide type
    between: tuple[Tensor, Tensor] | None  # h_1 … h_{L-2} transposed and δ_2 … δ_{L-1}, as batches

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

        def room(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        between = None
        if _batched(arch, K, dtype):
            h, d = (room(len(arch.hidden), n, arch.hidden[0]) for _ in range(2))
            hidden, deltas = list(h.split(1)), list(d.split(1))
            between = h[:-1].mT, d[1:]
        else:
            hidden, deltas = ([room(K, n, w) for w in arch.hidden] for _ in range(2))
        deltas.append(room(K, n, arch.act_dim))
        output = room(K, n, arch.act_dim, dtype=wide)
        return cls([Viewed.of(h) for h in hidden], [Viewed.of(d) for d in deltas], output, between)

    @staticmethod
    def numbers(arch: Architecture, n: int) -> int:
        """How many numbers a record holds for each student."""
        return n * (sum(arch.hidden) + sum(o for _, o in arch.shapes) + arch.act_dim)


class _Pair:
    """An activation of the tangent pass and its counterpart on the tape: ḣ with h, or δ̇ with δ.

    Joined, they lie row by row in one place, (K, n, 2, width), and the tape's is copied there.
    """

    def __init__(self, room: Tensor, *, at: int, joined: bool):
        self.joined = joined
        if joined:
            self.own, self.taped = (Viewed.of(room.select(2, i)) for i in (at, 1 - at))
            self.beside = room.flatten(2)  # (K, n, 2·width)
            self.below = room.flatten(1, 2)  # (K, 2n, width)
            self.below_T = self.below.mT
        else:
            self.own = Viewed.of(room)

    def take(self, taped: Viewed) -> None:
        """Bring the tape's activation to its place."""
        if self.joined:
            self.taped.take(taped)
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
        twice = (2,) if joined else ()
        self._between: tuple[Tensor, Tensor] | None = None  # as the record's, of both activations
        if joined and _batched(arch, K, dtype):
            h, d = (
                torch.empty(len(arch.hidden), n, 2, arch.hidden[0], dtype=dtype, device=device)
                for _ in range(2)
            )
            self._between = h[:-1].flatten(1, 2).mT, d[1:].flatten(1, 2)
            hidden, deltas = list(h.split(1)), list(d.split(1))
        else:
            hidden, deltas = ([room(n, *twice, w) for w in arch.hidden] for _ in range(2))
        deltas.append(room(n, *twice, arch.act_dim))
        self._hidden = [_Pair(h, at=1, joined=joined) for h in hidden]  # h_l, ḣ_l
        self._deltas = [_Pair(d, at=0, joined=joined) for d in deltas]  # δ̇_l, δ_l
        if joined:  # one place for all layers in turn, which the processor keeps near
            place = room(max(2 * i * o for i, o in arch.shapes))
            below = [place[:, : 2 * i * o].view(K, 2, i, o) for i, o in arch.shapes]
            self._below = [(b.flatten(1, 2), [Viewed.of(x) for x in b.unbind(1)]) for b in below]
            beside = [place[:, : 2 * i * o].view(K, i, 2, o) for i, o in arch.shapes]
            self._beside_T = [(b.flatten(2).mT, [Viewed.of(x) for x in b.unbind(2)]) for b in beside]
        self._head = Viewed.of(room(n, arch.act_dim))  # z_L or ż_L as the last product leaves it
        self._thin = room(arch.act_dim, arch.shapes[-1][0])  # (hᵀδ)ᵀ of the last layer
        self._head_wide, self._slope = (room(n, arch.act_dim, dtype=wide) for _ in range(2))
        self._ones = torch.ones((), dtype=wide, device=device)

    def forward(self, theta: Parameters, S: Tensor, tape: Record) -> None:
        """Write h and y into `tape`; S is (K, n, obs_dim + 1), its last column ones."""
        h = torch.bmm(S, theta.first, out=tape.hidden[0].x)
        tape.hidden[0].bits.clamp_min_(0)
        for l in range(1, self._last):
            h = _affine(theta.biases[l], h, theta.weights[l].x, out=tape.hidden[l])
            tape.hidden[l].bits.clamp_min_(0)
        y = tape.output.copy_(_affine(theta.biases[-1], h, theta.weights[-1].x, out=self._head))
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
            delta, back, h = tape.deltas[l], tape.deltas[l - 1], tape.hidden[l - 1]
            if l == self._last:
                torch.bmm(delta.T, h.x, out=self._thin)
                grad.weights[l].x.copy_(self._thin.mT)
            elif tape.between is None:
                torch.bmm(h.T, delta.x, out=grad.weights[l].x)
            torch.sum(delta.x, 1, keepdim=True, out=grad.biases[l].x)
            torch.bmm(delta.x, theta.weights[l].T, out=back.x)
            _mask(back.bits, h.bits, 0, grad_input=back.bits)
        if tape.between is not None:
            torch.bmm(*tape.between, out=grad.between)
        torch.bmm(S.mT, tape.deltas[0].x, out=grad.first)

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
                torch.bmm(S, V.first, out=h.own.x)
            else:
                self._tangent_layer(theta, V, l, out=h.own)
            _mask(h.own.bits, tape.hidden[l].bits, 0, grad_input=h.own.bits)
        self._tangent_layer(theta, V, self._last, out=self._head)
        self._head_delta_dot(A, weight, tape, dA)
        for l in range(self._last, -1, -1):
            delta = self._deltas[l]
            delta.take(tape.deltas[l])
            if l == 0:
                torch.bmm(S.mT, delta.own.x, out=hvp.first)
                dS.add_(self._tangent_back(theta, V, 0))
                break
            h, back = self._hidden[l - 1], self._deltas[l - 1]
            if l == self._last:
                if self._joined:
                    torch.bmm(delta.below_T, h.below, out=self._thin)
                else:
                    torch.bmm(delta.own.T, h.taped.x, out=self._thin).baddbmm_(delta.taped.T, h.own.x)
                hvp.weights[l].x.copy_(self._thin.mT)
            elif not self._joined:
                torch.bmm(h.taped.T, delta.own.x, out=hvp.weights[l].x).baddbmm_(h.own.T, delta.taped.x)
            elif self._between is None:
                torch.bmm(h.below_T, delta.below, out=hvp.weights[l].x)
            torch.sum(delta.own.x, 1, keepdim=True, out=hvp.biases[l].x)
            self._tangent_back(theta, V, l, out=back.own.x)
            _mask(back.own.bits, tape.hidden[l - 1].bits, 0, grad_input=back.own.bits)
        if self._between is not None:
            torch.bmm(*self._between, out=hvp.between)

    def _tangent_layer(self, theta: Parameters, V: Parameters, l: int, out: Viewed) -> None:
        """ż = h V + ḣ W + v, for every layer but the first."""
        h, V_l, W_l = self._hidden[l - 1], V.weights[l], theta.weights[l]
        if self._joined:
            below, rooms = self._below[l]
            for room, taken in zip(rooms, (V_l, W_l), strict=True):
                room.take(taken)
            _affine(V.biases[l], h.beside, below, out=out)
        else:
            _affine(V.biases[l], h.taped.x, V_l.x, out=out).baddbmm_(h.own.x, W_l.x)

    def _tangent_back(self, theta: Parameters, V: Parameters, l: int, out: Tensor | None = None) -> Tensor:
        """δ̇ Wᵀ + δ Vᵀ."""
        delta, V_l, W_l = self._deltas[l], V.weights[l], theta.weights[l]
        if self._joined:
            beside_T, rooms = self._beside_T[l]
            for room, taken in zip(rooms, (W_l, V_l), strict=True):
                room.take(taken)
            return torch.bmm(delta.beside, beside_T, out=out)
        return torch.bmm(delta.own.x, W_l.T, out=out).baddbmm_(delta.taped.x, V_l.T)

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
        tape.deltas[-1].x.copy_(delta)

    def _head_delta_dot(self, A: Tensor, weight: Tensor | float, tape: Record, dA: Tensor) -> None:
        """Write δ̇_L from ż_L, and charge A with its share."""
        y, zdot = tape.output, self._head_wide.copy_(self._head.x)
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
        self._deltas[-1].own.x.copy_(zdot)

    def _one_minus_square(self, y: Tensor) -> Tensor:
        return torch.addcmul(self._ones, y, y, value=-1.0, out=self._slope)

    def loss(self, tape: Record, A: Tensor, weight: Tensor | float) -> Tensor:
        """L of each student (K,), from the outputs in `tape`."""
        if self.arch.head == "softmax":
            terms = -(A * torch.log(tape.output.clamp_min(torch.finfo(tape.output.dtype).tiny)))
        else:
            terms = (tape.output - A).square_()
        return (terms * weight).sum((1, 2))
