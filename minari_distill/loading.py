"""Reading a synset back: from Minari's folder, any folder, the gallery, the Hub.

>>> load_synset("gallery/hopper-medium-replay-infinite-v0")
Synset of 256 pairs (obs_dim 11, act_dim 3), distilled from obd/hopper/medium-replay-v0
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.storage.datasets_root_dir import get_dataset_path

from minari_distill import layout
from minari_distill.config import DistillConfig
from minari_distill.errors import DatasetError, SynsetError, did_you_mean
from minari_distill.integrity import check_folder
from minari_distill.locate import EMBEDDED_ID, GALLERY, MINARI_ID, find_folder, local_ids
from minari_distill.recipe import StudentRecipe
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.synset import Synset

_UNNAMED: dict[str, Any] = {
    "clone_steps": 0,
    "student_widening": 1,
    "student_length": 1.0,
    "metric_share": 0.0,
    "metric_lr": 0.0,
    "infinite_width": False,
    "metric_init": "torch",
    "metric_output_gain": 1.0,
}  # what a synset older than these settings was made with

GALLERY_FOLDER = Path(__file__).parent / "data" / "gallery"


def _fetch_from_hub(address: str) -> Path:
    from minari_distill.hub import fetch  # as in `push_to_hub`

    return fetch(address)


ROADS: dict[str, Callable[[str], Path]] = {"hf": _fetch_from_hub}
"""Other places to load from: a scheme ("hf") → a function of the whole address that fetches it into a folder."""


def load_synset(source: str | Path | minari.MinariDataset) -> Synset:
    """Read a synset that `save` wrote.

    Args:
        source: A local Minari id, a folder, a `MinariDataset` (of a filtered or split one, the pairs that it has), an id of the gallery that ships with the package
            ("gallery/hopper-medium-replay-infinite-v0"; see `gallery`), or an address of a scheme in `ROADS`, for
            instance "hf://me/hopper-synsets/hopper-medium-distilled-v0".

    Returns:
        The synset, its vectors those that were saved, bit for bit.

    Raises:
        SynsetError: There is none, it is an ordinary dataset, or its files are damaged.
    """
    if isinstance(source, str) and source.startswith(GALLERY) and not _is_local(source):
        path = GALLERY_FOLDER / f"{source.removeprefix(GALLERY)}.parquet"
        if not path.is_file():
            known = gallery_ids()
            raise SynsetError(
                f"The gallery holds no '{source}'.{did_you_mean(source, known)} It holds: {', '.join(known)}."
            )
        try:
            observations, actions, record = layout.read_single(path)
        except (OSError, KeyError, ValueError, TypeError) as error:  # pyarrow's are of these kinds
            raise SynsetError(f"'{path}' cannot be read: {error}. Install the package anew.") from error
        return _from_record(record, lambda *codecs: (observations, actions), path)
    data = _find(source)
    record = layout.read_metadata(data)["synset"]
    synset = _from_record(
        record, lambda *codecs: layout.read_pairs(data, int(record["n_syn"]), *codecs), data
    )
    check_folder(data.parent)
    if isinstance(source, minari.MinariDataset):  # perhaps filtered, or one part of a split
        kept = np.asarray(source.episode_indices)
        if not len(kept):
            raise SynsetError(
                f"No pair of '{source.spec.dataset_id}' is left: filter less, or load the whole synset."
            )
        if not np.array_equal(kept, np.arange(len(synset))):
            synset = dataclasses.replace(
                synset, observations=synset.observations[kept], actions=synset.actions[kept]
            )
    return synset


def gallery_ids() -> list[str]:
    """Ids of the synsets that ship with the package, for `load_synset`."""
    return [f"{GALLERY}{path.stem}" for path in sorted(GALLERY_FOLDER.glob("*.parquet"))]


def _is_local(dataset_id: str) -> bool:
    return (get_dataset_path(dataset_id) / "data").is_dir()


def _from_record(
    record: dict[str, Any],
    read: Callable[[SpaceCodec, SpaceCodec], tuple[np.ndarray, np.ndarray]],
    where: Path,
) -> Synset:
    """The synset of a record, its pairs by `read` (observation codec, action codec)."""
    try:
        observation_codec = SpaceCodec.from_spec(record["observation_codec"])
        action_codec = SpaceCodec.from_spec(record["action_codec"])
        observations, actions = read(observation_codec, action_codec)
        return Synset(
            observations=observations,
            actions=actions,
            observation_codec=observation_codec,
            action_codec=action_codec,
            source=Source.from_json(_known(Source, record["source"], where)),
            observation_mean=np.array(record["normalisation"]["mean"], np.float32),
            observation_std=np.array(record["normalisation"]["std"], np.float32),
            recipe=StudentRecipe(**_known(StudentRecipe, record["recipe"], where)),
            config=_config(_known(DistillConfig, record["config"], where)) if record["config"] else None,
            metadata=dict(record["metadata"]),
            input_metric=layout.matrix_from_json(record.get("input_metric")),  # older synsets have none
        )
    except SynsetError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SynsetError(f"The synset in '{where}' is damaged: {what} Save or pull it anew.") from error


def _config(given: dict[str, Any]) -> DistillConfig:
    return DistillConfig(**_UNNAMED | given)


def _known(kind: type, given: dict[str, Any], where: Path) -> dict[str, Any]:
    """The same fields.

    Raises:
        SynsetError: `kind` has not all of them.
    """
    if strange := sorted(set(given) - {field.name for field in dataclasses.fields(kind)}):
        raise SynsetError(
            f"The synset in '{where}' was written by a newer minari_distill: its {', '.join(strange)} is unknown here. Try: pip "
            "install --upgrade minari-distill"
        )
    return given


def _find(source: Any) -> Path:
    """The folder that holds a synset's metadata.json."""
    if isinstance(source, minari.MinariDataset):
        return Path(source.storage.data_path)
    if isinstance(source, str) and "://" in source:
        scheme = source.split("://")[0]
        if scheme not in ROADS:
            raise SynsetError(
                f"'{source}': nothing here reads {scheme}://.{did_you_mean(scheme, ROADS)} A synset on the Hub is hf://USER/REPO/NAME-vN."
            )
        source = ROADS[scheme](source)
    if not isinstance(source, str | os.PathLike):
        raise SynsetError(
            f"A synset is a Minari id, a folder or a MinariDataset, not a {type(source).__name__}."
        )
    is_id = isinstance(source, str) and MINARI_ID.fullmatch(source) and not Path(source).is_dir()
    if source == EMBEDDED_ID and not _is_local(EMBEDDED_ID):
        raise SynsetError(
            f"'{source}' is a Minari dataset but no synset. Distil it with: minari-distill distill {source}"
        )
    if is_id and not _is_local(str(source)):
        raise SynsetError(
            f"Synset '{source}' not found.{did_you_mean(str(source), [*local_ids(), *gallery_ids()])} List what is here with: minari list local"
        )
    if not is_id and source != "embedded" and not Path(os.path.expanduser(source)).exists():
        raise SynsetError(
            f"Synset '{source}' not found: it is no folder and no id, which looks like me/hopper-v0 or gallery/hopper-medium-replay-v0."
            f"{did_you_mean(str(source), [*local_ids(), *gallery_ids()])}"
        )
    try:
        return find_folder(source)
    except DatasetError as error:
        raise SynsetError(str(error)) from error
