"""Synsets in RLlib: a Parquet file for `BCConfig().offline_data`, and a module with a student's normalisation and head.

    >>> path = save(synset, "hopper.parquet")
    >>> config = bc_config(synset, path, fcnet_hiddens=[256, 256, 256])
    >>> config.input_ == [str(path.absolute())], config.ignore_final_observation
    (True, True)
    >>> algorithm = config.environment("Hopper-v5").build_algo()  # doctest: +SKIP
    >>> results = algorithm.train()  # doctest: +SKIP

The file needs Ray neither to be written nor to be read: `obs` raw, `actions` in [−1, 1] (RLlib's policies live there, and
`normalize_actions=True`, its default, brings them back to the environment's range), `rewards`, `terminateds`, `eps_id`.

For behavioural cloning only: rewards (0) and terminateds (True) are placeholders, and there is no next observation, which
is what `ignore_final_observation=True` allows.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gymnasium import spaces

from minari_distill.exporters.arrays import notes_text, observation_box, pairs_for
from minari_distill.exporters.files import NOTES, write_file
from minari_distill.exporters.require import needs
from minari_distill.synset import Synset

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.bc import BCConfig
    from ray.rllib.core.rl_module.rl_module import RLModule

PLACEHOLDERS = ("rewards", "terminateds")


def save(synset: Synset, path: str | Path, *, overwrite: bool = False) -> Path:
    """One row a pair, in order, each an episode of one step.

    Raises:
        ExportError: The actions are neither a flat Box nor Discrete, or the file cannot be written.
    """
    obs, act = pairs_for("rllib", synset)
    if not synset.action_codec.is_discrete:
        act = synset.units().scale(torch.from_numpy(act)).numpy()
    n = len(obs)
    columns = {
        "eps_id": pa.array([f"pair_{i:06d}" for i in range(n)]),
        "obs": _lists(obs),
        "actions": pa.array(act) if act.ndim == 1 else _lists(act),
        "rewards": pa.array(np.zeros(n, np.float32)),
        "terminateds": pa.array(np.ones(n, bool)),
    }
    statistics = {
        b"obs_mean": str(synset.observation_mean.tolist()).encode(),
        b"obs_std": str(synset.observation_std.tolist()).encode(),
    }
    described = {NOTES: notes_text(synset, PLACEHOLDERS).encode(), **statistics}
    content = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(described), content)
    return write_file(path, content.getvalue(), overwrite)


def bc_config(synset: Synset, path: str | Path, **model: Any) -> BCConfig:
    """RLlib's BC on a file that `save` wrote: whole batches, raw observations in, the mean of continuous actions through tanh.

    The standard deviation of continuous actions is fixed at 0.1, so that RLlib's loss, the likelihood, is the students'
    squared error.

    Args:
        synset: What `path` holds.
        path: The file.
        **model: Fields of RLlib's `DefaultModelConfig`, for instance fcnet_hiddens; its layers are ReLU by default, as
            students' are, where RLlib's default is tanh.
    """
    with needs("ray"):
        from ray.rllib.algorithms.bc import BCConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        from minari_distill.exporters.rllib_module import NormalizingBCModule
    settings = dataclasses.asdict(DefaultModelConfig(**{"fcnet_activation": "relu", **model}))
    settings |= {"obs_mean": synset.observation_mean.tolist(), "obs_std": synset.observation_std.tolist()}
    spec = RLModuleSpec(module_class=NormalizingBCModule, model_config=settings)
    return (
        BCConfig()
        .environment(observation_space=observation_box(synset), action_space=_action_space(synset))
        .offline_data(
            input_=[str(Path(path).absolute())],  # Ray's workers have a working directory of their own
            ignore_final_observation=True,
            dataset_num_iters_per_learner=1,
            map_batches_kwargs={"concurrency": 1},  # two workers, its default, for a few hundred rows
        )
        .rl_module(rl_module_spec=spec)
        .training(train_batch_size_per_learner=len(synset))
    )


def _action_space(synset: Synset) -> spaces.Space:
    """The source's, but for a Box without (near) bounds: there the finite one that `save` scaled by, or RLlib would not scale back."""
    space, units = synset.action_codec.kept_space, synset.units()
    if not isinstance(space, spaces.Box):
        return space
    return spaces.Box(units.act_low.numpy(), units.act_high.numpy(), dtype=np.float32)


def trained_module(algorithm: Algorithm) -> RLModule:
    """The module as the learner has it: `forward_inference({"obs": raw})` gives the action distribution's inputs.

    `algorithm.get_module()` is the environment runners' copy, which an algorithm without an environment has not.
    """
    results = algorithm.learner_group.foreach_learner(lambda learner: learner.module["default_policy"])
    return next(iter(results)).get()


def _lists(rows: np.ndarray) -> pa.Array:
    """(n, d) as n lists of fixed length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
