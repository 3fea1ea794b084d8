"""What a student is asked to match: the outer objectives, each one function.

A student π_θ, trained on the synset, is charged on states s of the dataset D (arXiv 2410.22728, section 4):

    H(θ) = E_{s ~ D} [ w(s) · d(π_θ(s), y(s)) ]                                                    (1)

with d the mean squared error over action dimensions, or the cross-entropy for discrete actions.

    DBC      y = the dataset's own action,   w = 1
    robust   y = b(s), what a clone of all data does (`clone.py`), and errors far beyond δ are given up (`inner/forgiving.py`)
    filtered y = b⁺(s), what a clone of the best episodes D⁺ does (`best_episodes.py`), s ~ D⁺ alone
    PBC      y = π*(s),                      w = 1
    Av-PBC   y = π*(s),                      w = q(s, π*(s))                                        (2)
    tempered y = (1 − β) π*(s) + β b⁺(s),    w = q(s, π*(s)), s ~ D;   β = 1 − gap in [0, 1], what the critic thinks of b⁺ (`labelling.py`)
    auto     tempered PBC (Av-PBC at infinite width, of discrete actions, and where the teacher is a clone of the best episodes itself),
             unless the data do not show what the teacher does (ρ > 2, `support.py`): then robust DBC, or filtered
             DBC if the students are of infinite width (`infinite.py`), whom 256 pairs can tell an expert's every action,
             and if the best episodes hold states enough (`pose.py`)

An objective is a function (labels, config) → (y, w) under the decorator `objective`, here or in a program of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.errors import ConfigError, TeacherError, did_you_mean


@dataclass(frozen=True)
class Labels:
    """What the dataset and the teacher say of its N states.

    Attributes:
        act: (N, act_dim) the dataset's actions, in [−1, 1] (probabilities if discrete).
        teacher_act: (N, act_dim) π*(s), likewise; None where no teacher was asked.
        teacher_q: (N,) q(s, π*(s)), a discounted raw return; None where no q was asked.
        obs: (N, obs_dim) the normalised states.
        teacher_distance: ρ of `support.py`; None where nobody asked.
        clone_act: (N, act_dim) b(s) of `clone.py`, likewise; None where no clone was asked. Where `best_only` or `best_clone`, b⁺(s).
        clone_gap: What the critic says that b⁺ loses, as a share of the teacher's value (`labelling.clone_gap`); None where nobody asked.
    """

    act: Tensor
    teacher_act: Tensor | None = None
    teacher_q: Tensor | None = None
    obs: Tensor | None = None
    teacher_distance: float | None = None
    clone_act: Tensor | None = None
    clone_gap: float | None = None


FARTHEST = 2.0
"""ρ up to which "auto" matches the teacher. Seven reference teachers have 0.4 to 1.0, two 2.8 to 5.7 (docs/results.md)."""

Rule = Callable[[Labels, DistillConfig], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Objective:
    """A rule (labels, config) → (y, w), and what it asks of a teacher.

    Attributes:
        name: What `DistillConfig.objective` says.
        rule: Returns targets y (N, act_dim) in [−1, 1] (probabilities if discrete) and weights w (N, 1).
        needs_teacher: Whether it reads `labels.teacher_act`.
        needs_q: Whether it reads `labels.teacher_q`.
        forgiving: Least δ of `inner/forgiving.py`, errors far beyond which are given up; where the targets
            are spread out (`support.py`), δ² is half of their spread. 0: squared errors as they are. Discrete actions,
            whose distance is the cross-entropy, are never forgiven.
        needs_clone: Whether it reads `labels.clone_act`; `best_clone` says so too.
        best_only: Whether it asks only states of the best episodes (`best_episodes.py`), which the clone is then one of.
        best_clone: Whether the clone is one of the best episodes, though all states are asked; with `needs_q` the critic says of it what
            `labels.clone_gap` holds, and the students' metric is that of teacher and clone in these shares.
    """

    name: str
    rule: Rule
    needs_teacher: bool = True
    needs_q: bool = False
    forgiving: float = 0.0
    needs_clone: bool = False
    best_only: bool = False
    best_clone: bool = False

    def __call__(self, labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
        """Targets (N, act_dim) and weights (N, 1).

        Raises:
            ConfigError: The rule gave other shapes, numbers that are not finite, or weights that are negative or all zero.
        """
        given = self.rule(labels, config)
        if not (
            isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(t, Tensor) for t in given)
        ):
            raise ConfigError(
                f"objective={self.name!r} returned {type(given).__name__}; expected a pair of tensors: targets (N, act_dim) "
                "and weights (N, 1)."
            )
        y, w = given
        N, act_dim = labels.act.shape
        if y.shape != (N, act_dim) or w.shape != (N, 1):
            raise ConfigError(
                f"objective={self.name!r} returned targets {tuple(y.shape)} and weights {tuple(w.shape)}; expected "
                f"{(N, act_dim)} and {(N, 1)}: one target an action dimension and one weight a state."
            )
        if not (torch.isfinite(y).all() and torch.isfinite(w).all()):
            raise ConfigError(
                f"objective={self.name!r} returned NaN or infinite numbers: look for a division by zero in it."
            )
        if (w < 0).any() or not w.any():
            raise ConfigError(
                f"objective={self.name!r} returned weights from {w.min():.4g} to {w.max():.4g}: a negative one drives "
                "students away from its target, and some must be positive. Clamp or shift them in it."
            )
        return y, w


OBJECTIVES: dict[str, Objective] = {}
"""Every objective by name, in the order in which they were named."""


def objective(
    name: str,
    *,
    needs_teacher: bool = True,
    needs_q: bool = False,
    forgiving: float = 0.0,
    needs_clone: bool = False,
    best_only: bool = False,
    best_clone: bool = False,
) -> Callable[[Rule], Rule]:
    """Decorator: `DistillConfig(objective=name)` now means this rule.

    >>> @objective("sign_pbc")
    ... def sign_pbc(labels, config):
    ...     return labels.teacher_act.sign(), torch.ones_like(labels.act[:, :1])
    >>> find_objective("sign_pbc").needs_q
    False

    Raises:
        ConfigError: The name is taken by another function.
    """

    def enter(rule: Rule) -> Rule:
        before = OBJECTIVES.get(name)
        if before and _place(before.rule) != _place(rule):  # a cell of a notebook may run twice
            raise ConfigError(
                f"objective={name!r} is taken by {'.'.join(_place(before.rule))}. Choose another name."
            )
        teacher, clone = needs_teacher or needs_q, needs_clone or best_clone
        OBJECTIVES[name] = Objective(name, rule, teacher, needs_q, forgiving, clone, best_only, best_clone)
        return rule

    return enter


def find_objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: There is none; the nearest one is named.
    """
    if name not in OBJECTIVES:
        raise ConfigError(
            f"objective={name!r} is unknown.{did_you_mean(name, OBJECTIVES)} Choose one of: "
            f"{', '.join(OBJECTIVES)}; or import the module that adds it."
        )
    return OBJECTIVES[name]


