"""Inner optimisers: one step forward, and the adjoint of that step, without a graph.

With g_t = ∇_θ L(θ_t), λ = ∂H/∂θ and one adjoint variable for each slot of optimiser state, the adjoint of
step t first turns λ into a direction V = ∂H/∂g_t; the caller adds the three products of V with the second
derivatives of L (see `mlp.Passes.tangent`), which finishes λ ← λ + ∇²L V.

    SGD        θ' = θ − α g                                V = −α λ
    momentum   m' = μ m + g,  θ' = θ − α m'                ν ← ν − α λ;   V = ν;   ν ← μ ν
    Adam       m' = β₁m + (1−β₁)g,  v' = β₂v + (1−β₂)g²
               θ' = θ − α m̂/(√v̂ + ε),  m̂ = m'/(1−β₁ᵗ),  v̂ = v'/(1−β₂ᵗ)
               M = ∂H/∂m' + λ ∂θ'/∂m',   N = ∂H/∂v' + λ ∂θ'/∂v'
               V = (1−β₁) M + 2(1−β₂) g ⊙ N;   ∂H/∂m = β₁M;   ∂H/∂v = β₂N

Where v' = 0 (a parameter that no gradient has reached) ∂√v̂/∂v' has no finite value and the step is zero:
its share is taken as zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.config import StudentRecipe
from minari_distill.errors import ConfigError


class Sgd:
    """θ' = θ − α g; keeps no state."""

    slots = 0  # numbers kept a parameter and a step, for the adjoint

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        self.lr = recipe.lr

    def state(self) -> list[Tensor]:
        """The tensors that a checkpoint of the inner loop must copy."""
        return []

    def reset(self) -> None:
        """Back to step 0."""

    def step(self, theta: Tensor, grad: Tensor, slot: int) -> None:
        """θ ← θ', in place; `slot` says where to note what the adjoint needs."""
        theta.add_(grad, alpha=-self.lr)

    def begin_adjoint(self) -> None:
        """∂H/∂(state) = 0 at the end of the loop."""

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """Write V = ∂H/∂g_t to `out` and carry the state's adjoint one step back."""
        torch.mul(lam, -self.lr, out=out)


class Momentum(Sgd):
    """Heavy ball, as `torch.optim.SGD(momentum=μ)`."""

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        super().__init__(recipe, like, length)
        self.momentum = recipe.momentum
        self.m = torch.zeros_like(like)
        self.nu = torch.zeros_like(like)  # ∂H/∂m, already times μ

    def state(self) -> list[Tensor]:
        """m."""
        return [self.m]

    def reset(self) -> None:
        """m = 0."""
        self.m.zero_()

    def step(self, theta: Tensor, grad: Tensor, slot: int) -> None:
        """One step; the adjoint is linear and needs nothing from it."""
        torch.add(grad, self.m, alpha=self.momentum, out=self.m)
        theta.add_(self.m, alpha=-self.lr)

    def begin_adjoint(self) -> None:
        """ν = 0."""
        self.nu.zero_()

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """V = ν − α λ; ν ← μ V."""
        self.nu.add_(lam, alpha=-self.lr)
        out.copy_(self.nu)
        self.nu.mul_(self.momentum)


class Adam(Sgd):
    """Adam (Kingma and Ba, 2015), as `torch.optim.Adam`; the step count lives in tensors, for CUDA graphs."""

    slots = 3

    def __init__(self, recipe: StudentRecipe, like: Tensor, length: int):
        super().__init__(recipe, like, length)
        (self.beta1, self.beta2), self.eps = recipe.betas, recipe.eps
        self.m, self.v = torch.zeros_like(like), torch.zeros_like(like)
        self.powers = torch.ones(2, dtype=torch.float64, device=like.device)  # β₁ᵗ, β₂ᵗ
        self.betas = torch.tensor([self.beta1, self.beta2], dtype=torch.float64, device=like.device)
        self.tape = [
            torch.empty_like(like).expand(3, *like.shape).clone() for _ in range(length)
        ]  # g, m', v'
        self.tape_powers = [self.powers.clone() for _ in range(length)]
        self.adj_m, self.adj_v = torch.zeros_like(like), torch.zeros_like(like)

    def state(self) -> list[Tensor]:
        """m, v and the powers of β."""
        return [self.m, self.v, self.powers]

    def reset(self) -> None:
        """m = v = 0, t = 0."""
        self.m.zero_()
        self.v.zero_()
        self.powers.fill_(1.0)

    def step(self, theta: Tensor, grad: Tensor, slot: int) -> None:
        """One step; notes g, m', v' and the bias corrections."""
        g, m, v = self.tape[slot]
        g.copy_(grad)
        self.m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
        self.v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        self.powers.mul_(self.betas)
        m.copy_(self.m)
        v.copy_(self.v)
        self.tape_powers[slot].copy_(self.powers)
        c1, c2 = (1 - self.powers).to(theta.dtype)
        step = (m / c1).div_((v / c2).sqrt_().add_(self.eps))
        theta.add_(step, alpha=-self.lr)

    def begin_adjoint(self) -> None:
        """∂H/∂m = ∂H/∂v = 0."""
        self.adj_m.zero_()
        self.adj_v.zero_()

    def direction(self, lam: Tensor, slot: int, out: Tensor) -> None:
        """V from M and N; see the module's equations."""
        g, m, v = self.tape[slot]
        c1, c2 = (1 - self.tape_powers[slot]).to(lam.dtype)
        root = (v / c2).sqrt_()  # √v̂
        denominator = root + self.eps
        # ∂θ'/∂m' = −α / (c₁ (√v̂ + ε));   ∂θ'/∂v' = α m̂ / (2 c₂ √v̂ (√v̂ + ε)²)
        slope_m = lam / denominator / c1 * -self.lr
        slope_v = lam * (m / c1) / (denominator.square_() * root.mul_(c2)) * (self.lr / 2)
        M = self.adj_m.add_(slope_m)
        N = self.adj_v.add_(torch.where(v > 0, slope_v, torch.zeros_like(slope_v)))
        out.copy_((M * (1 - self.beta1)).addcmul_(g, N, value=2 * (1 - self.beta2)))
        M.mul_(self.beta1)
        N.mul_(self.beta2)


_BY_NAME = {"sgd": Sgd, "momentum": Momentum, "adam": Adam}


def inner_optimizer(recipe: StudentRecipe, like: Tensor, length: int) -> Sgd:
    """The optimiser that `recipe` names, for parameters `like` (K, P) and a tape of `length` steps."""
    if recipe.optimizer not in _BY_NAME or recipe.weight_decay:
        raise ConfigError(
            f"The inner loop cannot differentiate optimizer={recipe.optimizer!r} with "
            f"weight_decay={recipe.weight_decay}. Choose one of {', '.join(_BY_NAME)}, without weight decay."
        )
    return _BY_NAME[recipe.optimizer](recipe, like, length)
