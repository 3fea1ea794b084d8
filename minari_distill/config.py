"""`DistillConfig`: the one table of defaults, and the presets that replace fields in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from minari_distill.errors import ConfigError, did_you_mean


def _one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(
            f"{name}={value!r} is unknown.{did_you_mean(str(value), known)} "
            f"Choose one of: {', '.join(known)}."
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}={value} must be at least {least}.")


def check_seed(seed: int) -> int:
    """The seed as Python's own number; refuses what no generator takes.

    Raises:
        ConfigError: It is no whole number from 0 to 2⁶³ − 1.
    """
    if not (isinstance(seed, Integral) and 0 <= seed < 2**63):
        raise ConfigError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1, for example seed=0.")
    return int(seed)


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """The number as Python's own; refuses halves, texts and what is below `least`.

    Raises:
        ConfigError: It is no whole number from `least` on.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{name}={value!r} must be a whole number, at least {least}: for example {name}=10."
        )
    return int(value)


def _right_kind(name: str, value: Any, default: Any) -> None:
    """Refuse a text where a number belongs, half a step, or a number where a name belongs."""
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits, kind = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        fits, kind = isinstance(value, Real) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), "a name"
    else:
        fits, kind = isinstance(value, list | tuple), "a list"
    if not fits:
        raise ConfigError(f"{name}={value!r} must be {kind}, for example {name}={default!r}.")


def _check_kinds(config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        # NumPy's and torch's, which this layer does not import
        if type(value).__name__ in ("ndarray", "device"):
            value = value.tolist() if hasattr(value, "tolist") else str(value)
            object.__setattr__(config, field.name, value)
        _right_kind(field.name, value, field.default)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}={value} must be positive and finite.")


def _betas(name: str, value: Any) -> None:
    if not (len(value) == 2 and all(isinstance(b, Real) and 0 <= float(b) < 1 for b in value)):
        raise ConfigError(
            f"{name}={value!r} must be two numbers from 0 to below 1, for example {name}=(0.9, 0.999)."
        )


def _as_python(config: Any) -> None:
    """NumPy's numbers as Python's own, lists as tuples: what JSON writes and reads back."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple):
            value = tuple(map(float, value))
        elif isinstance(value, Integral) and not isinstance(value, bool):
            value = int(value)
        elif isinstance(value, Real) and not isinstance(value, bool):
            value = float(value)
        object.__setattr__(config, field.name, value)


@dataclass(frozen=True)
class StudentRecipe:
    """How a student is built and trained on a synset: all that behavioural cloning needs to know.

    A student is an MLP (ReLU) that maps a normalised observation to an action in [-1, 1] (`tanh`), to an
    action of its own scale (`linear`, clipped to the bounds when acting) or to probabilities (`softmax`).
    It is trained by mean squared error (cross-entropy for `softmax`), on the whole synset at every step or on minibatches.
    """

    hidden_layers: int = 3  # hidden layers, ReLU
    hidden_width: int = 256  # units of each
    residual: bool = False  # add each hidden layer's input to its output
    head: str = "tanh"  # "tanh" | "linear" | "softmax"
    init: str = "orthogonal"  # "orthogonal": gain √2, zero biases. "torch": nn.Linear's own default
    output_gain: float = 1.0  # the last layer's weights, times this
    optimizer: str = "adam"  # "sgd" | "momentum" | "adam" | "adamw"
    lr: float = 1e-3  # learning rate
    momentum: float = 0.9  # of "momentum"
    betas: tuple[float, float] = (0.9, 0.999)  # of "adam" and "adamw"
    eps: float = 1e-8  # likewise
    weight_decay: float = 0.0  # of every optimiser
    steps: int = 1000  # of the optimiser
    batch: int = 0  # pairs a student and step, drawn with replacement; 0 = all pairs at every step
    in_metric: bool = False  # reads observations in the synset's input metric (metric.py)
    infinite: bool = False  # of infinite width, in closed form (infinite.py): no optimiser, no steps
    ridge: float = 1e-2  # of such a student: λ, as a share of its kernel's mean diagonal

    def __post_init__(self) -> None:
        _check_kinds(self)
        _one_of("head", self.head, ("tanh", "linear", "softmax"))
        _one_of("init", self.init, ("orthogonal", "torch"))
        _one_of("optimizer", self.optimizer, ("sgd", "momentum", "adam", "adamw"))
        _at_least("hidden_layers", self.hidden_layers, 1)
        _at_least("hidden_width", self.hidden_width, 1)
        _at_least("steps", self.steps, 1)
        _at_least("batch", self.batch, 0)
        _positive("lr", self.lr)
        _positive("ridge", self.ridge)
        for name, least, most in (
            ("momentum", 0, 1),
            ("eps", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("output_gain", -math.inf, math.inf),
        ):
            if not (least <= getattr(self, name) < most and math.isfinite(getattr(self, name))):
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be finite"
                    + (f", at least {least}" if least == 0 else "")
                    + (f" and below {most}." if most == 1 else ".")
                )
        if self.infinite and self.residual:
            raise ConfigError("infinite=True has no residual=True: give one of the two.")
        _betas("betas", self.betas)
        _as_python(self)

    @property
    def told(self) -> str:
        """The recipe in one line, for people."""
        read = ", reading in the input metric" if self.in_metric else ""
        if self.infinite:
            return f"infinite width, {self.hidden_layers} hidden layers, {self.head} head, in closed form with ridge {self.ridge:g}{read}"
        layers = f"{self.hidden_layers} hidden layers of {self.hidden_width}, {self.head} head"
        batch = f" on minibatches of {self.batch}" if self.batch else ""
        return f"{layers}, {self.steps} steps of {self.optimizer} at {self.lr:g}{batch}{read}"

    def replace(self, **changes: Any) -> StudentRecipe:
        """The same recipe with some fields changed; an unknown name is answered with the nearest one."""
        return _replace(self, changes)


INFINITE_FIELDS = {"infinite", "hidden_layers", "head", "in_metric", "ridge"}
"""All that tells a student of infinite width; the other fields are of networks."""

GENERAL_RECIPE = StudentRecipe(init="torch")
"""A plain student that nothing was tuned for: PyTorch's default initialisation, Adam 1e-3, 1000 steps."""


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
        _check_kinds(self)
        _one_of("preset", self.preset, PRESETS)
        _one_of("initializer", self.initializer, ("random", "relabelled", "kmeans"))
        _one_of("teacher_method", self.teacher_method, ("auto", "cal_ql", "filtered_bc"))
        _one_of("inner_optimizer", self.inner_optimizer, ("sgd", "momentum", "adam"))
        _one_of("meta_gradient", self.meta_gradient, ("unroll", "kernel"))
        _one_of("outer_optimizer", self.outer_optimizer, ("adam", "momentum"))
        _one_of("outer_schedule", self.outer_schedule, ("cosine", "constant"))
        _one_of("outer_clip", self.outer_clip, ("relative", "norm"))
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16", "float64"))
        for name in (
            "n_syn teacher_batch cql_n_actions inner_steps n_students "
            "outer_batch validate_every validation_students checkpoint_every"
        ).split():
            _at_least(name, getattr(self, name), 1)
        for name in "actor_lr critic_lr q_temperature outer_lr_obs outer_lr_act outer_clip_at memory_budget_gb ridge student_length".split():
            _positive(name, getattr(self, name))
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
        _at_least("clone_steps", self.clone_steps, 0)
        _at_least("teacher_steps", self.teacher_steps, 0)
        _at_least("student_pool", self.student_pool, 0)
        _at_least("pool_life", self.pool_life, 0)
        _at_least("student_widening", self.student_widening, 1)
        _at_least("outer_steps", self.outer_steps, 0)  # 0: the initial pairs, a baseline
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
            _betas(name, getattr(self, name))
        if not 0 < self.target_rate <= 1:
            raise ConfigError(f"target_rate={self.target_rate} is τ: give a number above 0, at most 1.")
        _as_python(self)
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
        changed = _replace(self, _steps_of(self.teacher_method, self.teacher_steps, self.preset, changes))
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


