"""Synsets in Stable-Baselines3: `pretrain` a PPO, SAC or TD3 model, with the source's statistics in its `VecNormalize`.

    >>> import gymnasium
    >>> from stable_baselines3 import PPO
    >>> from stable_baselines3.common.vec_env import DummyVecEnv
    >>> env = vec_normalize(DummyVecEnv([lambda: gymnasium.make("Hopper-v5")]), synset)
    >>> model = PPO(TanhActorCriticPolicy, env, seed=0, device="cpu")
    >>> losses = pretrain(model, synset, steps=50)
    >>> len(losses), losses[-1] < losses[0]
    (50, True)

Stable-Baselines3 has no behavioural cloning of its own, and no format for pairs: `pretrain` trains the actor on all pairs
at every step, by the mean squared error of its greedy action (cross-entropy for Discrete actions). Nothing else in the
model is touched: critics, optimisers and replay buffers are as they were, and `model.learn` goes on from there.

PPO's "MlpPolicy" can be pretrained too, but its mean is a linear layer, while SAC's and TD3's actors end in a tanh, as
students do; so does `TanhActorCriticPolicy`.

For behavioural cloning only: do not fill a replay buffer with a synset, it has no rewards and no next observations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from minari_distill.errors import ExportError
from minari_distill.exporters.arrays import pairs_for
from minari_distill.exporters.require import needs
from minari_distill.synset import Synset
from minari_distill.wrappers import NormalizeObservation

with needs("stable_baselines3"):
    from stable_baselines3 import PPO, SAC, TD3
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    from minari_distill.exporters.tanh_policy import TanhActorCriticPolicy as TanhActorCriticPolicy

__all__ = ["pretrain", "put_statistics", "vec_normalize"]


def vec_normalize(env: VecEnv, synset: Synset) -> VecNormalize:
    """A `VecNormalize` around a vectorised environment that holds the source's statistics; rewards stay as they are."""
    wrapped = VecNormalize(env, norm_reward=False)
    put_statistics(wrapped, synset)
    return wrapped


def put_statistics(env: VecNormalize, synset: Synset) -> None:
    """Overwrite the observation statistics of `env` with those of the source dataset, and stop their updates.

    Raises:
        ExportError: Its observations have another shape, or are not one Box.
    """
    shape = getattr(env.observation_space, "shape", None)
    if shape != synset.observation_mean.shape:
        raise ExportError(
            f"The environment's observations are {env.observation_space}, the synset's vectors of length "
            f"{synset.observation_codec.dim}. Wrap each environment in "
            "minari_distill.wrappers.VectorObservation.from_synset(env, synset) first."
        )
    std = synset.observation_std.astype(np.float64)
    env.obs_rms.mean = synset.observation_mean.astype(np.float64)
    env.obs_rms.var = np.maximum(
        std**2 - env.epsilon, 0
    )  # VecNormalize divides by √(var + ε), a student by std
    env.training = False
    env.clip_obs = np.inf  # students have seen no clipped observations


