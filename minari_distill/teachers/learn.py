"""From transitions to a teacher, by the method that the settings name.

A method is a `Trainer` in its own file; add yours to `TRAINERS`, to `DISCRETE_TRAINERS` or to both, and to
`DistillConfig.teacher_method`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.devices import resolve_device
from minari_distill.errors import TeacherError
from minari_distill.files import write_atomically
from minari_distill.progress import Progress, Report, silent
from minari_distill.teachers.cal_ql import CalQL
from minari_distill.teachers.discrete_cal_ql import DiscreteCalQL
from minari_distill.teachers.filtered_bc import FilteredBC
from minari_distill.teachers.teacher import Teacher
from minari_distill.teachers.training import Trainer
from minari_distill.transitions import Transitions

TRAINERS: dict[str, type[Trainer]] = {"cal_ql": CalQL, "filtered_bc": FilteredBC}
"""Methods by name, for continuous actions (and for vectors of several categories, treated as such)."""

DISCRETE_TRAINERS: dict[str, type[Trainer]] = {"cal_ql": DiscreteCalQL, "filtered_bc": FilteredBC}
"""Methods by name, where the action is one choice among n."""

_REPORT_SECONDS = 1.0
_CHECKPOINT_SECONDS = 60.0


def settle_teacher(config: DistillConfig) -> DistillConfig:
    """The settings with the method and the number of steps that "auto" and 0 stand for.

    Cal-QL's million steps take hours to days on a CPU, where cloning the best episodes takes a minute or two, and is as
    good wherever some episodes are good (docs/results.md).
    """
    method = config.teacher_method
    if method == "auto":
        method = "cal_ql" if resolve_device(config.device).type == "cuda" else "filtered_bc"
    trainer = (DISCRETE_TRAINERS | TRAINERS)[method]
    return config.replace(teacher_method=method, teacher_steps=config.teacher_steps or trainer.usual_steps)


def make_trainer(transitions: Transitions, config: DistillConfig) -> Trainer:
    """The trainer of `config.teacher_method`, at its first step.

    Raises:
        TeacherError: The method is none for such actions.
    """
    config = settle_teacher(config)
    discrete = transitions.action_codec.is_discrete
    trainers = DISCRETE_TRAINERS if discrete else TRAINERS
    if config.teacher_method not in trainers:
        raise TeacherError(
            f"teacher_method={config.teacher_method!r} learns no {'discrete' if discrete else 'continuous'} actions. "
            f"Choose one of: {', '.join(trainers)}."
        )
    return trainers[config.teacher_method](transitions, config, resolve_device(config.device))


def learn_teacher(
    transitions: Transitions,
    config: DistillConfig,
    *,
    report: Report = silent,
    checkpoint: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Teacher:
    """Learn (π*, q) offline; the same seed gives the same teacher on one device.

    Args:
        transitions: The dataset.
        config: Method, steps, seed, device.
        report: Receives progress about once a second.
        checkpoint: A file to keep the state in, about once a minute. If it exists, training goes on from it,
            to the very teacher of an unbroken run.
        should_stop: Asked about once a second.

    Raises:
        TeacherError: Stopped before the end, or the checkpoint is unreadable or of another training.
        Diverged: The loss is no longer finite.
    """
    trainer = make_trainer(transitions, config)
    if checkpoint is not None and checkpoint.exists():
        trainer.load_state_dict(_read_state(checkpoint))
    started, first, chunk = time.perf_counter(), trainer.step_count, 1
    kept = started
    while trainer.step_count < trainer.total_steps:
        n_steps = min(chunk, trainer.total_steps - trainer.step_count)
        began = time.perf_counter()
        loss = trainer.advance(n_steps)
        now = time.perf_counter()
        chunk = max(1, min(2 * chunk, int(_REPORT_SECONDS * n_steps / max(now - began, 1e-9))))
        per_step = (now - started) / (trainer.step_count - first)
        report(
            Progress(
                "teacher",
                step=trainer.step_count,
                total=trainer.total_steps,
                loss=loss,
                seconds_left=per_step * (trainer.total_steps - trainer.step_count),
            )
        )
        stopped = should_stop() and trainer.step_count < trainer.total_steps
        if checkpoint is not None and (stopped or now - kept > _CHECKPOINT_SECONDS):
            write_atomically(checkpoint, save(trainer.state_dict()))
            kept = now
        if stopped:
            raise TeacherError(
                f"Stopped at step {trainer.step_count} of {trainer.total_steps} of the teacher"
                + (
                    "; go on with resume=True (--resume)."
                    if checkpoint
                    else ", which had no checkpoint file to go on from."
                )
            )
    return trainer.teacher()


def estimate_seconds(transitions: Transitions, config: DistillConfig, *, seconds: float = 1.0) -> float:
    """How long `learn_teacher` will take on this machine at most, from the steps that `seconds` allow.

    The very first steps, which pay for fresh memory and the libraries' own start, are not counted; of the others the median
    is taken, since on busy cores single ones wait for long.
    """
    trainer = make_trainer(transitions, config)
    trainer.cost_as_late()
    trainer.advance(2)
    times = [time.perf_counter()]
    while len(times) < 2 or times[-1] - times[0] < seconds:
        trainer.advance(1)
        times.append(time.perf_counter())
    spent = (later - earlier for earlier, later in itertools.pairwise(times))
    return statistics.median(spent) * trainer.total_steps


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as fault:
        raise TeacherError(
            f"The teacher's checkpoint '{path}' cannot be read ({fault}): delete it to start the teacher anew."
        ) from fault
