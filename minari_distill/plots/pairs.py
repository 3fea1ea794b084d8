"""The pairs of a synset over the dataset that they were distilled from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from gymnasium import spaces

from minari_distill.plots.style import BLUE, GREY, figure
from minari_distill.spaces import SpaceCodec
from minari_distill.synset import Synset
from minari_distill.transitions import Transitions

MOST_ACTIONS = 24
"""Action dimensions in one figure."""
MOST_STATES, MOST_LONG_STATES, LONG = 20_000, 1_000, 1_000
"""States of the source behind the pairs, a sample of them; fewer of more than 1000 numbers, of images for instance."""
BINS = 30


def principal_components(synset: Synset, source: Transitions | None, title: str, path: Path) -> Path:
    """Distilled states in the plane in which the source's states vary most, over those states, as a PNG.

    The components are those of the source's normalised states, x = (s − mean)/std, or of the synset's own where the
    source is not given.

    Args:
        synset: The pairs.
        source: What it was distilled from.
        title: Above the figure.
        path: The PNG to write.
    """

    def normalised(states: np.ndarray) -> np.ndarray:
        return (states.astype(np.float64) - synset.observation_mean) / synset.observation_std

    x = normalised(synset.observations)
    base = x if source is None else normalised(_sample(source.observations))
    centre, axes_of, shares = _components(base)
    with figure(path, figsize=(5.8, 4.6)) as (_, axes):
        if source is not None:
            behind = (base - centre) @ axes_of.T
            cells = axes.hexbin(*behind.T, gridsize=60, bins="log", cmap="Greys", mincnt=1, linewidths=0)
            axes.figure.colorbar(cells, ax=axes, label="states of the source", shrink=0.8)
        points = (x - centre) @ axes_of.T
        axes.scatter(*points.T, s=16, color=BLUE, edgecolor="white", lw=0.5, label=f"{len(synset)} pairs")
        axes.set(
            xlabel=f"first principal component ({shares[0]:.0%} of the variance)",
            ylabel=f"second ({shares[1]:.0%})",
            title=title,
        )
        axes.legend(loc="best", fontsize=8, frameon=True, framealpha=0.8)
    return path


def action_histograms(synset: Synset, source: Transitions | None, title: str, path: Path) -> Path:
    """How often each action occurs, in the source and in the synset, as a PNG.

    One histogram a dimension of a continuous action (the first 24), bars for the values of a discrete one: shares in
    the source, mean probabilities in the synset.

    Args:
        synset: The pairs.
        source: What it was distilled from, if it is at hand.
        title: Above the figure.
        path: The PNG to write.
    """
    codec = synset.action_codec
    panels, units = _panels(codec), synset.units()
    # where bounds say nothing, the range of the data
    low, high = units.act_low.numpy(), units.act_high.numpy()
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    size = (max(4.8, 2.6 * columns), 0.6 + 2.2 * rows)
    with figure(path, rows, columns, figsize=size, squeeze=False) as (drawing, grid):
        for axes, (name, at, first) in zip(grid.flat, panels, strict=False):
            theirs = None if source is None else source.actions[:, at]
            if isinstance(at, slice):
                _bars(axes, synset.actions[:, at], theirs, first)
            else:
                _histogram(axes, synset.actions[:, at], theirs, (low[at], high[at]))
            axes.set_title(name, fontsize=9)
            axes.grid(axis="x", visible=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        grid[0, 0].set_ylabel("share")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
        drawing.suptitle(title)
    return path


def _sample(states: np.ndarray) -> np.ndarray:
    """States of all times, drawn once and for all where they are many."""
    most = MOST_LONG_STATES if states.shape[1] > LONG else MOST_STATES
    if len(states) <= most:
        return states
    return states[np.sort(np.random.default_rng(0).choice(len(states), most, replace=False))]


def _components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (dim,), the two directions of the largest variance (2, dim), their shares of it (2,)."""
    centre = x.mean(0)
    _, size, directions = np.linalg.svd(x - centre, full_matrices=False)
    variance = size**2
    shares, chosen = variance[:2] / max(variance.sum(), 1e-12), directions[:2]
    if len(shares) < 2:  # one number a state, or one state: the second axis is empty
        shares, chosen = np.append(shares, 0.0), np.vstack([chosen, np.zeros_like(chosen)])
    # The sign of a component is arbitrary: its largest entry is positive.
    signs = np.sign(chosen[np.arange(2), np.abs(chosen).argmax(1)])
    return centre, chosen * np.where(signs == 0, 1, signs)[:, None], shares


def _panels(codec: SpaceCodec) -> list[tuple[str, int | slice, int]]:
    """What to draw: a column of a continuous part, all columns of a choice, and the number of its first value."""
    panels: list[tuple[str, int | slice, int]] = []
    for part in codec.parts:
        name, at = part.name or "action", part.slice.start
        if isinstance(part.space, spaces.Discrete):
            panels.append((name, part.slice, int(part.space.start)))
        elif isinstance(part.space, spaces.MultiDiscrete):
            for i, n in enumerate(part.space.nvec.flatten().tolist()):
                panels.append((f"{name} {i}", slice(at, at + n), int(part.space.start.flatten()[i])))
                at += n
        elif isinstance(part.space, spaces.MultiBinary):
            panels.append((name, part.slice, 0))
        else:
            panels += [(f"{name} {i - at}", i, 0) for i in range(at, part.slice.stop)]
    return panels[:MOST_ACTIONS]


def _histogram(
    axes, ours: np.ndarray, theirs: np.ndarray | None, bounds: tuple[np.floating, np.floating]
) -> None:
    edges = np.linspace(float(bounds[0]), float(bounds[1]), BINS + 1)
    if theirs is not None:
        axes.hist(
            theirs,
            edges,
            weights=np.full(len(theirs), 1 / len(theirs)),
            color=GREY,
            alpha=0.45,
            label="source",
        )
    share = np.full(len(ours), 1 / len(ours))
    axes.hist(ours, edges, weights=share, color=BLUE, histtype="step", lw=1.5, label="synset")


def _bars(axes, ours: np.ndarray, theirs: np.ndarray | None, first: int) -> None:
    at = first + np.arange(ours.shape[1])
    if theirs is not None:
        axes.bar(at - 0.2, theirs.mean(0), 0.4, color=GREY, alpha=0.6, label="source")
    axes.bar(at + (0.2 if theirs is not None else 0), ours.mean(0), 0.4, color=BLUE, label="synset")
    axes.xaxis.get_major_locator().set_params(integer=True)
