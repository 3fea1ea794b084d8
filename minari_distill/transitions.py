"""`Transitions`: an offline dataset as flat arrays, and `load_transitions`, which reads them from Minari."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minari_distill.errors import DatasetError
from minari_distill.locate import EMBEDDED_ID, Located, Say, embedded_dataset, is_a_synset, locate
from minari_distill.reading import FIELDS, TransitionArrays, read_episodes
from minari_distill.room import BLOCK, Room, blocks, machine_memory
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec, first_difference
from minari_distill.units import Units

__all__ = ["EMBEDDED_ID", "Source", "Transitions", "embedded_dataset", "load_transitions"]

STD_EPSILON = 1e-3
"""Added to the standard deviation of the observations, as CORL does."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions (s, a, r, s') of E episodes, one after the other, as vectors in the dataset's own units.

    Attributes:
        observations: (N, obs_dim) float32, or float64 where asked.
        actions: (N, act_dim), the same type; probabilities for discrete actions.
        rewards: (N,).
        next_observations: (N, obs_dim).
        terminations: (N,) bool, s' is terminal: its value is zero.
        truncations: (N,) bool, the episode was cut here.
        episode_starts: (E,) int64, index of each episode's first transition, ascending from 0.
        observation_codec, action_codec: Between vectors and the dataset's spaces.
        source: Where they come from.

    Raises:
        DatasetError: Shapes that do not fit together, fewer than two transitions, NaN or infinite values.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    episode_starts: np.ndarray
    observation_codec: SpaceCodec
    action_codec: SpaceCodec
    source: Source

    def __post_init__(self) -> None:
        n = len(self.rewards)
        if n < 2:
            raise DatasetError(
                f"{self._name} holds {n} transition{'' if n == 1 else 's'}: at least two are needed to learn from."
            )
        obs_dim, act_dim = self.observation_codec.dim, self.action_codec.dim
        for name, shape in {
            "observations": (n, obs_dim),
            "actions": (n, act_dim),
            "rewards": (n,),
            "next_observations": (n, obs_dim),
            "terminations": (n,),
            "truncations": (n,),
        }.items():
            if getattr(self, name).shape != shape:
                raise DatasetError(
                    f"{name} of shape {getattr(self, name).shape} given, {shape} expected: "
                    f"{n} transitions, obs_dim {obs_dim}, act_dim {act_dim}."
                )
        starts = self.episode_starts
        if starts.ndim != 1 or not len(starts) or starts[0] or (np.diff(starts) < 1).any() or starts[-1] >= n:
            raise DatasetError(f"episode_starts must ascend from 0 to below {n}, got {starts}.")
        for name in ("observations", "actions", "rewards", "next_observations"):
            self._check_finite(name)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def obs_dim(self) -> int:
        """Length of an observation vector."""
        return self.observation_codec.dim

    @property
    def act_dim(self) -> int:
        """Length of an action vector."""
        return self.action_codec.dim

    @property
    def n_episodes(self) -> int:
        """E."""
        return len(self.episode_starts)

    @property
    def room(self) -> Room:
        """Where arrays of N rows belong: in memory, or mapped as these are."""
        return Room.of(self.observations)

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """Transitions of each episode, (E,)."""
        return np.diff(self.episode_starts, append=len(self))

    @property
    def episode_ids(self) -> np.ndarray:
        """The episode of each transition, (N,) int64."""
        return np.repeat(np.arange(self.n_episodes), self.episode_lengths)

    @cached_property
    def observation_mean(self) -> np.ndarray:
        """Mean of the observations, (obs_dim,) float32; summed in double precision."""
        return self._moments[0].astype(np.float32)

    @cached_property
    def observation_std(self) -> np.ndarray:
        """σ + 1e-3, (obs_dim,) float32: the very divisor, nothing is added to it later."""
        return (self._moments[1] + STD_EPSILON).astype(np.float32)

    def unresolved(self) -> list[str]:
        """Names of numbers that vary by less than 16 float32 steps around their mean: students cannot tell their values apart."""
        mean, std = self._moments
        near = (std > 0) & (std < 16 * np.finfo(np.float32).eps * np.abs(mean))
        names = {
            i: part.name for part in self.observation_codec.parts for i in range(self.obs_dim)[part.slice]
        }
        return [f"{names[i] or 'number'} {i}" for i in np.flatnonzero(near).tolist()]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        obs, n = self.observations, len(self)
        mean = np.asarray(obs.mean(0, dtype=np.float64))
        # In blocks: np.std in double precision would hold the whole dataset once more.
        return mean, np.sqrt(sum(np.square(obs[rows] - mean).sum(0) for rows in blocks(n)) / n)

    def returns_to_go(self, discount: float) -> np.ndarray:
        """G_t = Σ_k discount^k r_{t+k} to the end of the episode, (N,); a truncated episode ends there too."""
        # G_t = r_t + discount · G_{t+1}, for the k-th last step of all episodes at once
        returns = self.rewards.astype(np.float64)
        last = self.episode_starts + self.episode_lengths - 1
        order = np.argsort(-self.episode_lengths, kind="stable")
        last, lengths = last[order], self.episode_lengths[order]
        for k in range(1, int(lengths[0])):
            at = last[: np.searchsorted(-lengths, -k)] - k  # of the episodes longer than k steps
            returns[at] += discount * returns[at + 1]
        return returns.astype(self.rewards.dtype)

    def episode_returns(self) -> np.ndarray:
        """Undiscounted raw return of each episode, (E,) float64."""
        return np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)

    def units(self) -> Units:
        """Between these numbers and a network's: the statistics, and the bounds or the range of the actions."""
        codec = self.action_codec
        return Units.of(
            self.observation_mean,
            self.observation_std,
            codec.low,
            codec.high,
            discrete=codec.is_discrete,
            actions=self.actions,
        )

    def select(self, episodes: Any) -> Transitions:
        """The transitions of some episodes, by their numbers or by a mask (E,), in the order given."""
        asked = np.asarray(episodes)
        try:
            chosen = np.arange(self.n_episodes)[asked] if asked.size else asked
            len(chosen)
        except (IndexError, TypeError) as error:
            raise DatasetError(
                f"{episodes!r} selects no episodes of {self._name}: give a list of numbers from 0 to {self.n_episodes - 1}, or "
                f"{self.n_episodes} times True or False."
            ) from error
        if not len(chosen):
            raise DatasetError(f"No episode was selected, of the {self.n_episodes} of {self._name}.")
        lengths = self.episode_lengths[chosen]
        starts = np.cumsum(lengths) - lengths
        index = np.repeat(self.episode_starts[chosen] - starts, lengths) + np.arange(lengths.sum())
        arrays: dict[str, Any] = {name: self.room.taken(getattr(self, name), index) for name in FIELDS}
        return dataclasses.replace(
            self,
            **arrays,
            episode_starts=starts,
            source=dataclasses.replace(self.source, total_steps=len(index), total_episodes=len(chosen)),
        )

    @property
    def _name(self) -> str:
        ids = ", ".join(map(repr, self.source.dataset_ids))
        return f"Dataset {ids}" if ids else "The dataset"

    @property
    def _how_read(self) -> str:
        codec = self.observation_codec
        return f"{self._name} was read with drop={list(codec.drop)}, dtype={codec.dtype}"

    def _check_finite(self, name: str) -> None:
        array = getattr(self, name)
        for start in range(0, len(array), BLOCK):
            block = array[start : start + BLOCK]
            if np.isfinite(block).all():
                continue
            row = start + int(np.argwhere(~np.isfinite(block))[0][0])
            wrong = array[row][~np.isfinite(array[row])][0] if array.ndim == 2 else array[row]
            episode = int(np.searchsorted(self.episode_starts, row, side="right")) - 1
            raise DatasetError(
                f"{self._name} holds {wrong} in {name} of episode {episode}, step {row - self.episode_starts[episode]}. "
                "Leave such episodes out with MinariDataset.filter_episodes, and pass what is left."
            )


