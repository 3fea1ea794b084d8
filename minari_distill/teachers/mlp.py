"""Forward and backward of batched MLPs by hand: no graph, no fresh memory in the large products.

For K networks and layers l = 1 … L,

    h_0 = x,   z_l = h_{l-1} W_l + b_l,   h_l = relu(z_l)                                  (forward)
    δ_L = ∂loss/∂z_L,   δ_{l-1} = (δ_l W_lᵀ) ⊙ [h_{l-1} > 0]                              (backward)
    ∂loss/∂W_l = h_{l-1}ᵀ δ_l,   ∂loss/∂b_l = Σ_rows δ_l,   ∂loss/∂x = δ_1 W_1ᵀ
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.networks import Architecture, views

mask_ = torch.ops.aten.threshold_backward.grad_input  # mask_(δ, h, 0, grad_input=δ): δ ⊙ [h > 0], in place


@dataclass
class Layers:
    """A flat vector (K, P), parameters or their gradient, and its layers as views."""

    flat: Tensor
    weights: list[Tensor]  # (K, in, out)
    biases: list[Tensor]  # (K, 1, out)

    @classmethod
    def of(cls, flat: Tensor, arch: Architecture) -> Layers:
        """Wrap `flat` (K, P) without copying."""
        return cls(flat, *views(flat, arch))


def activations(theta: Layers, x: Tensor) -> list[Tensor]:
    """h_1 … h_{L-1} and z_L of K networks at x (K, n, in); the last is what goes into the head."""
    hs: list[Tensor] = []
    for W, b in zip(theta.weights, theta.biases, strict=True):
        hs.append(torch.bmm(hs[-1].relu_() if hs else x, W).add_(b))
    return hs


def backward(
    theta: Layers, x: Tensor, hs: list[Tensor], delta: Tensor, grad: Layers | None, *, to_input: bool = False
) -> Tensor | None:
    """Write ∂loss/∂θ into `grad` (nothing where it is None), and return ∂loss/∂x if asked for.

    Args:
        theta: Parameters of K networks.
        x: (K, n, in), what they were given.
        hs: Their activations.
        delta: (K, n, out), ∂loss/∂z_L.
        grad: Overwritten.
        to_input: Whether ∂loss/∂x (K, n, in) is wanted.
    """
    for l in range(len(hs) - 1, -1, -1):
        below = hs[l - 1] if l else x
        if grad is not None:
            torch.bmm(below.transpose(1, 2), delta, out=grad.weights[l])
            torch.sum(delta, 1, keepdim=True, out=grad.biases[l])
        if l == 0:
            return torch.bmm(delta, theta.weights[0].transpose(1, 2)) if to_input else None
        delta = torch.bmm(delta, theta.weights[l].transpose(1, 2))
        mask_(delta, below, 0, grad_input=delta)
    raise AssertionError("an MLP has at least one layer")
