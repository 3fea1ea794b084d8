"""The command `show`."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import minari_distill as md
from minari_distill import completion
from minari_distill.recorded import history_of
from minari_distill.show.facts import facts, score_lines, score_unit
from minari_distill.terminal import JsonFlag, one_line_errors, print_json, tell

SCORE_HEAD = ("policy", "mean ± 95 % interval", "policies × episodes")
BARS = "▁▂▃▄▅▆▇█"


def show(
    synset: Annotated[
        str,
        typer.Argument(
            help="Id (of Minari, or gallery/…) or folder of a synset, or an hf:// address.",
            autocompletion=completion.synsets,
        ),
    ],
    plot: Annotated[Path | None, typer.Option(help="Folder to write figures into, as PNG.")] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="File to write one page into, its images inside; opens without a network."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Where a synset comes from, what it was distilled with, how it scored; as text, figures or a page.

    Example: `minari-distill show me/hopper-medium-distilled-v0 --html hopper.html`
    """

    with one_line_errors(as_json):
        loaded = md.load_synset(synset)
        files, notes = _draw(loaded, synset, plot, html) if plot or html else ([], [])
    summary = loaded.summary()
    if as_json:
        print_json({"id": synset, **summary, "files": [str(path) for path in files], "notes": notes})
        return
    out = Console()
    table = Table(title=escape(synset), show_header=False)
    for name, value in facts(loaded).items():
        table.add_row(name, escape(value))
    losses = [record["held_out_loss"] for record in history_of(loaded)]
    if losses:
        table.add_row("its course", f"{sparkline(losses)}  {losses[0]:.4f} → {min(losses):.4f}")
    out.print(table)
    if lines := score_lines(loaded):
        unit = score_unit(loaded) and f"({score_unit(loaded)})"
        table = Table(*SCORE_HEAD, title=escape(f"Scores {unit}"))
        for line in lines:
            table.add_row(*map(escape, line))
        out.print(table)
    for note in notes:
        tell(note, "yellow")
    for path in files:
        tell(f"Written: {path}")


def _draw(loaded: md.Synset, name: str, plot: Path | None, html: Path | None) -> tuple[list[Path], list[str]]:
    """Write what was asked for; the files, and a sentence for what could not be drawn."""
    from minari_distill.show.figures import draw_figures
    from minari_distill.show.page import write_page

    with tempfile.TemporaryDirectory() as temporary:
        drawing = draw_figures(loaded, name, plot or Path(temporary))
        files = [figure.path for figure in drawing.figures] if plot else []
        if html:
            files.append(write_page(loaded, name, drawing, html))
    return files, drawing.notes


def sparkline(values: list[float]) -> str:
    """Values as a line of bars, at most 40 of them.

    >>> sparkline([3.0, 2.0, 1.0])
    '█▅▁'
    """
    stride = max(1, math.ceil(len(values) / 40))
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((v - low) / span * 7)] for v in values[::stride])
