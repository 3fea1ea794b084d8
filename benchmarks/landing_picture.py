"""The three pictures of the documentation's first page, for light and for dark pages, and the numbers beside them.

    minari-distill demo
    python -m benchmarks.landing_picture demo/hopper-distilled-v0 docs/images

What goes in: the states of the source in the plane in which they vary most, how many in each cell. What comes out:
the synset's states over them, coloured by the first component of the distilled action. What it saves: the scores in
the synset's metadata.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

import minari_distill as md
from minari_distill.plots.style import BLUE, GREY, ORANGE, figure, plt

# ink, the faintest and the strongest cell, and the part of viridis that stands out from the page
THEMES = {
    "light": ("#33383f", "#d5d9de", "#4a525c", (0.0, 0.85)),
    "dark": ("#d9dde3", "#3a414c", "#9aa5b3", (0.35, 1.0)),
}
BARS = {
    "random_pairs": ("random real pairs", GREY),
    "relabelled_pairs": ("… with the teacher's actions", GREY),
    "synset": ("distilled pairs", BLUE),
    "synset,_ensemble_of_10": ("… and an ensemble of 10", BLUE),
    "synset_at_infinite_width": ("a student of infinite width", BLUE),
    "teacher": ("teacher", ORANGE),
}


def main(synset_id: str, folder: Path) -> None:
    """Write `landing-{in,out,saves}-{light,dark}.png`, and print the numbers for the captions."""
    synset = md.load_synset(synset_id)
    source = md.load_transitions(list(synset.source.dataset_ids))
    x, s = (
        (obs - synset.observation_mean) / synset.observation_std
        for obs in (source.observations, synset.observations)
    )
    plane = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2].T
    behind, points = (x - x.mean(0)) @ plane, (s - x.mean(0)) @ plane
    for theme, (ink, faint, strong, part) in THEMES.items():
        style = {"text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
        colours_of_actions = LinearSegmentedColormap.from_list("part", plt.cm.viridis(np.linspace(*part, 64)))
        shades = LinearSegmentedColormap.from_list("shades", [faint, strong])
        with plt.rc_context(style | {"savefig.transparent": True, "figure.dpi": 200, "font.size": 11}):
            for name in ("in", "out"):
                with figure(folder / f"landing-{name}-{theme}.png", figsize=(4.4, 2.2)) as (_, axes):
                    alpha = 1.0 if name == "in" else 0.45
                    axes.hexbin(
                        *behind.T, gridsize=(60, 18), bins="log", cmap=shades, mincnt=1, lw=0, alpha=alpha
                    )
                    if name == "out":
                        axes.scatter(*points.T, s=17, c=synset.actions[:, 0], cmap=colours_of_actions, lw=0)
                    axes.set(xlim=_span(behind[:, 0]), ylim=_span(behind[:, 1]))
                    axes.set_axis_off()
            with figure(folder / f"landing-saves-{theme}.png", figsize=(4.4, 2.2)) as (_, axes):
                rows = {key: synset.metadata["scores"][key] for key in BARS}
                labels, colours = zip(*BARS.values(), strict=True)
                means = [row["mean"] for row in rows.values()]
                widths = [row["ci95_half_width"] or 0.0 for row in rows.values()]
                bars = axes.barh(labels, means, color=colours, height=0.66)
                axes.errorbar(means, range(len(means)), xerr=widths, fmt="none", ecolor=ink, capsize=2, lw=1)
                for bar, mean, width in zip(bars, means, widths, strict=True):
                    y = bar.get_y() + bar.get_height() / 2
                    axes.text(mean + width + 3, y, f"{mean:.0f}", va="center")
                axes.invert_yaxis()
                axes.set(xlim=(0, 118), xticks=[])
                axes.grid(visible=False)
                axes.tick_params(axis="y", length=0)
                axes.spines[["bottom", "left"]].set_visible(False)
    began = time.process_time()
    md.behavior_clone(synset)
    _print_numbers(synset, source, time.process_time() - began)


def _print_numbers(synset: md.Synset, source: md.Transitions, seconds: float) -> None:
    low, high = source.source.ref_min_score, source.source.ref_max_score
    returns = source.episode_returns()
    scale = (lambda r: r) if low is None or high is None else (lambda r: 100 * (r - low) / (high - low))
    pair = 4 * (source.obs_dim + source.act_dim)  # bytes in float32
    print(f"in: {len(source):,} pairs of {source.n_episodes} episodes, {pair * len(source) / 1e6:.1f} MB")
    print(f"    mean score of an episode {scale(returns.mean()):.0f}, the best {scale(returns.max()):.0f}")
    print(
        f"out: {len(synset)} pairs, {pair * len(synset) / 1e3:.0f} kB: one in {len(source) / len(synset):.0f}"
    )
    print(f"student: {synset.recipe.steps} steps of {synset.recipe.optimizer}, {seconds:.1f} s of CPU time")


def _span(values: np.ndarray) -> tuple[float, float]:
    """All but a thousandth of the values on either side, and a margin."""
    low, high = np.quantile(values, (0.001, 0.999))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("synset")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    main(given.synset, given.folder)
