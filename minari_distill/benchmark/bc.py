"""Behavioural cloning on all data: students that see random minibatches of every pair of the dataset.

    θ ← Adam step on L_BC(θ) = mean over a minibatch of ‖π_θ(x_i) − u_i‖² / act_dim

The student is the general one (`config.GENERAL_RECIPE`), so that only the data differs from a synset's students.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from minari_distill.policy import Policy
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.students import train_students
from minari_distill.transitions import Transitions


def clone_all(
    transitions: Transitions,
    *,
    steps: int,
    batch: int,
    n_students: int,
    seed: int,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Policy | None:
    """K students at once, each on minibatches of its own.

    Args:
        transitions: The whole dataset.
        steps: Gradient steps.
        batch: Pairs a student and step, drawn with replacement.
        n_students: K.
        seed: Of the initial parameters and the minibatches.
        device: Where they are trained; the policy comes back on the CPU.
        should_stop: Asked before every step.

    Returns:
        The students, or None if they were stopped.
    """
    codec = transitions.action_codec
    units = transitions.units()
    x = units.normalise(torch.as_tensor(transitions.observations).float()).to(device)
    u = units.scale(torch.as_tensor(transitions.actions).float()).to(device)
    head = "softmax" if codec.is_discrete else "tanh"
    recipe = GENERAL_RECIPE.replace(steps=steps, batch=batch, head=head)
    generator = torch.Generator(device).manual_seed(seed)
    theta = train_students(x, u, recipe, n_students, generator, should_stop)
    if should_stop():
        return None
    return Policy(theta.cpu(), recipe, units, transitions.observation_codec, codec)
