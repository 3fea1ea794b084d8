"""More pairs out of a synset's own student: what 256 pairs say of the states around them, for networks of any codebase.

    x_i = S_{i mod n} + σ Σ_j z_ij (S_j − S̄) / √n,   z_ij ~ N(0, 1);       a_i = π(x_i),   π the student of the synset's recipe

S are the n pairs' normalised states; the noise has their covariance, hence stays where they lie. A network cannot read
pairs that were distilled for students of infinite width (`infinite.py`), but it can be taught by such a student, and the
states around the pairs are enough to do so: no dataset is needed, since the pairs lie where the data lie.
"""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

import numpy as np
import torch

from minari_distill.checks import check_seed, check_whole
from minari_distill.errors import ConfigError
from minari_distill.layout import to_json
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.students import behavior_clone
from minari_distill.synset import Synset

NOISE = 0.5  # σ: smaller leaves gaps between the pairs, larger leads away from the data's states (docs/results.md)
RECIPE = GENERAL_RECIPE.replace(batch=256, steps=10_000)
"""How a network is taught by many pairs: the general student, on minibatches."""
_OF_THE_FEW = ("held_out_loss", "history", "best_step", "outer_steps_done", "skipped_steps")
"""What the metadata say of the pairs themselves: of the many, it belongs under "expansion"."""
_CHUNK = 4096  # states asked at once


def expand(synset: Synset, n_pairs: int = 20_000, *, noise: float = NOISE, seed: int = 0) -> Synset:
    """A synset of many pairs, labelled by the student that a synset of few was distilled for; in seconds, from nothing else.

    >>> many = expand(synset)  # doctest: +SKIP
    >>> many.save("me/hopper-expanded-v0")  # for any codebase's behavioural cloning  # doctest: +SKIP

    Args:
        synset: The pairs. Their own recipe is what labels: one student of infinite width, or one network.
        n_pairs: Pairs to make.
        noise: σ, in standard deviations of the pairs' own states.
        seed: Of the noise, and of a network's initial parameters.

    Returns:
        Pairs in the source's spaces, with a recipe of their own: a general student on minibatches of 256, for 10 000 steps.
        `metadata["expansion"]` tells what they were made of.

    Raises:
        ConfigError: No pairs asked, negative noise, or a synset that holds expanded pairs already.
    """
    if not isinstance(synset, Synset):
        raise ConfigError(
            f"{synset!r} is no Synset. Read one with load_synset, for instance load_synset('me/hopper-v0')."
        )
    n_pairs = check_whole("n_pairs", n_pairs)
    if not (isinstance(noise, Real) and 0 <= noise < math.inf):
        raise ConfigError(f"noise={noise!r} must be a number, not negative: for example noise={NOISE}.")
    noise, seed = float(noise), check_seed(seed)
    if "expansion" in synset.metadata:
        raise ConfigError(
            f"These {len(synset)} pairs were made by expand already: expand the few that they were made of."
        )
    student = behavior_clone(synset, seed=seed)
    units, codec = synset.units(), synset.observation_codec
    generator = torch.Generator().manual_seed(seed)
    S = units.normalise(torch.as_tensor(synset.observations))
    apart = (S - S.mean(0)) / len(S) ** 0.5
    blocks = []
    for first in range(0, n_pairs, _CHUNK):
        i = torch.arange(first, min(first + _CHUNK, n_pairs))
        z = torch.randn(len(i), len(S), generator=generator, dtype=S.dtype)
        blocks.append(units.denormalise(S[i % len(S)] + noise * z @ apart).numpy())
    obs = codec.project(np.concatenate(blocks), soft=True)
    act = np.concatenate(
        [student.act_vectors(rows) for rows in np.split(obs, range(_CHUNK, n_pairs, _CHUNK))]
    )
    few = {k: synset.metadata[k] for k in _OF_THE_FEW if k in synset.metadata}
    told = few | {
        "n_syn": len(synset),
        "noise": noise,
        "seed": seed,
        "recipe": to_json(dataclasses.asdict(synset.recipe)),
    }
    head = "softmax" if synset.action_codec.is_discrete else RECIPE.head
    about = {k: v for k, v in synset.metadata.items() if k not in ("scores", *_OF_THE_FEW)}
    return dataclasses.replace(
        synset,
        observations=obs,
        actions=synset.action_codec.project(act, soft=True),
        recipe=RECIPE.replace(head=head),
        input_metric=None,
        metadata={**about, "expansion": told},
    )
