"""Figures, in one colour-blind-safe style (Okabe and Ito's palette)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def learning_curve(
    history: list[dict[str, Any]], scores: dict[str, dict[str, Any]], title: str, path: Path
) -> Path:
    """Loss against outer steps, and beside it the scores with their intervals, as a PNG.

    Args:
        history: Records with step, loss (None at step 0) and held_out_loss.
        scores: By name, records with mean and ci95_half_width (None for one value); "teacher" is drawn as a line.
        title: Above the figure.
        path: The PNG to write.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9.5, 3.6), width_ratios=(1.15, 1), layout="constrained"
        )
        seen = [r for r in history if r["loss"] is not None]
        left.plot(
            [r["step"] for r in seen],
            [r["loss"] for r in seen],
            color=GREY,
            lw=1,
            label="states of the outer steps",
        )
        left.plot(
            [r["step"] for r in history],
            [r["held_out_loss"] for r in history],
            color=BLUE,
            lw=2,
            label="held-out states",
        )
        left.set(xlabel="outer steps", ylabel="weighted loss of students", ylim=(0, None))
        left.legend()

        rows = [(name, row) for name, row in scores.items() if name != "teacher"]
        names = [name.replace("_", " ") for name, _ in rows]
        means = [row["mean"] for _, row in rows]
        widths = [row["ci95_half_width"] or math.nan for _, row in rows]
        colours = [GREY if "pairs" in name else BLUE for name in names]
        right.barh(names, means, xerr=widths, color=colours, capsize=3, height=0.62)
        if "teacher" in scores:
            teacher = scores["teacher"]["mean"]
            right.axvline(teacher, color=ORANGE, lw=2, ls="--")
            right.text(teacher, -0.55, "teacher ", color=ORANGE, ha="right", va="center")
        right.invert_yaxis()
        right.set(xlabel="normalised score (95 % interval)", xlim=(0, None))
        right.grid(axis="y", visible=False)
        figure.suptitle(title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)
    return path


def held_out_curve(history: list[dict[str, Any]], title: str, path: Path) -> Path:
    """The held-out loss against outer steps, as a PNG for a dataset card.

    Args:
        history: Records with step and held_out_loss.
        title: Above the figure.
        path: The PNG to write.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
        axes.plot([r["step"] for r in history], [r["held_out_loss"] for r in history], color=BLUE, lw=2)
        axes.set(xlabel="outer steps", ylabel="loss on held-out states", ylim=(0, None), title=title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})  # the same curve gives the same bytes
        plt.close(figure)
    return path
