"""How far teachers act from the data that they are to be distilled on: ρ of `minari_distill/support.py`.

    python -m benchmarks.teacher_distance obd/hopper/medium-v0+obd/hopper/expert-v0=teacher.safetensors …

Each seed holds other episodes out.
"""

from __future__ import annotations

import sys

from minari_distill.benchmark.cells import Dataset
from minari_distill.benchmark.tables import markdown
from minari_distill.config import make_config
from minari_distill.pose import pose
from minari_distill.teachers import load_teacher
from minari_distill.transitions import load_transitions

SEEDS = range(3)


def main(arguments: list[str]) -> None:
    """One line a dataset."""
    if not arguments or any("=" not in text for text in arguments):
        sys.exit(f"Give datasets with their teachers, ID=TEACHER or ID+ID=TEACHER.\n{__doc__}")
    body = []
    for dataset in map(Dataset.parse, arguments):
        transitions, teacher = load_transitions(list(dataset.ids)), load_teacher(dataset.teacher)
        posed = [pose(transitions, teacher, make_config(seed=s, precision="float32")) for s in SEEDS]
        distances = ", ".join(f"{p.teacher_distance:.2f}" for p in posed)
        chosen = ", ".join(dict.fromkeys(p.config.objective for p in posed))
        body.append([dataset.name, distances, chosen])
    print(markdown(["dataset", f"ρ, seeds {SEEDS[0]} to {SEEDS[-1]}", "auto"], body))


if __name__ == "__main__":
    main(sys.argv[1:])
