"""The pairs as a PyTorch `Dataset` and `DataLoader`, and the normalisation as a layer.

>>> dataset = synset.to_torch()
>>> dataset
PairDataset of 256 pairs, observations (256, 11), actions (256, 3), for behavioural cloning only
>>> observations, actions = next(iter(dataset.loader(batch_size=64, seed=0)))
>>> observations.shape, actions.shape
(torch.Size([64, 11]), torch.Size([64, 3]))
>>> network = torch.nn.Sequential(Normalize.of(synset), torch.nn.Linear(11, 3), torch.nn.Tanh())
>>> network(observations).shape
torch.Size([64, 3])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minari_distill.exporters.arrays import to_arrays
from minari_distill.synset import USE

if TYPE_CHECKING:
    from minari_distill.synset import Synset


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """(observation, action) tensors, in the order of the synset and in the units of its source.

    Attributes:
        observations: (n_syn, obs_dim) float32.
        actions: (n_syn, act_dim) float32, or (n_syn,) int64 of a Discrete space.
        obs_mean, obs_std: (obs_dim,) float32 of the source dataset, for `Normalize`.
        use: What the pairs are for.
    """

    use = USE

    def __init__(self, synset: Synset):
        tensors = {name: torch.from_numpy(array) for name, array in to_arrays(synset).items()}
        actions = tensors["actions"]
        self.observations = tensors["observations"].float()
        self.actions = actions.float() if actions.is_floating_point() else actions
        self.obs_mean, self.obs_std = tensors["obs_mean"], tensors["obs_std"]

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.observations[index], self.actions[index]

    def __repr__(self) -> str:
        shapes = f"observations {tuple(self.observations.shape)}, actions {tuple(self.actions.shape)}"
        return f"PairDataset of {len(self)} pairs, {shapes}, for behavioural cloning only"

    def loader(
        self, batch_size: int | None = None, *, shuffle: bool = True, seed: int | None = None
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of pairs; no pair is dropped.

        Args:
            batch_size: Pairs a batch; by default all of them, as synsets are trained on.
            shuffle: Draw a new order each time round.
            seed: Of those orders.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return DataLoader(self, batch_size=batch_size or len(self), shuffle=shuffle, generator=generator)


class Normalize(torch.nn.Module):
    """x = (observation − mean) / std as a first layer, for codebases that know no normalisation of their own."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, synset: Synset) -> Normalize:
        """With the statistics of the source dataset."""
        return cls(torch.tensor(synset.observation_mean), torch.tensor(synset.observation_std))

    def forward(self, obs: Tensor) -> Tensor:
        """(…, obs_dim) raw to (…, obs_dim) normalised."""
        return (obs - self.mean) / self.std
