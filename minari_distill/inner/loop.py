"""The inner loop and its adjoint: train K students on the synset, then charge the synset for the result.

    θ_{t+1}, state_{t+1} = optimiser(θ_t, state_t, g_t),   g_t = ∇_θ L_BC(θ_t; S, A),   t = 0 … T−1

`train` runs the loop up to any end and records its last W steps (random truncated windows; Feng,
Vedantam and Kempe, "Embarrassingly simple dataset distillation", 2023). `meta_gradient` walks back over those W steps
with λ = ∂H/∂θ_T and returns Σ_t ∇_S⟨g_t, V_t⟩ and Σ_t ∇_A⟨g_t, V_t⟩.

Memory: a record of every step of the window is kept if it fits the budget. If not, the window is cut into
the fewest segments of equal length that fit; only the parameters and the optimiser's state at the start of
each are kept, and a segment is run again when the walk back reaches it (3 products a layer more, on 9).
"""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.inner.mlp import Parameters, Passes, Record
from minari_distill.inner.optimizers import Adam, Sgd, inner_optimizer
from minari_distill.networks import Architecture
from minari_distill.recipe import StudentRecipe

# Of the parameters and the results, and of the hidden layers with their matrix products.
WIDE = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
NARROW = WIDE | {"bfloat16": torch.bfloat16}


