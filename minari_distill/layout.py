"""A synset's folder: a Minari dataset, and beside it the same pairs as Parquet for Hugging Face `datasets`.

    data/metadata.json     Minari's metadata; all that is ours under the key "synset"
    data/main_data.hdf5    N one-step episodes: observations [s, s], one action, reward 0, truncated
    synset/train.parquet   one row a pair: observation, action (a column a part, where there are several)
    synset/synset.json     the record under "synset", and the files' checksums

One-step episodes, because a pair can then be sampled, filtered or split off alone, and a loader that misaligns
T+1 observations gets nothing rather than scrambled pairs. Where a space cannot hold a vector exactly (the
probabilities of a discrete action, an integer still a fraction), the episode's metadata carries the vector
itself as `observation_vector` or `action_vector`, and the episode the nearest value.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from minari.dataset.minari_storage import MinariStorage

from minari_distill.errors import SynsetError
from minari_distill.one_step_episodes import read_vectors, write_episodes
from minari_distill.spaces import SpaceCodec

FORMAT = "minari_distill.synset"
FORMAT_VERSION = 1
DATA = Path("data/main_data.hdf5")
METADATA = Path("data/metadata.json")
PARQUET = Path("synset/train.parquet")
RECORD = Path("synset/synset.json")
FILES = (DATA, METADATA, PARQUET, RECORD)


def write_layout(
    folder: Path,
    observations: np.ndarray,
    actions: np.ndarray,
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    metadata: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """Write a synset's four files into an empty folder; the same content gives the same bytes.

    Args:
        folder: Exists, is empty.
        observations: (n_syn, obs_dim), in the source's units.
        actions: (n_syn, act_dim).
        observation_codec, action_codec: Between these vectors and the dataset's spaces.
        metadata: Minari's keys, JSON values; `dataset_id` among them.
        record: What belongs under "synset", JSON values.

    Raises:
        SynsetError: Of keys that files cannot hold (`check_keys`).
    """
    columns = pair_columns("observation", observations, observation_codec) | pair_columns(
        "action", actions, action_codec
    )
    _write_minari(folder / "data", observations, actions, observation_codec, action_codec, metadata, record)
    (folder / "synset").mkdir()
    pq.write_table(pa.table(columns), folder / PARQUET)
    checksums = {file.as_posix(): _checksum(folder / file) for file in (DATA, PARQUET)}
    write_json(folder / RECORD, {**record, "files": checksums})


def read_metadata(data: Path) -> dict[str, Any]:
    """The `metadata.json` of a synset, from the folder that holds it.

    Raises:
        SynsetError: It cannot be read, is of an ordinary dataset, or of a version that this one does not know.
    """
    try:
        metadata = json.loads((data / "metadata.json").read_text())
        record = metadata.get("synset")
    except (OSError, ValueError, AttributeError) as error:
        raise SynsetError(
            f"'{data / 'metadata.json'}' cannot be read ({error}). Save or pull the synset anew."
        ) from error
    if record is None:
        name = metadata.get("dataset_id", data)
        raise SynsetError(
            f"'{name}' is a Minari dataset but no synset. Distil it with: minari-distill distill {name} (if it was combined from "
            "synsets: load those one by one)"
        )
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise SynsetError(f"'{data}' says it is a synset but not of the format {FORMAT!r}.")
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise SynsetError(
            f"'{data}' is a synset of format version {version!r}, this minari_distill reads {FORMAT_VERSION}. "
            "Try: pip install --upgrade minari-distill"
        )
    return metadata


def read_pairs(
    data: Path, n_syn: int, observation_codec: SpaceCodec, action_codec: SpaceCodec
) -> tuple[np.ndarray, np.ndarray]:
    """Observations (n_syn, obs_dim) and actions (n_syn, act_dim) of the synset in `data`.

    Raises:
        SynsetError: The file is not what its metadata says.
    """
    path = data / DATA.name
    # The file knows nothing of dropped leaves.
    observation_codec, action_codec = (
        SpaceCodec(codec.kept_space, dtype=codec.dtype) for codec in (observation_codec, action_codec)
    )
    try:
        with h5py.File(path, "r") as file:
            if len(file) != n_syn:
                raise SynsetError(f"it holds {len(file)} episodes, its metadata says n_syn={n_syn}")
            return (
                read_vectors(file, n_syn, "observation", 2, observation_codec),
                read_vectors(file, n_syn, "action", 1, action_codec),
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise SynsetError(f"'{path}' cannot be read: {error}. Save or pull the synset anew.") from error


def matrix_to_json(matrix: np.ndarray | None) -> list[Any] | None:
    """Rows of numbers; of a diagonal matrix, its diagonal alone."""
    if matrix is None:
        return None
    diagonal = np.diagonal(matrix)
    return (diagonal if np.array_equal(matrix, np.diag(diagonal)) else matrix).tolist()


def matrix_from_json(numbers: list[Any] | None) -> np.ndarray | None:
    """The matrix that `matrix_to_json` wrote."""
    if numbers is None:
        return None
    matrix = np.array(numbers, np.float32)
    return np.diag(matrix) if matrix.ndim == 1 else matrix


def to_json(value: Any) -> Any:
    """`value` in what JSON knows: NumPy scalars and arrays become numbers and lists, NaN and ±inf null.

    Raises:
        SynsetError: Something in it has no such form.
    """
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise SynsetError(
        f"A synset's metadata cannot hold {value!r}: give numbers, text, lists and dicts, not a "
        f"{type(value).__name__}."
    )


# ------------------------------------------------------------------------------------------------ Minari


def _write_minari(
    data: Path,
    observations: np.ndarray,
    actions: np.ndarray,
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    metadata: dict[str, Any],
    record: dict[str, Any],
) -> None:
    exact = {
        "observation_vector": (observations, observation_codec.project(observations)),
        "action_vector": (actions, action_codec.project(actions)),
    }
    vectors = [
        {name: v[i] for name, (v, held) in exact.items() if not np.array_equal(v[i], held[i])}
        for i in range(len(actions))
    ]
    file = write_episodes(data, observations, actions, observation_codec, action_codec, vectors)
    own = {
        "minari_version": minari.__version__,
        **metadata,
        "dataset_size": round(file.stat().st_size / 1e6, 1),
        "synset": record,
    }
    write_json(data / METADATA.name, MinariStorage.read_raw_metadata(data) | own)


# ------------------------------------------------------------------------------------------------ files


_RECORD_KEY = b"synset"


def write_single(path: Path, observations: np.ndarray, actions: np.ndarray, record: dict[str, Any]) -> None:
    """A whole synset as one Parquet file, vectors and all, with its record in the schema's metadata."""
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).ravel()), x.shape[1])
        for name, x in (("observation", observations), ("action", actions))
    }
    metadata = {_RECORD_KEY: json.dumps(record, sort_keys=True, allow_nan=False).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, compression="zstd")


