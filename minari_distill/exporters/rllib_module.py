"""RLlib's default BC module behind a fixed normalisation; Ray's workers import it by name."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.bc.torch.default_bc_torch_rl_module import DefaultBCTorchRLModule
from ray.rllib.core.columns import Columns

from minari_distill.exporters.pytorch import Normalize


class NormalizingBCModule(DefaultBCTorchRLModule):
    """x = (observation − obs_mean) / obs_std, then RLlib's encoder and head; both in `model_config`."""

    def setup(self) -> None:
        """Build the networks."""
        super().setup()
        mean, std = (torch.tensor(self.model_config[name]) for name in ("obs_mean", "obs_std"))
        self._normalize = Normalize(mean, std)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        normalised = {**batch, Columns.OBS: self._normalize(batch[Columns.OBS])}
        return super()._forward(normalised, **kwargs)
