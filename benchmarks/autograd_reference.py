"""The published procedure written the straightforward way: modules, nested autograd, one step at a time.

Back-propagation through the inner loop as OBD's authors describe it (arXiv 2410.22728, algorithm 1 and its
appendix): train a fresh student by an optimiser and keep a copy of it before every step; then go back, and at
each copy build the graph of its gradient with `create_graph=True` and differentiate that once more. The
engine is timed against this and tested for equality with it.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def make_student(obs_dim: int, act_dim: int, *, width: int = 256, hidden_layers: int = 3) -> nn.Sequential:
    """A fresh tanh student with orthogonal weights (gain √2) and zero biases, drawn from the global generator."""
    widths = [obs_dim, *[width] * hidden_layers]
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    student = nn.Sequential(*layers, nn.Linear(width, act_dim), nn.Tanh())
    for layer in student:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)
    return student


def meta_gradient(
    student: nn.Module,
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
        student: θ_0; it is trained in place.
        S, A: the synset, (n_syn, obs_dim) and (n_syn, act_dim).
        obs, target, weight: the outer batch, (B, obs_dim), (B, act_dim) and (B, 1).
        lr, steps, momentum: the inner optimiser, SGD.
    """
    S = S.detach().requires_grad_()
    A = A.detach().requires_grad_()
    optimizer = torch.optim.SGD(student.parameters(), lr, momentum=momentum)
    copies = []
    for _ in range(steps):
        loss = F.mse_loss(student(S), A)
        optimizer.zero_grad()
        copies.append(copy.deepcopy(student))
        loss.backward()
        optimizer.step()

    H = (weight * (student(obs) - target) ** 2).mean()
    lam = list(torch.autograd.grad(H, list(student.parameters())))
    nu = [torch.zeros_like(p) for p in lam]
    dS, dA = torch.zeros_like(S), torch.zeros_like(A)
    for before in reversed(copies):
        nu = [momentum * v - lr * l for v, l in zip(nu, lam, strict=True)]
        parameters = list(before.parameters())
        gradient = torch.autograd.grad(F.mse_loss(before(S), A), parameters, create_graph=True)
        gS, gA, *hvp = torch.autograd.grad(gradient, [S, A, *parameters], grad_outputs=nu)
        lam = [l + h for l, h in zip(lam, hvp, strict=True)]
        dS, dA = dS + gS, dA + gA
    return H.detach(), dS, dA
