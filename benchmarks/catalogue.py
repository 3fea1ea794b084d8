"""Every published Minari dataset against the space codec: the table of docs/catalogue.md.

    $ python -m benchmarks.catalogue

`minari_catalogue.json` lists the published datasets with their spaces, as Minari's documentation prints them.
Each entry's spaces are parsed and handed to `SpaceCodec`; what it says of them is what the table says.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from minari_distill.errors import DatasetError
from minari_distill.spaces import SpaceCodec

CATALOGUE = Path(__file__).parent / "minari_catalogue.json"


@dataclass(frozen=True)
class Entry:
    """One published dataset.

    Attributes:
        id: Minari id.
        steps: Of all its episodes.
        observation_space, action_space: None where the catalogue prints none.
    """

    id: str
    steps: int
    observation_space: spaces.Space | None
    action_space: spaces.Space | None

    @property
    def family(self) -> str:
        """The first part of its id, two of D4RL's."""
        parts = self.id.split("/")
        return "/".join(parts[: 2 if parts[0] == "D4RL" else 1])

    @property
    def texts(self) -> list[str]:
        """Names of the text parts beside numbers, which have to be dropped."""
        if not isinstance(self.observation_space, spaces.Dict):
            return []
        named = self.observation_space.spaces.items()
        texts = [name for name, leaf in named if isinstance(leaf, spaces.Text)]
        return texts if len(texts) < len(named) else []

    @property
    def codecs(self) -> tuple[SpaceCodec, SpaceCodec]:
        """The codecs of observations, texts dropped, and of actions.

        Raises:
            DatasetError: The family is refused, and why.
        """
        return (
            SpaceCodec(self.observation_space, self.texts, steps=self.steps),
            SpaceCodec(self.action_space, steps=self.steps),
        )


def entries() -> Iterator[Entry]:
    """All published datasets."""
    for record in json.loads(CATALOGUE.read_text()):
        yield Entry(
            record["id"],
            int(record["steps"] or 0),
            parse_space(record["observation_space"]),
            parse_space(record["action_space"]),
        )


def parse_space(text: str | None) -> spaces.Space | None:
    """The space that Gymnasium prints as `text`.

    >>> parse_space("Dict('a': Box([0. -inf], [1. inf], (2,), float32), 'b': Text(1, 9, charset=…),0123(){}))")
    Dict('a': Box([  0. -inf], [ 1. inf], (2,), float32), 'b': Text(1, 9, charset=...))
    """
    if text is None:
        return None
    # A charset may hold any sign: it ends where the next key or the end of the text follows its bracket.
    text = re.sub(r"Text\((\d+), (\d+), charset=.*?\)(?=, '|\)*$)", r"Text(\1, \2)", text, flags=re.S)
    text = re.sub(r"\[([^\]]*)\]", lambda m: f"[{','.join(m[1].split())}]", text)
    text = re.sub(r"Dict\(", "Dict({", text)
    text = _close_dicts(text)
    names = {
        "Dict": spaces.Dict,
        "Discrete": spaces.Discrete,
        "Text": lambda least, most: spaces.Text(most, min_length=least),
        "Box": _box,
        "inf": np.inf,
        "float32": np.float32,
        "float64": np.float64,
        "uint8": np.uint8,
    }
    return eval(text, {"__builtins__": {}}, names)


def _box(low: Any, high: Any, shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    bounds = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
    return spaces.Box(*bounds, dtype=dtype)


def _close_dicts(text: str) -> str:
    """Put the brace that `Dict({` opened before the bracket that closes it."""
    out, open_brackets = [], []
    for i, sign in enumerate(text):
        if sign == "(":
            open_brackets.append(text[i + 1 : i + 2] == "{")
        elif sign == ")" and open_brackets.pop():
            out.append("}")
        out.append(sign)
    return "".join(out)


def verdict(entry: Entry) -> tuple[str, str]:
    """(supported or refused, how or why) in the words of the table."""
    if entry.observation_space is None:
        return "as its spaces are", "the catalogue prints no spaces for it"
    try:
        observation, action = entry.codecs
    except DatasetError as error:
        return "refused", "text only: nothing to learn from" if "text" in str(error) else "image"
    parts = [part.name for part in observation.parts if part.name]
    kinds = []
    if any("goal" in name for name in parts):
        kinds.append("goals as named parts" + (", nested" if any("." in name for name in parts) else ""))
    elif parts:
        kinds.append("parts " + ", ".join(parts))
    else:
        kinds.append("flat vector")
    if entry.texts:
        kinds.append(f"drop={entry.texts}")
    head = "softmax head" if action.is_discrete else "tanh head"
    return "yes", "; ".join([*kinds, head])


TESTS = {
    "atari": "test_families.py::test_images_are_refused_with_the_memory_they_would_need",
    "webagents": "test_families.py::test_text_alone_is_refused",
}
"""Where a refused family is tested; the others are cases of one test."""


def table() -> str:
    """The Markdown table, a row a family and verdict."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries():
        groups[entry.family, *verdict(entry)].append(entry)
    rows = ["| family | datasets | supported | how | obs_dim | tested by |", "|---|---|---|---|---|---|"]
    for (family, supported, how), members in sorted(groups.items()):
        sizes, memory = "", ""
        if supported == "yes":
            dims = [entry.codecs[0].dim for entry in members]
            sizes = f"{min(dims)}" if min(dims) == max(dims) else f"{min(dims)} to {max(dims)}"
        elif family == "atari":
            counts = [
                entry.steps * 2 * 4 * spaces.flatdim(entry.observation_space) / 1e9 for entry in members
            ]
            memory = f" of 100,800 numbers: {min(counts):,.0f} to {max(counts):,.0f} GB of memory"
        test = TESTS.get(family, f"test_families.py::test_the_whole_road[{family}]")
        if supported == "as its spaces are":
            test = "not tested by name"
        rows.append(f"| {family} | {len(members)} | {supported} | {how}{memory} | {sizes} | {test} |")
    total = sum(map(len, groups.values()))
    read = sum(len(members) for (_, supported, _), members in groups.items() if supported == "yes")
    return "\n".join([*rows, "", f"{read} of {total} published datasets can be distilled."])


if __name__ == "__main__":
    print(table())
