"""Synsets without a distillation, and how they are compared: for the tests of what is saved, sent and shown."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from gymnasium import spaces

from minari_distill.config import make_config
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.synset import Synset
from tests.conftest import PENDULUM_ACTIONS, PENDULUM_OBSERVATIONS

ID = "me/pendulum-distilled-v0"
MINIGRID = spaces.Dict(
    {
        "direction": spaces.Discrete(4),
        "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "mission": spaces.Text(9),
    }
)


def make_synset(
    n: int = 6,
    observation_space=PENDULUM_OBSERVATIONS,
    action_space=PENDULUM_ACTIONS,
    *,
    drop=(),
    seed: int = 0,
    soft: bool = True,
    dtype: str = "float32",
    **fields,
) -> Synset:
    """n random pairs, as distillation leaves them: integers still fractions, actions still probabilities."""
    rng = np.random.default_rng(seed)
    observation_codec = SpaceCodec(observation_space, drop, dtype)
    action_codec = SpaceCodec(action_space, dtype=dtype)
    arrays = [
        c.project(3 * rng.normal(size=(n, c.dim)), soft=soft) for c in (observation_codec, action_codec)
    ]
    d = observation_codec.dim
    config = make_config(n_syn=n, seed=seed)
    return Synset(
        **{
            "observations": arrays[0],
            "actions": arrays[1],
            "observation_codec": observation_codec,
            "action_codec": action_codec,
            "source": Source(
                ("test/pendulum-v0",), ref_origin="dataset metadata", requirements=("numpy>=1",)
            ),
            "observation_mean": rng.normal(size=d).astype(np.float32),
            "observation_std": rng.uniform(0.1, 2, size=d).astype(np.float32),
            "recipe": config.recipe,
            "config": config,
            "input_metric": rng.normal(size=(d, d)).astype(np.float32),
            "metadata": {"history": [{"step": 0, "loss": np.float32(0.1)}]},
        }
        | fields
    )


def assert_same(a: Synset, b: Synset):
    """Every field, every bit."""
    for name in ("observations", "actions", "observation_mean", "observation_std"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        assert x.tobytes() == y.tobytes(), name
    np.testing.assert_array_equal(a.input_metric, b.input_metric)
    for name in ("observation_codec", "action_codec", "source", "recipe", "config", "metadata"):
        assert getattr(a, name) == getattr(b, name), name


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder`, hidden ones too, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }
