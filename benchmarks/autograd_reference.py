"""The published procedure written the straightforward way: nested autograd, one step at a time.

Back-propagation through the inner loop as OBD's authors describe it (arXiv 2410.22728, algorithm 1): run
the loop and keep every θ_t, then go back and at each step build the graph of the gradient again with
`create_graph=True` and differentiate it once more. The engine is measured against this and tested for
equality with it. Inner optimiser: SGD, with momentum if asked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def policy(params: list[Tensor], obs: Tensor) -> Tensor:
    """tanh MLP; `params` holds weight (out, in) and bias (out,) of every layer in turn."""
    h = obs
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        h = torch.relu(F.linear(h, W, b))
    return torch.tanh(F.linear(h, params[-2], params[-1]))


def meta_gradient(
    params: list[Tensor],
    S: Tensor,
    A: Tensor,
    obs: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(H, ∂H/∂S, ∂H/∂A) for H = mean_i w_i ‖π_θT(obs_i) − target_i‖² / act_dim.

    Args:
        params: θ_0, the fresh student's parameters.
        S, A: the synset, (n_syn, obs_dim) and (n_syn, act_dim).
        obs, target, weight: the outer batch, (B, obs_dim), (B, act_dim) and (B, 1).
        lr, steps, momentum: the inner optimiser.
    """
    S = S.detach().requires_grad_()
    A = A.detach().requires_grad_()
    params = [p.detach().requires_grad_() for p in params]
    velocity = [torch.zeros_like(p) for p in params]
    trajectory = []
    for _ in range(steps):
        trajectory.append(params)
        gradient = torch.autograd.grad(F.mse_loss(policy(params, S), A), params)
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        params = [(p - lr * v).detach().requires_grad_() for p, v in zip(params, velocity, strict=True)]

    H = (weight * (policy(params, obs) - target) ** 2).mean()
    lam = list(torch.autograd.grad(H, params))
    nu = [torch.zeros_like(p) for p in params]
    dS, dA = torch.zeros_like(S), torch.zeros_like(A)
    for params in reversed(trajectory):
        nu = [momentum * v - lr * l for v, l in zip(nu, lam, strict=True)]
        gradient = torch.autograd.grad(F.mse_loss(policy(params, S), A), params, create_graph=True)
        inner_product = sum((g * v).sum() for g, v in zip(gradient, nu, strict=True))
        *hvp, gS, gA = torch.autograd.grad(inner_product, [*params, S, A])
        lam = [l + h for l, h in zip(lam, hvp, strict=True)]
        dS, dA = dS + gS, dA + gA
    return H.detach(), dS, dA
