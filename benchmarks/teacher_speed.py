"""How fast a Cal-QL step is, beside plain PyTorch and the machine's own matrix-product rate.

    python -m benchmarks.teacher_speed [--threads 2] [--device cpu] [--warm-up 2000] [--rounds 40] [--data embedded]

All sides train on the same data at the published sizes (batch 256, 10 samples of each kind, width 256) and take
turns in every round; figures are the best of the rounds, since other work on a machine only ever adds time. How
many rows matter to the critics' gradient depends on the state of training, so the package is timed at its first
steps, after `--warm-up` steps, and with every row, as a GPU does and the end of a long training nearly does. The
rate is 2·m·n·k operations a second, counted for the plain implementation's products as well as the
package's; the machine's rate is measured on (rows × 256) · (256 × 256) products.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.plain_cal_ql import Batch, PlainCalQL, sample_noise
from minari_distill.config import make_config
from minari_distill.devices import resolve_device
from minari_distill.teachers.cal_ql import CalQL
from minari_distill.transitions import load_transitions


def plain_step(trainer: CalQL) -> Callable[[], None]:
    """One step of plain PyTorch on the trainer's table, batches and noise drawn as it does."""
    config, table, device = trainer.config, trainer.table, trainer.device
    plain = PlainCalQL(trainer.obs_dim, trainer.act_dim, device=device)
    widths = (trainer.obs_dim, trainer.act_dim, 1, 1, 1, trainer.obs_dim)

    def step() -> None:
        rows = table[torch.randint(len(table), (config.teacher_batch,), device=device)]
        obs, action, reward, discount, returns, next_obs = rows.split(widths, 1)
        termination = 1 - discount[:, 0] / config.discount
        batch = Batch(obs, action, reward[:, 0], next_obs, termination, returns[:, 0])
        plain.update(batch, sample_noise(len(rows), config.cql_n_actions, trainer.act_dim, device))

    return step


def products(trainer: CalQL) -> float:
    """Operations of the matrix products of one step with every row, in units of 1e9."""
    config, d = trainer.config, trainer.act_dim
    B, n, obs = config.teacher_batch, config.cql_n_actions, trainer.obs_dim
    actor = obs * 256 + 2 * 256 * 256 + 256 * 2 * d
    critic = (obs + d) * 256 + 256 * 256 + 256
    # (forward, backward to weights, backward to inputs) passes, in rows
    actor_rows = 2 * B + B + B
    critic_rows = 4 * B + 2 * B + 2 * B * (1 + 3 * n) * 3
    return 2 * (actor * actor_rows + critic * critic_rows) / 1e9


def matmul_rate(device: torch.device, rows: int = 1024) -> Callable[[], float]:
    """A function that measures the machine's rate, in 1e9 operations a second."""
    a, w = torch.randn(2, rows, 256, device=device), torch.randn(2, 256, 256, device=device)
    out = torch.empty(2, rows, 256, device=device)

    def measure() -> float:
        seconds = timed(lambda: torch.bmm(a, w, out=out), 20, device)
        return 2 * out.numel() * 256 / seconds / 1e9

    return measure


def timed(step: Callable[[], object], n_steps: int, device: torch.device) -> float:
    """Seconds a step takes."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(n_steps):
        step()
    synchronise(device)
    return (time.perf_counter() - started) / n_steps


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def share_of_rows(trainer: CalQL) -> float:
    """The share of rows that the critics' last backward pass needed."""
    return trainer.conservative.rows_used / (
        trainer.config.teacher_batch * (1 + 3 * trainer.config.cql_n_actions)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warm-up", type=int, default=2000, help="steps before the second measurement")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--data", default="embedded")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)

    steps = 1 if device.type == "cpu" else 100  # in a round

    transitions, config = load_transitions(arguments.data), make_config(device=arguments.device)
    young, old, every = (CalQL(transitions, config, device) for _ in range(3))
    every.cost_as_late()
    old.advance(arguments.warm_up)
    for trainer in (young, every):
        trainer.advance(3)
    plain = plain_step(young)
    for _ in range(3):
        plain()

    trainers = {
        "package, every row": every,
        f"package, after {arguments.warm_up} steps": old,
        "package, first steps": young,
    }
    sides: dict[str, Callable[[], object]] = {"plain PyTorch": lambda: [plain() for _ in range(steps)]}
    for name, trainer in trainers.items():
        sides[name] = lambda trainer=trainer: trainer.advance(steps)  # type: ignore[misc]
    rate = matmul_rate(device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rates = []
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            seconds[name].append(timed(side, 1, device) / steps)
        rates.append(rate())
    best = {name: min(times) for name, times in seconds.items()}

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{arguments.threads} CPU threads"
    print(f"{name}, torch {torch.__version__}, obs_dim {young.obs_dim}, act_dim {young.act_dim}")
    print(f"matrix products: {max(rates):.0f} GFLOP/s; a step with every row: {products(every):.2f} GFLOP")
    print("| | ms a step | steps/s | 1M steps | times plain | rows in the backward pass |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = {name: share_of_rows(trainer) for name, trainer in trainers.items()}
    for side, t in best.items():
        times_plain = best["plain PyTorch"] / t
        print(
            f"| {side} | {1e3 * t:.1f} | {1 / t:.1f} | {1e6 * t / 3600:.1f} h | {times_plain:.2f} | {rows.get(side, 1.0):.0%} |"
        )
    ideal = products(every) / max(rates)
    print(f"\nEvery row at the machine's own rate would take {1e3 * ideal:.1f} ms.")


if __name__ == "__main__":
    main()
