"""The student of infinite width: behavioural cloning to its end, in closed form.

As hidden layers grow, a ReLU network trained by gradient descent becomes a regression in a kernel that depends on
nothing random, the neural tangent kernel Θ_L (Jacot, Gabriel and Hongler, 2018). With obs_dim inputs, L hidden
layers, He's gains and biases of variance 1 (first layer) and β = 0.1 (the others), and κ_0, κ_1 the arc-cosine
kernels (Cho and Saul, 2009) of the angle φ between two inputs, cos φ = Σ(x,x') / √(Σ(x,x) Σ(x',x')):

    Σ_0 = x·x' / obs_dim + 1                                       Θ_0 = Σ_0
    Σ_l = √(Σ_{l-1}(x,x) Σ_{l-1}(x',x')) κ_1(φ) + β,               Θ_l = Σ_l + Θ_{l-1} κ_0(φ)
    κ_0(φ) = (π − φ) / π,                                          κ_1(φ) = (sin φ + (π − φ) cos φ) / π

    z(x) = Θ(x, S) c,       c = (Θ(S, S) + λ θ̄ I)^{-1} head^{-1}(A),       θ̄ = mean diagonal of Θ(S, S)

λ, the ridge, stands for stopping before the end. There is no draw in such a student: all of them are the same one.
Its parameters, for `networks.forward`, are [D | S D | c], D (obs_dim, obs_dim) the metric that it reads in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BIAS = 0.1  # β
_NEARLY_ONE = 1 - 1e-6  # beyond this, φ is held fixed: where cos φ = 1 it has no slope
_REACH = 0.9995  # atanh(1) is infinite: a label of ±1 asks for ±0.9995
_LEAST = 1e-3  # and a probability of 0 for about this much


def tangent_kernel(x: Tensor, y: Tensor, layers: int) -> Tensor:
    """Θ_L (…, n, m) between states x (…, n, obs_dim) and y (…, m, obs_dim), L = `layers`; differentiable once."""
    obs_dim = x.shape[-1]
    here = x.square().sum(-1).unsqueeze(-1) / obs_dim + 1  # Σ_l(x, x)
    there = y.square().sum(-1).unsqueeze(-2) / obs_dim + 1
    sigma = x @ y.transpose(-1, -2) / obs_dim + 1
    layer = _Layer.apply if sigma.requires_grad else _layer  # a traced policy holds no Python functions
    theta = sigma
    for _ in range(layers):
        sigma, theta, *_ = layer(sigma, theta, here, there)
        here, there = here + _BIAS, there + _BIAS
    return theta


def _layer(sigma: Tensor, theta: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """Σ_l and Θ_l (…, n, m), and cos φ, sin φ, κ_0 and √(Σ(x,x) Σ(x',x')) of the layer before."""
    size = here.sqrt() * there.sqrt()
    cosine = (sigma / size).clamp_(-_NEARLY_ONE, _NEARLY_ONE)
    sine = (1 - cosine * cosine).sqrt_()
    kappa = torch.arccos(cosine).mul_(-1 / math.pi).add_(1)
    after = torch.addcmul(kappa * sigma, sine, size, value=1 / math.pi).add_(_BIAS)  # size · κ_1 + β
    return after, torch.addcmul(after, theta, kappa), cosine, sine, kappa, size


class _Layer(torch.autograd.Function):
    """`_layer` with its derivatives by hand, in a fifth of autograd's passes over n·m numbers.

    With ψ = Σ_{l-1}(x,x') and r the size,   ∂(r κ_1)/∂ψ = κ_0,   ∂(r κ_1)/∂r = sin φ / π,
    and                                      ∂κ_0/∂ψ = 1 / (π r sin φ),   ∂κ_0/∂r = −cos φ / (π r sin φ).
    """

    @staticmethod
    def forward(ctx: Any, sigma: Tensor, theta: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, ...]:
        after, tangent, *kept = _layer(sigma, theta, here, there)
        ctx.save_for_backward(theta, here, there, *kept)
        return after, tangent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_after: Tensor, g_tangent: Tensor) -> tuple[Tensor, ...]:
        theta, here, there, cosine, sine, kappa, size = ctx.saved_tensors
        g = g_after + g_tangent
        slope = (g_tangent * theta).div_(sine * size).mul_(1 / math.pi)
        slope.masked_fill_(cosine.abs() >= _NEARLY_ONE, 0.0)
        g_size = torch.addcmul((g * sine).mul_(1 / math.pi), slope, cosine, value=-1).mul_(size)
        return (
            slope.addcmul_(g, kappa),
            g_tangent * kappa,
            g_size.sum(-1, keepdim=True).sum_to_size(here.shape) / (2 * here),
            g_size.sum(-2, keepdim=True).sum_to_size(there.shape) / (2 * there),
        )


def regress(S: Tensor, A: Tensor, *, layers: int, head: str, ridge: float) -> Tensor:
    """c (n, act_dim): what the student of infinite width has learnt from the pairs, as it reads them.

    Args:
        S: (n, obs_dim) normalised observations, in the metric if it reads in one.
        A: (n, act_dim) actions in [−1, 1], or probabilities for the softmax head.
        layers: L, hidden layers.
        head: "tanh", "linear" or "softmax".
        ridge: λ.

    Returns:
        c, or NaN where λ is too small for pairs that lie so near to one another.
    """
    gram = tangent_kernel(S, S, layers)
    scale = ridge * gram.diagonal().mean()
    factor, failed = torch.linalg.cholesky_ex(
        gram + scale * torch.eye(len(S), dtype=S.dtype, device=S.device)
    )
    c = torch.cholesky_solve(head_inverse(A, head, _REACH), factor)
    return torch.where(failed > 0, torch.nan, c)  # half a factor gives numbers, but not these


def head_inverse(A: Tensor, head: str, reach: float) -> Tensor:
    """What must go into the head for `A` to come out, kept finite: for ±1 out of tanh, what gives ±`reach`."""
    if head == "tanh":
        return torch.atanh(reach * A)
    if head == "softmax":
        logits = torch.log((A + _LEAST) / (1 + A.shape[-1] * _LEAST))
        return logits - logits.mean(-1, keepdim=True)
    return A


def parameters(S: Tensor, c: Tensor) -> Tensor:
    """The student as one flat vector (P,) that reads in no metric: [I | S | c]."""
    eye = torch.eye(S.shape[1], dtype=S.dtype, device=S.device)
    return torch.cat([eye.flatten(), S.flatten(), c.flatten()])


def parts(theta: Tensor, obs_dim: int, act_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """D (K, obs_dim, obs_dim), S D (K, n, obs_dim) and c (K, n, act_dim) inside (K, P), sharing memory."""
    K, metric = len(theta), obs_dim * obs_dim
    n = (theta.shape[1] - metric) // (obs_dim + act_dim)
    return (
        theta[:, :metric].view(K, obs_dim, obs_dim),
        theta[:, metric : metric + n * obs_dim].view(K, n, obs_dim),
        theta[:, metric + n * obs_dim :].view(K, n, act_dim),
    )
