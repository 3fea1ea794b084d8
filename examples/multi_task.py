"""One policy for several tasks, cloned from their synsets: a few hundred pairs a task instead of its dataset.

    python -m examples.multi_task gallery/hopper-medium-replay-v0 gallery/walker2d-medium-replay-v0

Observation and action vectors are padded with zeros to the longest, and the task's number is appended, one-hot:

    input (max obs_dim + n_tasks)  =  [ (s − mean_k)/std_k , 0 … 0 , e_k ]
    loss  =  mean over tasks k of mean over pairs and over task k's own action numbers of (π(s, k) − u)²

It is compared with a policy a task, of the same size and trained as long.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import minari_distill as md


@dataclass(frozen=True)
class Task:
    """One of several tasks, as the shared policy sees it.

    Attributes:
        synset: Its pairs, statistics and environment.
        number: Its place in the one-hot part.
        obs_dim, act_dim, n_tasks: The padded lengths and the number of tasks.
    """

    synset: md.Synset
    number: int
    obs_dim: int
    act_dim: int
    n_tasks: int

    def inputs(self, obs: np.ndarray) -> Tensor:
        """What the policy sees (n, obs_dim + n_tasks) of raw observation vectors (n, own obs_dim)."""
        x = torch.zeros(len(obs), self.obs_dim + self.n_tasks)
        x[:, : obs.shape[1]] = self.synset.units().normalise(torch.as_tensor(obs).float())
        x[:, self.obs_dim + self.number] = 1.0
        return x

    def loss(self, policy: nn.Module) -> Tensor:
        """Mean squared error on the synset's pairs."""
        u = self.synset.units().scale(torch.as_tensor(self.synset.actions).float())
        return (policy(self.inputs(self.synset.observations))[:, : u.shape[1]] - u).square().mean()


def make_tasks(synsets: Sequence[md.Synset]) -> list[Task]:
    """The synsets as tasks of one policy.

    Raises:
        ValueError: A synset has discrete actions.
    """
    for synset in synsets:
        if synset.action_codec.is_discrete:
            raise ValueError(f"{synset} has discrete actions; this recipe pads continuous ones.")
    obs_dim = max(s.observation_codec.dim for s in synsets)
    act_dim = max(s.action_codec.dim for s in synsets)
    return [Task(s, k, obs_dim, act_dim, len(synsets)) for k, s in enumerate(synsets)]


def make_policy(task: Task, seed: int, width: int = 256) -> nn.Sequential:
    """Three hidden layers, ReLU, tanh."""
    torch.manual_seed(seed)
    sizes = (task.obs_dim + task.n_tasks, width, width, width)
    hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, task.act_dim), nn.Tanh())


def clone(policy: nn.Module, tasks: Sequence[Task], steps: int) -> None:
    """Adam steps on all pairs of the given tasks; those of other tasks are not seen."""
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack([task.loss(policy) for task in tasks]).mean()
        loss.backward()
        optimizer.step()


class Player:
    """The shared policy in one task, for `md.evaluate`."""

    def __init__(self, policy: nn.Module, task: Task):
        self.policy, self.task = policy, task
        self.observation_codec = task.synset.observation_codec
        self.action_codec = task.synset.action_codec

    @torch.no_grad()
    def act_vectors(self, obs: np.ndarray) -> np.ndarray:
        """Raw actions (n, act_dim) for raw observations (n, obs_dim)."""
        u = self.policy(self.task.inputs(obs))[:, : self.action_codec.dim]
        return self.task.synset.units().unscale(u).numpy()


def score(policies: Sequence[nn.Module], task: Task, n_episodes: int) -> md.Evaluation:
    """Greedy rollouts of several seeds' policies in one task."""
    players: list[Any] = [Player(policy, task) for policy in policies]
    return md.evaluate(players, task.synset, n_episodes=n_episodes)


def name(task: Task) -> str:
    """The task's number and environment."""
    return f"{task.number + 1}: {task.synset.source.env_id or ', '.join(task.synset.source.dataset_ids)}"


def compare(synsets: Sequence[md.Synset], seeds: int, steps: int, n_episodes: int) -> list[dict[str, Any]]:
    """A row a task: the score of policies of its own, and of policies shared by all tasks."""
    tasks = make_tasks(synsets)
    shared = [make_policy(tasks[0], seed) for seed in range(seeds)]
    for policy in shared:
        clone(policy, tasks, steps)
    rows = []
    for task in tasks:
        own = [make_policy(task, seed) for seed in range(seeds)]
        for policy in own:
            clone(policy, [task], steps)
        rows.append(
            {
                "task": name(task),
                "own": score(own, task, n_episodes).score,
                "shared": score(shared, task, n_episodes).score,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = ["| task | a policy of its own | one policy for all |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row['task']} | {row['own']} | {row['shared']} |" for row in rows)])


def parse(description: str, arguments: Sequence[str] | None) -> tuple[list[md.Synset], dict[str, int]]:
    """What a recipe of several tasks takes on the command line: the synsets, and seeds, steps and n_episodes by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "synsets", nargs="+", help="Minari ids, folders or hf:// addresses of two or more synsets, in order"
    )
    parser.add_argument("--seeds", type=int, default=5, help="policies")
    parser.add_argument("--steps", type=int, default=2000, help="Adam steps of a policy, and of a stage")
    parser.add_argument("--episodes", type=int, default=5, dest="n_episodes", help="greedy episodes of each")
    given = vars(parser.parse_args(arguments))
    return [md.load_synset(synset) for synset in given.pop("synsets")], given


def main(arguments: Sequence[str] | None = None) -> None:
    """Clone, roll out, print the table."""
    synsets, sizes = parse(__doc__.split("\n")[0], arguments)
    torch.set_num_threads(1)  # layers this small gain nothing from more
    print(table(compare(synsets, **sizes)))


if __name__ == "__main__":
    main()
