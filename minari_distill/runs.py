"""A run's folder: its settings, the teacher it learnt, and one checkpoint, each replaced as a whole.

run.json                settings and source, so that a resumed run is the same run
teacher.safetensors     the teacher, once learnt
teacher-seconds.json    how long learning it took, interrupted times included
checkpoint.safetensors  the outer loop's state, the best pairs so far, the history
lock                    held while the run is under way: a second one is refused
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minari_distill.config import DistillConfig
from minari_distill.errors import ConfigError, RunError
from minari_distill.files import write_atomically
from minari_distill.outer import OuterLoop
from minari_distill.teachers import Teacher, load_teacher, save_teacher
from minari_distill.team import Team
from minari_distill.transitions import Source

_FREE = ("memory_share",)  # settings that change no number: another machine may need another one
# settings that a run may settle after it has begun
_SETTLED = ("objective", "metric_share", "infinite_width", "student_pool")
_TEACHER_SECONDS = "teacher-seconds.json"
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Best:
    """The pairs with the lowest held-out loss so far.

    Attributes:
        S, A: (n_syn, obs_dim) normalised, and (n_syn, act_dim).
        loss, step: that loss, and the outer step it was reached at.
        metric: D (obs_dim, obs_dim) of that step, or None.
    """

    S: Tensor
    A: Tensor
    loss: float
    step: int
    metric: Tensor | None = None

    @classmethod
    def of(cls, outer: OuterLoop, loss: float) -> Best:
        """Those of `outer` as it is now."""
        metric = None if outer.metric is None else outer.metric.clone()
        return cls(outer.S.clone(), outer.A.clone(), loss, outer.step_count, metric)

    def or_better(self, outer: OuterLoop, loss: float) -> Best:
        """These pairs, or those of `outer` if their loss is lower; any loss is better than NaN."""
        return self if loss >= self.loss or math.isnan(loss) else Best.of(outer, loss)


class Run:
    """What a run remembers; on disk too, if it has a folder.

    Attributes:
        best: the best pairs so far, or None before the first validation.
        history: one record a validation: step, loss (None at step 0), held_out_loss.
        seconds: spent on outer steps.
        teacher_seconds: spent on learning the teacher.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.best: Best | None = None
        self.history: list[dict[str, Any]] = []
        self.seconds = self.teacher_seconds = 0.0
        self._lock: Any = None
        self._checkpoint: dict[str, Tensor] | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path | None,
        config: DistillConfig,
        source: Source,
        *,
        resume: bool,
        drop: Sequence[str] = (),
        dtype: str = "float32",
        answers: Tensor | None = None,
    ) -> Run:
        """The run in `folder`, new or resumed; `drop` and `dtype` say how its dataset was read.

        Args:
            folder: Where it is kept; None: nowhere.
            config, source, drop, dtype: What makes it this run and no other.
            resume: Go on with what is there.
            answers: (n, act_dim) what a given teacher does in some states of the dataset, by which it is known again.

        Raises:
            ConfigError: the folder is in use, holds another run, or holds one and `resume` is off.
        """
        if folder is None and Team().size > 1:
            raise ConfigError("A run of several processes needs a run_dir that all of them see.")
        if folder is None:
            if resume:
                raise ConfigError("resume=True needs the run_dir that holds the checkpoint.")
            return cls()
        run = cls(Path(os.path.expanduser(folder)))
        if Team().rank:  # the first rank writes, under the lock; the others read
            run._read_checkpoint()
            return run
        run._take_lock()
        try:
            settings = {**dataclasses.asdict(config), "drop": list(drop), "dtype": dtype}
            run._begin(settings, source, None if answers is None else answers.tolist(), resume)
        except BaseException as error:
            run.__exit__(type(error), error, error.__traceback__)
            raise
        return run

    def _begin(
        self, settings: dict[str, Any], source: Source, answers: list[list[float]] | None, resume: bool
    ) -> None:
        """Check that this is the run that the folder holds, or make it so."""
        assert self.folder is not None
        record = {
            "config": settings,
            "dataset_ids": list(source.dataset_ids),
            "total_steps": source.total_steps,
            "total_episodes": source.total_episodes,
            "teacher_answers": answers,
        }
        record = json.loads(json.dumps(record))
        path = self.folder / "run.json"
        if path.exists():
            self._check_same(_read_settings(path), record, resume)
            self.teacher_seconds = _read_seconds(self.folder / _TEACHER_SECONDS)
            self._read_checkpoint()
        else:
            if resume:
                raise ConfigError(
                    f"There is no run to resume in '{self.folder}'. Leave resume out to start one there."
                )
            write_atomically(path, json.dumps(record, indent=2).encode())

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the folder free.

        Raises:
            RunError: the run ended because the disk took no more.
        """
        if self._lock:
            self._lock.close()
        if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            raise RunError(
                f"The run in '{self.folder}' could not be written: {error.strerror}. What it kept before is whole: "
                "make room and go on with resume=True (--resume)."
            ) from error

    # ---------------------------------------------------------------------------------- the teacher

    @property
    def teacher_checkpoint(self) -> Path | None:
        """Where a teacher under way keeps its state."""
        return self.folder / "teacher-checkpoint.safetensors" if self.folder else None

    def teacher(self) -> Teacher | None:
        """The teacher that this run has already learnt."""
        path = self.folder / "teacher.safetensors" if self.folder else None
        return load_teacher(path) if path and path.exists() else None

    @contextmanager
    def teacher_time(self) -> Iterator[None]:
        """Counts what is done inside towards `teacher_seconds`, also where it is interrupted."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.teacher_seconds += time.perf_counter() - started
            if self.folder and not Team().rank:
                write_atomically(self.folder / _TEACHER_SECONDS, json.dumps(self.teacher_seconds).encode())

    def keep_teacher(self, teacher: Teacher) -> None:
        """Keep a learnt teacher, and drop its checkpoint."""
        if self.folder and self.teacher_checkpoint:
            save_teacher(teacher, self.folder / "teacher.safetensors")
            self.teacher_checkpoint.unlink(missing_ok=True)

    # ----------------------------------------------------------------------------------- the synset

    def note(self, outer: OuterLoop, loss: float | None, held_out_loss: float) -> None:
        """Record a validation, and the pairs if they are the best so far."""
        self.history.append({"step": outer.step_count, "loss": loss, "held_out_loss": held_out_loss})
        self.best = (
            Best.of(outer, held_out_loss) if self.best is None else self.best.or_better(outer, held_out_loss)
        )

    def keep(self, outer: OuterLoop) -> None:
        """Write a checkpoint from which `restore` gives an unbroken run's result."""
        if self.folder is None:
            return
        state = outer.whole_state()
        if outer.team.rank:
            return
        assert self.best is not None
        tensors = {**state, "best.S": self.best.S, "best.A": self.best.A}
        if self.best.metric is not None:
            tensors["best.metric"] = self.best.metric
        header = {
            "history": json.dumps(self.history),
            "best": json.dumps([self.best.loss, self.best.step]),
            "seconds": json.dumps(self.seconds),
        }
        content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, header)
        write_atomically(self.folder / "checkpoint.safetensors", content)

    def restore(self, outer: OuterLoop) -> None:
        """Bring `outer` to the checkpoint, if there is one."""
        if self._checkpoint is None:
            return
        device = outer.device
        outer.load_state({k: v.to(device) for k, v in self._checkpoint.items()})
        best = self.best
        assert best is not None
        metric = None if best.metric is None else best.metric.to(device)
        self.best = dataclasses.replace(best, S=best.S.to(device), A=best.A.to(device), metric=metric)

    # ------------------------------------------------------------------------------------- the folder

    def _take_lock(self) -> None:
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise ConfigError(
                f"The run cannot be kept in '{self.folder}': {error.strerror}. Give a run_dir that is a folder, or can become one."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(
                f"Another run is writing to '{self.folder}'. Give another run_dir, or wait until it ends."
            ) from error

    def _check_same(self, before: dict[str, Any], now: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise ConfigError(
                f"'{self.folder}' already holds a run. Go on with it by resume=True (--resume), give another run_dir, or "
                "delete that folder, a teacher that was learnt included, to begin anew."
            )
        if before["dataset_ids"] != now["dataset_ids"]:
            raise ConfigError(
                f"'{self.folder}' holds a run on {before['dataset_ids']}, not on {now['dataset_ids']}. "
                "Resume it with that dataset, or give another run_dir."
            )
        if strange := sorted(set(before) ^ set(now)):
            raise ConfigError(
                f"'{self.folder}' holds a run of another release: {', '.join(strange)} is not recorded by both. "
                "Resume it with the release it began with, or give another run_dir."
            )
        read, reads = ([run.get(f"total_{name}") for name in ("steps", "episodes")] for run in (before, now))
        if read != reads:
            raise ConfigError(
                f"'{self.folder}' holds a run on {read[0]} transitions in {read[1]} episodes of {before['dataset_ids']}, not on "
                f"{reads[0]} in {reads[1]}. Resume it with those, or give another run_dir."
            )
        answers, given = before.get("teacher_answers"), now["teacher_answers"]
        if (answers is None) != (given is None) or not _alike(answers, given):
            raise ConfigError(
                f"'{self.folder}' holds a run that was given {'no teacher' if answers is None else 'a teacher'}, and now "
                f"{'none' if given is None else 'one' if answers is None else 'another one'} is given. Resume it as it began, "
                "or give another run_dir."
            )
        began, asked = before["config"], now["config"]
        if strange := sorted(set(began) ^ set(asked)):
            raise ConfigError(
                f"'{self.folder}' holds a run of another release: {', '.join(strange)} is not a setting of both. "
                "Resume it with the release it began with, or give another run_dir."
            )
        for name, value in began.items():
            if name not in _FREE and asked[name] != value:
                raise ConfigError(
                    f"'{self.folder}' holds a run with {name}={value!r}, not {asked[name]!r}. "
                    "Resume it with the settings it began with, or give another run_dir."
                )

    def _read_checkpoint(self) -> None:
        assert self.folder is not None
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        try:
            with safe_open(str(path), "pt") as file:
                header = file.metadata()
                self._checkpoint = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            self.history = json.loads(header["history"])
            self.seconds = json.loads(header["seconds"])
            loss, step = json.loads(header["best"])
            tensors = self._checkpoint
            self.best = Best(tensors["best.S"], tensors["best.A"], loss, step, tensors.get("best.metric"))
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"The checkpoint '{path}' cannot be read ({error}). Delete it to start the distillation anew; "
                "the learnt teacher beside it is kept."
            ) from error


def _alike(a: list[list[float]] | None, b: list[list[float]] | None) -> bool:
    """Whether two teachers do the same, up to what another processor makes of the same numbers."""
    x, y = torch.tensor(a or []), torch.tensor(b or [])
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-3, atol=1e-3)


def began(folder: Path, config: DistillConfig, source: Source) -> bool:
    """Whether the run in `folder` is the one that ends at a synset of these settings and datasets."""
    path = Path(os.path.expanduser(folder)) / "run.json"
    if not path.exists():
        return False
    record, given = _read_settings(path), json.loads(json.dumps(dataclasses.asdict(config)))
    open_ = {*_FREE, *_SETTLED}
    return record["dataset_ids"] == list(source.dataset_ids) and all(
        record["config"].get(name) == value for name, value in given.items() if name not in open_
    )


def _read_seconds(path: Path) -> float:
    """0 where no teacher was learnt."""
    if not path.exists():
        return 0.0
    try:
        return float(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error}). Delete it: it only tells how long the teacher took."
        ) from error


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict) or not {"config", "dataset_ids"} <= record.keys():
            raise ValueError("it is no record of a run")
        return record
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error}). Delete its folder to start anew, or give another run_dir."
        ) from error