def pretrain(
    model: PPO | SAC | TD3,
    synset: Synset,
    *,
    steps: int = 1000,
    lr: float = 1e-3,
    std: float | None = None,
) -> list[float]:
    """Clone a synset's behaviour into a model's actor.

    Args:
        model: PPO, SAC or TD3, on an environment wrapped in `VecNormalize` (its statistics are overwritten) or in
            `minari_distill.wrappers.NormalizeObservation`.
        synset: The pairs.
        steps: Adam steps, each on all pairs.
        lr: Adam's learning rate at first; it falls to zero, since on so few pairs the loss of a constant one has spikes,
            and the last step may lie on one. The model's own optimisers are not used.
        std: Standard deviation of the policy's exploration noise from here on, in units of half the action range
            (PPO, SAC). Cloning does not change the noise, and Stable-Baselines3's first one (1) drowns what was
            cloned: give 0.1 or so before `model.learn`.

    Returns:
        The loss at each step.

    Raises:
        ExportError: The model is of another kind, or its environment or spaces do not fit.
    """
    if not isinstance(model, PPO | SAC | TD3):
        raise ExportError(f"pretrain takes a PPO, SAC or TD3 model, not a {type(model).__name__}.")
    if std is not None and (isinstance(model, TD3) or synset.action_codec.is_discrete):
        raise ExportError(
            "std is of Gaussian policies (PPO and SAC with continuous actions). For TD3 set model.action_noise."
        )
    if steps < 1:
        raise ExportError(f"steps={steps} must be at least 1.")
    if std is not None and model.use_sde:
        raise ExportError(
            "std is of noise that does not depend on the state: make the model without use_sde=True, or leave std out."
        )
    _normalise_environment(model, synset)
    obs, act = pairs_for("stable_baselines3", synset)
    _check_actions(model, synset)
    x = torch.tensor((obs - synset.observation_mean) / synset.observation_std, device=model.device)
    target = torch.tensor(synset.actions if act.ndim == 1 else act, device=model.device).float()
    actor = model.policy if isinstance(model, PPO) else model.actor
    optimizer = torch.optim.Adam([p for p in actor.parameters() if p.requires_grad], lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    losses = []
    actor.train()
    for _ in range(steps):
        loss = _loss(model, x, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    actor.eval()
    optimizer.zero_grad()
    if isinstance(model, TD3):
        model.actor_target.load_state_dict(model.actor.state_dict())
    if std is not None:
        _set_std(model, std)
    return losses


def _loss(model: PPO | SAC | TD3, x: Tensor, target: Tensor) -> Tensor:
    """How far the greedy actions at normalised observations x are from the targets, in units of half the range."""
    if not isinstance(model, PPO):
        u = model.actor(x) if isinstance(model, TD3) else model.actor(x, deterministic=True)
        return (u - _scaled(model, target)).square().mean()
    distribution = model.policy.get_distribution(x).distribution
    if isinstance(model.action_space, spaces.Discrete):
        return -(target * distribution.logits).sum(-1).mean()  # logits are normalised log-probabilities
    return (_scaled(model, distribution.mean) - _scaled(model, target)).square().mean()


def _scaled(model: PPO | SAC | TD3, act: Tensor) -> Tensor:
    """Actions to [−1, 1], as `BasePolicy.scale_action` does; that range is all the networks of SAC and TD3 know."""
    low, high = (
        torch.tensor(bound, device=act.device) for bound in (model.action_space.low, model.action_space.high)
    )
    return 2 * (act - low) / (high - low) - 1


def _set_std(model: PPO | SAC, std: float) -> None:
    with torch.no_grad():
        if isinstance(model, PPO):  # one number an action, in the action's own units
            half_range = torch.tensor(model.action_space.high - model.action_space.low) / 2
            model.policy.log_std.copy_((std * half_range).log())
        else:  # a layer on top of the actor's features
            model.actor.log_std.weight.zero_()
            model.actor.log_std.bias.fill_(math.log(std))


def _normalise_environment(model: PPO | SAC | TD3, synset: Synset) -> None:
    if model.get_env() is None:
        raise ExportError("The model has no environment: model.set_env(vec_normalize(env, synset)).")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and not normalizer.norm_obs:
        normalizer = None  # it may still normalise rewards
    wrapped = all(model.get_env().env_is_wrapped(NormalizeObservation))
    if normalizer is not None and wrapped:
        raise ExportError(
            "The model's environment normalises observations twice: leave out NormalizeObservation, or give VecNormalize "
            "norm_obs=False."
        )
    if normalizer is not None:
        put_statistics(normalizer, synset)
    elif not wrapped:
        raise ExportError(
            "The model's environment does not normalise observations, and the students of this synset see normalised "
            "ones. Make the model on minari_distill.exporters.stable_baselines3.vec_normalize(env, synset)."
        )


def _check_actions(model: PPO | SAC | TD3, synset: Synset) -> None:
    ours, theirs = synset.action_codec.kept_space, model.action_space
    same_kind = isinstance(theirs, spaces.Discrete) == isinstance(ours, spaces.Discrete)
    if not same_kind or ours.shape != theirs.shape or getattr(ours, "n", 0) != getattr(theirs, "n", 0):
        raise ExportError(f"The model's actions are {theirs}, the synset's {ours}.")
    if isinstance(theirs, spaces.Box) and not theirs.is_bounded():
        raise ExportError(f"The model's actions are unbounded ({theirs}): cloning needs a finite range.")
