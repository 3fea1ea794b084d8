"""Figures, all in one colour-blind-safe style.

`style.py` holds the colours and how a figure is saved, `curves.py` losses and scores, `pairs.py` the synset over its
source, `strip.py` rendered states.
"""

from minari_distill.plots.curves import held_out_curve, learning_curve, returns_by_objective
from minari_distill.plots.pairs import action_histograms, principal_components
from minari_distill.plots.strip import render_strip

__all__ = [
    "action_histograms",
    "held_out_curve",
    "learning_curve",
    "principal_components",
    "render_strip",
    "returns_by_objective",
]
