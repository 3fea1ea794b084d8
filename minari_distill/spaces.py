"""Any Gymnasium space as flat vectors, and back: `SpaceCodec`.

A space is a tree; its leaves are laid side by side in one vector (keys of a Dict in sorted order):

    Box             its numbers, in C order
    Discrete(n)     one-hot, n numbers: the probabilities of its values
    MultiDiscrete   one one-hot a component
    MultiBinary     0 or 1 a bit

`encode` then `decode` is the identity for every value of the space, unless the vectors' float type cannot hold
a value of a float64 Box (ask for `dtype="float64"`). `decode` accepts any finite vector and always answers with a
value of the space: numbers are rounded and moved into the bounds, the likeliest category is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space

from minari_distill.errors import ConfigError, DatasetError, did_you_mean
from minari_distill.leaves import Coder, coder_of
from minari_distill.space_tree import Path, build, leaves_of, name_of, quoted, without


@dataclass(frozen=True)
class Part:
    """One leaf of a space, and where it lies in the vector.

    Attributes:
        name: The leaf's path with dots between keys, "" where the whole space is one leaf.
        slice: Its columns of the vectors.
        kind: "box", "discrete", "multi_discrete" or "multi_binary".
        shape: Shape of one value.
        path: The keys (Dict) and indices (Tuple) that lead to it.
        space: The leaf itself.
    """

    name: str
    slice: slice
    kind: str
    shape: tuple[int, ...]
    path: Path
    space: gym.Space


class SpaceCodec:
    """Values of a Gymnasium space ↔ vectors (N, dim).

    >>> codec = SpaceCodec(spaces.Dict(goal=spaces.Box(-1, 1, (2,)), mode=spaces.Discrete(3)))
    >>> [(part.name, part.kind, part.slice) for part in codec.parts]
    [('goal', 'box', slice(0, 2, None)), ('mode', 'discrete', slice(2, 5, None))]
    >>> codec.encode({"goal": [[0.5, -0.5]], "mode": [2]})
    array([[ 0.5, -0.5,  0. ,  0. ,  1. ]], dtype=float32)

    Attributes:
        space: The whole space.
        kept_space: The space without the dropped leaves: what `decode` gives values of.
        drop: Names of the leaves left out.
        dim: Length of a vector.
        dtype: Of the vectors: float32, or float64 where asked.
        low, high: (dim,) float64, infinite where unbounded. They are numbers of `dtype` and lie inside the
            space's own bounds, so that no rounding can carry a clipped vector out of the space.
        parts: The leaves, in the order of the vector.
    """

    def __init__(
        self, space: gym.Space, drop: Sequence[str] = (), dtype: Any = "float32", *, steps: int = 1_000_000
    ):
        """Lay out the vector.

        Args:
            space: Any tree of Box, Discrete, MultiDiscrete, MultiBinary, and of Text where it is dropped.
            drop: Leaves to leave out, by name ("mission") or by the name of the tree that holds them.
            dtype: "float32" or "float64".
            steps: Length of the dataset, for the message that refuses a large image.

        Raises:
            DatasetError: A leaf is of no use and not dropped, or `drop` names none.
        """
        self.space = space
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            self.dtype = np.dtype(object)
        if self.dtype not in (np.float32, np.float64):
            raise DatasetError(f"Vectors are 'float32' or 'float64', not {str(dtype)!r}.")
        self.drop = (drop,) if isinstance(drop, str) else tuple(drop)
        leaves = list(leaves_of(space))
        self._check_drop([name_of(path) for path, _ in leaves])

        self._coders: list[tuple[Part, Coder]] = []
        dim = 0
        for path, leaf in leaves:
            if not self._is_dropped(path):
                kind, coder = coder_of(leaf, name_of(path), self.dtype, steps)
                shape = tuple(leaf.shape or ())
                part = Part(name_of(path), slice(dim, dim + coder.dim), kind, shape, path, leaf)
                self._coders.append((part, coder))
                dim += coder.dim
        self.dim = dim
        self.parts = tuple(part for part, _ in self._coders)
        if not self.dim:
            raise DatasetError(
                f"Nothing is left of {space} without {list(self.drop)}: keep at least one number."
            )
        self.kept_space = without(space, (), self._is_dropped)
        self.low = np.concatenate([coder.low for _, coder in self._coders])
        self.high = np.concatenate([coder.high for _, coder in self._coders])

    @property
    def is_discrete(self) -> bool:
        """Whether the whole space is one Discrete: the vectors are probabilities of its values."""
        return isinstance(self.space, spaces.Discrete)

    # ------------------------------------------------------------------------------ values to vectors

    def encode(self, batch: Any) -> np.ndarray:
        """Vectors (N, dim) of N values, laid out as Minari does: an array a leaf, (N, *leaf shape).

        Raises:
            DatasetError: A leaf has another shape, an object dtype, or values that it cannot have.
        """
        return self.encode_leaves(lambda part: _look_up(batch, part))

    def encode_leaves(self, read: Callable[[Part], Any]) -> np.ndarray:
        """Vectors (N, dim) from `read(part)`, which gives the N values of one leaf."""
        vectors: np.ndarray | None = None
        for part, coder in self._coders:
            values = _as_array(read(part), part)
            if vectors is None:
                vectors = np.empty((len(values), self.dim), self.dtype)
            if len(values) != len(vectors):
                raise DatasetError(
                    f"{quoted(part.name)} holds {len(values)} values, {quoted(self.parts[0].name)} {len(vectors)}: "
                    "every part needs one value a step."
                )
            coder.encode(values, vectors[:, part.slice])
        assert vectors is not None
        return vectors

    def encode_one(self, value: Any) -> np.ndarray:
        """The vector (dim,) of one value."""
        return self.encode_leaves(lambda part: np.asarray(_look_up(value, part))[None])[0]

    # ------------------------------------------------------------------------------ vectors to values

    def decode(self, vectors: np.ndarray) -> Any:
        """The N values of `kept_space` nearest to finite vectors (N, dim): an array a leaf, as Minari's."""
        values = self._decode_leaves(vectors)
        return build(self.kept_space, iter(values))

    def decode_one(self, vector: np.ndarray) -> Any:
        """The value of `kept_space` nearest to a finite vector (dim,), ready for `env.step`."""
        leaves = zip(self.parts, self._decode_leaves(np.asarray(vector)[None]), strict=True)
        # A Discrete's value is a scalar, a Box's an array even where its shape is ().
        values = (v[0] if part.kind == "discrete" else np.asarray(v[0]) for part, v in leaves)
        return build(self.kept_space, values)

    def project(self, vectors: np.ndarray, *, soft: bool = False) -> np.ndarray:
        """The vectors (N, dim) nearest to `vectors` that stand for a value of the space.

        Args:
            vectors: (N, dim), finite.
            soft: Keep what distillation needs between the values: integers stay fractions within their bounds,
                and categories stay probabilities (projected onto the simplex) instead of becoming one-hot.
        """
        vectors = self._checked(vectors)
        out = np.empty(vectors.shape, self.dtype)
        for part, coder in self._coders:
            if soft:
                coder.relax(vectors[:, part.slice], out[:, part.slice])
            else:
                coder.encode(coder.decode(vectors[:, part.slice]), out[:, part.slice])
        return out

    def fault(self, vectors: np.ndarray, first: int = 0) -> str | None:
        """Why some of `vectors` (N, dim), rows from `first` on, lie outside the space's soft range, in words; None if none does."""
        for part, coder in self._coders:
            columns = vectors[:, part.slice]
            wrong = ~np.isfinite(columns) | (columns < coder.low) | (columns > coder.high)
            if wrong.any():
                i, j = np.argwhere(wrong)[0]
                return (
                    f"{quoted(part.name)}[{j}] is {columns[i, j]} in row {first + i}, outside "
                    f"[{coder.low[j]:.9g}, {coder.high[j]:.9g}]"
                )
            for group in coder.groups:
                total = columns[:, group].sum(1)
                if (np.abs(total - 1) > 1e-3).any():
                    i = int(np.abs(total - 1).argmax())
                    return f"the probabilities of {quoted(part.name)} add up to {total[i]:.6g} in row {first + i}, not to 1"
        return None

    def check_fits(self, space: gym.Space, of: str) -> None:
        """Refuse a space, which belongs to `of`, whose values lack a part that this codec reads; what else they hold is not read.

        Raises:
            ConfigError: A part is missing, or has another shape.
        """
        for part in self.parts:
            leaf: Any = space
            for key in part.path:
                children = getattr(leaf, "spaces", {})
                try:
                    leaf = children[_key_of(children, key)]
                except (KeyError, IndexError, TypeError):
                    leaf = None
            there = getattr(leaf, "shape", None)
            if leaf is None or (there or ()) != part.shape:
                raise ConfigError(
                    f"What was learnt reads {quoted(part.name)} of shape {part.shape}, and the observations of {of} have "
                    f"{'none' if leaf is None else there}: it is of another environment than the synset's."
                )

    # ------------------------------------------------------------------------------------ description

    def spec(self) -> dict[str, Any]:
        """All that `from_spec` needs, as JSON."""
        return {
            "space": serialize_space(self.space),
            "drop": list(self.drop),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> SpaceCodec:
        """The codec that `spec()` described.

        Raises:
            DatasetError: `spec` describes no space.
        """
        try:
            space = deserialize_space(spec["space"])
            drop, dtype = tuple(spec["drop"]), spec["dtype"]
        except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            raise DatasetError(
                f"This is no description of a space: {json.dumps(spec)[:200]} ({error})."
            ) from error
        return cls(space, drop, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpaceCodec) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(json.dumps(self.spec()))

    def __repr__(self) -> str:
        dropped = f", drop={list(self.drop)}" if self.drop else ""
        return f"SpaceCodec({self.space}{dropped}, dim={self.dim}, dtype={self.dtype})"

    # ------------------------------------------------------------------------------------------- parts

    def _decode_leaves(self, vectors: np.ndarray) -> list[Any]:
        vectors = self._checked(vectors)
        return [coder.decode(vectors[:, part.slice]) for part, coder in self._coders]

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise DatasetError(
                f"Vectors of shape {vectors.shape} given, (N, {self.dim}) expected for {self.space}."
            )
        return vectors

    def _is_dropped(self, path: Path) -> bool:
        return _is_dropped(path, self.drop)

    def _check_drop(self, names: list[str]) -> None:
        for name in self.drop:
            if not any(leaf == name or leaf.startswith(f"{name}.") for leaf in names) or not name:
                parts = f"Parts: {', '.join(names)}." if any(names) else f"{self.space} has no parts."
                raise DatasetError(f"There is no part {name!r} to drop.{did_you_mean(name, names)} {parts}")


def _is_dropped(path: Path, drop: Sequence[str]) -> bool:
    return any(name_of(path[:depth]) in drop for depth in range(1, len(path) + 1))


def first_difference(a: gym.Space, b: gym.Space, drop: Sequence[str] = ()) -> str | None:
    """Where two spaces first differ, in words; None if they are the same but for the parts in `drop`."""
    left, right = (
        {path: leaf for path, leaf in leaves_of(space) if not _is_dropped(path, drop)} for space in (a, b)
    )
    for path in [*left, *(p for p in right if p not in left)]:
        if path not in left or path not in right:
            return f"only {'the first' if path in left else 'the second'} has a part {name_of(path)!r}"
        if left[path] != right[path]:
            where = f" in {name_of(path)!r}" if path else ""
            return f"{left[path]} against {right[path]}{where}"
    return None


def _look_up(value: Any, part: Part) -> Any:
    for depth, key in enumerate(part.path):
        try:
            value = value[_key_of(value, key)]
        except (KeyError, IndexError, TypeError) as error:
            raise DatasetError(
                f"{quoted(part.name)} is missing: there is no {key!r} in "
                f"{name_of(part.path[:depth]) or 'the value'} ({type(value).__name__})."
            ) from error
    return value


def _key_of(value: Any, key: str | int) -> str | int:
    """The key as `value` has it: JSON, which a codec travels as, knows keys of text alone."""
    by_number = isinstance(value, Mapping) and key not in value and str(key).isdecimal()
    return int(key) if by_number else key


def _as_array(values: Any, part: Part) -> np.ndarray:
    try:
        values = np.asarray(values)
    except ValueError as error:  # a ragged list
        raise DatasetError(f"The values of {quoted(part.name)} differ in shape ({error}).") from error
    if values.dtype.kind not in "fiub":
        raise DatasetError(
            f"{quoted(part.name)} holds {values.dtype} values, not numbers: write the dataset anew with the dtype "
            f"of its space, {part.space.dtype}."
        )
    if part.shape == () and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]  # some datasets store a scalar as an array of one
    if values.shape[1:] != part.shape or not values.ndim:
        raise DatasetError(
            f"{quoted(part.name)} has values of shape {values.shape[1:]}, its space {part.space} expects {part.shape}."
        )
    return values