def needs_teacher(name: str) -> bool:
    """Whether the objective of that name asks a teacher."""
    return find_objective(name).needs_teacher


def _place(rule: Rule) -> tuple[str, ...]:
    """What names a rule: of a lambda, which has no name of its own, the line too."""
    place = rule.__module__, rule.__qualname__
    return (*place, f"line {rule.__code__.co_firstlineno}") if rule.__name__ == "<lambda>" else place


@objective("dbc", needs_teacher=False)
def dbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Data-based BC: match the dataset's actions. Returns y (N, act_dim) and w (N, 1)."""
    return labels.act, torch.ones_like(labels.act[:, :1])


@objective("robust_dbc", needs_teacher=False, forgiving=0.2, needs_clone=True)
def robust_dbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """DBC that follows the behaviours that the pairs can tell, and gives up on the others.

    Returns y (N, act_dim), the actions of a clone of all data or, without one (`clone_steps=0`), the data's own; and w as `dbc`.
    """
    return _done(labels), torch.ones_like(labels.act[:, :1])


@objective("filtered_dbc", needs_teacher=False, needs_clone=True, best_only=True)
def filtered_dbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """DBC on the best episodes alone.

    Returns y (N, act_dim), the actions of a clone of the best episodes or, without one (`clone_steps=0`), the data's own; and w as `dbc`.
    """
    return _done(labels), torch.ones_like(labels.act[:, :1])


@objective("pbc")
def pbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Policy-based BC: match the teacher's actions. Returns y (N, act_dim) and w (N, 1)."""
    y = _known(labels.teacher_act, "pbc")
    return y, torch.ones_like(y[:, :1])


@objective("av_pbc", needs_q=True)
def av_pbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Action-value weighted PBC. Returns y (N, act_dim) and w (N, 1).

    The paper weights by 0.02·q (`q_scale=0.02`; here 0.02·max(q, 0), since a negative weight drives students away). As q's scale then sets the outer learning rate, the default
    divides it out: w = max(q, 0)^p / mean max(q, 0)^p, p = `q_power`, so that DBC, PBC and Av-PBC compare at
    one rate. Where most values are negative, as with costs, q − min q stands for max(q, 0): of such values the few
    that an error of the critic lifts above zero would have all the weight.

    Raises:
        ConfigError: The paper's weights are asked for, and most of the values are negative.
    """
    y = _known(labels.teacher_act, "av_pbc")
    q = _known(labels.teacher_q, "av_pbc").unsqueeze(1)
    positive = q.clamp_min(0.0)
    costs = 2 * int((q < 0).sum()) > len(q)
    if config.q_scale:
        if costs:
            raise ConfigError(
                f"q_scale={config.q_scale} weights states by q, and q is negative in most of them (median {q.median():.4g}): "
                "choose q_scale=0, which ranks them, or objective='pbc', which weighs them alike, in a run of its own. A teacher "
                "that was learnt need not be again: teacher='RUN/teacher.safetensors' (--teacher)."
            )
        return y, config.q_scale * positive
    if costs:
        positive = q - q.min()
    positive = (positive / positive.max().clamp_min(1e-12)) ** config.q_power
    mean = positive.mean()
    return y, positive / mean if mean > 0 else torch.ones_like(q)


@objective("tempered_pbc", needs_q=True, needs_clone=True, best_clone=True)
def tempered_pbc(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Av-PBC of what lies between the teacher and a clone of the best episodes, as near to the clone as the critic thinks it good.

    Returns y (N, act_dim) = (1 − β) π* + β b⁺, β = `clone_share(labels.clone_gap)`, and w (N, 1) of `av_pbc`.

    Raises:
        ConfigError: `clone_steps=0`: there is no clone.
    """
    if labels.clone_act is None or labels.clone_gap is None:
        raise ConfigError(NO_CLONE)
    y, w = av_pbc(labels, config)
    return torch.lerp(y, labels.clone_act, clone_share(labels.clone_gap)), w


NO_CLONE = (
    "objective='tempered_pbc' needs a clone of the best episodes, and clone_steps=0 makes none: give clone_steps=6000, or "
    "objective='av_pbc'."
)


def clone_share(gap: float) -> float:
    """β of `tempered_pbc`: 1 where the critic says that the clone loses nothing, 0 where it says all."""
    return min(1.0, max(0.0, 1.0 - gap))


def settled(name: str, labels: Labels, config: DistillConfig, *, tempers: bool = False) -> str:
    """The objective that `name` stands for with these settings.

    "auto" is "tempered_pbc" where a clone of the best episodes may say something new (`tempers`) and networks read the pairs, else "av_pbc"; for a
    teacher that acts outside of the data "filtered_dbc" if the pairs are read at infinite width, else "robust_dbc".
    """
    if name != "auto":
        return name
    if labels.teacher_distance is None:
        raise TeacherError('objective="auto" needs a teacher\'s actions and values; give `teacher=`.')
    if labels.teacher_distance <= FARTHEST:
        return "tempered_pbc" if tempers and config.clone_steps and not config.recipe.infinite else "av_pbc"
    return "filtered_dbc" if config.recipe.infinite else "robust_dbc"


@objective("auto", needs_q=True)
def auto(labels: Labels, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """What `settled` says, without a clone: Av-PBC, or DBC where the teacher acts outside of the data. Returns y (N, act_dim) and w (N, 1)."""
    return find_objective(settled("auto", labels, config))(labels, config)


def _done(labels: Labels) -> Tensor:
    return labels.act if labels.clone_act is None else labels.clone_act


def _known(value: Tensor | None, objective: str) -> Tensor:
    if value is None:
        raise TeacherError(f"objective={objective!r} needs a teacher's actions and values; give `teacher=`.")
    return value
