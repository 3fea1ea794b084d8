"""The rows of all cells as one tidy table: a row is one reading of one cell, with its config and protocol."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from minari_distill.errors import ConfigError
from minari_distill.files import write_atomically

_TEXT = (
    "cell dataset teacher teacher_digest label preset method group protocol variant unit per_policy env_id "
    "ref_origin head init optimizer student_recipe settings config date hardware versions"
).split()
_WHOLE = (
    "n_syn n_pairs seed snapshot ensemble n_policies n_episodes episode_seed hidden_layers hidden_width "
    "student_steps student_batch trained_together outer_steps best_step threads"
).split()
_REAL = (
    "mean ci95_half_width fraction_of_teacher teacher_mean raw_return_mean ref_min_score ref_max_score lr "
    "held_out_loss distillation_seconds teacher_seconds student_seconds evaluation_seconds"
).split()

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        *((name, pa.int64()) for name in _WHOLE),
        *((name, pa.float64()) for name in _REAL),
        ("residual", pa.bool_()),
    ]
)
"""Columns; a value is null where it does not apply. Scores are `mean` ± `ci95_half_width`, in `unit`; `config`,
`settings`, `student_recipe`, `versions` and `per_policy` hold JSON."""

_ONCE = "dataset teacher_digest label method n_syn seed group protocol variant".split()


def cell_files(out: Path) -> list[Path]:
    """One JSON file a cell."""
    return sorted((out / "cells").glob("*.json"))


def collect(out: Path) -> list[dict[str, Any]]:
    """All rows under a folder, each with its teacher's score beside it.

    Raises:
        ConfigError: Two rows answer the same question with different settings.
    """
    rows = []
    for path in cell_files(out):
        rows += [{**row, "cell": path.stem} for row in read_record(path)["rows"].values()]
    return with_fractions(rows)


def read_record(path: Path) -> dict[str, Any]:
    """A cell's file: its identity, its rows by reading, and its error.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        record = json.loads(path.read_text())
        _ = record["rows"].values()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The cell file '{path}' is damaged ({error}). Remove it, and the same command makes it anew."
        ) from error
    return record


def with_fractions(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the columns of `SCHEMA`, with teacher_mean and fraction_of_teacher filled in.

    A fraction is mean / teacher_mean, of normalised scores where there are any; it is null without a teacher's row, or where that is
    not positive.
    """
    rows = list(rows)
    _refuse_duplicates(rows)
    teachers = {
        (r["dataset"], r["teacher_digest"], r["label"]): r["mean"] for r in rows if r["method"] == "teacher"
    }
    joined = []
    for row in rows:
        where = (row["dataset"], row["teacher_digest"])
        reference = teachers.get((*where, row["label"]), teachers.get((*where, "")))
        if reference is None and not row["label"]:  # of a learnt teacher, where there is one alone
            learnt = [mean for (*of, _), mean in teachers.items() if tuple(of) == where]
            reference = learnt[0] if len(learnt) == 1 else None
        fraction = row["mean"] / reference if reference and reference > 0 else None  # of losses there is none
        whole = row | {"teacher_mean": reference, "fraction_of_teacher": fraction}
        joined.append({name: whole.get(name) for name in SCHEMA.names})
    return joined


def apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For tables and figures: a dataset with several given teachers as several, named by the beginnings of their files' hashes.

    They are no seeds of one another, over which a mean could be taken.
    """
    given: dict[str, set[str]] = {}
    for row in rows:
        given.setdefault(row["dataset"], set()).update(filter(None, [row["teacher_digest"]]))

    def name(row: dict[str, Any]) -> str:
        digest = row["teacher_digest"]
        return (
            f"{row['dataset']} ({digest[:6]})"
            if digest and len(given[row["dataset"]]) > 1
            else row["dataset"]
        )

    return [row | {"dataset": name(row)} for row in rows]


def write_results(rows: list[dict[str, Any]], out: Path) -> tuple[Path, Path]:
    """`results.parquet` and `results.csv`."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    parquet, csv = io.BytesIO(), io.BytesIO()
    pa.parquet.write_table(table, parquet)
    pa.csv.write_csv(table, csv)
    write_atomically(out / "results.parquet", parquet.getvalue())
    write_atomically(out / "results.csv", csv.getvalue())
    return out / "results.parquet", out / "results.csv"


def _refuse_duplicates(rows: list[dict[str, Any]]) -> None:
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in _ONCE)
        if key in seen:
            what = ", ".join(f"{k}={v}" for k, v in zip(_ONCE, key, strict=True) if v not in (None, ""))
            raise ConfigError(
                f"Two cells answer one question ({what}): {seen[key].get('cell')} and {row.get('cell')}. They differ in "
                "settings or protocol: delete the file of one, or run it with another --label."
            )
        seen[key] = row
