"""What every codebase's test gets: one good Hopper synset, what our own students score on it, and rollouts."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill.spaces import SpaceCodec

torch.set_num_threads(1)
N_STUDENTS, N_EPISODES = 8, 5
STEPS, LR, HIDDEN = 300, 1e-3, [256, 256, 256]
RECIPE = md.GENERAL_RECIPE.replace(hidden_layers=3, hidden_width=256, head="tanh", lr=LR, steps=STEPS)


@pytest.fixture(scope="session")
def synset() -> md.Synset:
    """256 pairs for Hopper, of the gallery."""
    return md.load_synset("gallery/hopper-medium-replay-v0")


@dataclass(frozen=True)
class Clone:
    """A policy of another codebase, for `md.evaluate`: raw observations (n, obs_dim) in, raw actions (n, act_dim) out."""

    act_vectors: Callable[[np.ndarray], np.ndarray]
    observation_codec: SpaceCodec
    action_codec: SpaceCodec


@pytest.fixture(scope="session")
def reference(synset, request) -> Callable[[str], float]:
    """`reference(head)`: mean normalised score of `behavior_clone` students, 3 × 256 ReLU, Adam 1e-3, whole batches.

    A lane trains them once: pytest's cache hands the score on to the next codebase's environment.
    """
    digest = hashlib.sha256(synset.observations.tobytes() + synset.actions.tobytes()).hexdigest()[:12]

    def score_of(head: str) -> float:
        protocol = f"{head}-{RECIPE.steps}-{N_STUDENTS}x{N_EPISODES}-torch-{torch.__version__}"
        key = f"reference/{digest}-{protocol}"
        known = request.config.cache.get(key, None)
        if known is None:
            recipe = RECIPE.replace(head=head)
            policies = md.behavior_clone(synset, recipe=recipe, n_policies=N_STUDENTS, seed=0).members()
            score = md.evaluate(policies, synset, n_episodes=N_EPISODES)
            print(f"\nbehavior_clone, {head} head: {score}")
            known = score.score.mean
            request.config.cache.set(key, known)
        return known

    return score_of


@pytest.fixture
def agrees(synset, reference) -> Callable[..., None]:
    """`agrees(name, act functions, head)`: within 15 % of our students with that head, on the same episodes."""

    def check(name: str, policies: list[Callable[[np.ndarray], Any]], head: str = "tanh") -> None:
        clones = [
            Clone(lambda obs, act=act: np.asarray(act(obs)), synset.observation_codec, synset.action_codec)
            for act in policies
        ]
        score = md.evaluate(clones, synset, n_episodes=N_EPISODES)
        mean, ours = score.score.mean, reference(head)
        print(f"\n{name}: {score}; behavior_clone {ours:.1f}, ratio {mean / ours:.2f}")
        assert 0.85 * ours <= mean <= ours / 0.85

    return check


def run_docstring(module: str, synset: md.Synset, **names: Any) -> None:
    """The run that opens a module's docstring gives the output printed there."""
    result = doctest.testmod(
        importlib.import_module(module),
        extraglobs={"synset": synset, "np": np, "torch": torch, **names},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted > 1
    assert result.failed == 0


def run_page(section: str, synset: md.Synset) -> dict[str, Any]:
    """Run the blocks of one section of docs/exporters.md; returns the names that they leave."""
    page = (Path(__file__).parents[2] / "docs" / "exporters.md").read_text()
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    names: dict[str, Any] = {"synset": synset}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block, section, "exec"), names)
    return names
