"""Draws as functions of a key, (seed, step, student, …), that no generator's state has to be kept for."""

from __future__ import annotations

import torch
from torch import Tensor

from minari_distill.networks import Architecture, initialize
from minari_distill.recipe import StudentRecipe


def keyed_generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose seed is a mix of `key` (splitmix64's finaliser), so that near keys share nothing."""
    x = 0
    for part in key:
        x = (x + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        x ^= x >> 31
    return torch.Generator(device).manual_seed(x & (2**63 - 1))


def fresh_students(
    arch: Architecture,
    recipe: StudentRecipe,
    seed: int,
    step: int,
    students: range,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Initial parameters (K, P) of an outer step's `students`, as `recipe` has them; step −1 is the validation's."""
    return torch.cat(
        [
            initialize(
                arch,
                1,
                scheme=recipe.init,
                output_gain=recipe.output_gain,
                generator=keyed_generator(device, seed, step, k, 0),
                dtype=dtype,
            )
            for k in students
        ]
    )
