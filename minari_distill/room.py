"""Where large arrays live: in memory, or in a nameless file that the system pages in and out.

A dataset whose arrays would take more than a share of the machine's memory is kept in a temporary file and mapped:
NumPy and PyTorch see ordinary arrays, the system keeps in memory what is being used, and the same numbers come out,
bit for bit. The file has no name, so that it goes with the process that made it, however that one ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minari_distill.errors import DatasetError

BLOCK = 1 << 16
"""Rows that are worked on at once, so that no second copy of an array is ever in memory."""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")  # of cgroups v2 and v1


class Room:
    """Makes arrays, all of them in memory or all of them mapped.

    >>> Room(mapped=True).empty((2, 3), "float32").shape
    (2, 3)

    Attributes:
        mapped: Whether arrays lie in temporary files, in the folder that TMPDIR names.
    """

    def __init__(self, *, mapped: bool = False) -> None:
        self.mapped = mapped

    @classmethod
    def of(cls, *arrays: Any) -> Room:
        """Room like that which `arrays` take."""
        return cls(mapped=any(isinstance(a, np.memmap) for a in arrays))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of undefined values.

        Raises:
            DatasetError: The disk has no room for it.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not self.mapped or not size:
            return np.empty(shape, dtype)
        folder = tempfile.gettempdir()
        try:
            with tempfile.TemporaryFile(prefix="minari-distill-") as file:
                _allocate(file.fileno(), size)
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise DatasetError(
                f"There is no room for an array of {size / 1e9:.1f} GB in '{folder}' ({error.strerror}), and "
                "memory_share lets it take no memory. Point the environment variable TMPDIR to a folder on a larger "
                "disk, or raise memory_share."
            ) from error

    def filled(self, n: int, shape: tuple[int, ...], dtype: Any, rows: Callable[[slice], Any]) -> np.ndarray:
        """An array (n, *shape), block by block from `rows(slice)`."""
        out = self.empty((n, *shape), dtype)
        for block in blocks(n):
            out[block] = rows(block)
        return out

    def taken(self, array: np.ndarray, index: np.ndarray) -> np.ndarray:
        """array[index], for whole numbers or a mask."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        return self.filled(len(index), array.shape[1:], array.dtype, lambda block: array[index[block]])


def blocks(n: int) -> Iterator[slice]:
    """Consecutive slices that cover n rows."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a control group says so."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _cgroup_folders():
        for file in (folder / name for name in _LIMIT_FILES):
            with suppress(OSError):
                if (text := file.read_text().strip()).isdigit():
                    memory = min(memory, int(text))
    return memory


def _cgroup_folders() -> list[Path]:
    """Where the limits of this process may stand: in its own control groups and in all above them."""
    roots, found = {"": _CGROUPS, "memory": _CGROUPS / "memory"}, [_CGROUPS, _CGROUPS / "memory"]
    with suppress(OSError):
        for line in _OWN_CGROUPS.read_text().splitlines():  # "0::/user.slice/job" or "9:memory:/job"
            _, kinds, path = line.split(":", 2)
            root = roots.get("memory" if "memory" in kinds.split(",") else kinds)
            if root is not None:
                own = root / path.strip("/")
                found += [own, *(above for above in own.parents if above.is_relative_to(root))]
    return found


def _allocate(handle: int, size: int) -> None:
    # Blocks taken now: a page that finds the disk full later on would kill the process.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)