def load_transitions(
    dataset: Any,
    *,
    drop: Sequence[str] = (),
    dtype: str = "float32",
    memory_share: float = 0.25,
    on_message: Say | None = None,
) -> Transitions:
    """The transitions of a Minari dataset, or of several whose spaces agree.

    >>> transitions = load_transitions("embedded")
    >>> transitions.obs_dim, transitions.act_dim
    (11, 3)

    Args:
        dataset: A Minari id, downloaded if it is not local; a folder; a `MinariDataset`, of which only the
            selected episodes are read; `Transitions`, returned as they are; "embedded", the dataset that the
            package carries; or a list of these.
        drop: Names of observation parts to leave out, for instance ["mission"].
        dtype: "float32", or "float64" to keep what a float64 dataset holds.
        memory_share: Arrays of more than this share of the machine's memory are mapped from a temporary file,
            in the folder that TMPDIR names.
        on_message: Receives a sentence for each thing worth knowing: a download, repaired episodes.

    Returns:
        Flat arrays in the dataset's own units, episode after episode.

    Raises:
        DatasetError: One sentence that names what to repair.
    """
    if isinstance(dataset, Transitions):
        codec, dropped = dataset.observation_codec, (drop,) if isinstance(drop, str) else tuple(drop)
        if (dropped and dropped != codec.drop) or (dtype != "float32" and dtype != codec.dtype.name):
            raise DatasetError(
                f"{dataset._how_read}, and drop={list(dropped)}, dtype={dtype} is asked for: give the dataset's id, or load it anew so."
            )
        return dataset
    say = on_message or (lambda _: None)
    items = list(dataset) if isinstance(dataset, list | tuple) else [dataset]
    if not items:
        raise DatasetError("No dataset given: the list is empty.")
    parts = [item if isinstance(item, Transitions) else locate(item, on_message) for item in items]
    for part in parts:
        if isinstance(part, Located):
            _refuse_unusable(part)
    observation_space, action_space = _common_spaces(parts, (drop,) if isinstance(drop, str) else drop)
    steps = sum(_steps(part) for part in parts)
    observation_codec = _codec(parts, observation_space, "observations", drop, dtype, steps)
    action_codec = _codec(parts, action_space, "actions", (), dtype, steps)

    sizes = (steps, observation_codec.dim, action_codec.dim, np.dtype(dtype))
    room = _room(TransitionArrays.size(*sizes), memory_share, say)
    arrays = TransitionArrays(*sizes, room)
    sources = []
    for part in parts:
        before, episodes_before = arrays.n, len(arrays.starts)
        if isinstance(part, Transitions):
            arrays.extend(part)
        else:
            _append_dataset(arrays, part, observation_codec, action_codec, say)
        source = part.source if isinstance(part, Transitions) else Source.of(part.metadata)
        sources.append(
            dataclasses.replace(
                source, total_steps=arrays.n - before, total_episodes=len(arrays.starts) - episodes_before
            )
        )
    source = Source.combine(sources)
    if len({s.env for s in sources}) > 1:
        whose = next(s.dataset_ids[0] for s in sources if s.env_spec)
        say(
            f"The datasets do not name one and the same environment; {source.env_id} is used for evaluation, as '{whose}' has it."
        )
    return Transitions(
        **arrays.filled(), observation_codec=observation_codec, action_codec=action_codec, source=source
    )


