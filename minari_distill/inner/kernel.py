"""The meta-gradient through kernel regression, in the tangent kernel of students already trained.

A wide network at the end of its training is nearly a kernel machine, whose kernel is not that of its initial
parameters but that of its trained ones (the "after kernel"; Long, 2021). So what a student would be if the
synset were a little different is told by ridge regression in that kernel, without a walk back through time:

    Θ(s, s') = Σ_l (h_{l-1}(s)·h_{l-1}(s') + 1) · ⟨J_l(s), J_l(s')⟩ / r,      J_l = ∂(R z_L) / ∂z_l
    z(s)     = Θ(s, S) (Θ(S, S) + λ θ̄ I)^{-1} head^{-1}(A),                   θ̄ = mean diagonal of Θ(S, S)
    H        = E_s [ w(s) d(head(z(s)), y(s)) ],                              (∂H/∂S, ∂H/∂A) by autograd

d is the mean squared error or the cross-entropy, or what `forgiving.py` makes of the former.

Θ is the neural tangent kernel summed over every layer's weights and biases and averaged over r orthonormal
directions R of the output: one scalar kernel for all outputs. The parameters are held fixed; the synset is
charged through the features h, the slopes J and the labels. Solving from scratch matters: near the end of
training the residual A − π(S) has vanished, and with it nearly all that moves S in a truncated unroll, whereas
the labels here act at full size.

Kernel regression as a surrogate for training on distilled data is KIP's idea (Nguyen, Chen and Lee, 2021, at
initialisation), the pool of trained students FRePo's (Zhou, Nezhadarya and Ba, 2022, last layer only).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minari_distill.infinite import head_inverse, regress, tangent_kernel
from minari_distill.inner.forgiving import forgiven
from minari_distill.networks import Architecture, apply_head, views

_REACH = 0.97  # of a label of ±1: students do not come further in their steps
MOST_DIRECTIONS = 8  # r: with more outputs than this, a random subspace of them is drawn


def output_directions(arch: Architecture, generator: torch.Generator) -> Tensor:
    """R (r, act_dim) with orthonormal rows: all outputs, or a random subspace of 8 of them."""
    where: dict[str, Any] = {"device": generator.device}
    if arch.act_dim <= MOST_DIRECTIONS:
        return torch.eye(arch.act_dim, **where)
    normal = torch.randn(arch.act_dim, MOST_DIRECTIONS, generator=generator, **where)
    return torch.linalg.qr(normal)[0].T.contiguous()


def kernel_meta_gradient(
    theta: Tensor,
    S: Tensor,
    A: Tensor,
    obs: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    arch: Architecture,
    directions: Tensor,
    ridge: float,
    forgiving: float = 0.0,
    charge_obs: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(H, ∂H/∂S, ∂H/∂A, ∂H/∂obs) of K students, H (K,) each on its own B states, ∂H/∂S and ∂H/∂A summed over them.

    Args:
        theta: (K, P) trained parameters.
        S, A: (n, obs_dim) normalised and (n, act_dim).
        obs, target, weight: (K, B, obs_dim), (K, B, act_dim), (K, B, 1); the weight holds 1/(B·act_dim), or 1/B
            for probabilities.
        arch: Of the students.
        directions: R, as `output_directions` draws it.
        ridge: λ.
        forgiving: δ of `forgiving.py`; 0 for squared errors as they are.
        charge_obs: give ∂H/∂obs (K, B, obs_dim), at twice the work; else None stands there.
    """
    obs = obs.detach().requires_grad_(charge_obs)
    with torch.set_grad_enabled(charge_obs):
        there = _features(theta, obs, arch, directions)
    with torch.enable_grad():
        S, A = S.detach().requires_grad_(), A.detach().requires_grad_()
        z = _regress(theta, S, A, there, arch, directions, ridge)
        distance = distances(z, target, arch.head, forgiving)
        H = (weight * distance).sum((1, 2))
        gS, gA, *gX = torch.autograd.grad(H.sum(), (S, A, obs) if charge_obs else (S, A))
    return H.detach(), gS, gA, gX[0] if gX else None


def distances(z: Tensor, target: Tensor, head: str, forgiving: float = 0.0) -> Tensor:
    """d(head(z), y), whose weights hold 1/(B·act_dim), or 1/B for probabilities; the shape that `weight` spreads over."""
    if head == "softmax":
        return -target * torch.log_softmax(z, -1)
    squared = (apply_head(z, head) - target).square()
    if not forgiving:
        return squared
    e = squared.mean(-1, keepdim=True)
    return target.shape[-1] * forgiven(e, forgiving)  # the weight holds 1/act_dim, which e has taken


