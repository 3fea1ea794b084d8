"""Cut the dataset that the package carries out of a larger one: its first episodes, as many as fit.

    $ python -m benchmarks.cut_embedded_dataset obd/hopper/medium-replay-v0
    226 episodes, 45813 steps, 2.95 MB

Only this script writes minari_distill/data; nothing is selected but by position.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import minari
from minari.dataset.minari_storage import MinariStorage

from minari_distill.files import building_folder
from minari_distill.layout import write_json
from minari_distill.locate import EMBEDDED_ID, embedded_dataset

LIMIT = 3_000_000
"""Bytes on disk."""


def cut(dataset_id: str, folder: Path) -> tuple[int, int, int]:
    """Write the first episodes of `dataset_id` into `folder`; returns episodes, steps and bytes."""
    source = minari.load_dataset(dataset_id)
    metadata = MinariStorage.read_raw_metadata(source.storage.data_path)
    with building_folder(folder) as temporary:
        data = temporary / "data"
        data.mkdir()
        room = LIMIT - 10_000  # for metadata.json and README.md
        episodes, steps = _first_episodes(
            source.storage.data_path / "main_data.hdf5", data / "main_data.hdf5", room
        )
        size = (data / "main_data.hdf5").stat().st_size
        original = {
            "dataset_id": dataset_id,
            "total_episodes": metadata["total_episodes"],
            "total_steps": metadata["total_steps"],
            "description": metadata["description"],
        }
        description = (
            f"The first {episodes} of the {metadata['total_episodes']} episodes of {dataset_id}, chosen by position "
            f"alone. {metadata['algorithm_name'].capitalize()}; recorded in Gymnasium's Hopper-v5 for this project. "
            "The reference scores are D4RL's, measured in Hopper-v2."
        )
        write_json(
            data / "metadata.json",
            metadata
            | {
                "dataset_id": EMBEDDED_ID,
                "total_episodes": episodes,
                "total_steps": steps,
                "dataset_size": round(size / 1e6, 1),
                "description": description,
                "ref_score_origin": "D4RL's table for hopper-v2, as the dataset's metadata has it",
                "license": "MIT",
                "cut_from": original,
            },
        )
        (temporary / "README.md").write_text(
            _README.format(id=EMBEDDED_ID, description=description, steps=steps)
        )
    return episodes, steps, size


def _first_episodes(source: Path, target: Path, room: int) -> tuple[int, int]:
    """Copy whole episodes, in order, until the next one would not fit; returns their number and steps."""
    with h5py.File(source, "r") as old:
        sizes = _copy_episodes(old, target, len(old), room)
        # HDF5 gives no room back: with the count known, the file is written once more.
        episodes = sum(size <= room for size in sizes)
        _copy_episodes(old, target, episodes, room)
        return episodes, sum(len(old[f"episode_{i}/rewards"]) for i in range(episodes))


def _copy_episodes(old: h5py.File, target: Path, episodes: int, room: int) -> list[int]:
    """Copy at most `episodes`, one beyond `room` at most; returns the bytes of `target` after each."""
    sizes: list[int] = []
    with h5py.File(target, "w", libver="latest") as new:
        while len(sizes) < episodes and (not sizes or sizes[-1] <= room):
            name = f"episode_{len(sizes)}"
            _copy_episode(old[name], new.create_group(name))
            new.flush()
            sizes.append(target.stat().st_size)
    return sizes


def _copy_episode(old: h5py.Group, new: h5py.Group) -> None:
    new.attrs.update(old.attrs)
    new.create_group("infos")
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        values = old[name][()]
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        new.create_dataset(name, data=values, **(packed if values.nbytes > 1000 else {}))


_README = """# {id}

{description}

{steps} steps in Minari's HDF5 format; `minari.MinariDataset` reads the folder `data`. MIT licence, as the project.
It is what `minari-distill demo` distils and what the tests read. `benchmarks/cut_embedded_dataset.py` wrote it.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset_id", help="a local Minari dataset in HDF5")
    parser.add_argument("--folder", type=Path, default=embedded_dataset())
    arguments = parser.parse_args()
    n_episodes, n_steps, n_bytes = cut(arguments.dataset_id, arguments.folder)
    print(f"{n_episodes} episodes, {n_steps} steps, {n_bytes / 1e6:.2f} MB")
