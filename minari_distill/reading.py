"""Episodes of a Minari dataset, read straight into arrays that were allocated once.

    observations  s_0 s_1 s_2 … s_T     T+1 of them
    actions       a_0 a_1 …  a_{T−1}    T
                  └ transition 0 = (s_0, a_0, r_0, s_1)

HDF5 files are read array by array, three times faster than by Minari's episodes, which also decode the infos;
the other storage formats, and images stored as JPEG, go through Minari.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import h5py
import numpy as np
from minari.dataset.minari_storage import is_image_space

from minari_distill.errors import DatasetError
from minari_distill.locate import Located
from minari_distill.room import Room
from minari_distill.spaces import Part, SpaceCodec


@dataclass(frozen=True)
class Episode:
    """One episode as vectors.

    Attributes:
        index: Its number in the dataset.
        observations: (T+1, obs_dim), or (T, obs_dim) in some datasets.
        actions: (T, act_dim).
        rewards: (T,).
        terminations, truncations: (T,) bool.
    """

    index: int
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def read_episodes(
    dataset: Located, observation_codec: SpaceCodec, action_codec: SpaceCodec
) -> Iterator[Episode]:
    """Every episode of `dataset`, one at a time.

    Raises:
        DatasetError: An episode cannot be read, with its number and the reason.
    """
    parts = [*observation_codec.parts, *action_codec.parts]
    raw = dataset.metadata.get("data_format", "hdf5") == "hdf5" and not any(
        is_image_space(p.space) for p in parts
    )
    stored: Iterator[_HDF5Episode | _MinariEpisode] = (
        _read_hdf5(dataset) if raw else _read_with_minari(dataset)
    )
    for episode in stored:
        try:
            yield Episode(
                episode.index,
                observation_codec.encode_leaves(partial(episode.leaf, "observations")),
                action_codec.encode_leaves(partial(episode.leaf, "actions")),
                np.asarray(episode.array("rewards"), np.float64).reshape(-1),
                np.asarray(episode.array("terminations"), bool).reshape(-1),
                np.asarray(episode.array("truncations"), bool).reshape(-1),
            )
        except (DatasetError, KeyError, OSError, ValueError, TypeError) as error:
            raise DatasetError(f"Dataset '{dataset.id}', episode {episode.index}: {error}") from error


class TransitionArrays:
    """Arrays of transitions that fill up episode by episode, in memory or mapped, as `room` has it.

    Attributes:
        observations, next_observations: (capacity, obs_dim).
        actions: (capacity, act_dim).
        rewards, terminations, truncations: (capacity,).
        starts: First transition of each episode so far.
        n: Transitions so far.
        short, lost: Episodes that had T observations, and transitions that were dropped for it.
    """

    def __init__(self, capacity: int, obs_dim: int, act_dim: int, dtype: np.dtype, room: Room):
        self.room = room
        self.observations = room.empty((capacity, obs_dim), dtype)
        self.next_observations = room.empty((capacity, obs_dim), dtype)
        self.actions = room.empty((capacity, act_dim), dtype)
        self.rewards = room.empty((capacity,), dtype)
        self.terminations = room.empty((capacity,), bool)
        self.truncations = room.empty((capacity,), bool)
        self.starts: list[int] = []
        self.n = self.short = self.lost = 0

    @staticmethod
    def size(capacity: int, obs_dim: int, act_dim: int, dtype: np.dtype) -> int:
        """Bytes that the arrays take."""
        return capacity * ((2 * obs_dim + act_dim + 1) * dtype.itemsize + 2)

    def append(self, episode: Episode) -> None:
        """Add one episode.

        Some datasets have T observations in an episode of T steps (Minari #199): the last transition lacks its
        next observation. If that step terminated, its next state is never bootstrapped from, and the step's own
        observation stands in; otherwise the transition is dropped, and the episode ends, truncated, one earlier.

        Raises:
            DatasetError: The episode's arrays do not fit together.
        """
        T, n_obs = len(episode.actions), len(episode.observations)
        lengths = {len(x) for x in (episode.rewards, episode.terminations, episode.truncations)}
        if lengths != {T} or n_obs not in (T, T + 1):
            raise DatasetError(
                f"episode {episode.index} holds {n_obs} observations, {T} actions, {len(episode.rewards)} rewards, "
                f"{len(episode.terminations)} terminations and {len(episode.truncations)} truncations; an episode "
                "of T steps holds T+1 observations and T of the rest."
            )
        observations, terminations, truncations = (
            episode.observations,
            episode.terminations,
            episode.truncations,
        )
        if n_obs == T and T:
            self.short += 1
            if terminations[-1]:
                observations = np.concatenate([observations, observations[-1:]])
            else:
                self.lost += 1
                T -= 1
                truncations = truncations[:T].copy()
                truncations[-1:] = True
        if not T:
            return
        a, b = self.n, self.n + T
        if b > len(self.rewards):
            self._grow(b)
        self.observations[a:b] = observations[:T]
        self.next_observations[a:b] = observations[1 : T + 1]
        self.actions[a:b] = episode.actions[:T]
        self.rewards[a:b] = episode.rewards[:T]
        self.terminations[a:b] = terminations[:T]
        self.truncations[a:b] = truncations[:T]
        self.starts.append(a)
        self.n = b

    def extend(self, part: Any) -> None:
        """Add the episodes of `Transitions`, whose arrays have the same names."""
        a, b = self.n, self.n + len(part.rewards)
        if b > len(self.rewards):
            self._grow(b)
        for name in FIELDS:
            getattr(self, name)[a:b] = getattr(part, name)
        self.starts += (part.episode_starts + a).tolist()
        self.n = b

    def _grow(self, least: int) -> None:
        # Only where the metadata's count of steps is too low.
        size = max(least, len(self.rewards) * 3 // 2)
        for name in FIELDS:
            old = getattr(self, name)
            new = self.room.empty((size, *old.shape[1:]), old.dtype)
            new[: self.n] = old[: self.n]
            setattr(self, name, new)

    def filled(self) -> dict[str, np.ndarray]:
        """The arrays of n transitions, by name, with `episode_starts`."""
        starts = np.array(self.starts, dtype=np.int64)
        return {name: getattr(self, name)[: self.n] for name in FIELDS} | {"episode_starts": starts}


FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


def stored_path(kind: str, part: Part) -> str:
    """Where Minari's HDF5 keeps a leaf inside an episode: "observations/<key>/_index_<i>"."""
    return "/".join([kind, *(f"_index_{key}" if isinstance(key, int) else str(key) for key in part.path)])


class _HDF5Episode:
    def __init__(self, index: int, group: h5py.Group):
        self.index, self.group = index, group

    def leaf(self, kind: str, part: Part) -> Any:
        return self.group[stored_path(kind, part)][()]

    def array(self, key: str) -> Any:
        return self.group[key][()]


class _MinariEpisode:
    def __init__(self, index: int, episode: dict[str, Any]):
        self.index, self.episode = index, episode

    def leaf(self, kind: str, part: Part) -> Any:
        value = self.episode[kind]
        for key in part.path:
            value = value[key]
        return value

    def array(self, key: str) -> Any:
        return self.episode[key]


def _read_hdf5(dataset: Located) -> Iterator[_HDF5Episode]:
    path = dataset.storage.data_path / "main_data.hdf5"
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(
            f"Dataset '{dataset.id}': {path} cannot be read ({error}). Fetch it again with: "
            f"minari download {dataset.id} --force"
        ) from error
    with file:
        for index in dataset.episodes:
            group = file.get(f"episode_{index}")
            if not isinstance(group, h5py.Group):
                raise DatasetError(
                    f"Dataset '{dataset.id}' has no episode_{index} in {path}, though its metadata counts "
                    f"{dataset.metadata.get('total_episodes')} episodes: it was not written to its end."
                )
            yield _HDF5Episode(int(index), group)


def _read_with_minari(dataset: Located) -> Iterator[_MinariEpisode]:
    try:
        for episode in dataset.storage.get_episodes([int(i) for i in dataset.episodes]):
            yield _MinariEpisode(int(episode["id"]), episode)
    except Exception as error:  # each format's library raises its own
        told = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise DatasetError(
            f"Dataset '{dataset.id}': {dataset.storage.data_path} cannot be read ({type(error).__name__}: {told}). Fetch it "
            f"again with: minari download {dataset.id} --force"
        ) from error
