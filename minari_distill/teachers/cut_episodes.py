"""What an episode that a time limit cut off does not show: the rest of its return."""

from __future__ import annotations

import numpy as np

from minari_distill.transitions import Transitions


def seen_share(transitions: Transitions, discount: float) -> np.ndarray:
    """How much of each discounted return (N,) lies inside its episode: 1 − γ^k, k steps before a cut; all of an undiscounted one.

    >>> # three steps and a time limit, γ = 0.5: 1 − 0.5³, 1 − 0.5², 1 − 0.5
    """
    n = len(transitions)
    ends = np.append(transitions.episode_starts[1:], n)
    lengths = transitions.episode_lengths
    steps_left = np.repeat(ends, lengths) - np.arange(n)
    terminated = np.repeat(transitions.terminations[ends - 1], lengths)
    return np.where(terminated | (discount == 1), 1.0, 1.0 - discount**steps_left)


def least_returns_to_go(transitions: Transitions, discount: float) -> np.ndarray:
    """What the behaviour earns from each step at least, (N,): G_t, and after a cut the least of all rewards for ever.

        G_t + γ^k min(r_min, 0) / (1 − γ),   k steps before a cut;   G_t in episodes that end by themselves

    Where no reward is negative this is G_t itself. Undiscounted, negative rewards for ever leave nothing to be sure of: −∞.
    """
    returns = transitions.returns_to_go(discount)
    least = min(float(transitions.rewards.min()), 0.0)
    if not least:
        return returns
    if discount == 1:
        ends = transitions.episode_starts + transitions.episode_lengths - 1
        cut = np.repeat(~transitions.terminations[ends].astype(bool), transitions.episode_lengths)
        return np.where(cut, -np.inf, returns).astype(returns.dtype)
    unseen = 1.0 - seen_share(transitions, discount)
    return (returns + unseen * least / (1 - discount)).astype(returns.dtype)
