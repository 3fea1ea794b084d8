"""Behavioural cloning on all data: students that see random minibatches of every pair of the dataset.

    θ ← Adam step on L_BC(θ) = mean over a minibatch of ‖π_θ(x_i) − u_i‖² / act_dim

The student is the general one (`config.GENERAL_RECIPE`), so that only the data differs from a synset's students.
"""

from __future__ import annotations

import torch

from minari_distill.config import GENERAL_RECIPE
from minari_distill.inner.loop import InnerLoop
from minari_distill.networks import Architecture, initialize
from minari_distill.students import Policy
from minari_distill.transitions import Transitions


def clone_all(
    transitions: Transitions,
    *,
    steps: int,
    batch: int,
    n_students: int,
    seed: int,
    device: torch.device,
) -> Policy:
    """K students at once, each on minibatches of its own.

    Args:
        transitions: The whole dataset.
        steps: Gradient steps.
        batch: Pairs a student and step, drawn with replacement.
        n_students: K.
        seed: Of the initial parameters and the minibatches.
        device: Where they are trained; the policy comes back on the CPU.
    """
    codec = transitions.action_codec
    units = transitions.units()
    x = units.normalise(torch.as_tensor(transitions.observations).float()).to(device)
    u = units.scale(torch.as_tensor(transitions.actions).float()).to(device)
    recipe = GENERAL_RECIPE.replace(steps=steps, head="softmax" if codec.is_discrete else "tanh")
    arch = Architecture.of(recipe, x.shape[1], u.shape[1])
    generator = torch.Generator(device).manual_seed(seed)
    theta = initialize(arch, n_students, scheme=recipe.init, generator=generator)
    loop = InnerLoop(
        recipe, obs_dim=x.shape[1], act_dim=u.shape[1], n_syn=batch, n_students=n_students, device=device
    )
    loop.start(theta)
    for _ in range(steps):
        i = torch.randint(len(x), (n_students, batch), generator=generator, device=device)
        loop.feed(x[i], u[i])
        loop.advance()
    theta = loop.master.cpu()
    return Policy(theta, recipe, units, transitions.observation_codec, codec)
