"""The forms that are files or folders, by name: what `minari-distill export --to` offers.

>>> path = export(synset, "parquet", "hopper.parquet")
>>> export(synset, "d4lr", "hopper.hdf5")
Traceback (most recent call last):
minari_distill.errors.ExportError: Format 'd4lr' is unknown. Did you mean 'd4rl'? Choose one of: npz, safetensors, ...
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from minari_distill.errors import ExportError, did_you_mean

if TYPE_CHECKING:
    from minari_distill.synset import Synset

FORMATS: dict[str, tuple[str, str, str]] = {
    "npz": ("files", "to_npz", "numpy.load(path)"),
    "safetensors": ("files", "to_safetensors", "safetensors.numpy.load_file(path)"),
    "parquet": ("files", "to_parquet", "pandas.read_parquet(path)"),
    "datasets": ("files", "save_datasets", "datasets.load_from_disk(path)"),
    "d4rl": ("files", "to_d4rl_hdf5", "h5py.File(path)"),
    "d3rlpy": (
        "d3rlpy",
        "save",
        "d3rlpy.dataset.ReplayBuffer.load(open(path, 'rb'), d3rlpy.dataset.InfiniteBuffer())",
    ),
    "torchrl": ("torchrl", "save", "tensordict.TensorDict.load_memmap(path)"),
    "imitation": ("imitation", "save", "imitation.data.serialize.load(path)"),
    "tianshou": ("tianshou", "save", "tianshou.data.ReplayBuffer.load_hdf5(path)"),
    "rllib": ("rllib", "save", "minari_distill.exporters.rllib.bc_config(synset, path)"),
}
"""Name → the module and the function that write it, and the expression that reads it."""


def export(synset: Synset, to: str, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a synset in one of `FORMATS`.

    Raises:
        ExportError: The format is unknown, its codebase is not installed, it cannot hold the synset's actions, there
            is something at `path`, or it cannot be written.
    """
    if to.lower().replace("-", "_") in ("stable_baselines3", "sb3"):
        raise ExportError(
            "Stable-Baselines3 has no format for pairs. Train a model on them instead: "
            "minari_distill.exporters.stable_baselines3.pretrain(model, synset)."
        )
    if to not in FORMATS:
        raise ExportError(
            f"Format {to!r} is unknown.{did_you_mean(to, FORMATS)} Choose one of: {', '.join(FORMATS)}."
        )
    module, function, _ = FORMATS[to]
    write = getattr(importlib.import_module(f"minari_distill.exporters.{module}"), function)
    return write(synset, path, overwrite=overwrite)