def _room(size: int, memory_share: float, say: Say) -> Room:
    memory = machine_memory()
    room = Room(mapped=size > memory_share * memory)
    if room.mapped:
        say(
            f"The dataset's arrays take {size / 1e9:.3g} GB, more than {memory_share:.3g} of this machine's "
            f"{memory / 1e9:.3g} GB (memory_share): they are mapped from a file in '{tempfile.gettempdir()}'."
        )
    return room


def _append_dataset(
    arrays: TransitionArrays,
    dataset: Located,
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    say: Say,
) -> None:
    before, short, lost = arrays.n, arrays.short, arrays.lost
    episodes_before = len(arrays.starts)
    for episode in read_episodes(dataset, observation_codec, action_codec):
        try:
            arrays.append(episode)
        except DatasetError as error:
            raise DatasetError(f"Dataset '{dataset.id}': {error}") from error
    _refuse_placeholders(arrays, before, len(arrays.starts) - episodes_before, dataset.id)
    short, lost = arrays.short - short, arrays.lost - lost
    if short:
        say(
            f"Dataset '{dataset.id}': {short} of {len(dataset.episodes)} episodes hold T observations instead of "
            f"T+1; {lost} transitions without a next observation were left out."
        )
    elif arrays.n - before < _steps(dataset):
        say(
            f"Dataset '{dataset.id}': its metadata counts {_steps(dataset)} steps, {arrays.n - before} were there "
            "to read."
        )


