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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space

from minari_distill.errors import DatasetError, did_you_mean

LARGEST_LEAF = 2**14
"""Numbers in one leaf beyond which it counts as an image, which a multilayer perceptron cannot take."""

Path = tuple[str | int, ...]


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
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise DatasetError(f"Vectors are 'float32' or 'float64', not {str(dtype)!r}.")
        self.drop = (drop,) if isinstance(drop, str) else tuple(drop)
        leaves = list(_leaves(space))
        self._check_drop([_name(path) for path, _ in leaves])

        self._coders: list[tuple[Part, _Coder]] = []
        dim = 0
        for path, leaf in leaves:
            if not self._is_dropped(path):
                kind, coder = _coder(leaf, _name(path), self.dtype, steps)
                shape = tuple(leaf.shape or ())
                part = Part(_name(path), slice(dim, dim + coder.dim), kind, shape, path, leaf)
                self._coders.append((part, coder))
                dim += coder.dim
        self.dim = dim
        self.parts = tuple(part for part, _ in self._coders)
        if not self.dim:
            raise DatasetError(
                f"Nothing is left of {space} without {list(self.drop)}: keep at least one number."
            )
        self.kept_space = _without(space, (), self._is_dropped)
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
                    f"{_quoted(part)} holds {len(values)} values, {_quoted(self.parts[0])} {len(vectors)}: "
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
        return _build(self.kept_space, iter(values))

    def decode_one(self, vector: np.ndarray) -> Any:
        """The value of `kept_space` nearest to a finite vector (dim,), ready for `env.step`."""
        leaves = zip(self.parts, self._decode_leaves(np.asarray(vector)[None]), strict=True)
        # A Discrete's value is a scalar, a Box's an array even where its shape is ().
        values = (v[0] if part.kind == "discrete" else np.asarray(v[0]) for part, v in leaves)
        return _build(self.kept_space, values)

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

    def fault(self, vectors: np.ndarray) -> str | None:
        """Why some of `vectors` (N, dim) lie outside the space's soft range, in words; None if none does."""
        for part, coder in self._coders:
            columns = vectors[:, part.slice]
            wrong = ~np.isfinite(columns) | (columns < coder.low) | (columns > coder.high)
            if wrong.any():
                i, j = np.argwhere(wrong)[0]
                return (
                    f"{_quoted(part)}[{j}] is {columns[i, j]} in row {i}, outside "
                    f"[{coder.low[j]:.9g}, {coder.high[j]:.9g}]"
                )
            for group in coder.groups:
                total = columns[:, group].sum(1)
                if (np.abs(total - 1) > 1e-3).any():
                    i = int(np.abs(total - 1).argmax())
                    return (
                        f"the probabilities of {_quoted(part)} add up to {total[i]:.6g} in row {i}, not to 1"
                    )
        return None

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
        return any(_name(path[:depth]) in self.drop for depth in range(1, len(path) + 1))

    def _check_drop(self, names: list[str]) -> None:
        for name in self.drop:
            if not any(leaf == name or leaf.startswith(f"{name}.") for leaf in names) or not name:
                raise DatasetError(
                    f"There is no part {name!r} to drop.{did_you_mean(name, names)} Parts: {', '.join(names)}."
                )


def first_difference(a: gym.Space, b: gym.Space) -> str | None:
    """Where two spaces first differ, in words; None if they are the same."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    for path in [*left, *(p for p in right if p not in left)]:
        if path not in left or path not in right:
            return f"only {'the first' if path in left else 'the second'} has a part {_name(path)!r}"
        if left[path] != right[path]:
            where = f" in {_name(path)!r}" if path else ""
            return f"{left[path]} against {right[path]}{where}"
    return None


# --------------------------------------------------------------------------------------------- the leaves


class _Coder:
    """Values of one leaf, (N, *shape) ↔ columns (N, dim)."""

    dim: int
    low: np.ndarray
    high: np.ndarray
    groups: tuple[slice, ...] = ()  # columns that are probabilities of one category each

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Write the columns of `values` to `out`."""
        raise NotImplementedError

    def decode(self, columns: np.ndarray) -> np.ndarray:
        """The nearest values."""
        raise NotImplementedError

    def relax(self, columns: np.ndarray, out: np.ndarray) -> None:
        """Write the nearest columns of the leaf's soft range to `out`."""
        np.clip(columns, self.low, self.high, out=out, casting="same_kind")


