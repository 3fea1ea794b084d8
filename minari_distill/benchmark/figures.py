"""Figures of a benchmark: score by outer steps and seconds, score by objective, distilled states and what follows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minari_distill.benchmark.cells import PROTOCOLS
from minari_distill.benchmark.tables import at_main_size, method_name, method_order, score_of
from minari_distill.errors import ConfigError
from minari_distill.files import write_atomically
from minari_distill.loading import load_synset
from minari_distill.plots import render_strip, returns_by_objective
from minari_distill.plots.style import GREY, PALETTE, figure


def all_figures(rows: Sequence[dict[str, Any]], out: Path, folder: Path) -> dict[str, list[Path]]:
    """Write the figures that the rows allow; paths by marker, figure1 to figure3."""
    datasets = sorted({r["dataset"] for r in rows})
    curves = [learning_figure(rows, name, folder) for name in datasets]
    strips = [distilled_states(rows, name, out, folder) for name in datasets]
    bars = [objectives_figure(rows, name, folder) for name in datasets]
    made = {"figure1": curves, "figure2": strips, "figure3": bars}
    return {
        name: [path for path in paths if path] for name, paths in made.items() if any(path for path in paths)
    }


def learning_figure(rows: Sequence[dict[str, Any]], dataset: str, folder: Path) -> Path | None:
    """Figure 1 of one dataset: score against outer steps, and against seconds of distillation, as a PNG.

    The last point is the finished synset.

    Returns:
        The file, or None where the rows hold no snapshots of this dataset.
    """
    here = [r for r in rows if r["dataset"] == dataset]
    seen = [r for r in here if r["group"] == "snapshots"]
    if not seen:
        return None
    lines = sorted({_line(r) for r in seen})
    known = {(r["cell"], r["protocol"], r["snapshot"]) for r in seen}
    finished = [r | {"snapshot": r["outer_steps"]} for r in here if r["group"] == "main"]
    cells, teachers = {r["cell"] for r in seen}, {r["teacher_digest"] for r in seen}
    seen += [
        r for r in finished if r["cell"] in cells and (r["cell"], r["protocol"], r["snapshot"]) not in known
    ]
    largest = max(r["n_syn"] for r in seen)
    path = folder / f"learning-{_slug(dataset)}.png"
    with figure(path, 1, 2, figsize=(9.5, 4.2), sharey=True) as (drawing, (left, right)):
        methods = sorted({line[:2] for line in lines})
        for line in lines:
            mine = [r for r in seen if _line(r) == line and r["n_syn"] == largest]
            steps = sorted({r["snapshot"] for r in mine})
            groups = [[r for r in mine if r["snapshot"] == step] for step in steps]
            scores = [score_of(group) for group in groups]
            seconds = [np.mean([r["distillation_seconds"] for r in group]) for group in groups]
            mean = np.array([s.mean for s in scores])
            width = np.nan_to_num([s.half_width for s in scores])
            name = f"{line[0]} ({line[1]}), {line[2]} students"
            colour = PALETTE[methods.index(line[:2]) % len(PALETTE)]
            dashes = "-" if line[2] == "recipe" else ":"
            for axes, x in ((left, steps), (right, seconds)):
                axes.plot(x, mean, color=colour, ls=dashes, marker="o", ms=3, label=name)
                axes.fill_between(x, mean - width, mean + width, color=colour, alpha=0.15, lw=0)
        for row in (r for r in here if r["method"] == "teacher" and r["teacher_digest"] in teachers):
            for axes in (left, right):
                axes.axhline(row["mean"], color=GREY, ls="--", lw=1.5, label="teacher")
        left.set(xlabel="outer steps", ylabel=f"score ({seen[0]['unit']})")
        right.set(xlabel="seconds of distillation")
        # presets differ a hundredfold in length, and every curve begins at 0
        for axes, least in ((left, 100), (right, 10)):
            axes.set_xscale("symlog", linthresh=least)
            axes.set_xlim(left=0)
        drawing.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
        episodes = " or ".join(str(n) for n in sorted({r["n_policies"] * r["n_episodes"] for r in seen}))
        drawing.suptitle(
            f"{dataset}: {largest} pairs, {episodes} episodes a point, 95 % interval", fontsize=10
        )
    return path


def objectives_figure(rows: Sequence[dict[str, Any]], dataset: str, folder: Path) -> Path | None:
    """Figure 3 of one dataset: the scores of Table 1 as bars, as a PNG.

    Returns:
        The file, or None where the rows hold nothing to compare for this dataset.
    """
    here = [r for r in at_main_size(r for r in rows if r["group"] == "main") if r["dataset"] == dataset]
    bars: dict[str, dict[str, dict[str, Any]]] = {}
    teachers: dict[str, float] = {}
    for row in sorted((r for r in here if r["protocol"] in PROTOCOLS), key=method_order):
        name, kind = method_name(row), f"{row['protocol']} students"
        if kind in bars.setdefault(name, {}):
            continue
        same = [r for r in here if method_name(r) == method_name(row) and r["protocol"] == row["protocol"]]
        score = score_of(same)
        bars[name][kind] = {"mean": score.mean, "ci95_half_width": score.half_width}
        if row["teacher_mean"] is not None:
            teachers[name] = row["teacher_mean"]
    if len(bars) < 2:
        return None
    (size,) = {r["n_syn"] for r in here if r["n_syn"]}
    return returns_by_objective(
        bars,
        f"score ({here[0]['unit']})",
        f"{dataset}: {size} pairs",
        folder / f"objectives-{_slug(dataset)}.png",
        teachers=teachers,
    )


def _line(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["method"], row["label"], row["protocol"]


def distilled_states(rows: Sequence[dict[str, Any]], dataset: str, out: Path, folder: Path) -> Path | None:
    """Figure 2 of one dataset: distilled states above, and below what follows their actions, as a PNG.

    Returns:
        The file, or None where the folder holds no synset of it or its environment cannot be rendered here.
    """
    distilled = [
        r
        for r in rows
        if r["dataset"] == dataset
        and r["outer_steps"]
        and r["group"] == "main"
        and r["protocol"] == "recipe"
        and _synset_folder(r, out).exists()  # of published rows only the numbers are at hand
    ]
    if not distilled:
        return None
    best = min(distilled, key=lambda r: (-r["n_syn"], r["held_out_loss"]))  # by loss, never by return
    path = folder / f"states-{_slug(dataset)}.png"
    folder.mkdir(parents=True, exist_ok=True)
    synset = load_synset(_synset_folder(best, out).absolute())
    return path if render_strip(synset, path, follow=True) else None


def _synset_folder(row: dict[str, Any], out: Path) -> Path:
    record = json.loads((out / "cells" / f"{row['cell']}.json").read_text())
    return out / "runs" / (record["run"] or "none") / "synset"


def fill_figures(page: Path, figures: dict[str, list[Path]]) -> None:
    """Put links to the figures between `<!-- figure1 -->` and `<!-- /figure1 -->` of a page.

    Raises:
        ConfigError: A marker is missing.
    """
    text = page.read_text()
    for name, paths in figures.items():
        pattern = re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.S)
        links = "\n".join(f"![{p.stem}]({p.relative_to(page.parent)})" for p in paths)
        text, found = pattern.subn(lambda _, n=name, to=links: f"<!-- {n} -->\n{to}\n<!-- /{n} -->", text)  # type: ignore[misc]
        if not found:
            raise ConfigError(
                f"'{page}' has no place for {name}: write '<!-- {name} -->' and '<!-- /{name} -->'."
            )
    write_atomically(page, text.encode())


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
