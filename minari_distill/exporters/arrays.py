"""Plain NumPy arrays, and the dict of arrays that D4RL made a custom.

    >>> arrays = synset.to_arrays()
    >>> {name: array.shape for name, array in arrays.items()}
    {'observations': (256, 11), 'actions': (256, 3), 'obs_mean': (11,), 'obs_std': (11,), 'action_low': (3,), 'action_high': (3,)}
    >>> dataset = synset.to_d4rl_dict()
    >>> [name for name in dataset if not name.startswith("metadata/")]
    ['observations', 'actions', 'rewards', 'next_observations', 'terminals', 'timeouts']
    >>> dataset["metadata/use"].item()
    'For behavioural cloning only: rewards, terminations and next observations are placeholders.'

CORL, unifloral and scripts in the style of CleanRL take that dict. Give CORL `obs_mean` and `obs_std` instead of letting
it compute them, and `frac=1.0`: its BC keeps the best tenth of the episodes by default, 25 of 256 pairs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from minari_distill import __version__
from minari_distill.errors import ExportError
from minari_distill.synset import USE

if TYPE_CHECKING:
    from minari_distill.synset import Synset

D4RL_PLACEHOLDERS = ("rewards", "next_observations", "terminals", "timeouts")
"""What a D4RL dict has to hold and a synset does not know."""


def to_arrays(synset: Synset) -> dict[str, np.ndarray]:
    """The pairs, the source's statistics and the actions' bounds.

    Returns:
        observations: (n_syn, obs_dim), raw.
        actions: (n_syn, act_dim) raw; of a Discrete space the likeliest one, (n_syn,) int64.
        obs_mean, obs_std: (obs_dim,) float32 of the source dataset; obs_std is the divisor itself.
        action_low, action_high: (act_dim,) float32, finite: where the space has no bound, or one 100 times as far as its actions, the range of the source's
            actions. Absent for a Discrete space, which has
        action_probabilities: (n_syn, n) instead.
    """
    units = synset.units()
    arrays = {"observations": synset.observations, "actions": synset.actions}
    if units.discrete:
        arrays["actions"] = np.asarray(synset.action_codec.decode(synset.actions), dtype=np.int64)
        extra = {"action_probabilities": synset.actions}
    else:
        extra = {"action_low": units.act_low.numpy(), "action_high": units.act_high.numpy()}
    arrays |= {"obs_mean": synset.observation_mean, "obs_std": synset.observation_std, **extra}
    return {name: np.array(array) for name, array in arrays.items()}  # copies: a synset does not change


def to_d4rl_dict(synset: Synset, *, metadata: bool = True) -> dict[str, np.ndarray]:
    """The layout of `d4rl.qlearning_dataset`, with the statistics under "metadata/…" as in D4RL's own files.

    Args:
        synset: What to lay out.
        metadata: Add what is not one row a pair; `False` for code that indexes every key alike.

    Returns:
        observations, actions: As in `to_arrays`, float32 (Discrete actions int64).
        rewards: Placeholder, 0.
        next_observations: Placeholder, the observation itself.
        terminals: Placeholder, True: every pair is an episode of its own, and nothing may be bootstrapped from it.
        timeouts: Placeholder, False.
        metadata/obs_mean, metadata/obs_std, metadata/action_low, metadata/action_high, metadata/use,
        metadata/placeholders: The rest of `to_arrays`, and what the placeholders are.
    """
    arrays = to_arrays(synset)
    obs, act = (_single(arrays.pop(name)) for name in ("observations", "actions"))
    n = len(obs)
    rows = {
        "observations": obs,
        "actions": act,
        "rewards": np.zeros(n, np.float32),
        "next_observations": obs.copy(),
        "terminals": np.ones(n, bool),
        "timeouts": np.zeros(n, bool),
    }
    if not metadata:
        return rows
    arrays |= {"use": np.array(USE), "placeholders": np.array(", ".join(D4RL_PLACEHOLDERS))}
    return rows | {f"metadata/{name}": array for name, array in arrays.items()}


def pairs_for(codebase: str, synset: Synset) -> tuple[np.ndarray, np.ndarray]:
    """Observations (n_syn, obs_dim) float32 and actions of `synset` in the form that RL codebases share.

    Returns:
        Observation vectors, and actions: (n_syn, act_dim) float32 of a flat Box, (n_syn,) int64 of a Discrete space.

    Raises:
        ExportError: The action space is neither, or its numbers do not start at 0, as those of all these codebases do.
    """
    space = synset.action_codec.kept_space
    if isinstance(space, spaces.Discrete) and space.start:
        raise ExportError(
            f"{codebase} counts actions from 0, and these start at {space.start}: {space}. Take synset.to_arrays(), subtract "
            f"{space.start}, and add it again before env.step."
        )
    flat_box = isinstance(space, spaces.Box) and len(space.shape) == 1
    if not (flat_box or isinstance(space, spaces.Discrete)):
        raise ExportError(
            f"{codebase} takes actions of one flat Box or one Discrete space, not of {space}. Take the vectors from "
            "synset.to_arrays() and synset.action_codec.decode(vectors)."
        )
    arrays = to_arrays(synset)
    return _single(arrays["observations"]), _single(arrays["actions"])


def observation_box(synset: Synset) -> spaces.Box:
    """The space of the observation vectors; an environment with `wrappers.VectorObservation` has it."""
    codec = synset.observation_codec
    return spaces.Box(codec.low.astype(np.float32), codec.high.astype(np.float32), dtype=np.float32)


def notes(synset: Synset, placeholders: tuple[str, ...] = ()) -> dict[str, Any]:
    """What every export says beside its numbers, as JSON values."""
    return {
        "use": USE,
        "placeholders": list(placeholders),
        "normalisation": "(observation - obs_mean) / obs_std",
        "n_syn": len(synset),
        "source": list(synset.source.dataset_ids),
        "environment": synset.source.env_id,
        "written_by": f"minari_distill {__version__}",
    }


def notes_text(synset: Synset, placeholders: tuple[str, ...] = ()) -> str:
    """`notes` as one line of JSON."""
    return json.dumps(notes(synset, placeholders), sort_keys=True)


def _single(array: np.ndarray) -> np.ndarray:
    """float64 becomes float32; integers stay."""
    return np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind == "i" else np.float32)
