"""The gallery: synsets from teachers learnt here, rolled out, written into the package.

    $ python -m benchmarks.make_gallery obd/hopper/medium-replay-v0 obd/walker2d/medium-v0+obd/walker2d/expert-v0=walker2d-medium-expert

Each argument is a Minari id, or several joined by "+", and after "=" the name in the gallery (else the id without its
first part; "-v0" is added where no version is given). The teacher is filtered behavioural cloning (`--preset quick`'s),
which takes seconds; whatever else is set by --set. Scored are students of the synset's own recipe and plain ones that
nothing was tuned for; at infinite width also networks that are taught by many pairs of few (`expand`).
"""

from __future__ import annotations

import argparse
import ast
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import minari_distill as md
from minari_distill.evaluate import TeacherPolicy
from minari_distill.loading import GALLERY_FOLDER
from minari_distill.progress import silent

N_STUDENTS, N_EPISODES, N_ENSEMBLE = 5, 10, 10


def make(dataset: str, name: str, **settings: object) -> None:
    """Distil one dataset and write `name` into the gallery, with its scores."""
    began = time.perf_counter()
    ids = dataset.split("+")
    with TemporaryDirectory() as folder:
        synset = md.distill(
            ids if len(ids) > 1 else dataset, run_dir=Path(folder) / "run", report=silent, **settings
        )
        teacher = md.load_teacher(Path(folder) / "run" / "teacher.safetensors")
    policy = TeacherPolicy(teacher, synset.observation_codec, synset.action_codec)
    students = md.behavior_clone(synset, recipe="general", n_policies=N_STUDENTS).members()
    ensemble = md.behavior_clone(synset, recipe="general", n_policies=N_ENSEMBLE, seed=1)
    scores = {
        "general students": md.evaluate(students, synset, n_episodes=N_EPISODES),
        f"general students, ensemble of {N_ENSEMBLE}": md.evaluate(ensemble, synset, n_episodes=N_EPISODES),
        "teacher": md.evaluate(policy, synset, n_episodes=N_STUDENTS * N_EPISODES),
    }
    if synset.recipe.infinite:  # its students are all the same one; networks learn from many pairs of few
        one = md.behavior_clone(synset)
        scores["recipe students"] = md.evaluate(one, synset, n_episodes=N_STUDENTS * N_EPISODES)
        taught = md.behavior_clone(md.expand(synset), n_policies=N_STUDENTS).members()
        scores["networks taught by expanded pairs"] = md.evaluate(taught, synset, n_episodes=N_EPISODES)
    elif synset.recipe != md.GENERAL_RECIPE:
        own = md.behavior_clone(synset, n_policies=N_STUDENTS).members()
        scores["recipe students"] = md.evaluate(own, synset, n_episodes=N_EPISODES)
    kept = synset.with_metadata(scores={name: score.to_json() for name, score in scores.items()})
    GALLERY_FOLDER.mkdir(exist_ok=True)
    name = name if re.search(r"-v\d+$", name) else f"{name}-v0"
    path = GALLERY_FOLDER / f"{name}.parquet"
    kept.write_single(path)
    row = "  ".join(f"{label} {score.score}" for label, score in scores.items())
    print(
        f"{name}  {path.stat().st_size / 1e3:.0f} kB  {time.perf_counter() - began:.0f} s  {row}",
        flush=True,
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {key: ast.literal_eval(value) for key, value in (text.split("=") for text in arguments.set)}
    for text in arguments.datasets:
        dataset, _, name = text.partition("=")
        default = dataset.split("/", 1)[-1].rsplit("-v", 1)[0].replace("/", "-")
        make(dataset, name or default, preset=arguments.preset, **settings)


if __name__ == "__main__":
    main()
