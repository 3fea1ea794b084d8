"""Inner optimisers: one step forward, and the adjoint of that step, without a graph.

A step moves θ' = θ − α u(g, state) with g = ∇_θ L(θ). Its adjoint starts from Λ = ∂H/∂u = −α ∂H/∂θ', carries
∂H/∂state one step back and gives a direction V = ∂H/∂g; the caller adds the three products of V with the
second derivatives of L (see `mlp.Passes.tangent`), the one with θ being Λ ← Λ − α ∇²L V.

    SGD        u = g                                    V = Λ
    momentum   m' = μ m + g,  u = m'                    M = μ M + Λ;   V = M
    Adam       m' = β₁m + (1−β₁)g,  v' = β₂v + (1−β₂)g²
               u = m̂/(√v̂ + ε),  m̂ = m'/(1−β₁ᵗ),  v̂ = v'/(1−β₂ᵗ)
               M = β₁M + Λ ∂u/∂m',  N = β₂N + Λ ∂u/∂v';   V = (1−β₁) M + 2(1−β₂) g ⊙ N

M = ∂H/∂m' and N = ∂H/∂v' are zero at the end of the loop. Where v' = 0 (a parameter that no gradient has
reached) ∂u/∂v' has no finite value and the step is zero: its share is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.errors import ConfigError
from minari_distill.recipe import StudentRecipe


class Sgd:
    """θ' = θ − α g; keeps no state."""

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        self.lr = recipe.lr
        self.wide = torch.empty_like(like)

    def state(self) -> list[Tensor]:
        """The tensors that a checkpoint of the inner loop must copy."""
        return []

    def reset(self) -> None:
        """Back to step 0."""

    def step(self, theta: Tensor, grad: Tensor, slot: int | None) -> None:
        """θ ← θ', in place; `slot` says where to note what the adjoint needs, None that there will be none."""
        self.descend(theta, grad)

    def descend(self, x: Tensor, by: Tensor) -> None:
        """x ← x − α by; `by` may be narrow, and is widened in memory that is there, since fresh pages cost more."""
        x.add_(by if by.dtype == x.dtype else self.wide.copy_(by), alpha=-self.lr)

    def begin_adjoint(self) -> None:
        """∂H/∂(state) = 0 at the end of the loop."""

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """Write V to `out`, given Λ, and carry the state's adjoint one step back."""
        out.copy_(lam)


class Momentum(Sgd):
    """Heavy ball, as `torch.optim.SGD(momentum=μ)`."""

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        super().__init__(recipe, like, length)
        self.momentum = recipe.momentum
        self.m, self.adj_m = torch.zeros_like(like), torch.zeros_like(like)

    def state(self) -> list[Tensor]:
        """m."""
        return [self.m]

    def reset(self) -> None:
        """m = 0."""
        self.m.zero_()

    def step(self, theta: Tensor, grad: Tensor, slot: int | None) -> None:
        """One step; the adjoint is linear and needs nothing from it."""
        self.m.mul_(self.momentum).add_(grad if grad.dtype == self.m.dtype else self.wide.copy_(grad))
        theta.add_(self.m, alpha=-self.lr)

    def begin_adjoint(self) -> None:
        """M = 0."""
        self.adj_m.zero_()

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """V = M = μ M + Λ."""
        out.copy_(self.adj_m.mul_(self.momentum).add_(lam))


class Adam(Sgd):
    """Adam (Kingma and Ba, 2015), as `torch.optim.Adam`; the step count lives in tensors, for CUDA graphs."""

    slots = 3  # numbers kept a parameter and a step, for the adjoint

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        super().__init__(recipe, like, length)
        (self.beta1, self.beta2), self.eps = recipe.betas, recipe.eps
        self.m, self.v = torch.zeros_like(like), torch.zeros_like(like)
        self.powers = torch.ones(2, dtype=torch.float64, device=like.device)  # β₁ᵗ, β₂ᵗ
        self.betas = torch.tensor([self.beta1, self.beta2], dtype=torch.float64, device=like.device)
        self.tape = torch.empty(length, self.slots, *like.shape, dtype=like.dtype, device=like.device)
        self.adj_m, self.adj_v = torch.zeros_like(like), torch.zeros_like(like)
        self._root, self._sum = torch.empty_like(like), torch.empty_like(like)
        self._least = torch.finfo(like.dtype).tiny ** 0.5

    def state(self) -> list[Tensor]:
        """m, v and the powers of β."""
        return [self.m, self.v, self.powers]

    def reset(self) -> None:
        """m = v = 0, t = 0."""
        self.m.zero_()
        self.v.zero_()
        self.powers.fill_(1.0)

    def step(self, theta: Tensor, grad: Tensor, slot: int | None) -> None:
        """One step; notes g, ∂u/∂m' and −2 ∂u/∂v'.

        With ρ = √v', c₁ = 1−β₁ᵗ, s = √(1−β₂ᵗ) and d = ρ + s ε:  √v̂ + ε = d/s, therefore
        ∂u/∂m' = s/(c₁ d),  u = m' ∂u/∂m',  ∂u/∂v' = −u/(2ρd).
        """
        g, by_m, by_v = self.tape[slot or 0].unbind()
        g.copy_(grad)
        self.m.lerp_(g, 1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        self.powers.mul_(self.betas)
        c1, c2 = 1 - self.powers
        s = c2.sqrt()
        root = torch.sqrt(self.v, out=self._root).clamp_min_(self._least)  # off zero, where u = 0
        d = torch.add(root, (s * self.eps).to(theta.dtype), out=self._sum)
        torch.div((s / c1).to(theta.dtype), d, out=by_m)
        u = torch.mul(self.m, by_m, out=by_v)
        theta.add_(u, alpha=-self.lr)
        if slot is not None:
            u.div_(d).div_(root)

    def begin_adjoint(self) -> None:
        """M = N = 0."""
        self.adj_m.zero_()
        self.adj_v.zero_()

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """V from M and N, which are kept times (1−β₁) and 2(1−β₂)."""
        g, by_m, by_v = self.tape[slot].unbind()
        self.adj_m.mul_(self.beta1).addcmul_(lam, by_m, value=1 - self.beta1)
        self.adj_v.mul_(self.beta2).addcmul_(lam, by_v, value=self.beta2 - 1)
        out.copy_(torch.addcmul(self.adj_m, g, self.adj_v, out=self._sum))


_BY_NAME = {"sgd": Sgd, "momentum": Momentum, "adam": Adam}


def inner_optimizer(recipe: StudentRecipe, like: Tensor, length: int) -> Sgd:
    """The optimiser that `recipe` names, for parameters `like` (K, P) and a tape of `length` steps."""
    if recipe.optimizer not in _BY_NAME or recipe.weight_decay:
        raise ConfigError(
            f"The inner loop cannot differentiate optimizer={recipe.optimizer!r} with "
            f"weight_decay={recipe.weight_decay}. Choose one of {', '.join(_BY_NAME)}, without weight decay."
        )
    return _BY_NAME[recipe.optimizer](recipe, like, length)
