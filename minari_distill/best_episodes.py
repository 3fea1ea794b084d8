"""Which episodes of a dataset are worth imitating: D⁺, the best by undiscounted return.

They are taken, best first, until they hold `top_fraction` of the transitions: counting transitions, not episodes, as the
"%BC" baseline of Chen et al., 2021, arXiv 2106.01345, for in a set whose best episodes are its longest, a tenth of
the episodes can be a third of the data. Episodes that are about as good as the best are taken as well.
"""

from __future__ import annotations

import numpy as np

from minari_distill.transitions import Transitions

_FEWEST = 10_000  # transitions that a policy is learnt from, where a doubled share reaches it
_AS_GOOD = 0.1  # of the range of returns: the more episodes are as good as the best, the better
_OUTLIERS = 0.01  # of the episodes, the worst, that do not count towards that range: of a hundred, one accident would make all others good


def best_transitions(transitions: Transitions, top_fraction: float) -> np.ndarray:
    """Indices of the transitions to imitate, whole episodes in the order of their returns, best first.

    Episodes are taken until they hold `top_fraction` of all transitions (up to twice that share where it is
    fewer than 10 000), and further on as long as their return is within a tenth of the range of the best; the worst
    hundredth of the episodes does not count towards the range.
    """
    n, returns, starts = len(transitions), transitions.episode_returns(), transitions.episode_starts
    wanted = max(top_fraction * n, min(_FEWEST, 2 * top_fraction * n))
    order = np.argsort(-returns, kind="stable")
    held = np.cumsum(transitions.episode_lengths[order])
    by_share = int(np.searchsorted(held, min(wanted, n))) + 1
    span = returns.max() - np.sort(returns)[int(_OUTLIERS * len(returns))]
    by_return = int((returns >= returns.max() - _AS_GOOD * span).sum())
    chosen = order[: max(by_share, by_return)]
    return np.concatenate([np.arange(starts[e], starts[e] + transitions.episode_lengths[e]) for e in chosen])
