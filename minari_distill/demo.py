"""The demo: the embedded Hopper dataset distilled, for networks and for students of infinite width, beside the baselines."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minari_distill import plots
from minari_distill.config import NETWORK_SETTINGS
from minari_distill.distill import distill
from minari_distill.errors import ConfigError
from minari_distill.evaluate import TeacherPolicy, evaluate
from minari_distill.files import write_atomically
from minari_distill.progress import Progress, Report, silent
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.students import behavior_clone
from minari_distill.synset import Synset
from minari_distill.targets import refuse_existing
from minari_distill.teachers import load_teacher
from minari_distill.transitions import EMBEDDED_ID

N_STUDENTS, N_EPISODES, N_ENSEMBLE = 5, 10, 10
INFINITE_STEPS = 1000  # outer steps at infinite width, where this dataset needs no more


def run_demo(
    output: Path,
    target: str,
    *,
    seed: int = 0,
    report: Report = silent,
    should_stop: Callable[[], bool] = lambda: False,
    **overrides: Any,
) -> dict[str, Any]:
    """Distil, compare, and write `report.json`, `learning-curve.png` and the Minari datasets `target` and `at_infinite_width(target)`.

    Returns:
        What `report.json` holds: scores by name, seconds by stage, the settings.
    """
    began = time.perf_counter()
    target = target.rstrip("/")
    for name in (target, at_infinite_width(target)):
        refuse_existing(name, overwrite=True)  # what could not be saved, before it is made
    run_dir = output / "run"
    if run_dir.exists():  # a demo starts anew each time
        if not (run_dir / "run.json").is_file():
            raise ConfigError(f"'{run_dir}' is no demo's: it is not removed. Give another --output.")
        shutil.rmtree(run_dir)
    settings = {"preset": "quick", "seed": seed, **overrides}

    synset = distill(EMBEDDED_ID, run_dir=run_dir, report=report, should_stop=should_stop, **settings)
    seconds: dict[str, float] = dict(synset.metadata["seconds"])
    teacher = load_teacher(run_dir / "teacher.safetensors")
    of_any_width = {k: v for k, v in settings.items() if k not in NETWORK_SETTINGS}
    infinite = distill(
        EMBEDDED_ID,
        teacher=teacher,
        report=report,
        should_stop=should_stop,
        **{"outer_steps": INFINITE_STEPS} | of_any_width | {"preset": "infinite"},
    )
    seconds["distillation_at_infinite_width"] = infinite.metadata["seconds"]["distillation"]
    untrained = settings | {"outer_steps": 0}
    relabelled = distill(
        EMBEDDED_ID, teacher=teacher, report=silent, **untrained | {"initializer": "relabelled"}
    )
    random = distill(EMBEDDED_ID, report=silent, **untrained | {"initializer": "random", "objective": "dbc"})

    started = time.perf_counter()
    scores: dict[str, dict[str, Any]] = {}

    def score(name: str, policies: Any, n_episodes: int = N_EPISODES) -> None:
        report(Progress("message", f"Rolling out: {name.replace('_', ' ')}"))
        scores[name] = evaluate(policies, synset, n_episodes=n_episodes, seed=1000 * seed).to_json()

    def students(of: Synset, **changes: Any) -> list[Any]:
        return behavior_clone(of, n_policies=N_STUDENTS, seed=seed, **changes).members()

    score("random_pairs", students(random))
    score("relabelled_pairs", students(relabelled))
    score("synset", students(synset))
    if synset.recipe != GENERAL_RECIPE:
        score("synset,_general_students", students(synset, recipe="general"))
    ensemble = behavior_clone(synset, n_policies=N_ENSEMBLE, seed=seed)
    score(f"synset,_ensemble_of_{N_ENSEMBLE}", ensemble)
    score("synset_at_infinite_width", behavior_clone(infinite), N_STUDENTS * N_EPISODES)
    score("teacher", TeacherPolicy(teacher, synset.observation_codec, synset.action_codec))
    seconds["evaluation"] = round(time.perf_counter() - started, 1)
    seconds["total"] = round(time.perf_counter() - began, 1)

    result = {
        "dataset": EMBEDDED_ID,
        "synset": target,
        "synset_at_infinite_width": at_infinite_width(target),
        "stopped": any(
            s.metadata["outer_steps_done"] < s.config.outer_steps for s in (synset, infinite) if s.config
        ),
        "scores": scores,
        "seconds": seconds,
        "held_out_loss": synset.metadata["held_out_loss"],
        "history": synset.metadata["history"],
        "config": dataclasses.asdict(synset.config) if synset.config else None,
        "versions": synset.metadata["versions"],
    }
    synset.with_metadata(scores=scores).save(target, overwrite=True)
    own = {name: scores[name] for name in ("synset_at_infinite_width", "teacher")}
    infinite.with_metadata(scores=own).save(at_infinite_width(target), overwrite=True)
    write_atomically(output / "report.json", json.dumps(result, indent=2).encode())
    plots.learning_curve(
        synset.metadata["history"],
        scores,
        f"{EMBEDDED_ID}: {len(synset)} distilled pairs",
        output / "learning-curve.png",
    )
    return result


def at_infinite_width(target: str) -> str:
    """The id of the second synset.

    >>> at_infinite_width("demo/hopper-distilled-v0")
    'demo/hopper-distilled-infinite-v0'
    """
    return re.sub(r"(-v\d+)?$", r"-infinite\1", target, count=1)
