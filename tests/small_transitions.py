"""Transitions without a dataset: a few episodes of a made-up task, for the tests of the teachers."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.transitions import Transitions


def point_mass(
    n_episodes: int = 40, length: int = 25, *, discrete: bool = False, seed: int = 0, ends: bool = False
) -> Transitions:
    """Reach the origin of a plane: s' = s + 0.2·a + noise, r = −|s'|², actions 2·(−s)·skill + noise in [−2, 2].

    Episodes start on the unit circle and differ in skill, so that the best of them are worth imitating. With `discrete`, the action moves
    along the first axis: left, nothing, right. With `ends`, every second episode terminates.
    """
    rng = np.random.default_rng(seed)
    n, skill = n_episodes * length, np.repeat(rng.uniform(0, 1, n_episodes), length)
    obs, next_obs = np.zeros((2, n, 2), np.float32)
    actions = np.zeros((n, 3 if discrete else 2), np.float32)
    for t in range(n):
        s = _on_circle(rng) if t % length == 0 else next_obs[t - 1]
        if discrete:
            wanted = int(1 - np.sign(s[0])) if rng.random() < skill[t] else int(rng.integers(3))
            actions[t, wanted] = 1
            move = np.array([wanted - 1, 0])
        else:
            actions[t] = move = np.clip(-2 * s * skill[t] + rng.normal(size=2) * 0.3, -2, 2)
        obs[t], next_obs[t] = s, s + 0.2 * move + rng.normal(size=2) * 0.02
    last = np.arange(n) % length == length - 1
    terminated = last & (np.arange(n) // length % 2 == 0) & ends
    box = spaces.Box(-2, 2, (2,), np.float32)
    return Transitions(
        observations=obs,
        actions=actions,
        rewards=-np.square(next_obs).sum(1),
        next_observations=next_obs,
        terminations=terminated,
        truncations=last & ~terminated,
        episode_starts=np.arange(0, n, length),
        observation_codec=SpaceCodec(spaces.Box(-np.inf, np.inf, (2,), np.float32)),
        action_codec=SpaceCodec(spaces.Discrete(3) if discrete else box),
        source=Source(("tests/point-mass-v0",)),
    )


def _on_circle(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])
