"""Thirty SIGKILLs at random moments of a run: what was kept can be read, what was published is whole."""

import subprocess
import sys
from pathlib import Path

STORY = """
import os, random, shutil, signal, sys, time, warnings
from pathlib import Path

sys.path[:0] = {path!r}
here = Path({here!r})
os.environ["MINARI_DATASETS_PATH"] = str(here / "minari")
import minari
import numpy as np
import torch._dynamo  # what an optimiser imports at its first step, for seconds
from safetensors import safe_open
from tests.conftest import write_dataset
import minari_distill as md
from minari_distill.progress import silent
from minari_distill.teachers import learn

sys.modules["minari_distill.how_long"].estimate_seconds = lambda *_: 0.0  # takes a second
learn._CHECKPOINT_SECONDS = learn._REPORT_SECONDS = 0.01
ID, settings = "me/killed-v0", dict(
    teacher_method="filtered_bc", teacher_steps=30, teacher_batch=16, n_syn=8, hidden_width=16, hidden_layers=2,
    inner_steps=10, window=5, student_pool=0, n_students=1, outer_batch=32, outer_steps=150, validate_every=10,
    checkpoint_every=5, device="cpu", precision="float32",
)


def run(folder, target):
    resume = (folder / "run.json").exists()
    synset = md.distill("test/pendulum-v0", run_dir=folder, resume=resume, report=silent, **settings)
    synset.save(target, overwrite=True)


def start(*arguments):
    # A process of its own without the seconds that the imports take
    child = os.fork()
    if not child:
        try:
            run(*arguments)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def steps_kept(folder):
    # Read as a resumed run reads it: a file cut off would raise
    if not (folder / "checkpoint.safetensors").exists():
        return 0
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return int(file.get_tensor("counts")[0])


def same(a, b):
    assert np.array_equal(a.observations, b.observations) and np.array_equal(a.actions, b.actions)
    assert a.metadata["history"] == b.metadata["history"]


write_dataset("test/pendulum-v0", lengths=(60, 50, 40))
assert os.waitpid(start(here / "unbroken", "me/unbroken-v0"), 0)[1] == 0
unbroken = md.load_synset("me/unbroken-v0")

moments, folder, kills, kept, finished = random.Random(0), here / "run", 0, 0, 0
phases = set()
while kills < 30 or not finished:
    begun = folder.exists()
    child = start(folder, ID)
    # a run that has only begun is killed soon, so that its teacher is met on a fast machine too
    time.sleep(moments.uniform(0, {longest} if begun else 0.05))
    if kills < 30:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kills += os.WIFSIGNALED(status)
    now = steps_kept(folder)
    assert now >= kept, (now, kept)  # nothing that was kept is ever lost
    phases.add("teacher" if not now else "outer loop" if now < 150 else "publishing")
    kept = now
    if ID in minari.list_local_datasets():
        assert minari.load_dataset(ID).total_episodes == 8
        same(md.load_synset(ID), unbroken)
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        same(md.load_synset(ID), unbroken)
        assert not [p for p in (here / "minari/me").iterdir() if p.name.startswith(".")]
        shutil.rmtree(folder)
        finished, kept = finished + 1, 0
assert phases >= {{"teacher", "outer loop"}}, phases
print(kills, "kills,", finished, "runs finished, killed while:", sorted(phases))
"""


def test_thirty_kills_lose_nothing(tmp_path):
    """After each kill the checkpoint is readable and no older than before; every finished run is the unbroken one."""
    tests = Path(__file__).parent
    script = STORY.format(path=[str(tests), str(tests.parent)], here=str(tmp_path), longest=0.4)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("30 kills"), done.stdout
