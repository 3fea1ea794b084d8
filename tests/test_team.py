"""Several processes under torchrun give what one process with as many students gives."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import minari_distill as md
from minari_distill.transitions import EMBEDDED_ID

SETTINGS = {
    "objective": "dbc",
    "initializer": "random",
    "n_syn": 16,
    "hidden_width": 32,
    "hidden_layers": 2,
    "inner_steps": 20,
    "window": 5,
    "outer_batch": 64,
    "outer_steps": 8,
    "validate_every": 4,
    "checkpoint_every": 4,
    "precision": "float32",
    "inner_optimizer": "momentum",
    "inner_lr": 0.1,
    "n_students": 2,
    "device": "cpu",
}


def torchrun(folder, *extra, **changes):
    flags = [
        x
        for k, v in ({"student_pool": 0} | SETTINGS | changes).items()
        for x in ("--set", f"{k}={v}")
        if k not in ("objective", "device")
    ]
    torchrun_ = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    ]
    distill = ["-m", "minari_distill", "distill", EMBEDDED_ID, "--objective", "dbc", "--device", "cpu"]
    return subprocess.Popen(
        [*torchrun_, *distill, "-o", "me/team-v0", "--run-dir", str(folder), *flags, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


def children(process):
    """Process ids of the ranks."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.parametrize("pool", [0, 2])
def test_two_ranks_equal_one_with_twice_the_students(tmp_path, pool):
    """Same synset up to the order of floating-point sums."""
    process = torchrun(tmp_path / "run", student_pool=pool)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    alone = md.distill(EMBEDDED_ID, report=lambda p: None, **SETTINGS | {"student_pool": pool})
    together = md.load_synset("me/team-v0")
    np.testing.assert_allclose(together.observations, alone.observations, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(together.actions, alone.actions, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(together.input_metric, alone.input_metric, rtol=1e-3, atol=1e-3)
    assert not np.array_equal(alone.input_metric, np.eye(11))  # it was learnt


def test_a_team_resumes_what_it_began(tmp_path):
    """Stopped by Ctrl-C and resumed, with a pool, two ranks end where they would have ended unbroken."""
    changes = {"student_pool": 2, "outer_steps": 300}
    process = torchrun(tmp_path / "run", **changes)
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    for child in children(process):
        os.kill(child, signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "Stopped after" in output
    process = torchrun(tmp_path / "run", "--resume", **changes)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    alone = md.distill(EMBEDDED_ID, report=lambda p: None, **SETTINGS | changes)
    assert md.load_synset("me/team-v0").metadata["held_out_loss"] == pytest.approx(
        alone.metadata["held_out_loss"], rel=0.05
    )


def test_a_lost_rank_ends_all_with_the_way_on(tmp_path):
    """Rank 1 is killed: rank 0 ends, says so, and --resume finishes the run."""
    process = torchrun(tmp_path / "run", outer_steps=100_000, validate_every=1000)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(children(process)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "start the same command again with --resume" in " ".join(output.split())


def test_more_ranks_than_students_is_refused(tmp_path):
    """With a number of students that works."""
    process = torchrun(tmp_path / "run", n_students=1)
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "n_students=1 cannot be shared by 2 processes" in " ".join(output.split())
    assert not (tmp_path / "run").exists()  # so that the same command with n_students=2 begins it


def test_a_teacher_that_takes_longer_than_a_rank_may_be_silent(tmp_path):
    """The others are asked once a second while the first learns: hours of it are no lost rank; a failure is told."""
    script = """
import time
from datetime import timedelta
from minari_distill.errors import TeamError
from minari_distill.team import joined
heard = []
def work(stop):
    for _ in range(14):
        time.sleep(0.5)
        heard.append(stop())
def fail(stop):
    stop()
    raise ZeroDivisionError
with joined(silence=timedelta(seconds=5)) as team:
    team.first_alone(work, lambda: team.rank == 1)
    assert heard == [True] * (0 if team.rank else 14)
    try:
        team.first_alone(fail, lambda: False)
    except (ZeroDivisionError, TeamError) as error:
        assert isinstance(error, TeamError) == bool(team.rank)
        print("told", flush=True)
"""
    (tmp_path / "waits.py").write_text(script)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node=2", str(tmp_path / "waits.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0 and done.stdout.count("told") == 2, done.stderr
