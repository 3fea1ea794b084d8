"""Seconds and memory to read a large Minari dataset, and what it costs to have it mapped instead of in memory.

    $ python -m benchmarks.reading_speed
    $ python -m benchmarks.reading_speed --reader gather     # the last table alone

A dataset of HalfCheetah's shape (1,000,000 steps, 1000 episodes, 17 float64 observations, 6 float32 actions, infos
as the MuJoCo environments give them) is written to a temporary folder first, by Minari. Each reader runs in a
process of its own, once to warm the file cache and once measured; memory is the peak, beyond the imports, of what the
system cannot page out to a file (RssAnon). Then batches of 2048 random states are gathered, as an outer step does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import torch
from minari.data_collector.episode_buffer import EpisodeBuffer

from minari_distill.room import Room
from minari_distill.transitions import load_transitions

OBSERVATIONS = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64)
ACTIONS = gym.spaces.Box(-1, 1, (6,), np.float32)
ID = "benchmark/halfcheetah-v0"


def write(episodes: int, length: int) -> None:
    """Write the dataset into the local Minari store."""
    rng = np.random.default_rng(0)

    def buffers() -> Iterator[EpisodeBuffer]:
        for _ in range(episodes):
            yield EpisodeBuffer(
                observations=rng.normal(size=(length + 1, 17)),
                actions=rng.uniform(-1, 1, size=(length, 6)).astype(np.float32),
                rewards=rng.normal(size=length),
                terminations=np.zeros(length, bool),
                truncations=np.arange(length) == length - 1,
                infos={
                    name: rng.normal(size=length + 1) for name in ("x_position", "x_velocity", "reward_run")
                },
            )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            ID, buffers(), observation_space=OBSERVATIONS, action_space=ACTIONS
        )


def with_load_transitions(memory_share: float = 1.0) -> int:
    """Bytes of the arrays that `load_transitions` gives."""
    transitions = load_transitions(ID, memory_share=memory_share)
    return sum(value.nbytes for value in vars(transitions).values() if isinstance(value, np.ndarray))


def with_minari() -> int:
    """The same arrays by `iterate_episodes`, gathered and concatenated."""
    gathered: list[list[np.ndarray]] = [[] for _ in range(6)]
    for episode in minari.load_dataset(ID).iterate_episodes():
        arrays = (
            episode.observations[:-1].astype(np.float32),
            episode.observations[1:].astype(np.float32),
            episode.actions,
            episode.rewards.astype(np.float32),
            episode.terminations,
            episode.truncations,
        )
        for many, one in zip(gathered, arrays, strict=True):
            many.append(one)
    return sum(np.concatenate(many).nbytes for many in gathered)


READERS = {
    "load_transitions": with_load_transitions,
    "load_transitions, mapped": lambda: with_load_transitions(memory_share=0.0),
    "minari iterate_episodes": with_minari,
}


def measure(reader: str) -> str:
    """A table row for one reader, measured in this process."""
    before = _memory()
    with Peak() as peak:
        started = time.perf_counter()
        size = READERS[reader]()
        seconds = time.perf_counter() - started
    used = peak.bytes - before
    return f"| {reader} | {seconds:.1f} | {used / 1e6:.0f} | {size / 1e6:.0f} | {used / size:.2f} |"


class Peak:
    """The largest memory seen while the block runs, looked at every 5 ms."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = _memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, _memory())

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, _memory())


def _memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


PAGE_OUT = 21  # Linux's MADV_PAGEOUT: write what is dirty, and forget


def gather(batches: int = 50, states: int = 2048, n: int = 1_000_000) -> str:
    """Table rows: milliseconds to gather a batch of random states from an array in memory and from a mapped one."""
    rng = np.random.default_rng(0)
    plain, mapped = (
        Room(mapped=is_mapped).filled(
            n, OBSERVATIONS.shape, "float32", lambda rows: rng.random((rows.stop - rows.start, 17))
        )
        for is_mapped in (False, True)
    )
    indices = [torch.as_tensor(rng.integers(n, size=states)) for _ in range(batches)]

    def milliseconds(array: np.ndarray, *, forget: bool = False) -> float:
        tensor, spent = torch.from_numpy(array), 0.0
        for index in indices:
            if forget:
                array._mmap.madvise(PAGE_OUT)
            started = time.perf_counter()
            tensor[index]
            spent += time.perf_counter() - started
        return 1000 * spent / batches

    milliseconds(plain)
    rows = {
        "in memory": milliseconds(plain),
        "mapped, its pages in memory": milliseconds(mapped),
        "mapped, every page read from the disk": milliseconds(mapped, forget=True),
    }
    return "\n".join(f"| {name} | {ms:.2f} |" for name, ms in rows.items())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--reader", choices=[*READERS, "gather"], help="one measurement alone")
    arguments = parser.parse_args()
    if arguments.reader == "gather":
        print(gather())
        return
    if arguments.reader:
        print(measure(arguments.reader))
        return
    with tempfile.TemporaryDirectory() as store:
        os.environ["MINARI_DATASETS_PATH"] = store
        write(arguments.episodes, arguments.length)
        size = sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
        print(f"{arguments.episodes * arguments.length:,} steps, {size / 1e6:.0f} MB on disk\n")
        print("| reader | seconds | peak MB | arrays MB | peak / arrays |\n|---|---|---|---|---|")
        for reader in READERS:
            for _ in range(2):
                row = _in_a_process(reader)
            print(row)
        print("\n| 2048 random states gathered from observations | milliseconds |\n|---|---|")
        print(_in_a_process("gather"))


def _in_a_process(reader: str) -> str:
    command = [sys.executable, "-m", "benchmarks.reading_speed", "--reader", reader]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
