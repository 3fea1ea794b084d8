"""N one-step episodes in Minari's HDF5 layout, without writing or reading each of them by Minari.

Minari writes one episode. The others are copies of it, made by HDF5, in which the pair's own numbers are put. So the
layout is Minari's own, and 4096 pairs take 2 s instead of 22. Datasets lie contiguously, without the room that Minari
leaves for growth: 1 KB a pair instead of 15.

Both ways go by HDF5's own calls, since h5py's convenient ones take ten times as long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from minari_distill.errors import SynsetError
from minari_distill.reading import stored_path
from minari_distill.spaces import Part, SpaceCodec

_LARGEST_CHUNK = 2**24  # numbers: HDF5 reads a chunk whole, whatever the array's shape


def write_episodes(
    data: Path,
    observations: np.ndarray,
    actions: np.ndarray,
    observation_codec: SpaceCodec,
    action_codec: SpaceCodec,
    attributes: list[dict[str, Any]],
) -> Path:
    """Write observations [s, s], one action, reward 0, truncated, for each pair, into a new folder.

    Args:
        data: The folder, made by Minari with its metadata.json, whose totals are of all episodes.
        observations: (n_syn, obs_dim).
        actions: (n_syn, act_dim).
        observation_codec, action_codec: Between these vectors and the dataset's spaces.
        attributes: More attributes, one dict an episode.

    Returns:
        The HDF5 file.
    """
    n = len(actions)
    # The file knows nothing of dropped leaves.
    observation_codec, action_codec = (
        SpaceCodec(codec.kept_space, dtype=codec.dtype) for codec in (observation_codec, action_codec)
    )
    obs_twice = observation_codec.decode(np.repeat(observations, 2, axis=0))  # s, s of each pair
    act_once = action_codec.decode(actions)
    storage = MinariStorage.new(
        data, observation_codec.space, action_codec.space, jpeg_encoding=False, data_format="hdf5"
    )
    pattern = EpisodeBuffer(
        observations=_first(obs_twice, 2),
        actions=_first(act_once, 1),
        rewards=[0.0],
        terminations=[False],
        truncations=[True],
        infos={},  # none; but without the empty group Minari cannot print an episode
    )
    storage.update_episodes([pattern])
    storage.update_metadata({"total_episodes": n, "total_steps": n})

    leaves = {}  # path inside an episode → (n_syn, rows, …)
    for kind, values, codec in (
        ("observations", obs_twice, observation_codec),
        ("actions", act_once, action_codec),
    ):
        for part in codec.parts:
            leaf = _leaf(values, part)
            leaves[stored_path(kind, part).encode()] = leaf.reshape(n, len(leaf) // n, *leaf.shape[1:])
    path = data / "main_data.hdf5"
    compact = path.with_suffix(".compact")
    with h5py.File(path, "r") as old, h5py.File(compact, "w", libver="latest") as new:
        first = new.create_group("episode_0")
        _copy_group(old["episode_0"], first)
        for i in range(1, n):
            h5py.h5o.copy(new.id, b"episode_0", new.id, b"episode_%d" % i)
        for i, more in enumerate(attributes):
            pair = {name: values[i] for name, values in leaves.items()}
            _fill(new[f"episode_{i}"], pair, {"id": i, **more})
    compact.replace(path)
    return path


def read_vectors(file: h5py.File, n: int, kind: str, rows: int, codec: SpaceCodec) -> np.ndarray:
    """Vectors (n, dim): of each of the n episodes, the first of its `rows` values of `kind`.

    Every array's shape is checked before it is read, so that no file can ask for more memory than n episodes take, and
    no link leads out of the file.

    Args:
        file: As `write_episodes` leaves it, whoever wrote it.
        n: Episodes to read, "episode_0" to "episode_<n-1>".
        kind: "observation" or "action".
        rows: 2 or 1.
        codec: Of this file's spaces.

    Raises:
        SynsetError: Something is not there, or is not what it should be.
    """
    leaves: dict[str, np.ndarray] = {}
    exact: dict[int, np.ndarray] = {}
    name = f"{kind}_vector".encode()
    for i in range(n):
        group = _follow(file.id, f"episode_{i}", "")
        for part in codec.parts:
            path = stored_path(f"{kind}s", part)
            stored = _checked(
                _follow(group, path, f" in episode_{i}"), (rows, *part.shape), f"{path} in episode_{i}"
            )
            if i == 0:
                leaves[path] = np.empty((n, *stored.shape), stored.dtype)
            values = leaves[path]
            if stored.dtype != values.dtype:
                raise SynsetError(
                    f"{path} in episode_{i} holds {stored.dtype} numbers, others {values.dtype}"
                )
            stored.read(h5py.h5s.ALL, h5py.h5s.ALL, values[i])
        if h5py.h5a.exists(group, name):
            attribute = h5py.h5a.open(group, name)
            exact[i] = np.full(codec.dim, np.nan, codec.dtype)
            if attribute.shape == exact[i].shape and attribute.dtype.kind == "f":
                attribute.read(exact[i])
    vectors = codec.encode_leaves(
        lambda part: leaves[stored_path(f"{kind}s", part)].reshape(n * rows, *part.shape)
    )[::rows].copy()
    if exact:
        which, told = list(exact), np.stack(list(exact.values()))
        fits = np.isfinite(told).all(1)
        fits[fits] = (codec.project(told[fits]) == vectors[which][fits]).all(1)
        if not fits.all():
            raise SynsetError(
                f"the {kind}_vector in episode_{which[int(fits.argmin())]} is not of its {kind}"
            )
        vectors[which] = told
    return vectors


def _follow(group: h5py.h5g.GroupID, path: str, where: str) -> Any:
    """What lies at `path`, by hard links alone: the others may lead out of the file."""
    item: Any = group
    for key in path.encode().split(b"/"):
        is_there = isinstance(item, h5py.h5g.GroupID) and item.links.exists(key)
        if not is_there or item.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise SynsetError(f"there is no {path}{where}")
        item = h5py.h5o.open(item, key)
    return item


def _checked(stored: Any, shape: tuple[int, ...], what: str) -> h5py.h5d.DatasetID:
    """`stored`, if it is a dataset of numbers of this shape that lie in the file."""
    found = stored.shape if isinstance(stored, h5py.h5d.DatasetID) else None
    plan: Any = None if found is None else stored.get_create_plist()
    inside = plan and plan.get_layout() != h5py.h5d.VIRTUAL and not plan.get_external_count()
    if found != shape or not inside:
        raise SynsetError(f"{what} has the shape {found}, expected {shape} and no data outside of the file")
    if plan.get_layout() == h5py.h5d.CHUNKED and np.prod(plan.get_chunk()) > _LARGEST_CHUNK:
        raise SynsetError(f"{what} lies in chunks of {plan.get_chunk()}")
    if stored.dtype.kind not in "biuf":
        raise SynsetError(f"{what} holds {stored.dtype}, not numbers")
    return stored


def _fill(episode: h5py.Group, leaves: dict[bytes, np.ndarray], attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        episode.attrs.modify(name, value)
    for path, values in leaves.items():
        h5py.h5d.open(episode.id, path).write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))


def _copy_group(old: h5py.Group, new: h5py.Group) -> None:
    new.attrs.update(old.attrs)
    for key, item in old.items():
        if isinstance(item, h5py.Group):
            _copy_group(item, new.create_group(key))
        else:
            new.create_dataset(key, data=item[()], dtype=item.dtype)


def _leaf(values: Any, part: Part) -> np.ndarray:
    for key in part.path:
        values = values[key]
    return np.asarray(values)


def _first(value: Any, rows: int) -> Any:
    if isinstance(value, dict):
        return {key: _first(v, rows) for key, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_first(v, rows) for v in value)
    return value[:rows]