def infinite_meta_gradient(
    S: Tensor,
    A: Tensor,
    obs: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    layers: int,
    head: str,
    ridge: float,
    forgiving: float = 0.0,
    charge_obs: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What `kernel_meta_gradient` gives, of students of infinite width (`infinite.py`): exact, and without any training."""
    with torch.enable_grad():
        S, A, obs = S.detach().requires_grad_(), A.detach().requires_grad_(), obs.detach()
        obs.requires_grad_(charge_obs)
        z = tangent_kernel(obs, S, layers) @ regress(S, A, layers=layers, head=head, ridge=ridge)
        H = (weight * distances(z, target, head, forgiving)).sum((1, 2))
        gS, gA, *gX = torch.autograd.grad(H.sum(), (S, A, obs) if charge_obs else (S, A))
    return H.detach(), gS, gA, gX[0] if gX else None


def kernel_outputs(
    theta: Tensor, S: Tensor, A: Tensor, obs: Tensor, *, arch: Architecture, directions: Tensor, ridge: float
) -> Tensor:
    """z(s), before the head, (K, B, act_dim) at states (K, B, obs_dim); differentiable in S and A."""
    return _regress(theta, S, A, _features(theta, obs, arch, directions), arch, directions, ridge)


def _regress(
    theta: Tensor,
    S: Tensor,
    A: Tensor,
    there: tuple[list[Tensor], list[Tensor]],
    arch: Architecture,
    directions: Tensor,
    ridge: float,
) -> Tensor:
    here = _features(theta, S.expand(len(theta), *S.shape), arch, directions)
    gram = _kernel(here, here)
    scale = ridge * gram.diagonal(dim1=1, dim2=2).mean(1)
    regular = gram + scale[:, None, None] * torch.eye(len(S), dtype=S.dtype, device=S.device)
    factor, failed = torch.linalg.cholesky_ex(regular)
    labels = head_inverse(A, arch.head, _REACH).expand(len(theta), *A.shape)
    # Two solves and not cholesky_solve, which on a GPU asks the host for memory where K > 1, and cannot be captured.
    half = torch.linalg.solve_triangular(factor, labels, upper=False)
    c = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    c = torch.where(failed[:, None, None] > 0, torch.nan, c)  # half a factor gives numbers, but not these
    return _kernel(there, here) @ c


def _features(
    theta: Tensor, obs: Tensor, arch: Architecture, directions: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """h_0 … h_{L-1}, each (K, n, width), and J_1 … J_{L-1} over √r, each (K, n, r·width); J_L = R needs no telling.

    J_{L-1} = R W_L ⊙ [h_{L-1} > 0] is told by [h_{L-1} > 0] times the norms of the columns of R W_L, (K, n, width):
    the same inner products from r times fewer numbers.
    """
    weights, biases = views(theta, arch)
    hidden = [obs]
    for W, b in zip(weights[:-1], biases[:-1], strict=True):
        hidden.append(torch.relu(torch.baddbmm(b, hidden[-1], W)))
    K, n, r = len(theta), obs.shape[1], len(directions)
    J = (directions.to(theta.dtype) @ weights[-1].transpose(1, 2)).unsqueeze(1) / r**0.5  # (K, 1, r, width)
    slopes = [(hidden[-1] > 0) * J.norm(dim=2)]
    J = J * (hidden[-1] > 0).unsqueeze(2)  # (K, n, r, width)
    for l in range(len(weights) - 2, 0, -1):
        J = (J.flatten(1, 2) @ weights[l].transpose(1, 2)).view(K, n, r, -1) * (hidden[l] > 0).unsqueeze(2)
        slopes.insert(0, J.flatten(2))
    return hidden, slopes


def _kernel(a: tuple[list[Tensor], list[Tensor]], b: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """Θ (K, n, m) between two sets of states."""
    one = torch.ones((), dtype=a[0][0].dtype, device=a[0][0].device)
    total = torch.baddbmm(one, a[0][-1], b[0][-1].transpose(1, 2))  # the last layer, where J is R itself
    for h, g, I, J in zip(a[0], b[0], a[1], b[1], strict=False):
        inputs = torch.baddbmm(one, h, g.transpose(1, 2))
        total = torch.addcmul(total, inputs, I @ J.transpose(1, 2))
    return total
