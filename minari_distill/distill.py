"""The whole story on one page: dataset → teacher → distillation → synset.

load        transitions of one or several Minari datasets
teacher     (π*, q) read from a file, or learnt offline
pose        states, targets y(s) and weights w(s); some states held out
initialise  n_syn pairs
distil      (fresh students → inner loop → outer loss → meta-gradient → update)*
select      the pairs with the lowest held-out loss
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_distill import __version__, layout
from minari_distill.config import DistillConfig, make_config
from minari_distill.devices import resolve_device
from minari_distill.errors import ConfigError
from minari_distill.how_long import how_long
from minari_distill.objectives import find_objective
from minari_distill.outer import OuterLoop
from minari_distill.pose import fit_to, pose
from minari_distill.progress import Progress, Report, to_stderr
from minari_distill.runs import Run
from minari_distill.synset import Synset
from minari_distill.teachers import (
    Teacher,
    learn_teacher,
    load_teacher,
)
from minari_distill.team import Team
from minari_distill.transitions import Transitions, load_transitions

_ON_CPU = (
    "The teacher will be a clone of the best episodes (teacher_method=filtered_bc): Cal-QL, which can join the good parts of "
    "bad episodes, takes hours to days on a CPU. To learn it all the same: teacher_method=cal_ql."
)
_UNRESOLVED = (
    "These numbers of the observation vary so little around a large mean that float32, in which students calculate, cannot tell "
    "their values apart: {names}. Subtract the mean in the dataset, or leave such a part out with drop."
)


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
    settings = _settings(preset, config, overrides)
    objective = find_objective(settings.objective)
    device = resolve_device(settings.device)

    def say(text: str) -> None:
        report(Progress("message", text))

    given = None if teacher is None else load_teacher(teacher)
    if given is not None and objective.needs_q:
        given.check_has_q(settings.objective)
    if given is not None and not objective.needs_teacher:
        say(f"objective={objective.name} asks no teacher: the one given changes nothing.")
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
    settings = fit_to(settings, transitions, say)
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
        if learning:

            def learn(stop: Callable[[], bool]) -> None:
                nonlocal given
                given = learn_teacher(
                    transitions, settings, report=report, checkpoint=run.teacher_checkpoint, should_stop=stop
                )
                run.keep_teacher(given)

            with run.teacher_time():
                team.first_alone(learn, should_stop)
            given = run.teacher() if team.rank else given
        chosen = None if given is None else given.to(device)

        posed = pose(transitions, chosen, settings, say)
        settings, units = posed.config, posed.units
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
            "teacher": chosen.metadata if chosen is not None and objective.needs_teacher else None,
            "teacher_distance": posed.teacher_distance,
            "clone_gap": posed.clone_gap,
            "held_out_loss": best.loss,
            "best_step": best.step,
            "outer_steps_done": outer.step_count,
            "skipped_steps": int(outer.update.skipped),
            "history": run.history,
            "action_range": [units.act_low.tolist(), units.act_high.tolist()],
            "seconds": {"teacher": round(run.teacher_seconds, 1), "distillation": round(run.seconds, 1)},
            "device": str(device),
            "versions": {"minari_distill": __version__, "torch": torch.__version__},
        },
    )


def _settings(preset: str, config: DistillConfig | None, overrides: dict[str, Any]) -> DistillConfig:
    if config is None:
        return make_config(preset, **overrides)
    if not isinstance(config, DistillConfig):
        raise ConfigError(
            f"config is a {type(config).__name__}; expected a DistillConfig, as make_config(n_syn=64) gives it. Single settings go by "
            "name: distill(dataset, n_syn=64)."
        )
    if preset not in ("default", config.preset):
        raise ConfigError(
            f"preset={preset!r} and a config of preset {config.preset!r} are given: leave one of them out, or give "
            f"config=make_config({preset!r}, …)."
        )
    return config.replace(**overrides)


def _answers(teacher: Teacher, transitions: Transitions) -> torch.Tensor:
    """What a teacher does in eight states spread over the dataset, (8, act_dim)."""
    teacher.check_fits(transitions.obs_dim, transitions.act_dim)
    some = np.linspace(0, len(transitions) - 1, 8).astype(int)
    return teacher.to("cpu").policy(torch.from_numpy(np.asarray(transitions.observations[some])).float())


def _distil(outer: OuterLoop, run: Run, report: Report, should_stop: Callable[[], bool]):
    """Outer steps until done or stopped; returns the best pairs by held-out loss.

    Raises:
        Diverged: No pairs have a finite one.
    """
    config = outer.config
    if run.best is None:
        run.note(outer, None, outer.held_out_loss())
    began, first, before = time.perf_counter(), outer.step_count, run.seconds
    while outer.step_count < config.outer_steps and not outer.team.any(should_stop()):
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
