"""`Source`: where transitions come from, in all that must travel with what is made of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minari_distill.errors import DatasetError

D4RL_REFERENCE_SCORES = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
"""Returns of a random and of an expert policy (d4rl/infos.py), measured in Gym's v2 environments.

Published tables use them for every later version too; Minari's `mujoco/*` sets carry none (Minari #323).
"""


@dataclass(frozen=True)
class Source:
    """Provenance of a set of transitions.

    Attributes:
        dataset_ids: Minari ids, in the order in which they were read.
        env_spec, eval_env_spec: Gymnasium's EnvSpec as JSON text, as the first dataset has it.
        ref_min_score, ref_max_score: Raw returns that score 0 and 1 (a normalised score of 0 and 100).
        ref_origin: Where the reference scores come from, "" if there are none.
        minari_version: The version that wrote the first dataset.
        requirements: What the environment needs, as pip writes it.
        license: The dataset's licence, if it states one.
        author: Its authors, if it states any.
        total_steps, total_episodes: As read.
    """

    dataset_ids: tuple[str, ...]
    env_spec: str | None = None
    eval_env_spec: str | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    ref_origin: str = ""
    minari_version: str = ""
    requirements: tuple[str, ...] = ()
    license: str | None = None
    author: tuple[str, ...] = ()
    total_steps: int = 0
    total_episodes: int = 0

    def __post_init__(self) -> None:
        for name in ("dataset_ids", "requirements", "author"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON knows only lists

    @property
    def env_id(self) -> str | None:
        """Gymnasium id of the environment, if the dataset names one."""
        return _env_id(self.env_spec)

    @property
    def env(self) -> tuple[Any, ...] | None:
        """What tells its environment from others, whatever else is recorded of it: the id and the arguments."""
        if self.env_id is None or self.env_spec is None:
            return None
        return self.env_id, json.dumps(json.loads(self.env_spec).get("kwargs") or {}, sort_keys=True)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Source:
        """The provenance in one dataset's `metadata.json`, before anything is read."""
        low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        env_spec = metadata.get("env_spec")
        origin = "dataset metadata"
        low, high = (None if x is None else _score(x, metadata) for x in (low, high))
        if low is None or high is None:
            low, high, origin = _borrowed_scores(_env_id(env_spec))
        author, requirements = metadata.get("author") or (), metadata.get("requirements") or ()
        license = metadata.get("license")
        return cls(
            dataset_ids=(metadata.get("dataset_id", ""),),
            env_spec=env_spec,
            eval_env_spec=metadata.get("eval_env_spec"),
            ref_min_score=low,
            ref_max_score=high,
            ref_origin=metadata.get("ref_score_origin", origin),
            minari_version=metadata.get("minari_version", ""),
            requirements=(requirements,) if isinstance(requirements, str) else tuple(requirements),
            license=", ".join(map(str, license)) if isinstance(license, list) else license,
            author=(author,) if isinstance(author, str) else tuple(sorted(author)),
            total_steps=int(metadata.get("total_steps", 0)),
            total_episodes=int(metadata.get("total_episodes", 0)),
        )

    @classmethod
    def combine(cls, sources: Sequence[Source]) -> Source:
        """Several datasets' provenance in one: the environment of the first that names one; reference scores are kept only where all agree."""
        first = next((s for s in sources if s.env_spec), sources[0])
        if len(sources) == 1:
            return first
        scores = {(s.ref_min_score, s.ref_max_score) for s in sources}
        origins = list(dict.fromkeys(s.ref_origin for s in sources))
        low, high, origin = first.ref_min_score, first.ref_max_score, "; ".join(origins)
        if len(scores) > 1:
            low, high, origin = None, None, ""
        return dataclasses.replace(
            first,
            dataset_ids=tuple(i for s in sources for i in s.dataset_ids),
            ref_min_score=low,
            ref_max_score=high,
            ref_origin=origin,
            requirements=_union(s.requirements for s in sources),
            license=first.license if all(s.license == first.license for s in sources) else None,
            author=_union(s.author for s in sources),
            total_steps=sum(s.total_steps for s in sources),
            total_episodes=sum(s.total_episodes for s in sources),
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON object."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Source:
        """What `to_json` gave; TypeError for a field that is unknown or missing."""
        return cls(**record)


def _env_id(env_spec: str | None) -> str | None:
    try:
        return json.loads(env_spec)["id"] if env_spec else None
    except (ValueError, KeyError, TypeError):
        return None


def _score(value: Any, metadata: Mapping[str, Any]) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"Dataset '{metadata.get('dataset_id')}' has {value!r} as a reference score in its metadata; expected a number. Set "
            "ref_min_score and ref_max_score there, or remove them."
        ) from error


def _borrowed_scores(env_id: str | None) -> tuple[float | None, float | None, str]:
    family = (env_id or "").rsplit("-v", 1)[0]  # another namespace's Hopper may be another task
    if family not in D4RL_REFERENCE_SCORES:
        return None, None, ""
    return *D4RL_REFERENCE_SCORES[
        family
    ], f"D4RL's table for {family}-v2 (the dataset, of {env_id}, has none)"


def _union(lists: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for one in lists for item in one))
