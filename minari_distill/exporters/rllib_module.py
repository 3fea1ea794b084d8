"""RLlib's default BC module with the normalisation and the head of a student; Ray's workers import it by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.algorithms.bc.torch.default_bc_torch_rl_module import DefaultBCTorchRLModule
from ray.rllib.core.columns import Columns

from minari_distill.exporters.pytorch import Normalize

# −log N(u; μ, σ) = |u − μ|² / 2σ² + constant: with σ fixed, RLlib's loss is the students'. Learnt state by state, as by
# default, σ lets the likelihood of a few hundred pairs rise without a better μ.
LOG_STD = math.log(0.1)


class NormalizingBCModule(DefaultBCTorchRLModule):
    """x = (observation − obs_mean) / obs_std (both in `model_config`), then RLlib's encoder and head.

    Of a Gaussian the mean goes through tanh, since RLlib's actions live in [−1, 1], and the log std is `LOG_STD`
    everywhere. Logits of discrete actions stay as they are.
    """

    def setup(self) -> None:
        """Build the networks."""
        super().setup()
        mean, std = (torch.tensor(self.model_config[name]) for name in ("obs_mean", "obs_std"))
        self._normalize = Normalize(mean, std)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        normalised = {**batch, Columns.OBS: self._normalize(batch[Columns.OBS])}
        out = super()._forward(normalised, **kwargs)
        if isinstance(self.action_space, spaces.Box):
            mean = out[Columns.ACTION_DIST_INPUTS].chunk(2, -1)[0].tanh()
            out[Columns.ACTION_DIST_INPUTS] = torch.cat([mean, torch.full_like(mean, LOG_STD)], -1)
        return out
