"""A space as a tree: its leaves in order, itself without some of them, a value of it from theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium import spaces

Path = tuple[str | int, ...]
"""Keys (Dict) and indices (Tuple) from the root to a part."""


def leaves_of(space: gym.Space, path: Path = ()) -> Iterator[tuple[Path, gym.Space]]:
    """Each leaf with its path, keys in sorted order."""
    # Sorted, because a Dict that went through JSON forgets the order of its keys.
    if isinstance(space, spaces.Dict):
        for key in sorted(space.spaces, key=str):
            yield from leaves_of(space.spaces[key], (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from leaves_of(child, (*path, i))
    else:
        yield path, space


def without(space: gym.Space, path: Path, is_dropped: Callable[[Path], bool]) -> Any:
    """`space` without the dropped leaves; None where they were all that it had."""
    if not list(leaves_of(space)):
        return space  # it was empty before
    if path and is_dropped(path):
        return None
    if isinstance(space, spaces.Dict):
        kept = {k: without(child, (*path, k), is_dropped) for k, child in space.spaces.items()}
        kept = {k: child for k, child in kept.items() if child is not None}
        return spaces.Dict(kept) if kept else None
    if isinstance(space, spaces.Tuple):
        children = [without(child, (*path, i), is_dropped) for i, child in enumerate(space.spaces)]
        children = [child for child in children if child is not None]
        return spaces.Tuple(children) if children else None
    return space


def build(space: gym.Space, leaves: Iterator[Any]) -> Any:
    """A value of `space` from the values of its leaves, in the order of `leaves_of`."""
    if isinstance(space, spaces.Dict):
        return {key: build(space.spaces[key], leaves) for key in sorted(space.spaces, key=str)}
    if isinstance(space, spaces.Tuple):
        return tuple(build(child, leaves) for child in space.spaces)
    return next(leaves)


def name_of(path: Path) -> str:
    """A path with dots between its keys, "" for the root."""
    return ".".join(map(str, path))


def quoted(name: str) -> str:
    """A part's name in a sentence."""
    return f"part {name!r}" if name else "the space"