def _refuse_placeholders(arrays: TransitionArrays, start: int, n_episodes: int, name: str) -> None:
    """Synsets that Minari combined are no synset by their metadata, and are told by what they hold."""
    rows = slice(start, arrays.n)
    if n_episodes != arrays.n - start or arrays.n == start or arrays.rewards[rows].any():
        return
    if np.array_equal(arrays.observations[rows], arrays.next_observations[rows]):
        raise DatasetError(
            f"Dataset '{name}' holds pairs and no transitions: every episode has one step, no reward and the same observation "
            "twice, as in synsets that were combined: nothing can be learnt from them. Distil the datasets that they came from."
        )


def _refuse_unusable(dataset: Located) -> None:
    if "synset" in dataset.metadata:
        raise DatasetError(is_a_synset(dataset.id))
    if not len(dataset.episodes):
        raise DatasetError(f"Dataset '{dataset.id}' holds no episodes.")


def _steps(part: Located | Transitions) -> int:
    if isinstance(part, Transitions):
        return len(part)
    if len(part.episodes) == part.metadata["total_episodes"]:
        return int(part.metadata["total_steps"])
    return sum(
        int(episode.get("total_steps", 0)) for episode in part.storage.get_episode_metadata(part.episodes)
    )


def _common_spaces(parts: Sequence[Located | Transitions], drop: Sequence[str]) -> tuple[Any, Any]:
    """Observation and action space of the first part, if all the others have the same but for what is dropped."""

    def spaces_of(part: Located | Transitions) -> tuple[Any, Any, str]:
        if isinstance(part, Transitions):
            return part.observation_codec.space, part.action_codec.space, part._name
        return part.storage.observation_space, part.storage.action_space, f"Dataset '{part.id}'"

    *first, first_name = spaces_of(parts[0])
    for part in parts[1:]:
        *others, name = spaces_of(part)
        for kind, one, other in zip(("observation", "action"), first, others, strict=True):
            difference = first_difference(one, other, drop if kind == "observation" else ())
            if difference:
                raise DatasetError(
                    f"{first_name} and {name} cannot be combined: their {kind} spaces differ, {difference}."
                )
    return first[0], first[1]


def _codec(
    parts: Sequence[Located | Transitions], space: Any, name: str, drop: Sequence[str], dtype: str, steps: int
) -> SpaceCodec:
    try:
        codec = SpaceCodec(space, drop, dtype, steps=steps)
    except DatasetError as error:
        ids = ", ".join(f"'{part.id}'" for part in parts if isinstance(part, Located))
        raise DatasetError(f"The {name} of dataset {ids}: {error}") from error
    for part in parts:
        if isinstance(part, Transitions):
            own = part.observation_codec if name == "observations" else part.action_codec
            if own != codec:
                raise DatasetError(f"{part._how_read}: read the others with the same.")
    return codec
