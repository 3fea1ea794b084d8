"""Gymnasium wrappers that show a policy what it was trained on: vectors, raw or normalised by the source's statistics.

    >>> env = NormalizeObservation.from_synset(gymnasium.make("Hopper-v5"), synset)
    >>> env.observation_space.shape
    (11,)
    >>> observation, info = env.reset(seed=0)
    >>> observation.dtype
    dtype('float32')

Gymnasium's own `NormalizeObservation` computes running statistics from what it meets; a student needs those that it
was trained with, unchanging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from minari_distill.spaces import SpaceCodec
from minari_distill.synset import Synset


class VectorObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Observations of any space as the synset's vectors (obs_dim,), in raw units.

    For an environment of one flat Box it changes only the type, to float32.
    """

    def __init__(self, env: gymnasium.Env, codec: SpaceCodec | Mapping[str, Any]):
        codec = _codec(codec)
        RecordConstructorArgs.__init__(self, codec=codec.spec())  # what JSON knows
        super().__init__(env)
        codec.check_fits(env.observation_space, str(env))
        self.codec = codec
        self.observation_space = spaces.Box(
            codec.low.astype(np.float32), codec.high.astype(np.float32), dtype=np.float32
        )

    @classmethod
    def from_synset(cls, env: gymnasium.Env, synset: Synset) -> VectorObservation:
        """The wrapper for policies that were trained on the raw vectors of `synset`."""
        return cls(env, synset.observation_codec)

    def observation(self, observation: Any) -> np.ndarray:
        """The vector of one observation of the environment."""
        return self.codec.encode_one(observation).astype(np.float32)


class NormalizeObservation(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """x = (observation − mean) / std, float32, with fixed statistics; for codebases that take none themselves.

    Attributes:
        codec: Of the environment's observations.
        mean, std: (obs_dim,) float32; std is the divisor itself.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        codec: SpaceCodec | Mapping[str, Any],
        mean: np.ndarray | Sequence[float],
        std: np.ndarray | Sequence[float],
    ):
        codec, mean, std = _codec(codec), np.asarray(mean, np.float32), np.asarray(std, np.float32)
        RecordConstructorArgs.__init__(self, codec=codec.spec(), mean=mean.tolist(), std=std.tolist())
        super().__init__(env)
        codec.check_fits(env.observation_space, str(env))
        self.codec = codec
        self.mean, self.std = mean, std
        self.observation_space = spaces.Box(-np.inf, np.inf, (codec.dim,), np.float32)

    @classmethod
    def from_synset(cls, env: gymnasium.Env, synset: Synset) -> NormalizeObservation:
        """With the statistics of the dataset that `synset` was distilled from."""
        return cls(env, synset.observation_codec, synset.observation_mean, synset.observation_std)

    def observation(self, observation: Any) -> np.ndarray:
        """The normalised vector of one observation of the environment."""
        return (self.codec.encode_one(observation).astype(np.float32) - self.mean) / self.std


def _codec(given: SpaceCodec | Mapping[str, Any]) -> SpaceCodec:
    return given if isinstance(given, SpaceCodec) else SpaceCodec.from_spec(given)
