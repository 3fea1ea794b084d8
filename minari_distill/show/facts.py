"""What there is to say about a synset, as text: for the terminal and for the page."""

from __future__ import annotations

import math
from typing import NamedTuple

from minari_distill.evaluate import Score
from minari_distill.recorded import is_number, scores_of
from minari_distill.synset import Synset


def facts(synset: Synset) -> dict[str, str]:
    """Provenance and settings, a line each."""
    source, config, metadata = synset.source, synset.config, synset.metadata
    lines = {
        "source": ", ".join(source.dataset_ids),
        "size of the source": f"{source.total_steps:,} steps in {source.total_episodes:,} episodes",
        "licence of the source": source.license or "not stated in its metadata",
        "authors of the source": ", ".join(source.author),
        "environment": source.env_id or "",
        "observations": f"{len(synset)} × {synset.observation_codec.dim} {synset.observations.dtype}, units of the source",
        "actions": f"{len(synset)} × {synset.action_codec.dim} {synset.actions.dtype}"
        + (", probabilities of the actions" if synset.action_codec.is_discrete else ""),
        "student": synset.recipe.told,
    }
    if synset.recipe.infinite:
        lines["for networks"] = "they read these pairs badly: many of them, by minari-distill expand, serve"
    expansion = metadata.get("expansion")
    if isinstance(expansion, dict) and is_number(expansion.get("n_syn")):
        lines["made of"] = f"{expansion['n_syn']} distilled pairs, by expand"
    if config:
        lines["objective"] = f"{config.objective}, {config.outer_steps} outer steps, seed {config.seed}"
    teacher = metadata.get("teacher")
    if isinstance(teacher, dict) and "method" in teacher:
        lines["teacher"] = str(teacher["method"])
    if is_number(loss := metadata.get("held_out_loss")):
        lines["loss on held-out states"] = f"{loss:.4f}"
    for name in ("seconds", "versions"):
        if isinstance(record := metadata.get(name), dict):
            lines[name] = ", ".join(f"{key} {value}" for key, value in record.items())
    return {name: value for name, value in lines.items() if value}


class ScoreLine(NamedTuple):
    """One policy's score in words."""

    policy: str
    score: str
    rollouts: str


def score_unit(synset: Synset) -> str:
    """The unit of the recorded scores, "" if it was not recorded."""
    return " / ".join(dict.fromkeys(str(row["unit"]) for row in scores_of(synset).values() if "unit" in row))


def score_lines(synset: Synset) -> list[ScoreLine]:
    """The recorded scores, as mean ± 95 % half-width."""
    lines = []
    for policy, row in scores_of(synset).items():
        width = row["ci95_half_width"]
        score = str(Score(row["mean"], math.nan if width is None else width, row.get("n_policies", 1)))
        rollouts = f"{row.get('n_policies', '?')} × {row.get('n_episodes', '?')}"
        lines.append(ScoreLine(policy.replace("_", " "), score, rollouts))
    return lines
