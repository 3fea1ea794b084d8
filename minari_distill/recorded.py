"""What a synset records of its making: it may come from anywhere, and its metadata hold anything."""

from __future__ import annotations

from typing import Any

from minari_distill.synset import Synset


def history_of(synset: Synset) -> list[dict[str, Any]]:
    """Its records of step, loss (or None) and held_out_loss, in the order of the run."""
    history = synset.metadata.get("history")
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    return [
        {**row, "loss": row.get("loss") if is_number(row.get("loss")) else None}
        for row in rows
        if is_number(row.get("step")) and is_number(row.get("held_out_loss"))
    ]


def scores_of(synset: Synset) -> dict[str, dict[str, Any]]:
    """Its scores by policy: records with mean, ci95_half_width (or None) and the protocol."""
    scores = synset.metadata.get("scores")
    rows = scores if isinstance(scores, dict) else {}
    return {
        name: {**row, "ci95_half_width": width if is_number(width := row.get("ci95_half_width")) else None}
        for name, row in rows.items()
        if isinstance(row, dict) and is_number(row.get("mean"))
    }


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
