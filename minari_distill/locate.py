"""Finding a Minari dataset: by id (downloaded if need be), by folder, or the one inside the package."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.dataset.minari_storage import MinariStorage
from minari.storage.datasets_root_dir import get_dataset_path

from minari_distill.errors import DatasetError, did_you_mean
from minari_distill.reach import why_unreachable

EMBEDDED_ID = "demo/hopper-medium-replay-v0"
"""The dataset that the package carries."""
MINARI_ID = re.compile(r"(?:[-\w]{2,}/)*[-\w]+-v\d+", re.ASCII)
"""(namespace/)*name-v<int>: what both Minari's and the Hub's grammars allow."""

GALLERY = "gallery/"
"""Namespace of the synsets that ship with the package."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Located:
    """A dataset on disk, opened.

    Attributes:
        storage: Minari's access to its data.
        episodes: Indices of the episodes to read.
        metadata: Its `metadata.json` as it is.
    """

    storage: MinariStorage
    episodes: np.ndarray
    metadata: dict[str, Any]

    @property
    def id(self) -> str:
        """Minari id, as the metadata has it."""
        return str(self.metadata.get("dataset_id", self.storage.data_path))


def embedded_dataset() -> Path:
    """Folder of the dataset that the package carries: the first episodes of a Hopper medium-replay set."""
    return Path(__file__).parent / "data" / "hopper-medium-replay"


def locate(source: str | Path | minari.MinariDataset, on_message: Say | None = None) -> Located:
    """Open a dataset by Minari id, folder or `MinariDataset`; an id that is not local is downloaded.

    Raises:
        DatasetError: There is no such dataset, it cannot be downloaded, or its folder is broken.
    """
    if isinstance(source, minari.MinariDataset):
        storage = source.storage
        return Located(
            storage, np.asarray(source.episode_indices), storage.read_raw_metadata(storage.data_path)
        )
    if not isinstance(source, str | os.PathLike):
        raise DatasetError(
            f"A dataset is a Minari id, a folder or a MinariDataset, not a {type(source).__name__}."
        )
    return open_folder(find_folder(source, on_message), str(source))


def find_folder(source: str | os.PathLike[str], on_message: Say | None = None) -> Path:
    """The folder that holds a dataset's `metadata.json`, downloaded if need be."""
    path = Path(os.path.expanduser(source))
    if isinstance(source, str):
        if source == "embedded":
            return embedded_dataset() / "data"
        if MINARI_ID.fullmatch(source):
            local = get_dataset_path(source) / "data"
            if local.is_dir():
                return local
            if source == EMBEDDED_ID:
                return embedded_dataset() / "data"
            if not path.is_dir():
                if source.startswith(GALLERY) and (embedded_dataset().parent / f"{source}.parquet").is_file():
                    raise DatasetError(is_a_synset(source))
                return _download(source, on_message)
        if source.startswith("hf://"):
            raise DatasetError(is_a_synset(source))
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return folder
    if path.exists():
        raise DatasetError(
            f"'{path}' holds no Minari dataset: there is no metadata.json in it or in its data/."
        )
    raise DatasetError(
        f"Dataset '{source}' not found: it is no folder and no Minari id, which looks like "
        f"mujoco/hopper/medium-v0.{did_you_mean(str(source), local_ids())}"
    )


def is_a_synset(name: str) -> str:
    """What is wrong with a synset where a dataset is asked for."""
    return (
        f"'{name}' is a synset: its rewards and transitions are placeholders. Train on it with "
        f"behavior_clone(load_synset({name!r})), and distil the dataset that it came from."
    )


def open_folder(folder: Path, name: str) -> Located:
    """The dataset in `folder`, which holds its `metadata.json`."""
    try:
        metadata = MinariStorage.read_raw_metadata(folder)
        version = metadata.get("minari_version")
        if version not in minari.supported_dataset_versions:
            raise DatasetError(
                f"Dataset '{name}' was written by Minari {version}, which the installed Minari "
                f"{minari.__version__} does not read. Try: pip install --upgrade minari"
            )
        n_episodes = int(metadata["total_episodes"])
        int(metadata["total_steps"])  # read later on
        storage = MinariStorage.read(folder)
    except DatasetError:
        raise
    except json.JSONDecodeError as error:
        raise DatasetError(f"Dataset '{name}': {folder / 'metadata.json'} is no JSON ({error}).") from error
    except ImportError as error:  # a storage format whose library is not installed
        raise DatasetError(f"Dataset '{name}' cannot be opened: {_first_line(error)}") from error
    except Exception as error:  # spaces that only the environment knows: it may fail in any way
        raise DatasetError(
            f"Dataset '{name}' cannot be opened ({type(error).__name__}: {_first_line(error)})."
        ) from error
    return Located(storage, np.arange(n_episodes), metadata)


def local_ids() -> list[str]:
    """Ids of all local datasets, and of the embedded one."""
    root = get_dataset_path()
    found = {EMBEDDED_ID}
    for folder, subfolders, _ in os.walk(root):
        if (Path(folder) / "data" / "metadata.json").is_file():  # and no namespace that is named data
            found.add(Path(folder).relative_to(root).as_posix())
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(found)


def _download(dataset_id: str, on_message: Say | None) -> Path:
    if trouble := why_unreachable():
        raise DatasetError(
            f"Dataset '{dataset_id}' not found on this machine, nor can it be downloaded: {trouble}."
            f"{did_you_mean(dataset_id, local_ids())} Connect and download it with: minari download {dataset_id}"
        )
    if on_message:
        on_message(f"Dataset '{dataset_id}' is not on this machine: downloading it with Minari …")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Minari prints; `on_message` has said it
            minari.download_dataset(dataset_id)
        folder = get_dataset_path(dataset_id) / "data"
        if folder.is_dir():
            return folder
        reason = "nothing arrived"
    except Exception as error:  # network, hosting library and Minari each raise their own
        reason = f"{type(error).__name__}: {_first_line(error)}"
    raise DatasetError(
        f"Dataset '{dataset_id}' not found.{did_you_mean(dataset_id, local_ids())} "
        f"Download it with: minari download {dataset_id}  (it was tried: {reason})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
