"""Synsets in d3rlpy: an `MDPDataset`, and the scalers with the source's statistics.

    >>> import d3rlpy
    >>> dataset = mdp_dataset(synset)
    >>> dataset.transition_count
    256
    >>> bc = d3rlpy.algos.BCConfig(**scalers(synset)).create()
    >>> results = bc.fit(dataset, n_steps=300, n_steps_per_epoch=300)  # doctest: +SKIP
    >>> bc.predict(synset.observations).shape  # doctest: +SKIP
    (256, 3)

`predict` takes raw observations and gives raw actions.

For behavioural cloning only: rewards (0) and terminals (1) are placeholders. Every pair is a terminal step of its own
episode: with `timeouts=1` d3rlpy would drop the last step of every episode, that is all 256. `d3rlpy.datasets.get_minari`
is not needed, and wrong in 2.8 for episodes of T+1 observations. Its policies of continuous actions end in a tanh.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from minari_distill.exporters.arrays import notes_text, pairs_for, to_arrays
from minari_distill.exporters.files import write_file
from minari_distill.exporters.require import needs
from minari_distill.synset import Synset

with needs("d3rlpy"):
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import MDPDataset
    from d3rlpy.preprocessing import MinMaxActionScaler, StandardObservationScaler

PLACEHOLDERS = ("rewards", "terminals")


def mdp_dataset(synset: Synset) -> MDPDataset:
    """All pairs, in order, raw.

    Raises:
        ExportError: The actions are neither a flat Box nor Discrete.
    """
    obs, act = pairs_for("d3rlpy", synset)
    discrete = synset.action_codec.is_discrete
    return MDPDataset(
        observations=obs,
        actions=act,
        rewards=np.zeros(len(obs), np.float32),
        terminals=np.ones(len(obs), np.float32),
        action_space=ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS,
        action_size=synset.action_codec.dim,
    )


def scalers(synset: Synset) -> dict[str, Any]:
    """`observation_scaler` and, for continuous actions, `action_scaler`: keywords of every d3rlpy config.

    d3rlpy divides by std + eps; obs_std is the divisor itself, so eps is 0.
    """
    arrays = to_arrays(synset)
    scaler = StandardObservationScaler(mean=arrays["obs_mean"], std=arrays["obs_std"], eps=0.0)
    if synset.action_codec.is_discrete:
        return {"observation_scaler": scaler}
    bounds = MinMaxActionScaler(minimum=arrays["action_low"], maximum=arrays["action_high"])
    return {"observation_scaler": scaler, "action_scaler": bounds}


def save(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """d3rlpy's own HDF5 file: `d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())`.

    The notes and the statistics are attributes of the file.
    """
    buffer = io.BytesIO()
    mdp_dataset(synset).dump(buffer)
    with h5py.File(buffer, "r+") as file:
        file.attrs["notes"] = notes_text(synset, PLACEHOLDERS)
        file.attrs["obs_mean"], file.attrs["obs_std"] = synset.observation_mean, synset.observation_std
    return write_file(path, buffer.getvalue(), overwrite)
