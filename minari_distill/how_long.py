"""What a run will take on this machine, told before it begins."""

from __future__ import annotations

import math
import time

import torch

from minari_distill.config import DistillConfig
from minari_distill.devices import resolve_device
from minari_distill.metric import WIDEST
from minari_distill.outer import OuterLoop, Problem
from minari_distill.progress import duration
from minari_distill.teachers import estimate_seconds, settle_teacher
from minari_distill.transitions import Transitions


def how_long(transitions: Transitions, config: DistillConfig, *, learning: bool) -> str:
    """One sentence: what this run will take on this machine, from a few timed steps, and what to choose instead."""
    config = settle_teacher(config)
    teacher = estimate_seconds(transitions, config) if learning else 0.0
    outer = 0.0
    if config.outer_steps:
        step, validation = seconds_of_a_step(config, transitions.obs_dim, transitions.act_dim)
        outer = (
            config.outer_steps * step
            + (1 + math.ceil(config.outer_steps / config.validate_every)) * validation
        )
    parts = [f"teacher ({config.teacher_method}) about {duration(teacher)}"] if learning else []
    text = f"On this machine: {', '.join([*parts, f'distillation about {duration(outer)}'])}."
    if learning and teacher > 1800:
        quick = (
            "teacher_steps=5000" if config.teacher_method == "filtered_bc" else "teacher_method=filtered_bc"
        )
        text += f" For a teacher in minutes choose {quick} (--set {quick}), or give one by teacher=."
    if outer > 1800:
        steps = max(1, int(config.outer_steps * 600 / outer))
        text += f" For a distillation of ten minutes choose outer_steps={steps} (--set outer_steps={steps})."
    return text


def seconds_of_a_step(config: DistillConfig, obs_dim: int, act_dim: int) -> tuple[float, float]:
    """Seconds that an outer step and a validation take here, from a few timed ones on random numbers of the same sizes."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(64, obs_dim, generator=generator)
    act, unbounded = torch.zeros(64, act_dim), torch.full((obs_dim,), float("inf"))
    weight = torch.ones(64, 1)
    metric = torch.eye(obs_dim) if config.metric_share and obs_dim <= WIDEST else None
    problem = Problem(obs, act, weight, obs, act, weight, -unbounded, unbounded, metric=metric)
    S, A = torch.randn(config.n_syn, obs_dim, generator=generator), torch.zeros(config.n_syn, act_dim)
    outer = OuterLoop(problem, S, A, config, resolve_device(config.device))
    # The first ones pay for fresh memory and for the libraries' own start; on a GPU, for the graphs of both kinds of step.
    warm_up, timed = (2, 2) if outer.device.type == "cpu" else (20, 10)
    for _ in range(warm_up):
        outer.step()
    outer.read_loss()  # waits for a GPU
    started = time.perf_counter()
    for _ in range(timed):
        outer.step()
    outer.read_loss()
    step = (time.perf_counter() - started) / timed
    if config.recipe.infinite:
        started = time.perf_counter()
        outer.held_out_loss()
        return step, time.perf_counter() - started
    asked = config.recipe.steps
    some = min(asked, 20)  # inner steps, all alike; the reading of the held-out states is little beside them
    for steps in (2, some):  # the first ones warm up
        started = time.perf_counter()
        outer.validation.train(outer.validation_start, outer.S, outer.A, steps=steps).sum().item()
    return step, (time.perf_counter() - started) * asked / some
