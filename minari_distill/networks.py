"""The student network: an MLP whose parameters are one flat vector, batched over K students.

A flat vector (K, P) makes an optimiser step a handful of element-wise operations and a checkpoint one
tensor; `views` names its parts. Layer l maps (K, n, in_l) to (K, n, out_l) with W_l (K, in_l, out_l):

    h_0 = s,   z_l = h_{l-1} W_l + b_l,   h_l = relu(z_l) (+ h_{l-1} if residual and of equal width),
    output = head(z_L)
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.infinite import parts, tangent_kernel
from minari_distill.recipe import StudentRecipe


@dataclass(frozen=True)
class Architecture:
    """Sizes of an MLP; `hidden` holds one width a hidden layer."""

    obs_dim: int
    act_dim: int
    hidden: tuple[int, ...]
    head: str = "tanh"
    residual: bool = False
    infinite: bool = False  # `hidden` counts layers alone; parameters are those of `infinite.py`

    @classmethod
    def of(cls, recipe: StudentRecipe, obs_dim: int, act_dim: int) -> Architecture:
        """The architecture that `recipe` asks for."""
        hidden = (recipe.hidden_width,) * recipe.hidden_layers
        return cls(obs_dim, act_dim, hidden, recipe.head, recipe.residual, recipe.infinite)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(in, out) of every linear layer, first to last."""
        widths = (self.obs_dim, *self.hidden, self.act_dim)
        return list(itertools.pairwise(widths))

    @property
    def n_parameters(self) -> int:
        """P, the length of the flat parameter vector."""
        return sum(i * o + o for i, o in self.shapes)


def views(theta: Tensor, arch: Architecture) -> tuple[list[Tensor], list[Tensor]]:
    """The layers inside a flat vector (K, P): weights (K, in, out) and biases (K, 1, out), sharing memory."""
    K = theta.shape[0]
    weights, biases, at = [], [], 0
    for i, o in arch.shapes:
        weights.append(theta[:, at : at + i * o].view(K, i, o))
        biases.append(theta[:, at + i * o : at + i * o + o].view(K, 1, o))
        at += i * o + o
    return weights, biases


def initialize(
    arch: Architecture,
    n_students: int,
    *,
    scheme: str = "orthogonal",
    output_gain: float = 1.0,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Parameters of K fresh students, (K, P), on the generator's device.

    "orthogonal": semi-orthogonal weights times √2, zero biases (Saxe et al., 2014). "torch": uniform in
    ±1/√in, weights and biases, as `torch.nn.Linear`. The last layer's parameters are scaled by
    `output_gain`.
    """
    theta = torch.zeros(n_students, arch.n_parameters, dtype=dtype, device=generator.device)
    weights, biases = views(theta, arch)
    for l, (W, b) in enumerate(zip(weights, biases, strict=True)):
        last = l == len(weights) - 1
        if scheme == "orthogonal":
            gain = math.sqrt(2.0)
            W.copy_(_orthogonal(W.shape, generator, dtype)).mul_(gain)
        else:
            bound = 1 / math.sqrt(W.shape[1])
            W.uniform_(-bound, bound, generator=generator)
            b.uniform_(-bound, bound, generator=generator)
        if last and output_gain != 1.0:
            W.mul_(output_gain)
            b.mul_(output_gain)
    return theta


def _orthogonal(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """(K, in, out) with orthonormal rows or columns, uniform over such matrices (QR with positive diagonal)."""
    K, i, o = shape
    normal = torch.empty(K, max(i, o), min(i, o), dtype=dtype, device=generator.device)
    q, r = torch.linalg.qr(normal.normal_(generator=generator))
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return q if i >= o else q.transpose(1, 2)


def forward(theta: Tensor, obs: Tensor, arch: Architecture, *, logits: bool = False) -> Tensor:
    """Actions (K, n, act_dim) of the K students at observations (n, obs_dim) or (K, n, obs_dim).

    With `logits=True`, what goes into the head. Differentiable by autograd.
    """
    if arch.infinite:
        D, there, c = parts(theta, arch.obs_dim, arch.act_dim)
        z = tangent_kernel(obs @ D, there, len(arch.hidden)) @ c
        return z if logits else apply_head(z, arch.head)
    weights, biases = views(theta, arch)
    h = obs if obs.dim() == 3 else obs.expand(theta.shape[0], *obs.shape)
    for l, (W, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
        z = torch.relu(torch.baddbmm(b, h, W))
        h = h + z if arch.residual and l > 0 else z
    z = torch.baddbmm(biases[-1], h, weights[-1])
    return z if logits else apply_head(z, arch.head)


def fold_metric(theta: Tensor, metric: Tensor, arch: Architecture) -> Tensor:
    """Parameters (K, P) that do at x what `theta` does at x D: the first layer's weights become D W_1 (the metric of an infinite student, D times it)."""
    folded = theta.clone()
    if arch.infinite:
        reads = parts(folded, arch.obs_dim, arch.act_dim)[0]
        reads.copy_(metric @ reads)
        return folded
    first = views(folded, arch)[0][0]
    first.copy_(metric @ first)
    return folded


def apply_head(z: Tensor, head: str) -> Tensor:
    """The output non-linearity by name."""
    if head == "tanh":
        return torch.tanh(z)
    if head == "softmax":
        return torch.softmax(z, -1)
    return z