class InnerLoop:
    """K students on n_syn pairs, for windows of up to `window` steps.

    Args:
        recipe: optimiser, learning rate, head, widths.
        obs_dim, act_dim, n_syn, n_students: sizes; K = n_students.
        window: W, the most steps that `meta_gradient` will walk back; 0 if it never will.
        device, precision: where, and in which numbers. In "bfloat16" the hidden layers and their products are;
            the parameters under training, the optimiser's state, λ, the head and the result stay float32.
        memory_budget: bytes that the window's records may take.
    """

    def __init__(
        self,
        recipe: StudentRecipe,
        *,
        obs_dim: int,
        act_dim: int,
        n_syn: int,
        n_students: int = 1,
        window: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        memory_budget: float = 8e9,
    ):
        self.arch = Architecture.of(recipe, obs_dim, act_dim)
        self.K, self.n = n_students, n_syn
        device = torch.device(device)
        wide: dict = {"dtype": WIDE[precision], "device": device}
        narrow: dict = {"dtype": NARROW[precision], "device": device}
        both = {**narrow, "wide": WIDE[precision]}
        shape = (self.K, self.arch.n_parameters)

        numbers = Record.numbers(self.arch, n_syn) + shape[1]
        noted = Adam.slots * shape[1] if recipe.optimizer == "adam" else 0
        step = self.K * (numbers * NARROW[precision].itemsize + noted * WIDE[precision].itemsize)
        fits = max(1, int(memory_budget // step))  # a record a step
        segments = max(1, -(-window // fits))
        self.segment = max(1, -(-window // segments))  # steps whose records are kept at once

        self.master = torch.zeros(shape, **wide)  # θ under training; `theta` holds what the passes read
        self.weight = 1.0 / n_syn if self.arch.head == "softmax" else 1.0 / (n_syn * act_dim)
        self._saved: list[list[Tensor]] = []
        self._lengths: list[int] = []
        # Without autograd's bookkeeping, which a hundred small calls an inner step would feel.
        with torch.inference_mode():
            self.passes = Passes(self.arch, self.K, n_syn, **both)
            self.tape = [Record.empty(self.arch, self.K, n_syn, **both) for _ in range(self.segment)]
            self.theta = [Parameters.zeros(self.arch, self.K, **narrow) for _ in range(self.segment)]
            self.grad = Parameters.zeros(self.arch, self.K, **narrow)
            self.optimizer: Sgd | Adam = inner_optimizer(recipe, self.master, self.segment)
            self.S = torch.ones(self.K, n_syn, obs_dim + 1, **narrow)  # the last column stays ones, for b_1
            self.A = torch.zeros(self.K, n_syn, act_dim, **wide)
            if window:
                self.lam = torch.zeros(shape, **wide)  # Λ = −α ∂H/∂θ
                self.V = Parameters.zeros(self.arch, self.K, **narrow)
                self.hvp = Parameters.zeros(self.arch, self.K, **narrow)
                self.dS = torch.zeros(self.K, n_syn, obs_dim, **wide)
                self.dA = torch.zeros(self.K, n_syn, act_dim, **wide)
                self._saved = [[torch.zeros_like(t) for t in self.state()] for _ in range(segments - 1)]

    def begin(self, theta_0: Tensor, S: Tensor, A: Tensor) -> None:
        """Load fresh students (K, P) and the synset: S (n, obs_dim) normalised, A (n, act_dim)."""
        self.feed(S, A)
        self.start(theta_0)

    @torch.inference_mode()
    def start(self, theta_0: Tensor) -> None:
        """Fresh students (K, P), at step 0."""
        self.master.copy_(theta_0)
        self.optimizer.reset()

    @torch.inference_mode()
    def feed(self, S: Tensor, A: Tensor) -> None:
        """The pairs of the next steps, for all students alike or (K, n, ·) for each its own."""
        self.S[..., :-1].copy_(S)
        self.A.copy_(A)

    @torch.inference_mode()
    def resume(self, students: list[Tensor]) -> None:
        """Go on with students under way: θ (K, P) and the optimiser's state, as `state` lists them."""
        for now, saved in zip(self.state(), students, strict=True):
            now.copy_(saved)

    @torch.inference_mode()
    def advance(self) -> None:
        """One inner step that leaves no record."""
        self._step(0, note=False)

    @torch.inference_mode()
    def record(self, window: int) -> Tensor:
        """The last `window` inner steps, recorded for `meta_gradient`; returns θ_T (K, P)."""
        whole, rest = divmod(window, self.segment)
        self._lengths = [self.segment] * whole + ([rest] if rest else [])
        for saved, length in zip(self._saved, self._lengths[:-1], strict=False):
            for copy, now in zip(saved, self.state(), strict=True):
                copy.copy_(now)
            for _ in range(length):
                self.advance()
        return self._run_segment(self._lengths[-1])

    def train(self, theta_0: Tensor, S: Tensor, A: Tensor, *, steps: int, window: int = 0) -> Tensor:
        """θ after `steps` steps from `theta_0`, (K, P), with the last `window` of them recorded."""
        self.begin(theta_0, S, A)
        for _ in range(steps - window):
            self.advance()
        return self.record(window) if window else self.master

    @torch.inference_mode()
    def meta_gradient(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """(∂H/∂S, ∂H/∂A), (n, obs_dim) and (n, act_dim), of the recorded window; `lam` is ∂H/∂θ_T (K, P).

        H is summed over the students; S is shared, so its gradient is the sum of theirs.
        """
        torch.mul(lam, -self.optimizer.lr, out=self.lam)
        self.dS.zero_()
        self.dA.zero_()
        self.optimizer.begin_adjoint()
        for index in range(len(self._lengths) - 1, -1, -1):
            if index < len(self._lengths) - 1:  # the last segment's records are still there
                self.resume(self._saved[index])
                self._run_segment(self._lengths[index])
            for slot in range(self._lengths[index] - 1, -1, -1):
                self.optimizer.direction(self.lam, slot, self.V.flat)
                self.passes.tangent(
                    self.theta[slot],
                    self.S,
                    self.A,
                    self.weight,
                    self.tape[slot],
                    self.V,
                    hvp=self.hvp,
                    dS=self.dS,
                    dA=self.dA,
                )
                self.optimizer.descend(self.lam, self.hvp.flat)
        return self.dS.sum(0), self.dA.sum(0)

    def state(self) -> list[Tensor]:
        """The students as they are now: θ (K, P) and the optimiser's state."""
        return [self.master, *self.optimizer.state()]

    def _run_segment(self, length: int) -> Tensor:
        for slot in range(length):
            self._step(slot)
        return self.master

    def _step(self, slot: int, *, note: bool = True) -> None:
        theta = self.theta[slot]
        theta.flat.copy_(self.master)
        self.passes.gradient(theta, self.S, self.A, self.weight, self.tape[slot], self.grad)
        self.optimizer.step(self.master, self.grad.flat, slot if note else None)
