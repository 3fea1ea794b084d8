"""Where the synthetic pairs begin: n_syn of the dataset's states, and an action for each.

"random"      real pairs, as the paper
"relabelled"  real states with the teacher's actions (the dataset's own for DBC)
"kmeans"      states spread by k-means++ seeding (Arthur and Vassilvitskii, 2007), relabelled: each next state is
              drawn with probability proportional to its squared distance from the nearest one chosen so far
"""

from __future__ import annotations

import torch
from torch import Tensor


def initial_indices(name: str, obs: Tensor, n_syn: int, generator: torch.Generator) -> Tensor:
    """Indices (n_syn,) of distinct states among `obs` (N, obs_dim), normalised."""
    if name == "kmeans":
        return _kmeans_plus_plus(obs, n_syn, generator)
    return torch.randperm(len(obs), generator=generator)[:n_syn]


def _kmeans_plus_plus(obs: Tensor, n_syn: int, generator: torch.Generator) -> Tensor:
    if len(obs) > 50_000:  # the distances to every state at every draw are what costs
        subset = torch.randperm(len(obs), generator=generator)[:50_000]
        return subset[_kmeans_plus_plus(obs[subset], n_syn, generator)]
    chosen = torch.empty(n_syn, dtype=torch.int64)
    chosen[0] = torch.randint(len(obs), (), generator=generator)
    distance = torch.full((len(obs),), float("inf"))
    for i in range(1, n_syn):
        distance = torch.minimum(distance, (obs - obs[chosen[i - 1]]).square().sum(1))
        if not distance.any():  # fewer distinct states than pairs: the rest are copies
            chosen[i:] = torch.randint(len(obs), (n_syn - i,), generator=generator)
            break
        # the inverse of the cumulative sum, since torch.multinomial takes at most 2^24 categories
        edges = distance.double().cumsum(0)
        at = torch.rand((), generator=generator, dtype=torch.float64) * edges[-1]
        chosen[i] = torch.searchsorted(edges, at, right=True).clamp_max(len(obs) - 1)
    return chosen
