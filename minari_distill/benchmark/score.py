"""One cell: its synset (or teacher, or all the data), its students, their scores as rows.

The distillation keeps its checkpoint, so that a cell that was cut off goes on where it was. A snapshot is taken by
stopping there and going on, which `distill` promises to change nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from minari_distill import __version__
from minari_distill.benchmark.bc import clone_all
from minari_distill.benchmark.cells import Cell, Reading
from minari_distill.config import make_config
from minari_distill.devices import resolve_device
from minari_distill.distill import distill
from minari_distill.errors import ConfigError, TeacherError
from minari_distill.evaluate import Evaluation, TeacherPolicy, evaluate
from minari_distill.expand import expand
from minari_distill.loading import load_synset
from minari_distill.objectives import needs_teacher
from minari_distill.policy import Policy
from minari_distill.progress import Progress, Report
from minari_distill.recipe import StudentRecipe
from minari_distill.students import behavior_clone, resolve_recipe
from minari_distill.synset import Synset
from minari_distill.teachers import TEACHER_SETTINGS, learn_teacher, load_teacher, save_teacher
from minari_distill.transitions import load_transitions

Row = dict[str, Any]
Ask = Callable[[], bool]


class Stopped(Exception):
    """Asked to end before the cell was complete; its checkpoint and its rows are kept."""


def score_cell(
    cell: Cell, readings: list[Reading], out: Path, report: Report, should_stop: Ask
) -> Iterator[tuple[Reading, Row]]:
    """The rows of some readings of a cell, each as soon as it is known.

    Args:
        cell: What to distil, learn or clone.
        readings: Which of the cell's readings to take.
        out: The benchmark's folder: checkpoints, synsets and learnt teachers are kept there.
        report: Receives progress.
        should_stop: Asked after every outer step, about once a second of a teacher's, and between readings.

    Raises:
        Stopped: `should_stop` said so, and there is more to do.
    """
    take = {"teacher": _teacher_rows, "bc": _bc_rows}.get(cell.method, _synset_rows)
    for reading, row in take(cell, readings, out, report, should_stop):
        yield reading, _common(cell, reading) | row
        if should_stop() and reading is not readings[-1]:
            raise Stopped


def teacher_file(cell: Cell, out: Path) -> Path:
    """The teacher of a cell's dataset: as given, or where the teacher's cell puts the one that it learns."""
    if cell.dataset.teacher:
        return Path(cell.dataset.teacher)
    config = make_config(cell.preset, **cell.settings)
    fields = {name: getattr(config, name) for name in TEACHER_SETTINGS if name != "seed"}
    learning = Cell(cell.dataset, "teacher", (), settings=fields)
    return out / "teachers" / f"{learning.run_name}.safetensors"


# ------------------------------------------------------------------------------------------- the kinds


def _teacher_rows(
    cell: Cell, readings: list[Reading], out: Path, report: Report, should_stop: Ask
) -> Iterator[tuple[Reading, Row]]:
    transitions = load_transitions(_ids(cell))
    config = make_config(**cell.config_settings)
    path = teacher_file(cell, out)
    started = time.perf_counter()
    there = (
        path.exists()
    )  # learnt before, for another label or before an interruption: no seconds of this cell's
    if not cell.dataset.teacher and not there:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = path.with_suffix(".checkpoint")
        try:
            made = learn_teacher(
                transitions, config, report=report, checkpoint=checkpoint, should_stop=should_stop
            )
        except TeacherError:
            if should_stop():
                raise Stopped from None
            raise
        save_teacher(made, path)
        checkpoint.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    policy = TeacherPolicy(load_teacher(path), transitions.observation_codec, transitions.action_codec)
    for reading in readings:
        result = evaluate(policy, transitions, n_episodes=cell.n_episodes, seed=_seed(cell), report=report)
        learnt = None if cell.dataset.teacher else round(seconds, 1)
        yield (
            reading,
            _scored(result)
            | {
                "teacher_seconds": None if there else learnt,
                "config": None if learnt is None else _json(config),
            },
        )


def _bc_rows(
    cell: Cell, readings: list[Reading], out: Path, report: Report, should_stop: Ask
) -> Iterator[tuple[Reading, Row]]:
    transitions = load_transitions(_ids(cell))
    device = resolve_device(make_config(**cell.config_settings).device)
    for reading in readings:
        started = time.perf_counter()
        policy = clone_all(
            transitions,
            steps=cell.bc_steps,
            batch=cell.bc_batch,
            n_students=reading.n_policies,
            seed=cell.seed,
            device=device,
            should_stop=should_stop,
        )
        if policy is None:
            raise Stopped
        seconds = time.perf_counter() - started
        result = evaluate(
            policy.members(), transitions, n_episodes=cell.n_episodes, seed=_seed(cell), report=report
        )
        yield (
            reading,
            _scored(result) | _trained(policy, seconds, cell.bc_batch) | {"n_pairs": len(transitions)},
        )


def _synset_rows(
    cell: Cell, readings: list[Reading], out: Path, report: Report, should_stop: Ask
) -> Iterator[tuple[Reading, Row]]:
    wanted = sorted({r.outer_step for r in readings if r.outer_step is not None})
    synsets = dict(_snapshots(cell, wanted, out, report, should_stop))
    scored: dict[Any, Row] = {}  # protocols whose recipes are the same train the same students
    for reading in readings:
        synset = synsets[reading.outer_step]
        recipe = _recipe(synset, reading)
        key = (reading.outer_step, recipe, reading.n_policies, reading.ensemble, reading.n_expanded)
        if key not in scored:
            scored[key] = score_reading(synset, cell, reading, report)
        yield reading, scored[key]


def score_reading(synset: Synset, cell: Cell, reading: Reading, report: Report) -> Row:
    """Train a reading's students on a synset, roll them out, and say so in a row."""
    assert synset.config is not None
    device, metadata = resolve_device(synset.config.device), synset.metadata
    if reading.n_expanded:
        synset = expand(synset, reading.n_expanded, seed=cell.seed)
    recipe = _recipe(synset, reading)
    asked = reading.n_policies
    if (
        recipe.infinite
    ):  # all its students are one: that one is rolled out for as many episodes as all together
        reading = dataclasses.replace(reading, n_policies=1, ensemble=1)
    n = reading.n_policies * reading.ensemble
    started = time.perf_counter()
    trained = behavior_clone(synset, recipe=recipe, n_policies=n, seed=cell.seed, device=str(device))
    seconds = time.perf_counter() - started
    students = _on_cpu(trained)
    policies = [
        Policy(theta, recipe, students.units, students.observation_codec, students.action_codec)
        for theta in students.theta.split(reading.ensemble)
    ]
    episodes = cell.n_episodes * (asked // reading.n_policies)
    result = evaluate(policies, synset, n_episodes=episodes, seed=_seed(cell), report=report)
    return {
        **_scored(result),
        **_trained(trained, seconds, recipe.batch or len(synset)),
        "n_pairs": len(synset),
        "outer_steps": metadata["outer_steps_done"],
        "best_step": metadata["best_step"],
        "held_out_loss": metadata["held_out_loss"],
        "distillation_seconds": metadata["seconds"]["distillation"],
        "config": _json(synset.config),
    }


def _recipe(synset: Synset, reading: Reading) -> StudentRecipe:
    protocol = "recipe" if reading.n_expanded else reading.protocol
    return resolve_recipe(synset.recipe, protocol, reading.changes)


def _snapshots(
    cell: Cell, wanted: list[int], out: Path, report: Report, should_stop: Ask
) -> Iterator[tuple[int | None, Synset]]:
    """The best synset so far after each wanted number of outer steps, then (under None) the finished one."""
    folder = out / "runs" / cell.run_name
    finished = folder / "synset"
    settings, latest = cell.config_settings, 0

    def follow(progress: Progress) -> None:
        nonlocal latest
        latest = progress.step if progress.stage == "distil" else latest
        report(progress)

    def ends_at(step: int | None) -> Ask:
        return lambda: should_stop() or (step is not None and latest >= step)

    for step in [*wanted, None]:
        kept = finished if step is None else folder / "snapshots" / f"step-{step}"
        if not kept.exists():
            latest = _checkpointed(folder)
            if step is not None and latest > step:
                raise ConfigError(
                    f"The run in '{folder}' is at step {latest} already, so step {step} cannot be read any more. "
                    "Remove that folder, or give another --out, to distil anew with that snapshot."
                )
            made = distill(
                _ids(cell),
                teacher=teacher_file(cell, out) if needs_teacher(settings["objective"]) else None,
                run_dir=folder,
                resume=(folder / "run.json").exists(),
                report=follow,
                should_stop=ends_at(step),
                **settings,
            )
            assert made.config is not None
            last = made.config.outer_steps if step is None else step
            if should_stop() and made.metadata["outer_steps_done"] < last:
                raise Stopped
            made.save(kept)
        yield step, load_synset(kept)


def _checkpointed(folder: Path) -> int:
    """Outer steps that a run's checkpoint holds."""
    from safetensors import safe_open

    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(str(path), "pt") as file:
        return int(file.get_tensor("counts")[0])


# ---------------------------------------------------------------------------------------------- rows


def _common(cell: Cell, reading: Reading) -> Row:
    """What is known before anything is run."""
    return {
        "dataset": cell.dataset.name,
        "teacher": Path(cell.dataset.teacher).name if cell.dataset.teacher else "learnt",
        "teacher_digest": cell.dataset.teacher_digest,
        "label": cell.label,
        "preset": cell.preset,
        "method": cell.method,
        "n_syn": cell.n_syn or None,
        "seed": cell.seed,
        "group": reading.group,
        "protocol": reading.protocol,
        "variant": reading.variant,
        "ensemble": reading.ensemble,
        "snapshot": reading.outer_step,
        "settings": json.dumps(cell.settings, sort_keys=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(cell),
        "threads": torch.get_num_threads(),
        "versions": json.dumps({"minari_distill": __version__, "torch": torch.__version__}),
    }


def _scored(result: Evaluation) -> Row:
    known = result.to_json()
    row = {
        name: known[name]
        for name in (
            "unit mean ci95_half_width raw_return_mean n_policies n_episodes env_id ref_min_score "
            "ref_max_score ref_origin"
        ).split()
    }
    return row | {
        "per_policy": json.dumps(known["per_policy"]),
        "episode_seed": known["seed"],
        "evaluation_seconds": known["seconds"],
    }


def _trained(students: Policy, seconds: float, batch: int) -> Row:
    recipe = students.recipe
    named = "hidden_layers hidden_width residual head init optimizer lr".split()
    return {
        **{name: getattr(recipe, name) for name in named},
        "student_steps": recipe.steps,
        "student_batch": batch,
        "trained_together": len(students),
        "student_seconds": round(seconds, 3),
        "student_recipe": _json(recipe),
    }


def _on_cpu(policy: Policy) -> Policy:
    """Rollouts ask for a few states at a time, which a GPU answers more slowly than a CPU."""
    return Policy(
        policy.theta.cpu(),
        policy.recipe,
        policy.units.to("cpu"),
        policy.observation_codec,
        policy.action_codec,
    )


def _hardware(cell: Cell) -> str:
    device = resolve_device(make_config(**cell.config_settings).device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _ids(cell: Cell) -> Any:
    return list(cell.dataset.ids) if len(cell.dataset.ids) > 1 else cell.dataset.ids[0]


def _seed(cell: Cell) -> int:
    """The first episode's; every cell of a seed meets the same starts."""
    return 1000 * cell.seed


def _json(record: Any) -> str:
    return json.dumps(dataclasses.asdict(record), sort_keys=True)
