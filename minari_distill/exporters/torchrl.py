"""Synsets in TorchRL: a replay buffer of pairs, and `ObservationNorm` with the source's statistics.

    >>> from torchrl.objectives import BCLoss
    >>> buffer = replay_buffer(synset, batch_size=64)
    >>> len(buffer), buffer[:]["observation"].shape, buffer[:]["action"].shape
    (256, torch.Size([256, 11]), torch.Size([256, 3]))
    >>> batch = observation_norm(synset)(buffer.sample())
    >>> batch["observation"].shape
    torch.Size([64, 11])
    >>> loss = BCLoss(actor)(batch)  # doctest: +SKIP

For behavioural cloning only: the pairs have no "next" entries at all, so nothing else can be trained on them by mistake.
TorchRL's own Minari loader is not needed, and cannot read one-step episodes in 0.14.
"""

from __future__ import annotations

from pathlib import Path

import torch

from minari_distill.exporters.arrays import notes, pairs_for
from minari_distill.exporters.files import write_folder
from minari_distill.exporters.require import needs
from minari_distill.layout import write_json
from minari_distill.synset import Synset

with needs("torchrl"):
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
    from torchrl.envs.transforms import ObservationNorm

PLACEHOLDERS = ()


def pairs(synset: Synset) -> TensorDict:
    """`{"observation", "action"}`, all pairs, in order, raw.

    Raises:
        ExportError: The actions are neither a flat Box nor Discrete.
    """
    obs, act = pairs_for("torchrl", synset)
    tensors = {"observation": torch.from_numpy(obs), "action": torch.from_numpy(act)}
    return TensorDict(tensors, batch_size=[len(obs)])


def replay_buffer(synset: Synset, batch_size: int | None = None) -> TensorDictReplayBuffer:
    """A buffer of `pairs`; a batch is by default all of them, in a new order, and none comes twice a round."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(synset)),
        sampler=SamplerWithoutReplacement(),
        batch_size=batch_size or len(synset),
    )
    buffer.extend(pairs(synset))
    return buffer


def observation_norm(synset: Synset) -> ObservationNorm:
    """x = (observation − obs_mean) / obs_std, for a buffer (`append_transform`), an environment or a batch."""
    return ObservationNorm(
        loc=torch.tensor(synset.observation_mean),
        scale=torch.tensor(synset.observation_std),
        in_keys=["observation"],
        standard_normal=True,  # (obs − loc) / scale; without it TorchRL computes obs · scale + loc
    )


def save(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """A memory-mapped folder: `tensordict.TensorDict.load_memmap(path)`; the notes beside it in notes.json."""

    def fill(folder: Path) -> None:
        pairs(synset).memmap(str(folder))
        statistics = {
            "obs_mean": synset.observation_mean.tolist(),
            "obs_std": synset.observation_std.tolist(),
        }
        write_json(folder / "notes.json", notes(synset, PLACEHOLDERS) | statistics)

    return write_folder(path, fill, overwrite)
