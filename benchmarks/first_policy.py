"""From a fresh interpreter to a running policy of a gallery synset, step by step, in seconds.

python -m benchmarks.first_policy [gallery/hopper-medium-replay-infinite-v0]
"""

from __future__ import annotations

import subprocess
import sys

_STORY = """
import sys, time
t = [time.perf_counter()]
import torch; t.append(time.perf_counter())
import minari_distill as md; t.append(time.perf_counter())
synset = md.load_synset(sys.argv[1]); t.append(time.perf_counter())
policy = md.behavior_clone(synset); t.append(time.perf_counter())
policy.act(synset.observation_codec.decode_one(synset.observations[0])); t.append(time.perf_counter())
steps = zip(["import torch", "import minari_distill", "load", "clone", "first action"], t, t[1:])
print("; ".join(f"{name} {after - before:.2f}" for name, before, after in steps) + f"; in all {t[-1] - t[0]:.2f}")
"""


def main(synset: str = "gallery/hopper-medium-replay-infinite-v0", rounds: int = 3) -> None:
    """Some rounds, each in an interpreter of its own."""
    for _ in range(rounds):
        subprocess.run([sys.executable, "-c", _STORY, synset], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
