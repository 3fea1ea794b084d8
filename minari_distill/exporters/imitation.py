"""Synsets in imitation: `Transitions`, and a normalising features extractor for its policies.

    >>> from imitation.algorithms.bc import BC
    >>> demonstrations = transitions(synset)
    >>> len(demonstrations), demonstrations.obs.shape, demonstrations.acts.shape
    (256, (256, 11), (256, 3))
    >>> policy = actor_critic_policy(synset, net_arch=[256, 256, 256])
    >>> bc = BC(
    ...     observation_space=policy.observation_space,
    ...     action_space=policy.action_space,
    ...     rng=np.random.default_rng(0),
    ...     policy=policy,
    ...     demonstrations=demonstrations,
    ...     batch_size=256,
    ... )
    >>> bc.train(n_epochs=300, progress_bar=False)  # doctest: +SKIP
    >>> bc.policy.predict(synset.observations, deterministic=True)[0].shape
    (256, 3)

The policy takes raw observations and gives raw actions; its mean ends in a tanh, as students do. A batch larger than the synset raises an error in imitation, and
what does not fill a batch is dropped: let `batch_size` divide the number of pairs.

For behavioural cloning only: next_obs (the observation itself) and dones (True) are placeholders, and there are no
rewards; GAIL, AIRL and DAgger need trajectories. imitation 1.0.1 pins Gymnasium 0.29 but runs on later ones:
`pip install 'minari-distill[imitation]' && pip install --no-deps imitation==1.0.1`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_distill.exporters.arrays import observation_box, pairs_for
from minari_distill.exporters.files import write_folder
from minari_distill.exporters.pytorch import Normalize
from minari_distill.exporters.require import needs
from minari_distill.synset import Synset

with needs("imitation"):
    from imitation.data import serialize
    from imitation.data.types import Trajectory, Transitions
    from imitation.policies.base import NormalizeFeaturesExtractor

    from minari_distill.exporters.tanh_policy import TanhActorCriticPolicy

PLACEHOLDERS = ("next_obs", "dones")


def transitions(synset: Synset) -> Transitions:
    """All pairs, in order, raw.

    Raises:
        ExportError: The actions are neither a flat Box nor Discrete.
    """
    obs, act = pairs_for("imitation", synset)
    infos = np.array([{} for _ in obs])
    return Transitions(obs=obs, acts=act, infos=infos, next_obs=obs.copy(), dones=np.ones(len(obs), bool))


def extractor_kwargs(synset: Synset) -> dict[str, Any]:
    """Keywords of a Stable-Baselines3 policy that make its first layer divide by the source's statistics."""
    return {
        "features_extractor_class": NormalizeFeaturesExtractor,
        "features_extractor_kwargs": {
            "normalize_class": partial(
                _normalize, mean=synset.observation_mean.tolist(), std=synset.observation_std.tolist()
            )
        },
    }


def _normalize(features_dim: int, mean: list[float], std: list[float]) -> Normalize:
    """A function with a name, so that `policy.save` can pickle it."""
    return Normalize(torch.tensor(mean), torch.tensor(std))


def actor_critic_policy(synset: Synset, **kwargs: Any) -> TanhActorCriticPolicy:
    """A policy for imitation's `BC`: raw observations in, raw actions out.

    Args:
        synset: Whose spaces and statistics.
        **kwargs: More arguments of Stable-Baselines3's `ActorCriticPolicy`, for instance net_arch; its layers are ReLU by default, as
            students' are, where Stable-Baselines3's default is tanh.
    """
    return TanhActorCriticPolicy(
        observation_box(synset),
        synset.action_codec.kept_space,
        lr_schedule=lambda progress: 1e-3,  # unused: BC has an optimiser of its own
        **{"activation_fn": torch.nn.ReLU, **extractor_kwargs(synset), **kwargs},
    )


def save(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """One-step trajectories as a folder: `imitation.data.serialize.load(path)`, then `rollout.flatten_trajectories`."""
    obs, act = pairs_for("imitation", synset)
    steps = [
        Trajectory(obs=np.stack([s, s]), acts=a[None], infos=None, terminal=True)
        for s, a in zip(obs, act, strict=True)
    ]
    return write_folder(path, lambda folder: serialize.save(folder, steps), overwrite)