class _BoxCoder(_Coder):
    def __init__(self, space: spaces.Box, part: str, dtype: np.dtype):
        self.space, self.part, self.dtype = space, part, dtype
        self.dim = int(np.prod(space.shape))
        self.integers = space.dtype.kind in "iub"
        self.low, self.high = _inside_bounds(space.low.ravel(), space.high.ravel(), dtype)
        # Of a wider leaf, a value at its bound may round to a number just outside.
        self.rounds_out = not self.integers and space.dtype.itemsize > dtype.itemsize
        # Of a narrower leaf, the largest vectors overflow.
        self.cast_low, self.cast_high = self.low.astype(dtype), self.high.astype(dtype)
        if not self.integers and space.dtype.itemsize < dtype.itemsize:
            largest = float(np.finfo(np.dtype(space.dtype).str).max)
            self.cast_low = np.maximum(self.cast_low, -largest)
            self.cast_high = np.minimum(self.cast_high, largest)

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        values = values.reshape(len(values), self.dim)
        if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
            exact = 2 ** (np.finfo(self.dtype).nmant + 1)
            largest = max(int(values.max()), -int(values.min()))
            if largest > exact:
                raise DatasetError(
                    f"{self.part} holds the integer {largest}, and {self.dtype} holds integers exactly only up "
                    f"to {exact}." + (' Ask for dtype="float64".' if self.dtype == np.float32 else "")
                )
        with np.errstate(over="ignore"):  # an overflow becomes inf, which whoever reads a dataset refuses
            out[:] = values
        if self.rounds_out:
            inside = (values >= self.space.low.ravel()) & (values <= self.space.high.ravel())
            np.copyto(out, np.clip(out, self.cast_low, self.cast_high), where=inside)

    def decode(self, columns: np.ndarray) -> np.ndarray:
        numbers = np.clip(columns, self.cast_low, self.cast_high)
        if self.integers:
            numbers = np.rint(numbers)
        values = numbers.astype(self.space.dtype).reshape(-1, *self.space.shape)
        return np.clip(values, self.space.low, self.space.high)  # a bound that the vectors cannot hold


class _MultiBinaryCoder(_Coder):
    def __init__(self, space: spaces.MultiBinary, part: str):
        self.space, self.part = space, part
        self.dim = int(np.prod(space.shape))
        self.low, self.high = np.zeros(self.dim), np.ones(self.dim)

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        values = values.reshape(len(values), self.dim)
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            raise DatasetError(f"{self.part} holds {values[wrong][0]}; a MultiBinary space holds 0 and 1.")
        out[:] = values

    def decode(self, columns: np.ndarray) -> np.ndarray:
        return (columns >= 0.5).astype(self.space.dtype).reshape(-1, *self.space.shape)


class _CategoricalCoder(_Coder):
    """Discrete (shape ()) and MultiDiscrete: `sizes[k]` values from `start[k]` for component k."""

    def __init__(self, space: Any, part: str, sizes: np.ndarray, start: np.ndarray):
        self.space, self.part = space, part
        self.sizes, self.start = sizes.astype(np.int64).ravel(), start.astype(np.int64).ravel()
        self.first = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.dim = int(self.sizes.sum())
        self.low, self.high = np.zeros(self.dim), np.ones(self.dim)
        self.groups = tuple(slice(f, f + n) for f, n in zip(self.first, self.sizes, strict=True))

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        if values.dtype.kind not in "iub":
            raise DatasetError(f"{self.part} holds {values.dtype} numbers; categories are integers.")
        index = values.reshape(len(values), -1).astype(np.int64) - self.start  # (N, components)
        wrong = (index < 0) | (index >= self.sizes)
        if wrong.any():
            row, k = np.argwhere(wrong)[0]
            raise DatasetError(
                f"{self.part} holds the category {index[row, k] + self.start[k]}, "
                f"expected {self.start[k]} … {self.start[k] + self.sizes[k] - 1}."
            )
        out[:] = 0
        np.put_along_axis(out, index + self.first, 1, axis=1)

    def decode(self, columns: np.ndarray) -> np.ndarray:
        best = np.stack([columns[:, g].argmax(1) for g in self.groups], 1) + self.start
        return best.astype(self.space.dtype).reshape(-1, *self.space.shape)

    def relax(self, columns: np.ndarray, out: np.ndarray) -> None:
        for group in self.groups:
            out[:, group] = _onto_simplex(columns[:, group])


def _coder(leaf: gym.Space, name: str, dtype: np.dtype, steps: int) -> tuple[str, _Coder]:
    part = _quoted_name(name)
    numbers = int(spaces.flatdim(leaf)) if isinstance(leaf, _SUPPORTED) else 0
    if numbers > LARGEST_LEAF:
        size = numbers * dtype.itemsize
        raise DatasetError(
            f"{part} of shape {leaf.shape} is an image of {numbers:,} numbers: {2 * steps * size / 1e9:,.0f} GB of "
            f"memory for {steps:,} transitions, and it would need a convolutional student. Shrink it below "
            f"{LARGEST_LEAF:,} numbers{f', or leave it out with drop=[{name!r}]' if name else ''}."
        )
    if isinstance(leaf, spaces.Box):
        return "box", _BoxCoder(leaf, part, dtype)
    if isinstance(leaf, spaces.Discrete):
        return "discrete", _CategoricalCoder(leaf, part, np.array([leaf.n]), np.array([leaf.start]))
    if isinstance(leaf, spaces.MultiDiscrete):
        return "multi_discrete", _CategoricalCoder(leaf, part, leaf.nvec, leaf.start)
    if isinstance(leaf, spaces.MultiBinary):
        return "multi_binary", _MultiBinaryCoder(leaf, part)
    what = "text" if isinstance(leaf, spaces.Text) else f"a {type(leaf).__name__} space"
    repair = f"leave it out with drop=[{name!r}]" if name else "there is nothing else to learn from"
    raise DatasetError(f"{part} is {what}, which is not made of a fixed count of numbers: {repair}.")


_SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def _inside_bounds(low: np.ndarray, high: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as float64 numbers that `dtype` holds exactly, rounded inward; the nearest where none is inside."""
    with np.errstate(over="ignore"):
        near_low, near_high = low.astype(dtype), high.astype(dtype)
    # Python compares an integer with a float exactly, which NumPy does not beyond 2^53.
    too_low = np.array([float(n) < exact for n, exact in zip(near_low, low.tolist(), strict=True)], bool)
    too_high = np.array([float(n) > exact for n, exact in zip(near_high, high.tolist(), strict=True)], bool)
    inf = dtype.type(np.inf)
    up = np.where(too_low, np.nextafter(near_low, inf), near_low)
    down = np.where(too_high, np.nextafter(near_high, -inf), near_high)
    narrow = up > down
    return (
        np.where(narrow, near_low, up).astype(np.float64),
        np.where(narrow, near_high, down).astype(np.float64),
    )


def _onto_simplex(columns: np.ndarray) -> np.ndarray:
    """The nearest probabilities to each row (N, n), by sorting (Duchi et al., ICML 2008, figure 1)."""
    # p = max(v − θ, 0) with θ such that the sum is 1: θ = (Σ_{i≤ρ} v_(i) − 1) / ρ, ρ the last index where
    # v_(ρ) exceeds its own θ, v_(1) ≥ v_(2) ≥ …
    v = columns.astype(np.float64)
    v -= v.max(1, keepdims=True)  # shifting a row does not move its projection
    descending = -np.sort(-v, axis=1)
    theta = (descending.cumsum(1) - 1) / np.arange(1, v.shape[1] + 1)
    rho = (descending > theta).sum(1) - 1
    return np.clip(v - theta[np.arange(len(v)), rho][:, None], 0, 1)


# ----------------------------------------------------------------------------------------------- the tree


def _leaves(space: gym.Space, path: Path = ()) -> Iterator[tuple[Path, gym.Space]]:
    # Sorted, because a Dict that went through JSON forgets the order of its keys.
    if isinstance(space, spaces.Dict):
        for key in sorted(space.spaces, key=str):
            yield from _leaves(space.spaces[key], (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from _leaves(child, (*path, i))
    else:
        yield path, space


def _without(space: gym.Space, path: Path, is_dropped: Callable[[Path], bool]) -> Any:
    """`space` without the dropped leaves; None where nothing is left."""
    if path and is_dropped(path):
        return None
    if isinstance(space, spaces.Dict):
        kept = {k: _without(child, (*path, k), is_dropped) for k, child in space.spaces.items()}
        kept = {k: child for k, child in kept.items() if child is not None}
        return spaces.Dict(kept) if kept else None
    if isinstance(space, spaces.Tuple):
        children = [_without(child, (*path, i), is_dropped) for i, child in enumerate(space.spaces)]
        children = [child for child in children if child is not None]
        return spaces.Tuple(children) if children else None
    return space


def _build(space: gym.Space, leaves: Iterator[Any]) -> Any:
    """A value of `space` from the values of its leaves, in the order of `_leaves`."""
    if isinstance(space, spaces.Dict):
        return {key: _build(space.spaces[key], leaves) for key in sorted(space.spaces, key=str)}
    if isinstance(space, spaces.Tuple):
        return tuple(_build(child, leaves) for child in space.spaces)
    return next(leaves)


def _look_up(value: Any, part: Part) -> Any:
    for depth, key in enumerate(part.path):
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise DatasetError(
                f"{_quoted(part)} is missing: there is no {key!r} in "
                f"{_name(part.path[:depth]) or 'the value'} ({type(value).__name__})."
            ) from error
    return value


def _as_array(values: Any, part: Part) -> np.ndarray:
    try:
        values = np.asarray(values)
    except ValueError as error:  # a ragged list
        raise DatasetError(f"The values of {_quoted(part)} differ in shape ({error}).") from error
    if values.dtype.kind not in "fiub":
        raise DatasetError(
            f"{_quoted(part)} holds {values.dtype} values, not numbers: write the dataset anew with the dtype "
            f"of its space, {part.space.dtype}."
        )
    if part.shape == () and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]  # some datasets store a scalar as an array of one
    if values.shape[1:] != part.shape or not values.ndim:
        raise DatasetError(
            f"{_quoted(part)} has values of shape {values.shape[1:]}, its space {part.space} expects {part.shape}."
        )
    return values


def _name(path: Path) -> str:
    return ".".join(map(str, path))


def _quoted(part: Part) -> str:
    return _quoted_name(part.name)


def _quoted_name(name: str) -> str:
    return f"part {name!r}" if name else "the space"
