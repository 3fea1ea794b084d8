"""The whole story on one page: dataset → teacher → distillation → synset.

load        transitions of one or several Minari datasets
teacher     (π*, q) read from a file, or learnt offline
pose        states, targets y(s) and weights w(s); some states held out
initialise  n_syn pairs
distil      (fresh students → inner loop → outer loss → meta-gradient → update)*
select      the pairs with the lowest held-out loss
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_distill import __version__, layout
from minari_distill.best_episodes import best_transitions
from minari_distill.clone import Clone, clone_data
from minari_distill.config import DistillConfig, make_config
from minari_distill.devices import resolve_device, resolve_precision
from minari_distill.draws import keyed_generator
from minari_distill.errors import ConfigError, DatasetError
from minari_distill.initializers import initial_indices
from minari_distill.labelling import label
from minari_distill.metric import WIDEST, input_metric
from minari_distill.objectives import Labels, find_objective, settled
from minari_distill.outer import OuterLoop, Problem
from minari_distill.progress import Progress, Report, duration, to_stderr
from minari_distill.room import blocks
from minari_distill.runs import Run
from minari_distill.support import action_spread, teacher_distance
from minari_distill.synset import Synset
from minari_distill.teachers import (
    Teacher,
    estimate_seconds,
    learn_teacher,
    load_teacher,
    settle_teacher,
)
from minari_distill.team import Team
from minari_distill.transitions import Transitions, load_transitions
from minari_distill.units import Units

_OUTSIDE = (
    "The teacher differs from what the data do by {distance:.1f} times the variance of the data's own actions: what it would "
    "meet is not in them, so the pairs match the actions of {matched} (objective={objective}). To match the teacher all the same: "
    "objective=av_pbc."
)
_ON_CPU = (
    "The teacher will be a clone of the best episodes (teacher_method=filtered_bc): Cal-QL, which can join the good parts of "
    "bad episodes, takes hours to days on a CPU. To learn it all the same: teacher_method=cal_ql."
)
_UNRESOLVED = (
    "These numbers of the observation vary so little around a large mean that float32, in which students calculate, cannot tell "
    "their values apart: {names}. Subtract the mean in the dataset, or leave such a part out with drop."
)
_CLIPPED = (
    "{share:.0%} of the teacher's actions lie outside of the range that students act in, which is that of the dataset's actions "
    "where the bounds of the action space are infinite or a hundred times as far: they are clipped to it."
)
_DATA, _BEST = "all data", "the best episodes"


def distill(
    dataset: Any,
    *,
    teacher: Any = None,
    preset: str = "default",
    config: DistillConfig | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    drop: Sequence[str] = (),
    dtype: str = "float32",
    report: Report = to_stderr,
    should_stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> Synset:
    """Distil a Minari dataset into `n_syn` synthetic (state, action) pairs.

    >>> import minari_distill as md
    >>> synset = md.distill("demo/hopper-medium-replay-v0", preset="quick", n_syn=64)  # doctest: +SKIP
    >>> synset.save("me/hopper-distilled-v0")  # doctest: +SKIP

    Args:
        dataset: A Minari id (downloaded if it is not local), a `MinariDataset`, a folder, or a list of
            them; "demo/hopper-medium-replay-v0" ships with the package.
        teacher: A `Teacher` or a file: safetensors, or an agent of your own (`agent.zip` of Stable-Baselines3,
            `agent.d3` of d3rlpy, `policy.onnx`, TorchScript `policy.pt`); learnt from the dataset if left out.
        preset: "default", "infinite" (for this package's own students, who lose next to nothing), "quick" (minutes on two
            CPU cores) or "paper" (the published procedure).
        config: All settings at once, instead of `preset`.
        run_dir: Where checkpoints, the learnt teacher and the settings are kept; nothing is kept if left out.
        resume: Go on from the checkpoint in `run_dir`, to the very result of an unbroken run.
        drop: Names of observation parts to leave out, for instance ["mission"].
        dtype: Of the synset's vectors: "float32", or "float64" to keep what a float64 dataset holds.
        report: Receives messages and progress; `progress.silent` for none.
        should_stop: Asked after every outer step; once true, the best synset so far is returned.
        **overrides: Any field of `DistillConfig`, for instance `n_syn=64` or `objective="pbc"`.

    Returns:
        The synset with the lowest loss on held-out states.

    Raises:
        MinariDistillError: One sentence that names what to repair.
    """
    settings = config.replace(**overrides) if config else make_config(preset, **overrides)
    objective = find_objective(settings.objective)
    device = resolve_device(settings.device)

    def say(text: str) -> None:
        report(Progress("message", text))

    given = None if teacher is None else load_teacher(teacher)
    if given is not None and objective.needs_q:
        given.check_has_q(settings.objective)
    drop = (drop,) if isinstance(drop, str) else tuple(drop)
    transitions = load_transitions(
        dataset, drop=drop, dtype=dtype, memory_share=settings.memory_share, on_message=say
    )
    # what would end the save, before hours of work
    layout.check_keys("observation", transitions.observation_codec)
    layout.check_keys("action", transitions.action_codec)
    if names := transitions.unresolved():
        say(_UNRESOLVED.format(names=", ".join(names[:5])))
    open_choice = settings.teacher_method == "auto"
    settings = _fit_to(settings, transitions, say)
    team = Team()
    team.share(settings.n_students)  # too few of them: before a run is begun
    answers = None if given is None else _answers(given, transitions)
    with Run.open(
        run_dir, settings, transitions.source, resume=resume, drop=drop, dtype=dtype, answers=answers
    ) as run:
        given = given or run.teacher()
        learning = given is None and objective.needs_teacher
        if learning and open_choice and settings.teacher_method == "filtered_bc":
            say(_ON_CPU)
        if learning or settings.outer_steps:
            say(how_long(transitions, settings, learning=learning))
        started = time.perf_counter()
        if learning:

            def learn(stop: Callable[[], bool]) -> None:
                nonlocal given
                given = learn_teacher(
                    transitions, settings, report=report, checkpoint=run.teacher_checkpoint, should_stop=stop
                )
                run.keep_teacher(given)

            team.first_alone(learn, device, should_stop)
            given = run.teacher() if team.rank else given
        chosen = None if given is None else given.to(device)
        teacher_seconds = time.perf_counter() - started

        posed = pose(transitions, chosen, settings, say)
        settings, units = posed.config, posed.units
        if posed.teacher_distance is not None and settings.objective != "av_pbc":
            matched = _BEST if find_objective(settings.objective).best_only else _DATA
            say(
                _OUTSIDE.format(
                    distance=posed.teacher_distance, matched=matched, objective=settings.objective
                )
            )
        outer = OuterLoop(posed.problem, posed.S, posed.A, settings, device)
        run.restore(outer)
        best = _distil(outer, run, report, should_stop)

    vectors = torch.float64 if transitions.observation_codec.dtype == np.float64 else torch.float32
    return Synset(
        # rounding in float32 may step over a bound, and probabilities must add up to 1
        observations=transitions.observation_codec.project(
            units.denormalise(best.S.cpu().to(vectors)).numpy(), soft=True
        ),
        actions=transitions.action_codec.project(units.unscale(best.A.cpu().to(vectors)).numpy(), soft=True),
        observation_codec=transitions.observation_codec,
        action_codec=transitions.action_codec,
        source=transitions.source,
        observation_mean=transitions.observation_mean,
        observation_std=transitions.observation_std,
        recipe=settings.recipe,
        input_metric=None if best.metric is None else best.metric.cpu().float().numpy(),
        config=settings,
        metadata={
            "teacher": None if chosen is None else chosen.metadata,
            "teacher_distance": posed.teacher_distance,
            "held_out_loss": best.loss,
            "best_step": best.step,
            "outer_steps_done": outer.step_count,
            "skipped_steps": int(outer.skipped),
            "history": run.history,
            "action_range": [units.act_low.tolist(), units.act_high.tolist()],
            "seconds": {"teacher": round(teacher_seconds, 1), "distillation": round(run.seconds, 1)},
            "device": str(device),
            "versions": {"minari_distill": __version__, "torch": torch.__version__},
        },
    )


def _answers(teacher: Teacher, transitions: Transitions) -> torch.Tensor:
    """What a teacher does in eight states spread over the dataset, (8, act_dim)."""
    teacher.check_fits(transitions.obs_dim, transitions.act_dim)
    some = np.linspace(0, len(transitions) - 1, 8).astype(int)
    return teacher.to("cpu").policy(torch.from_numpy(np.asarray(transitions.observations[some])).float())


@dataclass(frozen=True)
class Posed:
    """What the outer loop starts from.

    Attributes:
        units: Between the source's numbers and the problem's.
        problem: States, targets and weights, in normalised numbers.
        S, A: The initial pairs, (n_syn, obs_dim) and (n_syn, act_dim).
        config: The settings, with the objective named that "auto" stands for.
        teacher_distance: ρ of `support.py`, where the objective was "auto".
    """

    units: Units
    problem: Problem
    S: torch.Tensor
    A: torch.Tensor
    config: DistillConfig
    teacher_distance: float | None


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
    if labels.teacher_act is not None and not discrete:
        outside = _clip(labels.teacher_act)
        if outside > 0.005:
            say(_CLIPPED.format(share=outside))
    auto = config.objective == "auto"
    if auto and labels.teacher_act is not None:
        distance = teacher_distance(obs, labels.act, labels.teacher_act, torch.from_numpy(held))
        labels = dataclasses.replace(labels, teacher_distance=distance)
        config = config.replace(objective=settled("auto", labels, config))
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
    clone = None
    if objective.needs_clone and config.clone_steps:
        what, cloned = _DATA, seen
        if objective.best_only or objective.best_clone:
            what, cloned = _BEST, seen & _best_states(transitions, config)
            if not cloned.any():  # of two episodes the better one may be held out
                raise DatasetError(
                    f"objective={objective.name!r} clones the best episodes, and all of them are held out. Give a top_fraction above "
                    f"{config.top_fraction}, or another objective."
                )
        say(
            f"First the actions of {what} are cloned, for {objective.name}: a few minutes on a CPU core at most."
        )
        clone, labels = _clone(transitions, labels, cloned, config)
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
        asked = [policy for policy in (clone, decide if matched else None) if policy]
        metric = input_metric(_mean(asked), known) if asked else torch.eye(transitions.obs_dim)
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
    return Posed(units, problem, S, A, config, labels.teacher_distance)


def _clip(act: torch.Tensor) -> float:
    """Actions (N, act_dim) brought into [−1, 1] where they lie; the share of the N that were outside by more than rounding."""
    beyond = 0
    for rows in blocks(len(act)):
        beyond += int((act[rows].abs() > 1.001).any(1).sum())
        act[rows].clamp_(-1, 1)
    return beyond / len(act)


def _mean(
    policies: Sequence[Callable[[torch.Tensor], torch.Tensor]],
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: sum(policy(x) for policy in policies) / len(policies)  # type: ignore[return-value]


def _best_states(transitions: Transitions, config: DistillConfig) -> np.ndarray:
    """Which states (N,) are of the best episodes."""
    best = np.zeros(len(transitions), dtype=bool)
    best[best_transitions(transitions, config.top_fraction)] = True
    return best


def _of_the_best(
    transitions: Transitions, config: DistillConfig, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which states of the best episodes (N,) are seen, and which are held out."""
    best = _best_states(transitions, config)
    held = _held_out(transitions, config, generator, best)
    seen = best & ~held
    if seen.sum() < config.n_syn:
        raise DatasetError(
            f"n_syn={config.n_syn}, but objective={config.objective!r} asks {seen.sum()} states alone, those of the best episodes. "
            f"Give n_syn of at most {seen.sum()}, or a top_fraction above {config.top_fraction}."
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


def how_long(transitions: Transitions, config: DistillConfig, *, learning: bool) -> str:
    """One sentence: what this run will take on this machine, from a few timed steps, and what to choose instead."""
    config = settle_teacher(config)
    teacher = estimate_seconds(transitions, config) if learning else 0.0
    outer = 0.0
    if config.outer_steps:
        step, validation = seconds_of_a_step(config, transitions.obs_dim, transitions.act_dim)
        outer = (
            config.outer_steps * step
            + (1 + math.ceil(config.outer_steps / config.validate_every)) * validation
        )
    parts = [f"teacher ({config.teacher_method}) about {duration(teacher)}"] if learning else []
    text = f"On this machine: {', '.join([*parts, f'distillation about {duration(outer)}'])}."
    if learning and teacher > 1800:
        quick = (
            "teacher_steps=5000" if config.teacher_method == "filtered_bc" else "teacher_method=filtered_bc"
        )
        text += f" For a teacher in minutes choose {quick} (--set {quick}), or give one by teacher=."
    if outer > 1800:
        steps = max(1, int(config.outer_steps * 600 / outer))
        text += f" For a distillation of ten minutes choose outer_steps={steps} (--set outer_steps={steps})."
    return text


def seconds_of_a_step(config: DistillConfig, obs_dim: int, act_dim: int) -> tuple[float, float]:
    """Seconds that an outer step and a validation take here, from a few timed ones on random numbers of the same sizes."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(64, obs_dim, generator=generator)
    act, unbounded = torch.zeros(64, act_dim), torch.full((obs_dim,), float("inf"))
    weight = torch.ones(64, 1)
    metric = torch.eye(obs_dim) if config.metric_share and obs_dim <= WIDEST else None
    problem = Problem(obs, act, weight, obs, act, weight, -unbounded, unbounded, metric=metric)
    S, A = torch.randn(config.n_syn, obs_dim, generator=generator), torch.zeros(config.n_syn, act_dim)
    outer = OuterLoop(problem, S, A, config, resolve_device(config.device))
    # The first ones pay for fresh memory and for the libraries' own start; on a GPU, for the graphs of both kinds of step.
    warm_up, timed = (2, 2) if outer.device.type == "cpu" else (20, 10)
    for _ in range(warm_up):
        outer.step()
    outer.read_loss()  # waits for a GPU
    started = time.perf_counter()
    for _ in range(timed):
        outer.step()
    outer.read_loss()
    step = (time.perf_counter() - started) / timed
    if config.recipe.infinite:
        started = time.perf_counter()
        outer.held_out_loss()
        return step, time.perf_counter() - started
    asked = config.recipe.steps
    some = min(asked, 20)  # inner steps, all alike; the reading of the held-out states is little beside them
    for steps in (2, some):  # the first ones warm up
        started = time.perf_counter()
        outer.validation.train(outer.validation_start, outer.S, outer.A, steps=steps).sum().item()
    return step, (time.perf_counter() - started) * asked / some


def _fit_to(config: DistillConfig, transitions: Transitions, say: Callable[[str], None]) -> DistillConfig:
    """The settings that only the data can decide."""
    generator = torch.Generator().manual_seed(config.seed)
    held = _held_out(transitions, config, generator)  # as `pose` draws
    most = len(transitions) - int(held.sum())
    if config.n_syn > most:
        raise DatasetError(
            f"n_syn={config.n_syn}, but {', '.join(transitions.source.dataset_ids)} has {len(transitions)} "
            f"transitions, {held.sum()} of them held out. Give n_syn of at most {max(most, 1)}."
        )
    if transitions.action_codec.is_discrete:
        config = config.replace(head="softmax")
    elif config.head == "softmax":
        raise ConfigError(
            'head="softmax" gives probabilities of discrete actions, and these actions are not. Give head="tanh" or head="linear".'
        )
    if transitions.obs_dim > WIDEST:
        config = _without_metric(config, say)
    if find_objective(config.objective).best_only:
        _of_the_best(transitions, config, generator)
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


def _distil(outer: OuterLoop, run: Run, report: Report, should_stop: Callable[[], bool]):
    """Outer steps until done or stopped; returns the best pairs by held-out loss.

    Raises:
        Diverged: No pairs have a finite one.
    """
    config = outer.config
    if run.best is None:
        run.note(outer, None, outer.held_out_loss())
    began, first, before = time.perf_counter(), outer.step_count, run.seconds
    while outer.step_count < config.outer_steps and not outer.team.any(should_stop(), outer.device):
        outer.step()
        done, last = outer.step_count, outer.step_count == config.outer_steps
        if done % config.validate_every == 0 or last:
            run.note(outer, outer.read_loss(), outer.held_out_loss())
        run.seconds = before + time.perf_counter() - began
        if done % config.checkpoint_every == 0 or last:
            run.keep(outer)
        per_step = (run.seconds - before) / (done - first)
        latest = run.history[-1]
        report(
            Progress(
                "distil",
                step=done,
                total=config.outer_steps,
                loss=latest["loss"],
                held_out_loss=latest["held_out_loss"],
                seconds_left=per_step * (config.outer_steps - done),
            )
        )
    assert run.best is not None
    best = run.best
    if outer.step_count < config.outer_steps:  # stopped early: what was done since must not be lost
        run.keep(outer)
        if (
            outer.step_count > run.history[-1]["step"]
        ):  # judged for who stopped it; the run goes on as if it were not
            best = best.or_better(outer, outer.held_out_loss())
    if not math.isfinite(best.loss):
        raise outer.diverged("No pairs have a finite held-out loss")
    return best
