"""Losses during distillation, and scores with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from minari_distill.plots.style import BLUE, GREY, ORANGE, PALETTE, figure

Rows = Mapping[str, Mapping[str, Any]]


def learning_curve(history: Sequence[dict[str, Any]], scores: Rows, title: str, path: Path) -> Path:
    """Loss against outer steps, and beside it the scores with their intervals, as a PNG.

    Args:
        history: Records with step, loss (None at step 0) and held_out_loss.
        scores: By name, records with mean and ci95_half_width (None for one value); "teacher" is drawn as a line.
        title: Above the figure.
        path: The PNG to write.
    """
    with figure(path, 1, 2, figsize=(9.5, 3.6), width_ratios=(1.15, 1)) as (drawing, (left, right)):
        seen = [r for r in history if r["loss"] is not None]
        steps, losses = [r["step"] for r in seen], [r["loss"] for r in seen]
        left.plot(steps, losses, color=GREY, lw=1, label="states of the outer steps")
        steps, losses = [r["step"] for r in history], [r["held_out_loss"] for r in history]
        left.plot(steps, losses, color=BLUE, lw=2, label="held-out states")
        left.set(xlabel="outer steps", ylabel="weighted loss of students", ylim=(0, None))
        left.legend()

        rows = {name.replace("_", " "): row for name, row in scores.items() if name != "teacher"}
        colours = [GREY if "pairs" in name else BLUE for name in rows]
        means, widths = [r["mean"] for r in rows.values()], [_width(r) for r in rows.values()]
        right.barh(list(rows), means, xerr=widths, color=colours, capsize=3, height=0.62)
        if "teacher" in scores:
            teacher = scores["teacher"]["mean"]
            right.axvline(teacher, color=ORANGE, lw=2, ls="--")
            right.text(teacher, -0.55, "teacher ", color=ORANGE, ha="right", va="center")
        right.invert_yaxis()
        units = {str(r.get("unit", "normalised")).split(",")[0] for r in scores.values()}
        right.set(xlabel=f"{' or '.join(sorted(units))} score (95 % interval)", xlim=(_floor(means), None))
        right.grid(axis="y", visible=False)
        drawing.suptitle(title)
    return path


def held_out_curve(history: Sequence[dict[str, Any]], title: str, path: Path) -> Path:
    """The held-out loss against outer steps, as a PNG for a dataset card.

    Args:
        history: Records with step and held_out_loss.
        title: Above the figure.
        path: The PNG to write.
    """
    with figure(path, figsize=(5.6, 3.0)) as (_, axes):
        axes.plot([r["step"] for r in history], [r["held_out_loss"] for r in history], color=BLUE, lw=2)
        axes.set(xlabel="outer steps", ylabel="loss on held-out states", ylim=(0, None), title=title)
    return path


def returns_by_objective(
    scores: Mapping[str, Rows], unit: str, title: str, path: Path, *, teachers: Mapping[str, float]
) -> Path:
    """Groups of bars, a group an objective (or baseline), a bar a kind of student, as a PNG.

    Args:
        scores: By objective, then by kind of student: records with mean and ci95_half_width.
        unit: Of the scores.
        title: Above the figure.
        path: The PNG to write.
        teachers: By objective the score of its teacher, drawn as a line over its bars.
    """
    kinds = list(dict.fromkeys(kind for rows in scores.values() for kind in rows))
    size = 0.8 / max(len(kinds), 1)
    with figure(path, figsize=(max(4.8, 2.2 + 1.1 * len(scores)), 3.4)) as (_, axes):
        for k, kind in enumerate(kinds):
            here = [(i, rows[kind]) for i, rows in enumerate(scores.values()) if kind in rows]
            at = [i + (k - (len(kinds) - 1) / 2) * size for i, _ in here]
            means, widths = [row["mean"] for _, row in here], [_width(row) for _, row in here]
            colour = PALETTE[k % len(PALETTE)]
            axes.bar(at, means, 0.92 * size, yerr=widths, color=colour, capsize=3, label=kind)
        taught = [(i, teachers[name]) for i, name in enumerate(scores) if name in teachers]
        if taught:
            ends = [[i + side * 0.48 for i, _ in taught] for side in (-1, 1)]
            axes.hlines([t for _, t in taught], *ends, colors="black", lw=1.2, ls="--", label="teacher")
        axes.set_xticks(range(len(scores)), [fill(name, 12) for name in scores])
        axes.set(ylabel=unit, title=f"{title}, 95 % intervals")
        axes.grid(axis="x", visible=False)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return path


def _width(row: Mapping[str, Any]) -> float:
    width = row.get("ci95_half_width")
    return math.nan if width is None else width


def _floor(means: Sequence[float]) -> float | None:
    """0, where no score lies below it."""
    return None if any(mean < 0 for mean in means) else 0
