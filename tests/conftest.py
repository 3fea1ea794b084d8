"""What every test gets: an empty Minari store, no downloads, and a maker of small Minari datasets."""

from __future__ import annotations

import os

# One thread: small matrices gain nothing from more, and another count of threads sums in another order.
os.environ["OMP_NUM_THREADS"] = "1"

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

PENDULUM_OBSERVATIONS = spaces.Box(np.float32([-1, -1, -8]), np.float32([1, 1, 8]), dtype=np.float32)
PENDULUM_ACTIONS = spaces.Box(-2, 2, (1,), np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A benchmark's cell sets the number of threads of its process, which the next test must not inherit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def minari_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's datasets live in a temporary folder; nothing is downloaded."""
    store = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(store))

    def refuse(dataset_id: str, force_download: bool = False) -> None:
        raise ConnectionError("the tests use no network")

    monkeypatch.setattr(minari, "download_dataset", refuse)
    monkeypatch.setattr("minari_distill.locate.why_unreachable", lambda: None)
    return store


@pytest.fixture
def make_dataset() -> Callable[..., minari.MinariDataset]:
    """`make_dataset(id, …)`: a Minari dataset of random values; see `write_dataset`."""
    return write_dataset


def write_dataset(
    dataset_id: str = "test/pendulum-v0",
    *,
    observation_space: gym.Space = PENDULUM_OBSERVATIONS,
    action_space: gym.Space = PENDULUM_ACTIONS,
    lengths: Sequence[int] = (5, 3, 4),
    terminated: Sequence[int] = (1,),
    short: Sequence[int] = (),
    env: str | None = "Pendulum-v1",
    data_format: str = "hdf5",
    jpeg: bool = False,
    seed: int = 0,
    change: Callable[[dict[str, Any], int], None] | None = None,
    **metadata: Any,
) -> minari.MinariDataset:
    """A Minari dataset of values sampled from its spaces, in the local store.

    Args:
        dataset_id: Minari id.
        observation_space, action_space: Any spaces.
        lengths: Steps of each episode.
        terminated: Episodes that end by termination; the others are truncated.
        short: Episodes that hold T observations instead of T+1.
        env: Gymnasium id for the metadata.
        data_format: "hdf5", "arrow" or "parquet".
        jpeg: Compress images of 32 × 32 or more, as Minari does by default.
        seed: Of the values.
        change: Called with each episode's fields and its number, to damage it.
        **metadata: More arguments of `minari.create_dataset_from_buffers`.
    """
    observation_space.seed(seed)
    action_space.seed(seed + 1)
    rng = np.random.default_rng(seed)
    buffers = []
    for i, T in enumerate(lengths):
        fields = {
            "observations": sample_batch(observation_space, T if i in short else T + 1),
            "actions": sample_batch(action_space, T),
            "rewards": rng.normal(size=T).astype(np.float32),
            "terminations": np.arange(T) == (T - 1 if i in terminated else -1),
            "truncations": np.arange(T) == (-1 if i in terminated else T - 1),
            "infos": {},
        }
        if change:
            change(fields, i)
        buffers.append(EpisodeBuffer(**fields))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari misses the author, the code …
        return minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env,
            observation_space=observation_space,
            action_space=action_space,
            data_format=data_format,
            jpeg_encoding=jpeg,
            **metadata,
        )


def sample_batch(space: gym.Space, n: int) -> Any:
    """n samples laid out as Minari does: an array (a list for Text) a leaf."""
    return stack_values(space, [space.sample() for _ in range(n)])


def stack_values(space: gym.Space, values: Sequence[Any]) -> Any:
    """Values of `space` as one batch."""
    if isinstance(space, spaces.Dict):
        return {k: stack_values(child, [v[k] for v in values]) for k, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack_values(child, [v[i] for v in values]) for i, child in enumerate(space.spaces))
    if isinstance(space, spaces.Text):
        return list(values)
    return np.array(values, dtype=space.dtype)
