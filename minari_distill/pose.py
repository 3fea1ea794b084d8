"""What a distillation is asked: states of the dataset, what a student should do there, how much each counts, and the first pairs.

hold out    whole episodes, which no outer step sees
label       what the data did, what the teacher does and its value, what a clone does (`labelling.py`, `clone.py`)
choose      the objective that "auto" stands for (`objectives.py`)
normalise   everything from here to the synset is in normalised numbers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from minari_distill.best_episodes import best_transitions
from minari_distill.clone import Clone, clone_data
from minari_distill.config import DistillConfig
from minari_distill.devices import resolve_device, resolve_precision
from minari_distill.draws import keyed_generator
from minari_distill.errors import ConfigError, DatasetError
from minari_distill.initializers import initial_indices
from minari_distill.labelling import clone_gap, label
from minari_distill.metric import WIDEST, input_metric
from minari_distill.objectives import NO_CLONE, Labels, clone_share, find_objective, settled
from minari_distill.outer import Problem
from minari_distill.room import blocks
from minari_distill.support import action_spread, teacher_distance
from minari_distill.teachers import Teacher, settle_teacher
from minari_distill.transitions import Transitions
from minari_distill.units import Units

_OUTSIDE = (
    "The teacher differs from what the data do by {distance:.1f} times the variance of the data's own actions: what it would "
    "meet is not in them, so the pairs match the actions of {matched} (objective={objective}). To match the teacher all the same: "
    "objective=av_pbc."
)
_CLIPPED = (
    "{share:.0%} of the teacher's actions lie outside of the range that students act in, which is that of the dataset's actions "
    "where the bounds of the action space are infinite or a hundred times as far: they are clipped to it."
)
_CLIPPED_DATA = "{share:.0%} of the dataset's actions lie outside of the bounds of its action space: they are clipped to them."
_TEMPERED = (
    "The teacher's critic says that the clone of the best episodes loses {gap:.0%} of the teacher's value: the pairs match {share:.0%} "
    "of what the clone does, and the rest of the teacher (objective={objective}). To match the teacher alone: objective=av_pbc."
)
_ALL_CLONE = (
    "The teacher's critic says that the clone of the best episodes loses nothing of the teacher's value: the pairs match the clone "
    "(objective={objective}). To match the teacher: objective=av_pbc."
)
_ALL_TEACHER = "The teacher's critic says that the clone of the best episodes loses all of the teacher's value: the pairs match the teacher."
_BLIND = (
    "The teacher's values q do not depend on the action, so that they tell nothing of a clone of the best episodes: the teacher alone is "
    "matched."
)
_DATA, _BEST = "all data", "the best episodes"

Policy = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Posed:
    """What the outer loop starts from.

    Attributes:
        units: Between the source's numbers and the problem's.
        problem: States, targets and weights, in normalised numbers.
        S, A: The initial pairs, (n_syn, obs_dim) and (n_syn, act_dim).
        config: The settings, with the objective named that "auto" stands for.
        teacher_distance: ρ of `support.py`, where the objective was "auto".
        clone_gap: What the critic says of the clone (`labelling.clone_gap`), where the objective asks it, as "tempered_pbc" does, and it says something.
    """

    units: Units
    problem: Problem
    S: torch.Tensor
    A: torch.Tensor
    config: DistillConfig
    teacher_distance: float | None
    clone_gap: float | None = None


def pose(
    transitions: Transitions,
    teacher: Teacher | None,
    config: DistillConfig,
    say: Callable[[str], None] = lambda _: None,
) -> Posed:
    """The problem in normalised numbers, and the initial pairs; `say` hears of what takes a while."""
    units, room = transitions.units(), transitions.room
    generator = torch.Generator().manual_seed(config.seed)
    held = _held_out(transitions, config, generator)
    discrete = transitions.action_codec.is_discrete
    asks = find_objective(config.objective).needs_teacher
    labels = label(transitions, units, teacher if asks else None, config)
    obs = labels.obs
    assert obs is not None
    if not discrete:
        for actions, told in ((labels.act, _CLIPPED_DATA), (labels.teacher_act, _CLIPPED)):
            outside = 0.0 if actions is None else _clip(actions)
            if outside > 0.005:
                say(told.format(share=outside))
    auto = config.objective == "auto"
    if auto and labels.teacher_act is not None:
        distance = teacher_distance(obs, labels.act, labels.teacher_act, torch.from_numpy(held))
        labels = dataclasses.replace(labels, teacher_distance=distance)
        # what clones the best episodes itself has nothing to gain from another clone of them
        other = teacher is not None and teacher.metadata.get("method") != "filtered_bc"
        tempers = other and not discrete and bool((_best_states(transitions, config) & ~held).any())
        config = config.replace(objective=settled("auto", labels, config, tempers=tempers))
    objective = find_objective(config.objective)
    seen = ~held
    if objective.best_only:
        try:
            seen, held = _of_the_best(transitions, config, generator)
        except DatasetError:
            if not auto:
                raise
            config = config.replace(objective="robust_dbc")
            objective = find_objective(config.objective)
            say(f"The best episodes hold too few states for n_syn={config.n_syn}: all are asked.")
    if auto and not objective.needs_teacher:
        instead = _BEST if objective.best_only else _DATA
        say(_OUTSIDE.format(distance=labels.teacher_distance, matched=instead, objective=objective.name))
    clone = gap = None
    if objective.needs_clone and config.clone_steps:
        what, cloned = _DATA, seen
        if objective.best_only or objective.best_clone:
            what, cloned = _BEST, _best_seen(transitions, config, held)
        say(
            f"First the actions of {what} are cloned, for {objective.name}: a few minutes on a CPU core at most."
        )
        clone, labels = _clone(transitions, labels, cloned, config)
        if objective.best_clone and teacher is not None and labels.teacher_q is not None:
            gap = clone_gap(transitions, units, teacher, labels, cloned, config)
            told = (
                _BLIND if gap is None else _ALL_CLONE if gap <= 0 else _ALL_TEACHER if gap >= 1 else _TEMPERED
            )
            say(told.format(gap=gap, share=clone_share(gap or 0.0), objective=objective.name))
            labels = dataclasses.replace(labels, clone_gap=1.0 if gap is None else gap)
    matched = teacher is not None and objective.needs_teacher
    if not (matched or clone or config.metric_lr):
        config = _without_metric(config, say)
    target, weight = objective(labels, config)

    low, high = (
        torch.as_tensor((b - transitions.observation_mean) / transitions.observation_std).float()
        for b in (transitions.observation_codec.low, transitions.observation_codec.high)
    )

    def taken(array: torch.Tensor, which: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(room.taken(array.numpy(), which))

    def decide(x: torch.Tensor) -> torch.Tensor:
        assert teacher is not None
        raw = units.denormalise(x).float().to(resolve_device(config.device))
        asked = units.scale(teacher.policy(raw).cpu())
        return asked if discrete else asked.clamp(-1, 1)

    delta = 0.0 if discrete else objective.forgiving
    if delta:
        delta = max(delta, (action_spread(obs, target, torch.from_numpy(held)) / 2) ** 0.5)
    known = taken(obs, seen)
    metric = None
    if config.metric_share:  # of what is matched, if that can be asked; else it is to be learnt from nothing
        matching: Policy | None = clone or (decide if matched else None)
        if clone and labels.clone_gap is not None:
            matching = _between(decide, clone, clone_share(labels.clone_gap))
        metric = input_metric(matching, known) if matching else torch.eye(transitions.obs_dim)
    problem = Problem(
        known,
        taken(target, seen),
        taken(weight, seen),
        taken(obs, held),
        taken(target, held),
        taken(weight, held),
        low,
        high,
        discrete,
        metric,
        delta,
    )
    chosen = initial_indices(config.initializer, problem.obs, config.n_syn, generator)
    A = problem.target[chosen]
    if config.initializer == "random":
        A = labels.act[np.flatnonzero(seen)[chosen.numpy()]]
    S, A = problem.obs[chosen].clone(), A if discrete else A.clamp(-1, 1)
    return Posed(units, problem, S, A, config, labels.teacher_distance, gap)


def _clip(act: torch.Tensor) -> float:
    """Actions (N, act_dim) brought into [−1, 1] where they lie; the share of the N that were outside by more than rounding."""
    beyond = 0
    for rows in blocks(len(act)):
        beyond += int((act[rows].abs() > 1.001).any(1).sum())
        act[rows].clamp_(-1, 1)
    return beyond / len(act)


def _between(one: Policy, other: Policy, share: float) -> Policy:
    """A policy that does a share of what the other does, and the rest of the one."""
    return lambda x: (1 - share) * one(x) + share * other(x)


def _best_states(transitions: Transitions, config: DistillConfig) -> np.ndarray:
    """Which states (N,) are of the best episodes."""
    best = np.zeros(len(transitions), dtype=bool)
    best[best_transitions(transitions, config.top_fraction)] = True
    return best


def _best_seen(transitions: Transitions, config: DistillConfig, held: np.ndarray) -> np.ndarray:
    """Which states (N,) of the best episodes are not held out: those that may be cloned."""
    seen = _best_states(transitions, config) & ~held
    if not seen.any():  # of two episodes the better one may be held out
        raise DatasetError(
            f"objective={config.objective!r} clones the best episodes, and all of them are held out. Give a top_fraction above "
            f"{config.top_fraction}, or another objective."
        )
    return seen


def _of_the_best(
    transitions: Transitions, config: DistillConfig, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which states of the best episodes (N,) are seen, and which are held out."""
    best = _best_states(transitions, config)
    held = _held_out(transitions, config, generator, best)
    seen = best & ~held
    if seen.sum() < config.n_syn:
        raise DatasetError(
            f"n_syn={config.n_syn}, but objective={config.objective!r} asks {seen.sum()} states alone, those of the best episodes. Give "
            f"{f'n_syn of at most {seen.sum()}, or ' if seen.any() else ''}a top_fraction above {config.top_fraction}."
        )
    return seen, held


