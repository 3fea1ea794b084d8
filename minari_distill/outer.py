"""The outer loop: one step takes the synset down the meta-gradient.

    draw      K fresh students θ_0, their states and the end T' of a random window [T' − W, T']
    inner     θ_{T'} by behavioural cloning on (S, A)
    outer     H = mean over students of E_s [w(s) d(π_θ(s), y(s))],  λ = ∂H/∂θ_{T'}
    adjoint   (∂H/∂S, ∂H/∂A) over the window
    update    clip, Adam or momentum (outer_update.py), then project A into its range

Students in the input metric read S D and states x D for S and x, and D is updated with S and A.

With meta_gradient="kernel", the last two of these are one: ridge regression in the tangent kernel of the
students at T' stands for their training (inner/kernel.py).

With a pool, students are not drawn afresh at every step but live on: one set in turn trains for W more steps,
is charged at their end, and starts anew once T (or `pool_life`) steps old (the pool of FRePo; Zhou, Nezhadarya and Ba, 2022).
A long horizon then costs no more than a short one.

Every draw is a function of (seed, step, student) alone: a resumed run needs no generator's state, and R
ranks that share the K students draw what one rank would.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minari_distill.captured import Captured
from minari_distill.config import DistillConfig
from minari_distill.draws import fresh_students, keyed_generator
from minari_distill.errors import Diverged
from minari_distill.infinite import regress, tangent_kernel
from minari_distill.inner import InnerLoop
from minari_distill.inner.batch_loss import BatchLoss
from minari_distill.inner.kernel import (
    distances,
    infinite_meta_gradient,
    kernel_meta_gradient,
    output_directions,
)
from minari_distill.inner.pool import StudentPool
from minari_distill.metric import FULL
from minari_distill.networks import Architecture
from minari_distill.outer_update import OuterUpdate, project_to_simplex
from minari_distill.team import Team

_PATIENCE = 20  # steps in a row without a finite gradient before the run gives up
_VALIDATION_STATES = 4096


@dataclass(frozen=True)
class Problem:
    """States with what is asked there, normalised; the held-out ones are never used in an outer step.

    Attributes:
        obs, target, weight: (N, obs_dim), (N, act_dim), (N, 1).
        held_obs, held_target, held_weight: the same of M held-out states.
        obs_low, obs_high: (obs_dim,) bounds of normalised observations, ±inf where there are none.
        simplex: actions are probabilities.
        metric: D (obs_dim, obs_dim) of `metric.py` to begin with, or None.
        forgiving: δ of `inner/forgiving.py`; 0 for squared errors (or cross-entropies) as they are.
    """

    obs: Tensor
    target: Tensor
    weight: Tensor
    held_obs: Tensor
    held_target: Tensor
    held_weight: Tensor
    obs_low: Tensor
    obs_high: Tensor
    simplex: bool = False
    metric: Tensor | None = None
    forgiving: float = 0.0

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)


class OuterLoop:
    """The synset under way: S normalised (n_syn, obs_dim), A in [−1, 1] or probabilities (n_syn, act_dim)."""

    def __init__(self, problem: Problem, S: Tensor, A: Tensor, config: DistillConfig, device: torch.device):
        self.config, self.device, self.team = config, device, Team()
        self.problem = problem.to(device)
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.dtype = dtype
        self.S, self.A = S.to(device, dtype, copy=True), A.to(device, dtype, copy=True)
        self._S_read = self.S.clone()  # as the students of this step read them
        D = self.problem.metric
        self.metric = None if D is None else D.to(dtype, copy=True)
        n_syn, obs_dim = S.shape
        act_dim = A.shape[1]
        self.students = self.team.share(config.n_students)
        sizes: dict[str, Any] = {
            "obs_dim": obs_dim,
            "act_dim": act_dim,
            "n_syn": n_syn,
            "device": device,
            "precision": config.precision,
        }
        self.arch = Architecture.of(config.inner_recipe, obs_dim, act_dim)
        self.inner = InnerLoop(
            config.inner_recipe,
            n_students=len(self.students),
            window=0 if config.meta_gradient == "kernel" else config.window_steps,
            memory_budget=config.memory_budget_gb * 1e9,
            **sizes,
        )
        K, B = len(self.students), config.outer_batch
        exact = "float64" if config.precision == "float64" else "float32"
        by_kernel = config.meta_gradient == "kernel" or config.infinite_width
        charged_in = exact if by_kernel else config.precision
        kind: dict[str, Any] = {"device": device, "forgiving": problem.forgiving}
        self._outer = BatchLoss(self.arch, K, B, precision=charged_in, **kind)
        held = min(len(problem.held_obs), _VALIDATION_STATES)
        self._held_indices = torch.randperm(
            len(problem.held_obs), generator=keyed_generator(torch.device("cpu"), config.seed, -2)
        )[:held].to(device)
        if not config.recipe.infinite:
            self.validation = InnerLoop(config.recipe, n_students=config.validation_students, **sizes)
            judged = self.validation.arch
            self._held = BatchLoss(judged, config.validation_students, held, precision=exact, **kind)
            self.validation_start = fresh_students(
                judged,
                config.recipe,
                config.seed,
                -1,
                range(config.validation_students),
                device=device,
                dtype=dtype,
            )
        self.pool = StudentPool(config, self.inner) if config.student_pool else None
        self._asked = torch.zeros(K, B, dtype=torch.int64, device=device)  # the outer batch, as indices
        self._replay_advance = Captured(self.inner.advance, device)
        finish = self._finish_kernel if config.meta_gradient == "kernel" else self._finish
        self._replay_finish = Captured(finish, device, charge_obs=False)
        in_metric = self._finish_infinite if config.infinite_width else finish
        self._replay_finish_in_metric = Captured(in_metric, device, charge_obs=config.metric_lr > 0)
        self._directions = output_directions(self.arch, keyed_generator(device, config.seed, -3)).to(dtype)

        self.step_count = 0
        self.update = OuterUpdate(config, self.S, self.A, self.metric)
        self.metric_count = 0  # of the steps in the metric
        self.loss_sum = self.S.new_zeros(())  # of the finite outer losses since the last reading
        self.loss_count = self.S.new_zeros((), dtype=torch.int64)

    # ------------------------------------------------------------------------------------- one step

    @torch.no_grad()
    def step(self) -> None:
        """One outer step; nothing is read back from the device."""
        metric = self._metric_now()
        start, _ = self._draw(metric)
        self._S_read.copy_(self.S if metric is None else self.S @ metric)
        trained = metric is None or not self.config.metric_recipe.infinite
        if trained:
            self.inner.feed(self._S_read, self.A)
            if not (self.pool and self.pool.resume(self.step_count)):
                self.inner.start(self._fresh_students(metric))
            for _ in range(start):
                self._replay_advance()
        loss, gS, gA, gD = self._gradient(metric)
        if self.pool and trained:
            self.pool.leave(self.step_count)
        self.team.sum(*(g for g in (loss, gS, gA, gD) if g is not None))
        self.update.step(gS, gA, gD, before=self.step_count, before_D=self.metric_count)
        self.project()
        finite = torch.isfinite(loss)
        self.loss_sum += torch.where(finite, loss, 0)
        self.loss_count += finite
        self.step_count += 1
        self.metric_count += metric is not None

    def _gradient(self, metric: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """H, ∂H/∂S, ∂H/∂A, and ∂H/∂D where this step learns D, of this rank's students.

        Students in the metric read S D and X D. H(S D, X D):  ∂H/∂S = ∂H/∂(S D) Dᵀ,
        ∂H/∂D = Sᵀ ∂H/∂(S D) + Xᵀ ∂H/∂(X D).
        """
        if metric is None:
            return self._replay_finish()
        loss, gS, gA, gX = self._replay_finish_in_metric()
        gD = None
        if gX is not None:
            X = self.problem.obs[self._asked].to(gX.dtype)
            gD = (self.S.T @ gS + torch.einsum("kbi,kbj->ij", X, gX)).to(self.dtype)
            if len(metric) > FULL:
                gD = torch.diag(gD.diagonal())
        return loss, gS @ metric.T, gA, gD

    def _metric_now(self) -> Tensor | None:
        """The metric that the students of this step read in; a set of the pool keeps to one for life."""
        by_life = self.pool is not None and not self.config.infinite_width  # infinite ones have no life
        turn = self.pool.life(self.step_count) if self.pool and by_life else self.step_count
        share = self.config.metric_share
        before, after = (math.ceil(round(n * share, 9)) for n in (turn, turn + 1))
        return self.metric if after > before else None

    def _draw(self, metric: Tensor | None = None) -> tuple[int, int]:
        """Fill the outer batch; return (first, last) inner step of the window."""
        config, t = self.config, self.step_count
        for k, student in enumerate(self.students):
            generator = keyed_generator(self.device, config.seed, t, student, 1)
            indices = torch.randint(
                len(self.problem.obs), (config.outer_batch,), generator=generator, device=self.device
            )
            p = self.problem
            self._outer.load(k, p.obs, p.target, p.weight, indices, metric)
            self._asked[k] = indices
        if config.meta_gradient == "kernel":
            self._directions.copy_(
                output_directions(self.arch, keyed_generator(self.device, config.seed, t, -4))
            )
        W, T = config.window_steps, config.inner_steps
        if self.pool:
            return 0, W
        host = keyed_generator(torch.device("cpu"), config.seed, t, -1)
        end = int(torch.randint(W, T + 1, (), generator=host))
        return end - W, end

    def _fresh_students(self, metric: Tensor | None) -> Tensor:
        """θ_0 (K, P) of this step's students."""
        recipe = self.config.inner_recipe if metric is None else self.config.metric_recipe
        return fresh_students(
            self.arch,
            recipe,
            self.config.seed,
            self.step_count,
            self.students,
            device=self.device,
            dtype=self.dtype,
        )

    def _finish(self, *, charge_obs: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The recorded window, the outer loss and the way back: what a CUDA graph captures.

        Returns H, ∂H/∂S and ∂H/∂A at the pairs as read, and with `charge_obs` ∂H/∂x (K, B, obs_dim) at the states as read.
        """
        theta = self.inner.record(self.config.window_steps)
        if self.pool:
            self.pool.note_end()
        loss, lam = self._outer.gradient(theta)
        gX = self._outer.obs_gradient() if charge_obs else None
        gS, gA = self.inner.meta_gradient(lam)
        K = self.config.n_students
        return loss.sum() / K, gS / K, gA / K, None if gX is None else gX / K

    def _finish_kernel(self, *, charge_obs: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The window's inner steps, then the charge by kernel regression."""
        for _ in range(self.config.window_steps):
            self.inner.advance()
        if self.pool:
            self.pool.note_end()
        loss, gS, gA, gX = kernel_meta_gradient(
            self.inner.master,
            self._S_read,
            self.A,
            self._outer.obs[..., :-1],
            self._outer.target,
            self._outer.weight,
            arch=self.arch,
            directions=self._directions,
            ridge=self.config.ridge,
            forgiving=self.problem.forgiving,
            charge_obs=charge_obs,
        )
        K = self.config.n_students
        return loss.sum() / K, gS / K, gA / K, None if gX is None else gX / K

    def _finish_infinite(self, *, charge_obs: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The charge of students of infinite width, which need no training."""
        recipe = self.config.metric_recipe
        loss, gS, gA, gX = infinite_meta_gradient(
            self._S_read,
            self.A,
            self._outer.obs[..., :-1].to(self.dtype),
            self._outer.target,
            self._outer.weight,
            layers=recipe.hidden_layers,
            head=recipe.head,
            ridge=recipe.ridge,
            forgiving=self.problem.forgiving,
            charge_obs=charge_obs,
        )
        K = self.config.n_students
        return loss.sum() / K, gS / K, gA / K, None if gX is None else gX / K

    def project(self) -> None:
        """Actions into [−1, 1] (onto the probability simplex if discrete), observations into their bounds."""
        if self.problem.simplex:
            self.A.copy_(project_to_simplex(self.A))
        else:
            self.A.clamp_(-1.0, 1.0)
        torch.minimum(torch.maximum(self.S, self.problem.obs_low), self.problem.obs_high, out=self.S)

    # ------------------------------------------------------------------------------------ reading it

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """H on the held-out states, of students with fixed seeds trained by the whole recipe."""
        p, recipe = self.problem, self.config.recipe
        metric = self.metric if recipe.in_metric else None
        S = self.S if metric is None else self.S @ metric
        if recipe.infinite:
            asked = self._held_indices
            x, y = p.held_obs[asked].to(self.dtype), p.held_target[asked]
            c = regress(S, self.A, layers=recipe.hidden_layers, head=recipe.head, ridge=recipe.ridge)
            z = tangent_kernel(x if metric is None else x @ metric, S, recipe.hidden_layers) @ c
            weighted = p.held_weight[asked] * distances(z, y, recipe.head, p.forgiving)
            return (weighted.sum() / len(y) / (1 if recipe.head == "softmax" else y.shape[1])).item()
        theta = self.validation.train(self.validation_start, S, self.A, steps=recipe.steps)
        for k in range(self.config.validation_students):
            self._held.load(k, p.held_obs, p.held_target, p.held_weight, self._held_indices, metric)
        return self._held.value(theta).mean().item()

    def read_loss(self) -> float:
        """Mean outer loss since the last reading; stops a run whose gradients stay infinite or NaN.

        Raises:
            Diverged: no finite meta-gradient for 20 steps in a row.
        """
        if int(self.update.in_a_row) >= _PATIENCE:
            raise self.diverged(f"No finite meta-gradient for {_PATIENCE} steps in a row")
        value = (self.loss_sum / self.loss_count).item()  # NaN where no step had a finite one
        self.loss_sum.zero_()
        self.loss_count.zero_()
        return value

    def diverged(self, what: str) -> Diverged:
        """The error that says `what` happened, and what to change."""
        config = self.config
        singular = f"the pairs' kernel is singular: raise ridge (now {config.ridge})"
        told = f"{what}, up to step {self.step_count}"
        if config.recipe.infinite:
            return Diverged(f"{told}: {singular}.")
        inner = (
            f"the inner loop diverges: lower inner_lr (now {config.inner_lr}) or shorten inner_steps "
            f"(now {config.inner_steps})"
        )
        return Diverged(f"{told}: {inner}{f'; or {singular}' if config.meta_gradient == 'kernel' else ''}.")

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        return {
            "S": self.S,
            "A": self.A,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            **self.update.state(),
            **({} if self.pool is None else self.pool.state()),
            **({} if self.metric is None else {"metric": self.metric}),
            "counts": torch.tensor([self.step_count, self.metric_count]),
        }

    def whole_state(self) -> dict[str, Tensor]:
        """`state` with the students of every rank in it, for a checkpoint; all ranks must call it."""
        state = self.state()
        for name, mine in state.items():
            if _is_students(name, mine) and self.team.size > 1:
                whole = mine.new_zeros(self.config.n_students, mine.shape[1])
                whole[self.students.start : self.students.stop] = mine
                self.team.sum(whole)
                state[name] = whole
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `whole_state`, whatever number of ranks wrote it."""
        for name, mine in self.state().items():
            if _is_students(name, mine):
                mine.copy_(state[name][self.students.start : self.students.stop])
            elif name != "counts":
                mine.copy_(state[name])
        self.step_count, self.metric_count = (int(x) for x in state["counts"])


def _is_students(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of the state holds one row for each student of this rank."""
    return name.startswith("pool.") and tensor.dim() == 2
