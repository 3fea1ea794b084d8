"""The figures of one synset: what it learnt, where its states lie, what its actions are, what they look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minari_distill import plots
from minari_distill.errors import DatasetError
from minari_distill.locate import local_ids
from minari_distill.recorded import history_of, scores_of
from minari_distill.synset import Synset
from minari_distill.transitions import Transitions, load_transitions


@dataclass(frozen=True)
class Figure:
    """A PNG and what it shows, in a sentence or two."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Drawing:
    """All figures that could be drawn, and a sentence for each thing that could not."""

    figures: list[Figure]
    notes: list[str]


def draw_figures(synset: Synset, name: str, folder: Path) -> Drawing:
    """Draw what the synset, the datasets on this machine and its OpenGL allow.

    Args:
        synset: The synset.
        name: For the titles.
        folder: Made if need be; loss.png, components.png, actions.png and states.png are written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, notes = [], []
    source, missing = source_at_hand(synset)
    if missing:
        notes.append(missing)

    history, scores = history_of(synset), scores_of(synset)
    if len(history) < 2:
        notes.append("No learning curve: the synset records fewer than two validations.")
    elif scores:
        path = plots.learning_curve(history, scores, name, folder / "loss.png")
        caption = (
            "Loss of the students during distillation, and the recorded scores with their 95 % intervals."
        )
        figures.append(Figure(path, caption))
    else:
        path = plots.held_out_curve(history, name, folder / "loss.png")
        figures.append(Figure(path, "Loss on held-out states during distillation."))

    over = " over the source's states (grey: how many)" if source else ", in the components of its own states"
    path = plots.principal_components(synset, source, name, folder / "components.png")
    figures.append(Figure(path, f"The distilled states{over}, normalised, in two principal components."))

    path = plots.action_histograms(synset, source, name, folder / "actions.png")
    figures.append(
        Figure(path, f"How often each action occurs in the synset{' and in the source' * bool(source)}.")
    )

    if plots.render_strip(synset, folder / "states.png", follow=True):
        caption = (
            "Above: distilled states. Below: the state that the simulator reaches from each by its action."
        )
        figures.append(Figure(folder / "states.png", caption))
    else:
        notes.append(
            "No pictures of states: the environment is none of MuJoCo's whose observations are positions and "
            "velocities, or nothing renders on this machine (see: minari-distill doctor)."
        )
    return Drawing(figures, notes)


def source_at_hand(synset: Synset) -> tuple[Transitions | None, str]:
    """The transitions that a synset was distilled from, if all are on this machine; else why not. Nothing is downloaded."""
    ids, here = synset.source.dataset_ids, set(local_ids())
    missing = [i for i in ids if i not in here]
    if missing or not ids:
        name = ", ".join(missing) or "The source"
        repair = ""
        if missing:
            repair = f" For figures over its states it must be here (if it is published: minari download {missing[0]})."
        return None, f"{name} is not on this machine: the figures show the synset alone.{repair}"
    codec = synset.observation_codec
    try:
        source = load_transitions(list(ids), drop=codec.drop, dtype=str(codec.dtype))
    except DatasetError as error:
        return None, f"The figures show the synset alone, for its source cannot be read: {error}"
    if source.observation_codec != codec or source.action_codec != synset.action_codec:
        return None, f"The figures show the synset alone: {', '.join(ids)} on this machine has other spaces."
    return source, ""