def _without_metric(config: DistillConfig, say: Callable[[str], None]) -> DistillConfig:
    if not config.recipe.infinite:
        return config.replace(metric_share=0.0)
    say(
        "There is no input metric here, so that the pairs are distilled for networks and not for infinite width."
    )
    # networks need their pool, else every step trains a student from its beginning
    return config.replace(metric_share=0.0, infinite_width=False, student_pool=DistillConfig().student_pool)


def _clone(
    transitions: Transitions, labels: Labels, seen: np.ndarray, config: DistillConfig
) -> tuple[Clone, Labels]:
    """A clone of the data that may be seen, and the labels with what it does in every state."""
    obs, device = labels.obs, resolve_device(config.device)
    assert obs is not None
    clone = clone_data(
        obs,
        labels.act,
        torch.from_numpy(seen),
        discrete=transitions.action_codec.is_discrete,
        steps=config.clone_steps,
        generator=keyed_generator(device, config.seed, -5),
    )
    shape = tuple(labels.act.shape[1:])
    done = transitions.room.filled(len(obs), shape, "float32", lambda rows: clone(obs[rows]).numpy())
    return clone, dataclasses.replace(labels, clone_act=torch.from_numpy(done))


def fit_to(config: DistillConfig, transitions: Transitions, say: Callable[[str], None]) -> DistillConfig:
    """The settings that only the data can decide."""
    if config.holdout_fraction > 0.5:
        raise ConfigError(
            f"holdout_fraction={config.holdout_fraction} must be at most 0.5, for example holdout_fraction=0.1: the pairs are learnt from "
            "the rest."
        )
    generator = torch.Generator().manual_seed(config.seed)
    held = _held_out(transitions, config, generator)  # as `pose` draws
    most = len(transitions) - int(held.sum())
    if config.n_syn > most:
        raise DatasetError(
            f"n_syn={config.n_syn}, but {', '.join(transitions.source.dataset_ids)} has {len(transitions)} "
            f"transitions, {held.sum()} of them held out. Give {f'n_syn of at most {most}' if most else 'a longer dataset'}."
        )
    if transitions.action_codec.is_discrete:
        config = config.replace(head="softmax")
    elif config.head == "softmax":
        raise ConfigError(
            'head="softmax" gives probabilities of discrete actions, and these actions are not. Give head="tanh" or head="linear".'
        )
    if transitions.obs_dim > WIDEST:
        config = _without_metric(config, say)
    objective = find_objective(config.objective)
    if objective.best_only:
        _of_the_best(transitions, config, generator)
    if objective.name == "tempered_pbc" and not config.clone_steps:
        raise ConfigError(NO_CLONE)
    if objective.best_clone and config.clone_steps:
        _best_seen(transitions, config, held)
    config = settle_teacher(config)
    return config.replace(precision=resolve_precision(config.precision, resolve_device(config.device)))


def _held_out(
    transitions: Transitions,
    config: DistillConfig,
    generator: torch.Generator,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Which states (N,) no outer step may see: whole episodes, or the end of the only one; `among` some episodes' (N,)."""
    starts = np.append(transitions.episode_starts, len(transitions))
    held = np.zeros(len(transitions), dtype=bool)
    chosen = np.arange(len(transitions)) if among is None else np.flatnonzero(among)
    episodes = np.flatnonzero(np.ones(len(starts) - 1) if among is None else among[starts[:-1]])
    wanted = max(1, round(config.holdout_fraction * len(chosen)))
    if len(episodes) > 1:
        for episode in episodes[torch.randperm(len(episodes), generator=generator).numpy()]:
            if held.sum() >= wanted:
                break
            if held.sum() + starts[episode + 1] - starts[episode] > len(chosen) / 2:
                continue
            held[starts[episode] : starts[episode + 1]] = True
    if held.sum() < wanted / 2:  # one episode, or very unequal ones
        held[:] = False
        held[chosen[-wanted:]] = True
    return held
