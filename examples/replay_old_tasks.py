"""Tasks one after the other, without forgetting: the synset of an old task is replayed while a new one is learnt.

    python -m examples.replay_old_tasks gallery/hopper-medium-replay-v0 gallery/walker2d-medium-replay-v0

A policy clones the first task, then the second, and so on; the old tasks' datasets are gone. With replay, each step also
takes the old tasks' synsets, a few hundred pairs a task; without, only the new task's pairs. The policy, padding and loss
are those of `multi_task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import minari_distill as md
from examples.multi_task import clone, make_policy, make_tasks, name, parse, score


def learn_in_sequence(
    synsets: Sequence[md.Synset], replay: bool, seeds: int, steps: int, n_episodes: int
) -> list[dict[str, Any]]:
    """A row a stage: what was learnt last, and the scores in every task met so far."""
    tasks = make_tasks(synsets)
    policies = [make_policy(tasks[0], seed) for seed in range(seeds)]
    rows = []
    for stage, task in enumerate(tasks):
        met = tasks[: stage + 1]
        for policy in policies:
            clone(policy, met if replay else [task], steps)
        scores = {name(t): score(policies, t, n_episodes).score for t in met}
        rows.append({"replay": replay, "learnt": name(task), "scores": scores})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown, a column a task."""
    tasks = list(rows[-1]["scores"])
    lines = [
        "| old synsets replayed | after learning | " + " | ".join(tasks) + " |",
        "|---|---|" + "---|" * len(tasks),
    ]
    for row in rows:
        cells = [str(row["scores"].get(task, "")) for task in tasks]
        lines.append(f"| {'yes' if row['replay'] else 'no'} | {row['learnt']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the sequence with and without replay, print the table."""
    synsets, sizes = parse(__doc__.split("\n")[0], arguments)
    torch.set_num_threads(1)  # layers this small gain nothing from more
    print(table([row for replay in (False, True) for row in learn_in_sequence(synsets, replay, **sizes)]))


if __name__ == "__main__":
    main()
