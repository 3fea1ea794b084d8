"""What the shell completes: ids of datasets and synsets on this machine, names of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from minari.storage.datasets_root_dir import get_dataset_path

from minari_distill.config import DistillConfig
from minari_distill.exporters.formats import FORMATS
from minari_distill.loading import gallery_ids
from minari_distill.locate import local_ids
from minari_distill.objectives import OBJECTIVES
from minari_distill.presets import PRESETS


def datasets(incomplete: str) -> Iterator[str]:
    """Datasets on this machine that are no synsets."""
    return _from((i for i in local_ids() if not _is_synset(i)), incomplete)


def synsets(incomplete: str) -> Iterator[str]:
    """Synsets on this machine, and those that ship with the package."""
    return _from((*filter(_is_synset, local_ids()), *gallery_ids()), incomplete)


def presets(incomplete: str) -> Iterator[str]:
    """Names of presets."""
    return _from(PRESETS, incomplete)


def objectives(incomplete: str) -> Iterator[str]:
    """Names of objectives."""
    return _from(OBJECTIVES, incomplete)


def settings(incomplete: str) -> Iterator[str]:
    """`name=` of every setting, for --set."""
    return _from((f"{field.name}=" for field in dataclasses.fields(DistillConfig)), incomplete)


def recipes(incomplete: str) -> Iterator[str]:
    """Names of student recipes."""
    return _from(("recipe", "general"), incomplete)


def formats(incomplete: str) -> Iterator[str]:
    """Names of export formats."""
    return _from(FORMATS, incomplete)


def _is_synset(dataset_id: str) -> bool:
    return (get_dataset_path(dataset_id) / "synset").is_dir()


def _from(words: Iterable[str], incomplete: str) -> Iterator[str]:
    return (word for word in words if word.startswith(incomplete))
