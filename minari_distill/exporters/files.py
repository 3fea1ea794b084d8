"""Files that any language reads: NumPy's npz, safetensors, Parquet, HDF5 as D4RL lays it out; and `datasets`.

    >>> path = synset.to_npz("hopper.npz")
    >>> with np.load(path) as file:
    ...     sorted(file), file["observations"].shape
    (['action_high', 'action_low', 'actions', 'notes', 'obs_mean', 'obs_std', 'observations'], (256, 11))
    >>> pairs = synset.to_datasets()
    >>> pairs.num_rows, pairs.column_names
    (256, ['observation', 'action'])

A file appears whole or not at all, and replaces another one only if it is told to.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minari_distill.errors import ExportError
from minari_distill.exporters.arrays import D4RL_PLACEHOLDERS, notes_text, to_arrays, to_d4rl_dict
from minari_distill.files import building_folder, write_atomically
from minari_distill.layout import pair_columns

if TYPE_CHECKING:
    import datasets

    from minari_distill.synset import Synset

NOTES = b"minari_distill"
"""Key of the notes in the metadata of a Parquet schema."""


def to_npz(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """The arrays of `to_arrays`, and `notes`: a JSON text, so that nothing has to be unpickled."""
    buffer = io.BytesIO()
    np.savez(buffer, **to_arrays(synset), notes=np.array(notes_text(synset)))  # type: ignore[arg-type]
    return write_file(path, buffer.getvalue(), overwrite)


def to_safetensors(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """The arrays of `to_arrays`; the header's metadata hold `notes`, a JSON text."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in to_arrays(synset).items()}
    return write_file(path, save(arrays, {"notes": notes_text(synset)}), overwrite)


def to_parquet(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """One row a pair, `observation` and `action` as lists of fixed length; see `to_table`."""
    buffer = io.BytesIO()
    pq.write_table(to_table(synset), buffer)
    return write_file(path, buffer.getvalue(), overwrite)


def to_d4rl_hdf5(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """The dict of `to_d4rl_dict` as an HDF5 file in D4RL's layout; what is no array is an attribute."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in to_d4rl_dict(synset).items():
            if array.dtype.kind == "U":
                file.attrs[name.removeprefix("metadata/")] = array.item()
            else:
                file[name] = array
        file.attrs["notes"] = notes_text(synset, D4RL_PLACEHOLDERS)
    return write_file(path, buffer.getvalue(), overwrite)


def to_table(synset: Synset) -> pa.Table:
    """An Arrow table: `observation` and `action`, or a column a part of a Dict; the notes in its schema."""
    columns = pair_columns("observation", synset.observations, synset.observation_codec)
    columns |= pair_columns("action", synset.actions, synset.action_codec)
    arrays = to_arrays(synset)
    statistics = {
        name.encode(): str(arrays[name].tolist()).encode()
        for name in ("obs_mean", "obs_std", "action_low", "action_high")
        if name in arrays
    }
    return pa.table(columns).replace_schema_metadata({NOTES: notes_text(synset).encode(), **statistics})


def to_datasets(synset: Synset) -> datasets.Dataset:
    """A Hugging Face `Dataset`, equal to what `load_dataset` reads from a repository that the synset was pushed to."""
    import datasets

    info = datasets.DatasetInfo(description=notes_text(synset), license=synset.source.license or "")
    return datasets.Dataset(to_table(synset), info=info)


def save_datasets(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """The folder that `datasets.load_from_disk` reads."""
    import datasets

    def save(folder: Path) -> None:
        shown = not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()  # one of its own for a few hundred rows
        try:
            to_datasets(synset).save_to_disk(str(folder))
        finally:
            if shown:
                datasets.enable_progress_bars()

    return write_folder(path, save, overwrite)


# ------------------------------------------------------------------------------------------ whole or not

_SIGNS = ("dataset_info.json", "notes.json")
"""Every folder that is exported holds one of them."""


def write_file(path: str | Path, content: bytes, overwrite: bool) -> Path:
    """Write a file whole, or raise `ExportError`."""
    path = _vacant(path, overwrite)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise _unwritten(path, error) from error
    return path


def write_folder(path: str | Path, fill: Callable[[Path], None], overwrite: bool) -> Path:
    """Let `fill` write a folder, which appears whole; or raise `ExportError`."""
    path = _vacant(path, overwrite).absolute()
    if path.is_dir() and any(path.iterdir()) and not any(_is_ours(path / sign) for sign in _SIGNS):
        raise ExportError(
            f"'{path}' exists and is no export of a synset: it is not overwritten. Choose another path."
        )
    try:
        with building_folder(path) as temporary:
            fill(temporary)
            if path.is_dir() and (others := _files(path) - _files(temporary)):
                raise ExportError(
                    f"'{path}' is not overwritten: '{min(others)}' lies in it and would be lost. Move it elsewhere, or choose "
                    "another path."
                )
    except OSError as error:
        raise _unwritten(path, error) from error
    return path


def _is_ours(sign: Path) -> bool:
    return sign.is_file() and "minari_distill" in sign.read_text(errors="replace")  # as `notes` says


def _files(folder: Path) -> set[str]:
    there = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(folder).as_posix() for p in there}


def _vacant(path: str | Path, overwrite: bool) -> Path:
    path = Path(os.path.expanduser(path))
    if path.exists() and not overwrite:
        raise ExportError(
            f"'{path}' exists already. Choose another path, or replace it: overwrite=True (--overwrite)."
        )
    return path


def _unwritten(path: Path, error: OSError) -> ExportError:
    return ExportError(f"'{path}' could not be written: {error.strerror or error}. Nothing was left behind.")
