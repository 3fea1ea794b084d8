"""Synsets that ship with the package, ready to be cloned.

>>> import minari_distill as md
>>> print(md.gallery())  # doctest: +SKIP
>>> policy = md.behavior_clone(md.load_synset("gallery/hopper-medium-replay-infinite-v0"))  # doctest: +SKIP

`benchmarks/make_gallery.py` distils them, from teachers that it learns itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from minari_distill.loading import gallery_ids, load_synset
from minari_distill.recorded import scores_of


@dataclass(frozen=True)
class GalleryEntry:
    """One synset of the gallery.

    Attributes:
        id: What `load_synset` takes.
        dataset: Id of the dataset, or ids of the datasets, that it was distilled from.
        environment: Gymnasium's id of the environment to act in; "" if unknown.
        n_syn: Pairs.
        recipe_score: Mean score of students of the synset's own recipe, which `behavior_clone` trains; normalised.
        score: Likewise of students that nothing was tuned for (`recipe="general"`).
        teacher_score: The teacher's, likewise.
        expanded_score: Likewise of networks taught by many pairs of few (`expand.py`), where the recipe is of infinite width.
    """

    id: str
    dataset: str
    environment: str
    n_syn: int
    recipe_score: float
    score: float
    teacher_score: float
    expanded_score: float | None = None


class Gallery(list[GalleryEntry]):
    """The entries, printed as a table."""

    def __str__(self) -> str:
        width = max((len(entry.id) for entry in self), default=2)
        lines = [f"{'id':{width}}  pairs  own recipe  general  expanded  teacher  environment"]
        for e in self:
            expanded = "–" if e.expanded_score is None else f"{e.expanded_score:.1f}"
            lines.append(
                f"{e.id:{width}}  {e.n_syn:5}  {e.recipe_score:10.1f}  {e.score:7.1f}  {expanded:>8}  {e.teacher_score:7.1f}  {e.environment}"
            )
        return "\n".join(lines)


def gallery() -> Gallery:
    """The synsets that ship with the package, with the scores that were measured when they were made.

    Returns:
        An entry each; printed, a table.

    Raises:
        SynsetError: A file of the installation is damaged.
    """
    entries = Gallery()
    for synset_id in gallery_ids():
        synset = load_synset(synset_id)
        scores = scores_of(synset)
        general = scores["general students"]
        entries.append(
            GalleryEntry(
                id=synset_id,
                dataset=" + ".join(synset.source.dataset_ids),
                environment=synset.source.env_id or "",
                n_syn=len(synset),
                recipe_score=scores.get("recipe students", general)["mean"],  # absent where the two are one
                score=general["mean"],
                teacher_score=scores["teacher"]["mean"],
                expanded_score=scores.get("networks taught by expanded pairs", {}).get("mean"),
            )
        )
    return entries
