"""`DistillConfig`: the one table of defaults, and what makes it from a preset and a few changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minari_distill.checks import (
    check_at_least,
    check_betas,
    check_kinds,
    check_one_of,
    check_positive,
    check_seed,
    make_python,
    replace_fields,
)
from minari_distill.errors import ConfigError
from minari_distill.presets import PRESETS
from minari_distill.recipe import StudentRecipe


@dataclass(frozen=True)
class DistillConfig:
    """Every setting of a distillation, frozen and flat; a synset's metadata stores it whole."""

    preset: str = "default"  # "default" | "infinite" | "quick" | "paper"
    seed: int = 0  # of every draw: same seed, same synset, on one device
    device: str = "auto"  # "auto" | "cpu" | "cuda" | "cuda:1" …

    # What is distilled
    n_syn: int = 256  # synthetic pairs
    objective: str = "auto"  # "auto" | "dbc" | "robust_dbc" | "filtered_dbc" | "pbc" | "av_pbc" | "tempered_pbc", or your own (objectives.py)
    clone_steps: int = 6000  # at most, of the clone that "robust_dbc", "filtered_dbc" and "tempered_pbc" match; 0 = the data as they are (not "tempered_pbc")
    initializer: str = "relabelled"  # "random" | "relabelled" | "kmeans"

    # Teacher (the paper's Cal-QL with CORL's defaults; Nakamoto et al., 2023)
    teacher_method: str = "auto"  # "cal_ql" | "filtered_bc"; "auto": Cal-QL on a GPU, on a CPU filtered_bc
    teacher_steps: int = 0  # gradient steps; 0: 1,000,000 of Cal-QL, 5000 of filtered_bc
    teacher_batch: int = 256  # transitions a gradient step
    discount: float = 0.99  # γ
    actor_lr: float = 3e-5  # Cal-QL: learning rate of the actor
    critic_lr: float = 3e-4  # Cal-QL: learning rate of the critics
    target_rate: float = 5e-3  # τ of the target critics
    cql_alpha: float = 10.0  # Cal-QL: weight of the conservative term
    cql_n_actions: int = 10  # Cal-QL: actions sampled a state
    discrete_cql_alpha: float = 1.0  # discrete actions; Q is in standard deviations of the returns
    q_temperature: float = 1.0  # discrete actions: π* = softmax(Q / q_temperature)
    top_fraction: float = 0.1  # filtered_bc, filtered_dbc, tempered_pbc: share of the transitions they learn from, best returns first

    # Students of the inner loop
    hidden_layers: int = 3  # hidden layers, ReLU
    hidden_width: int = 256  # units of each
    head: str = "tanh"  # "softmax" is chosen for discrete actions
    student_init: str = "torch"  # "orthogonal" | "torch"
    output_gain: float = 1.0  # the last layer's initial weights, times this
    inner_optimizer: str = "adam"  # "sgd" | "momentum" | "adam"
    inner_lr: float = 1e-3  # α, its learning rate
    inner_momentum: float = 0.9  # μ of "momentum"
    inner_betas: tuple[float, float] = (0.9, 0.999)  # of "adam"
    inner_eps: float = 1e-8  # of "adam"
    inner_steps: int = 1000  # T
    window: int = 20  # inner steps an outer step ("unroll" differentiates them, at a random offset); 0 = T
    n_students: int = 1  # K, students an outer step
    student_pool: int = 10  # sets of students that live on from step to step; 0: always fresh ones
    pool_life: int = 200  # inner steps after which a set of the pool starts anew, at most T; 0 = T

    # The recipe that travels with the synset: the inner loop's students, but for
    student_widening: int = 2  # units of each hidden layer, times this
    student_length: float = 0.5  # steps of their training, times this
    metric_share: float = (
        0.3  # of the inner loop's students that read in the input metric, as the recipe's then do
    )
    metric_init: str = "orthogonal"  # of the students that read in the metric: their `student_init`
    metric_output_gain: float = 0.1  # and their `output_gain`
    infinite_width: bool = False  # these, and the recipe's, are of infinite width (infinite.py)
    metric_lr: float = 2e-2  # of the outer loop: learning rate of the metric, as a share of its entries

    # Meta-gradient
    meta_gradient: str = "kernel"  # "kernel": of trained students | "unroll": back through the window
    ridge: float = 1e-2  # "kernel", and at infinite width: λ, as a share of the kernel's mean diagonal

    # Outer loop
    outer_steps: int = 2000  # updates of the synset
    outer_optimizer: str = "adam"  # "adam" | "momentum"
    outer_lr_obs: float = 4e-2  # learning rate of the states S, which are normalised
    outer_lr_act: float = 1e-2  # learning rate of the actions A, in [-1, 1]
    outer_momentum: float = 0.9  # of "momentum"
    outer_betas: tuple[float, float] = (0.9, 0.99)  # of "adam"
    outer_schedule: str = "cosine"  # "cosine" to 2 % of the rate | "constant"
    outer_clip: str = "relative"  # "relative": twice the running mean of the gradient norm | "norm"
    outer_clip_at: float = 2.0  # that factor, or that norm
    outer_batch: int = 1024  # dataset states an outer step
    q_scale: float = (
        0.0  # av_pbc: w = q_scale·max(q, 0) (the paper: 0.02·q); 0 = max(q, 0)^q_power over its mean
    )
    q_power: float = 1.0  # above 1, av_pbc looks harder at the states worth most

    # Selection by held-out loss, and checkpoints
    holdout_fraction: float = 0.1  # share of the transitions, in whole episodes; at most half
    validate_every: int = 500  # outer steps between two validations
    validation_students: int = 2  # students of a validation
    checkpoint_every: int = 50  # outer steps between two checkpoints

    # Engine
    precision: str = "auto"  # "float32" | "bfloat16" (hidden layers) | "float64"; "auto" knows the processor
    memory_share: float = (
        0.25  # of the machine's memory; a dataset whose arrays take more is mapped from TMPDIR
    )
    memory_budget_gb: float = 8.0  # activations of the window; more inner steps are recomputed

    def __post_init__(self) -> None:
        check_kinds(self)
        check_one_of("preset", self.preset, PRESETS)
        check_one_of("initializer", self.initializer, ("random", "relabelled", "kmeans"))
        check_one_of("teacher_method", self.teacher_method, ("auto", "cal_ql", "filtered_bc"))
        check_one_of("inner_optimizer", self.inner_optimizer, ("sgd", "momentum", "adam"))
        check_one_of("meta_gradient", self.meta_gradient, ("unroll", "kernel"))
        check_one_of("outer_optimizer", self.outer_optimizer, ("adam", "momentum"))
        check_one_of("outer_schedule", self.outer_schedule, ("cosine", "constant"))
        check_one_of("outer_clip", self.outer_clip, ("relative", "norm"))
        check_one_of("precision", self.precision, ("auto", "float32", "bfloat16", "float64"))
        for name in (
            "n_syn teacher_batch cql_n_actions inner_steps n_students "
            "outer_batch validate_every validation_students checkpoint_every"
        ).split():
            check_at_least(name, getattr(self, name), 1)
        for name in "actor_lr critic_lr q_temperature outer_lr_obs outer_lr_act outer_clip_at memory_budget_gb ridge student_length".split():
            check_positive(name, getattr(self, name))
        if not 0 <= self.memory_share <= 1:
            raise ConfigError(
                f"memory_share={self.memory_share} is a share of the machine's memory: give a number between 0 (map "
                "every dataset) and 1."
            )
        if not 0 <= self.metric_lr < math.inf:
            raise ConfigError(
                f"metric_lr={self.metric_lr} must be at least 0 and finite (0: the metric stays as the teacher gives it)."
            )
        for name in ("cql_alpha", "discrete_cql_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be at least 0 and finite (0: nothing is pushed down)."
                )
        if not 0 <= self.q_power < math.inf:
            raise ConfigError(
                f"q_power={self.q_power} must be at least 0 and finite (0: states weigh alike wherever q is positive)."
            )
        if not 0 <= self.q_scale < math.inf:
            raise ConfigError(
                f"q_scale={self.q_scale} must be at least 0 and finite (0: the weights have a mean of 1; the paper: 0.02)."
            )
        if not 0 <= self.outer_momentum < 1:
            raise ConfigError(f"outer_momentum={self.outer_momentum} must be at least 0 and below 1.")
        check_seed(self.seed)
        check_at_least("clone_steps", self.clone_steps, 0)
        check_at_least("teacher_steps", self.teacher_steps, 0)
        check_at_least("student_pool", self.student_pool, 0)
        check_at_least("pool_life", self.pool_life, 0)
        check_at_least("student_widening", self.student_widening, 1)
        check_at_least("outer_steps", self.outer_steps, 0)  # 0: the initial pairs, a baseline
        if not 0 <= self.window <= self.inner_steps:
            raise ConfigError(
                f"window={self.window} must lie between 0 (all steps) and inner_steps={self.inner_steps}."
            )
        if self.infinite_width and not self.metric_share:
            raise ConfigError(
                "infinite_width=True is of the students that read in the input metric, and metric_share=0 has none: "
                "give metric_share=1.0, or infinite_width=False."
            )
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount={self.discount} is γ: give a number between 0 and 1.")
        if not 0 <= self.metric_share <= 1:
            raise ConfigError(f"metric_share={self.metric_share} is a share: give a number between 0 and 1.")
        if not 0 < self.holdout_fraction < 1 or not 0 < self.top_fraction <= 1:
            raise ConfigError(
                f"holdout_fraction={self.holdout_fraction} and top_fraction={self.top_fraction} are shares: "
                "give numbers between 0 and 1, for example holdout_fraction=0.1."
            )
        for name in ("inner_betas", "outer_betas"):
            check_betas(name, getattr(self, name))
        if not 0 < self.target_rate <= 1:
            raise ConfigError(f"target_rate={self.target_rate} is τ: give a number above 0, at most 1.")
        make_python(self)
        _ = self.inner_recipe, self.recipe  # refuse a bad head, init, learning rate or width

    @property
    def recipe(self) -> StudentRecipe:
        """The student recipe that travels with the synset."""
        read = self.metric_recipe if self.metric_share > 0 else self.inner_recipe
        return read.replace(
            hidden_width=self.student_widening * self.hidden_width,
            steps=max(1, round(self.student_length * self.inner_steps)),
        )

    @property
    def metric_recipe(self) -> StudentRecipe:
        """What those of the inner loop's students follow that read in the input metric."""
        return self.inner_recipe.replace(
            init=self.metric_init,
            output_gain=self.metric_output_gain,
            in_metric=True,
            infinite=self.infinite_width,
            ridge=self.ridge,
        )

    @property
    def inner_recipe(self) -> StudentRecipe:
        """The student recipe that the inner loop follows, but for those who read in the metric."""
        return StudentRecipe(
            hidden_layers=self.hidden_layers,
            hidden_width=self.hidden_width,
            head=self.head,
            init=self.student_init,
            output_gain=self.output_gain,
            optimizer=self.inner_optimizer,
            lr=self.inner_lr,
            momentum=self.inner_momentum,
            betas=self.inner_betas,
            eps=self.inner_eps,
            steps=self.inner_steps,
        )

    @property
    def window_steps(self) -> int:
        """W: how many inner steps an outer step differentiates."""
        return self.window or self.inner_steps

    def replace(self, **changes: Any) -> DistillConfig:
        """The same settings with some changed; another `preset` is that preset's settings, with `changes` and nothing else on top."""
        if "preset" in changes and changes["preset"] != self.preset:
            return make_config(**changes)
        changed = replace_fields(
            self, _steps_of(self.teacher_method, self.teacher_steps, self.preset, changes)
        )
        changed.check_read(changes)
        return changed

    def check_read(self, names: Iterable[str]) -> None:
        """Refuse settings that nothing reads: those of networks, where every student is of infinite width.

        Raises:
            ConfigError: One of `names` is such a setting, and another value than the preset's.
        """
        if not (self.infinite_width and self.metric_share == 1):
            return
        usual = dataclasses.asdict(DistillConfig()) | PRESETS[self.preset]
        unread = sorted(n for n in NETWORK_SETTINGS.intersection(names) if getattr(self, n) != usual[n])
        if unread:
            raise ConfigError(
                f"{', '.join(unread)}: settings of networks, and with infinite_width=True and metric_share=1.0 there are none. "
                "Leave them out, or choose preset='default'."
            )


