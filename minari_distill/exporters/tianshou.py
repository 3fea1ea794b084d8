"""Synsets in Tianshou: a `ReplayBuffer`, and `VectorEnvNormObs` with the source's statistics.

    >>> import gymnasium
    >>> from tianshou.env import DummyVectorEnv
    >>> buffer = replay_buffer(synset, normalised=True)
    >>> len(buffer), buffer.obs.shape, buffer.act.shape
    (256, (256, 11), (256, 3))
    >>> env = norm_obs(DummyVectorEnv([lambda: gymnasium.make("Hopper-v5")]), synset)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (1, 11)

Tianshou's networks normalise nothing: the buffer holds what the environment shows, so a normalised buffer belongs to a
wrapped environment. Train on it with `OfflineImitationLearning` and `run_training(OfflineTrainerParams(buffer=buffer,
…))`; to call `update` yourself, enter `policy_within_training_step(policy)` first. `sample_size=0` takes all pairs.

For behavioural cloning only: rew (0), terminated and done (True), truncated (False) and obs_next (the observation itself)
are placeholders.
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from minari_distill.exporters.arrays import notes_text, pairs_for
from minari_distill.exporters.files import write_file
from minari_distill.exporters.require import needs
from minari_distill.synset import Synset

with needs("tianshou"):
    from tianshou.data import ReplayBuffer
    from tianshou.data.utils.converter import to_hdf5
    from tianshou.env import BaseVectorEnv, VectorEnvNormObs
    from tianshou.utils import RunningMeanStd

PLACEHOLDERS = ("rew", "terminated", "truncated", "done", "obs_next")


def replay_buffer(synset: Synset, *, normalised: bool = False) -> ReplayBuffer:
    """All pairs, in order.

    Args:
        synset: What to put in.
        normalised: Observations as `norm_obs` shows them, instead of raw ones.

    Raises:
        ExportError: The actions are neither a flat Box nor Discrete.
    """
    obs, act = pairs_for("tianshou", synset)
    if normalised:
        obs = (obs - synset.observation_mean) / synset.observation_std
    n = len(obs)
    ones, zeros = np.ones(n, bool), np.zeros(n, bool)
    return ReplayBuffer.from_data(
        obs=obs,
        act=act,
        rew=np.zeros(n),
        terminated=ones,
        truncated=zeros,
        done=ones,
        obs_next=obs.copy(),
    )


def norm_obs(env: BaseVectorEnv, synset: Synset) -> VectorEnvNormObs:
    """A vectorised environment whose observations are normalised by the source's statistics, which stay as they are."""
    wrapped = VectorEnvNormObs(env, update_obs_rms=False)
    std = synset.observation_std.astype(np.float64)
    # What RunningMeanStd calls std is kept as a variance: it divides by its square root. It clips at 10 unless told.
    wrapped.set_obs_rms(
        RunningMeanStd(synset.observation_mean.astype(np.float64), std**2, clip_max=None, epsilon=0.0)
    )
    return wrapped


def save(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Tianshou's own HDF5 file, raw: `ReplayBuffer.load_hdf5(path)`, which has `notes`, `obs_mean`, `obs_std` beside."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        to_hdf5(replay_buffer(synset).__dict__, file)
        file.attrs["notes"] = notes_text(synset, PLACEHOLDERS)
        file.attrs["obs_mean"], file.attrs["obs_std"] = synset.observation_mean, synset.observation_std
    return write_file(path, content.getvalue(), overwrite)
