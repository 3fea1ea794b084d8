"""How a long run speaks: one callback receives `Progress` records; printing them is the caller's affair."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: "message" (only `text` counts), "teacher", "distil" or "evaluate".
        text: one sentence, or empty.
        step, total: steps done and to do in this stage.
        loss: mean outer (or teacher's) loss since the last record; None before the first.
        held_out_loss: latest loss on held-out states; None before the first.
        seconds_left: of this stage, estimated; None when unknown.
    """

    stage: str
    text: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    held_out_loss: float | None = None
    seconds_left: float | None = None


Report = Callable[[Progress], None]


def to_stderr(progress: Progress) -> None:
    """Print messages, and a line whenever a tenth of a stage is done."""
    if progress.stage == "message":
        print(progress.text, file=sys.stderr)
        return
    tenth = max(progress.total // 10, 1)
    if progress.step % tenth and progress.step != progress.total:
        return
    line = f"{progress.stage} {progress.step}/{progress.total}"
    if progress.loss is not None:
        line += f"  loss {progress.loss:.4f}"
    if progress.held_out_loss is not None:
        line += f"  held out {progress.held_out_loss:.4f}"
    if progress.seconds_left is not None:
        line += f"  {duration(progress.seconds_left)} left"
    print(line, file=sys.stderr)


def silent(progress: Progress) -> None:
    """Say nothing."""


def duration(seconds: float) -> str:
    """Seconds in words that a person plans with.

    >>> duration(42), duration(400), duration(9000), duration(100_800)
    ('42 s', '7 min', '2.5 h', '28 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
