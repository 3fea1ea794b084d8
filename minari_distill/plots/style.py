"""One look for every figure: Okabe and Ito's palette, which people with any colour vision can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files alone: no window, no screen needed
from matplotlib import pyplot as plt

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#777777"
PALETTE = (BLUE, ORANGE, GREEN, PINK, GREY)
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the style, saved as a PNG at the end; the same drawing gives the same bytes.

    Args:
        path: The PNG to write; its folder is made.
        rows, columns, **options: As `matplotlib.pyplot.subplots` takes them.
    """
    with plt.rc_context(STYLE):
        drawing, axes = plt.subplots(rows, columns, layout="constrained", **options)
        try:
            yield drawing, axes
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.savefig(path, metadata={"Software": None})
        finally:
            plt.close(drawing)