NETWORK_SETTINGS = frozenset(
    "hidden_width student_init output_gain inner_optimizer inner_lr inner_momentum inner_betas inner_eps inner_steps window "
    "student_pool pool_life student_widening student_length metric_init metric_output_gain meta_gradient "
    "validation_students".split()
)
"""Settings that nothing reads where every student is of infinite width."""


def unchecked_settings(preset: str = "default", **overrides: Any) -> dict[str, Any]:
    """What `make_config` would be given, by name; values are taken as they are."""
    own = PRESETS[preset]
    default = DistillConfig()
    overrides = _steps_of(
        own.get("teacher_method", default.teacher_method),
        own.get("teacher_steps", default.teacher_steps),
        preset,
        overrides,
    )
    return dataclasses.asdict(default) | {"preset": preset} | own | overrides


def _steps_of(method: str, steps: int, preset: str, changes: dict[str, Any]) -> dict[str, Any]:
    """`changes`, and a teacher of another method takes that method's usual steps and not those that the preset has for its own."""
    if changes.get("teacher_method", method) == method or steps != PRESETS[preset].get("teacher_steps"):
        return changes
    return {"teacher_steps": 0} | changes


def make_config(preset: str = "default", **overrides: Any) -> DistillConfig:
    """A preset's settings with `overrides` on top.

    >>> make_config("quick", n_syn=64).teacher_method
    'filtered_bc'

    Args:
        preset: "default", "infinite", "quick" or "paper".
        **overrides: Any field of `DistillConfig`.

    Returns:
        All settings, frozen.

    Raises:
        ConfigError: An unknown name, which is answered with the nearest one, or a value out of range.
    """
    check_one_of("preset", preset, PRESETS)
    return replace_fields(DistillConfig(), {"preset": preset, **PRESETS[preset]}).replace(**overrides)
