"""Many cells: what is done is skipped, what fails is recorded and the others go on, several run at once.

out/cells/NAME.json     one cell: its identity, its rows by reading, and its error if it failed; replaced as a whole
                        after every reading, so that a killed benchmark loses at most one of them
out/runs/               checkpoints and synsets
out/teachers/           learnt teachers
out/results.{parquet,csv}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from minari_distill.benchmark.cells import Cell, Reading
from minari_distill.benchmark.rows import read_record
from minari_distill.benchmark.score import Stopped, score_cell, teacher_file
from minari_distill.errors import ConfigError
from minari_distill.files import write_atomically
from minari_distill.locate import find_folder
from minari_distill.progress import Progress, Report, silent

_NOT_FINISHED = 75  # the exit code of a cell's process that was asked to end; EX_TEMPFAIL of sysexits.h
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a benchmark went: cells by what became of them, and errors by cell; `left` were not begun, or not brought to their end."""

    done: int
    skipped: int
    failed: dict[str, str]
    left: int = 0


def run_cells(
    cells: list[Cell],
    out: Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    report: Report = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run what is missing, teachers before the cells that need them.

    Args:
        cells: The grid.
        out: Where results are kept, and what is there already is skipped.
        jobs: Cells at once, each in a process of its own; with 1 they run in this process. On a machine with
            several GPUs the jobs take them in turn.
        threads: A job's threads; the cores divided by `jobs` if left out.
        report: Receives one message a cell (and the progress inside it where jobs is 1).
        should_stop: Asked before each cell and inside it (`score_cell`).

    Raises:
        ConfigError: No jobs, or no threads.
        DatasetError: A dataset that is missing still cannot be found.
    """
    for name, count in (("jobs", jobs), ("threads", threads)):
        if count is not None and count < 1:
            raise ConfigError(f"--{name} {count} must be at least 1.")
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    _refuse_second_teacher(cells, out)
    known, waiting = _baselines_of(out), []
    for cell in cells:
        if missing(cell, out) and _question(cell) not in known:
            waiting.append(cell)
        elif missing(cell, out):
            report(
                Progress(
                    "message",
                    f"{cell.name}: done before with other numbers. For these, remove its file from {out / 'cells'}.",
                )
            )
    for source in dict.fromkeys(i for cell in waiting for i in cell.dataset.ids):
        # here, once: a misspelt id is told before hours of work, and jobs do not download the same one
        find_folder(source, lambda text: report(Progress("message", text)))
    failed: dict[str, str] = {}
    lock = threading.Lock()
    finished = 0

    def one(cell: Cell, slot: int) -> None:
        nonlocal finished
        try:
            if jobs == 1:
                error = run_cell(cell, out, threads, report, should_stop)
            else:
                error = _run_apart(cell, out, threads, slot, should_stop)
        except Stopped:
            report(Progress("message", f"{cell.name}: not finished; the same command goes on where it is."))
            return
        with lock:
            finished += 1
            if error:
                failed[cell.name] = error
            report(Progress("message", f"[{finished}/{len(waiting)}] {cell.name}: {error or 'done'}".strip()))

    first = [cell for cell in waiting if cell.method == "teacher"]
    then = [cell for cell in waiting if cell.method != "teacher"]
    for batch in (first, then):
        _in_slots(batch, jobs, one, should_stop)
    return Outcome(finished - len(failed), len(cells) - len(waiting), failed, len(waiting) - finished)


def missing(cell: Cell, out: Path) -> list[Reading]:
    """The wanted readings of a cell that its file does not hold, or holds of fewer episodes."""
    rows = read_cell(cell, out)["rows"]

    def held(reading: Reading) -> bool:
        row = rows.get(reading.key)
        return bool(row) and row["n_policies"] * row["n_episodes"] >= reading.n_policies * cell.n_episodes

    return [reading for reading in cell.readings if not held(reading)]


def _question(cell: Cell) -> tuple[str, ...] | None:
    """What a teacher or a clone of all data answers, whatever the numbers of episodes and steps; None of other cells."""
    if cell.method not in ("teacher", "bc"):
        return None
    return cell.dataset.name, cell.dataset.teacher_digest, cell.label, cell.method


def _baselines_of(out: Path) -> set[tuple[str, ...] | None]:
    """The questions that the folder holds an answer to: two answers to one could not stand in one table."""
    records = (read_record(path) for path in sorted((out / "cells").glob("*.json")))
    rows = (row for record in records for row in record["rows"].values())
    return {
        (r["dataset"], r["teacher_digest"], r["label"], r["method"])
        for r in rows
        if r["method"] in ("teacher", "bc")
    }


def _refuse_second_teacher(cells: list[Cell], out: Path) -> None:
    """A label has one learnt teacher a dataset: cells of another could not stand beside it in one table.

    Raises:
        ConfigError: Settings of the teacher differ from those of the folder's.
    """
    known = _baselines_of(out)
    for cell in cells:
        if cell.dataset.teacher or cell.method != "teacher" or _question(cell) not in known:
            continue
        if not teacher_file(cell, out).exists() and any(
            c.dataset == cell.dataset and missing(c, out) for c in cells
        ):
            raise ConfigError(
                f"'{out}' holds scores of a learnt teacher of {cell.dataset.name} under the label {cell.label!r}, and no teacher of "
                "these settings: it was learnt with other settings, or elsewhere. Give another --label, or another --out."
            )


def run_cell(
    cell: Cell,
    out: Path,
    threads: int,
    report: Report = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Fill in what is missing of a cell; returns the error, "" if there was none.

    Raises:
        Stopped: `should_stop` said so before the end.
    """
    torch.set_num_threads(threads)
    record = read_cell(cell, out) | {"error": ""}
    try:
        for reading, row in score_cell(cell, missing(cell, out), out, report, should_stop):
            record["rows"][reading.key] = row
            _write(cell, out, record)
    except Stopped:
        raise
    except Exception as error:  # one cell must not end the others, whatever went wrong in it
        record["error"] = f"{type(error).__name__}: {error}"
        _write(cell, out, record)
    return record["error"]


def read_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """What a cell's file holds, or an empty record."""
    path = _path(cell, out)
    if not path.exists():
        return {"cell": cell.identity, "run": cell.run_name, "rows": {}, "error": ""}
    return read_record(path)


def _path(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _write(cell: Cell, out: Path, record: dict[str, Any]) -> None:
    write_atomically(_path(cell, out), json.dumps(record, indent=1).encode())


def _in_slots(
    cells: list[Cell], jobs: int, one: Callable[[Cell, int], None], should_stop: Callable[[], bool]
) -> None:
    """`jobs` workers take the cells in order."""
    if jobs == 1:
        for cell in cells:
            if should_stop():
                return
            one(cell, 0)
        return
    todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        todo.put(cell)

    def work(slot: int) -> None:
        while not should_stop():
            try:
                cell = todo.get_nowait()
            except queue.Empty:
                return
            one(cell, slot)

    # daemons: interrupted for good, the program ends, and with it the pipes that its cells hang on
    slots = range(min(jobs, len(cells)))
    workers = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in slots]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _run_apart(cell: Cell, out: Path, threads: int, slot: int, should_stop: Callable[[], bool]) -> str:
    """`run_cell` in a process of its own; one that is killed is a failed cell like any other."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    gpus = _gpus()
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "minari_distill.benchmark.run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=env,
            text=True,
            start_new_session=True,  # Ctrl-C is for the one who asks the others to end
        )
        assert process.stdin is not None
        asked = False
        with contextlib.suppress(BrokenPipeError), process.stdin as leash:
            _say(leash, json.dumps({"cell": cell.to_json(), "out": str(out), "threads": threads}))
            while process.poll() is None:
                if should_stop() and not asked:
                    asked = True
                    _say(leash, "stop")
                time.sleep(_POLL_SECONDS)
        if process.returncode == _NOT_FINISHED:
            raise Stopped
        if process.returncode:
            complaints.seek(0)
            last = (complaints.read().strip().splitlines() or ["no message"])[-1]
            record = read_cell(cell, out)
            record["error"] = f"The process ended with code {process.returncode}: {last}"
            _write(cell, out, record)
    return read_cell(cell, out)["error"]


def _say(leash: IO[str], line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its code tells how
        print(line, file=leash, flush=True)


def _gpus() -> list[str]:
    """The names under which CUDA shows its devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(i) for i in range(torch.cuda.device_count())]


def _serve() -> int:
    """The other side of `_run_apart`: a cell on the first line; a second line asks it to end, and so does the pipe's end, at once."""
    given, asked = json.loads(sys.stdin.readline()), threading.Event()

    def listen() -> None:
        for _ in sys.stdin:
            asked.set()
        os._exit(1)  # whoever wanted this cell is gone

    threading.Thread(target=listen, daemon=True).start()
    try:
        run_cell(
            Cell.from_json(given["cell"]), Path(given["out"]), given["threads"], should_stop=asked.is_set
        )
    except Stopped:
        return _NOT_FINISHED
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
