"""The leaves of a space as columns of numbers, and back: one coder for each kind of leaf."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from minari_distill.errors import DatasetError
from minari_distill.space_tree import quoted

LARGEST_LEAF = 2**14
"""Numbers in one leaf beyond which it counts as an image, which a multilayer perceptron cannot take."""


class Coder:
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


class _BoxCoder(Coder):
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
        values = numbers.astype(self.space.dtype).reshape(len(columns), *self.space.shape)
        return np.clip(values, self.space.low, self.space.high)  # a bound that the vectors cannot hold


class _MultiBinaryCoder(Coder):
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


class _CategoricalCoder(Coder):
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


def coder_of(leaf: gym.Space, name: str, dtype: np.dtype, steps: int) -> tuple[str, Coder]:
    """The kind of a leaf and its coder.

    Args:
        leaf: A space that is neither Dict nor Tuple.
        name: The leaf's, for messages.
        dtype: Of the columns.
        steps: Length of the dataset, for the message that refuses an image.

    Raises:
        DatasetError: The leaf is not made of a fixed count of numbers, or of too many.
    """
    part = quoted(name)
    numbers = int(spaces.flatdim(leaf)) if isinstance(leaf, _SUPPORTED) else 0
    if numbers > LARGEST_LEAF:
        size = numbers * dtype.itemsize
        image = isinstance(leaf, spaces.Box) and len(leaf.shape) in (2, 3)
        what = f"of shape {leaf.shape} is an image of" if image else f"is a {type(leaf).__name__} of"
        student = ", and it would need a convolutional student" if image else ""
        raise DatasetError(
            f"{part} {what} {numbers:,} numbers: {2 * steps * size / 1e9:,.0f} GB of memory for {steps:,} transitions{student}. "
            f"Shrink it below {LARGEST_LEAF:,} numbers{f', or leave it out with drop=[{name!r}]' if name else ''}."
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