def read_single(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Observations (n_syn, obs_dim), actions (n_syn, act_dim) and record of a `write_single` file."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    # `read_table` and `to_numpy` would import pandas, which takes longer than all the rest
    vectors = [
        np.from_dlpack(table[name].combine_chunks().flatten()).reshape(table.num_rows, -1).copy()
        for name in ("observation", "action")
    ]
    return vectors[0], vectors[1], json.loads(table.schema.metadata[_RECORD_KEY])


def check_keys(name: str, codec: SpaceCodec) -> None:
    """Refuse keys of a Dict that files cannot hold: HDF5 has "/" between its groups, and columns have dots.

    Raises:
        SynsetError: With the key, and what to do.
    """
    seen = set()
    for part in codec.parts:
        for key in part.path:
            if isinstance(key, str) and (not key or "/" in key):
                raise SynsetError(
                    f"The {name}'s part {part.name!r} has the key {key!r}, which no HDF5 file can hold so that Minari reads it. "
                    f"Rename it in the dataset, for instance {key.replace('/', '_') or 'state'!r}."
                )
        if part.name in seen:
            raise SynsetError(
                f"Two parts of the {name} would be one column '{name}.{part.name}': keys of a Dict that hold dots. Rename one in the "
                "dataset."
            )
        seen.add(part.name)


def pair_columns(name: str, vectors: np.ndarray, codec: SpaceCodec) -> dict[str, pa.Array]:
    """Columns of fixed-size lists: `name` for a space of one part, `name.<part>` for a tree."""
    check_keys(name, codec)
    columns = {}
    for part in codec.parts:
        if not part.slice.stop - part.slice.start:  # a Box of size zero
            continue
        block = np.ascontiguousarray(vectors[:, part.slice])
        column = f"{name}.{part.name}" if part.name else name
        columns[column] = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
    return columns


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON with sorted keys, so that the same content gives the same bytes."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False))


def _checksum(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