PRESETS: dict[str, dict[str, Any]] = {
    # Plain students in the inner loop, wider ones to read the pairs.
    "default": {},
    # Minutes on two CPU cores, teacher included: its narrow expert asks for a sharper weight,
    # and for the unroll (docs/results.md).
    "quick": {
        "teacher_method": "filtered_bc",
        "teacher_steps": 5_000,
        "outer_steps": 600,
        "validate_every": 100,
        "q_power": 3.0,
        "student_widening": 1,
        "student_length": 1.0,
        "metric_share": 0.0,
        "meta_gradient": "unroll",
        "window": 30,
        "student_pool": 16,
        "pool_life": 0,
        "inner_eps": 1e-6,  # Adam's adjoint divides by √v̂ + ε
        "outer_lr_obs": 2e-2,
        "outer_batch": 2048,
    },
    # The recipe's students of infinite width, and no others: in minutes pairs that those read as well as the teacher
    # acts, and networks badly (docs/results.md).
    # Its teacher, learnt in a minute, is as good as Cal-QL's there.
    "infinite": {
        "teacher_method": "filtered_bc",
        "teacher_steps": 5_000,
        "infinite_width": True,
        "metric_share": 1.0,
        "student_pool": 0,
        "outer_steps": 4000,
    },
    # The paper's procedure (arXiv 2410.22728, section 5 and appendix), so that numbers compare.
    "paper": {
        "objective": "av_pbc",
        "teacher_method": "cal_ql",
        "initializer": "random",
        "student_widening": 1,
        "student_length": 1.0,
        "metric_share": 0.0,
        "student_init": "orthogonal",
        "inner_optimizer": "sgd",
        "inner_lr": 0.1,
        "inner_steps": 100,
        "window": 0,
        "student_pool": 0,
        "meta_gradient": "unroll",
        "outer_steps": 50_000,
        "outer_optimizer": "momentum",
        "outer_lr_obs": 0.1,
        "outer_lr_act": 0.1,
        "outer_schedule": "constant",
        "outer_clip": "norm",
        "outer_batch": 2560,
        "validate_every": 25,
        "q_scale": 0.02,
    },
}


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
    _one_of("preset", preset, PRESETS)
    return _replace(DistillConfig(), {"preset": preset, **PRESETS[preset]}).replace(**overrides)


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    known = [f.name for f in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            raise ConfigError(
                f"Unknown setting {name!r}.{did_you_mean(name, known)} Known settings: {', '.join(known)}."
            )
    return dataclasses.replace(config, **changes)
