"""What "auto" asks of teachers and the data that they are to be distilled on: how far they act from the data, ρ of
`minari_distill/support.py`, and what their critics say that a clone of the best episodes loses, `clone_gap` of `labelling.py`.

    python -m benchmarks.teacher_distance obd/hopper/medium-v0+obd/hopper/expert-v0=teacher.safetensors …

Each seed holds other episodes out, and makes another clone. A minute or two of a CPU core a dataset and seed.
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
        distances, gaps, chosen = [], [], {}
        for seed in SEEDS:
            config = make_config(seed=seed, precision="float32")
            posed = pose(transitions, teacher, config)
            gap = posed.clone_gap
            if gap is None:  # not asked by "auto"
                gap = pose(transitions, teacher, config.replace(objective="tempered_pbc")).clone_gap
            distances.append(f"{posed.teacher_distance:.2f}")
            gaps.append(f"{gap:.2f}")
            chosen[posed.config.objective] = None
        body.append([dataset.name, ", ".join(distances), ", ".join(gaps), ", ".join(chosen)])
    print(
        markdown(
            ["dataset", f"ρ, seeds {SEEDS[0]} to {SEEDS[-1]}", "gap of the clone, likewise", "auto"], body
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
