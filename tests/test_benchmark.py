"""The benchmark: cells resume, failures stay alone, students use the optimiser named, tables follow from rows."""

import contextlib
import dataclasses
import fcntl
import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from minari_distill import students
from minari_distill.benchmark import bc, cells, figures, score, tables
from minari_distill.benchmark.cells import OPTIMIZERS, Cell, Dataset, Reading, grid
from minari_distill.benchmark.figures import learning_figure
from minari_distill.benchmark.rows import SCHEMA, apart, collect, with_fractions, write_results
from minari_distill.benchmark.run import missing, read_cell, run_cells
from minari_distill.benchmark.score import teacher_file
from minari_distill.cli import app
from minari_distill.config import NETWORK_SETTINGS, DistillConfig
from minari_distill.distill import distill
from minari_distill.errors import ConfigError
from minari_distill.inner import loop
from minari_distill.inner.optimizers import Adam, Momentum, Sgd
from minari_distill.networks import Architecture, forward, initialize
from minari_distill.plots import render_strip
from minari_distill.presets import PRESETS
from minari_distill.progress import silent
from minari_distill.recipe import GENERAL_RECIPE
from minari_distill.teachers import TEACHER_SETTINGS, NetworkTeacher, save_teacher
from minari_distill.transitions import EMBEDDED_ID
from minari_distill.units import Units
from tests.small_transitions import point_mass

TINY = {
    "hidden_width": 16,
    "hidden_layers": 2,
    "inner_steps": 8,
    "window": 4,
    "outer_batch": 32,
    "outer_steps": 6,
    "clone_steps": 20,
    "validate_every": 2,
    "checkpoint_every": 2,
}
FEW = {"n_students": 2, "n_episodes": 1, "ensemble": 2, "bc_steps": 3, "bc_batch": 8, "sizes": [8]}


def NEVER() -> bool:
    return False


@pytest.fixture
def teacher(tmp_path):
    actor, critic = Architecture(11, 3, (8,), "tanh"), Architecture(14, 1, (8,), "linear")
    g = torch.Generator().manual_seed(0)
    made = NetworkTeacher(
        actor=initialize(actor, 1, generator=g),
        actor_arch=actor,
        critic=initialize(critic, 2, generator=g),
        critic_arch=critic,
        reduction="min",
        units=Units(torch.zeros(11), torch.ones(11), -torch.ones(3), torch.ones(3)),
        metadata={"method": "random, for tests"},
    )
    return save_teacher(made, tmp_path / "teacher.safetensors")


@pytest.fixture
def dataset(teacher):
    return Dataset.parse(f"{EMBEDDED_ID}={teacher}")


@pytest.fixture(autouse=True)
def small_general_students(monkeypatch):
    """General students of 16 units and 4 steps: the tests ask who is trained, not how well."""
    small = GENERAL_RECIPE.replace(hidden_width=16, steps=4)
    for module in (students, cells, bc):
        monkeypatch.setattr(module, "GENERAL_RECIPE", small)


def test_a_grid_is_run_once_and_its_rows_are_tidy(dataset, tmp_path):
    """Story: all cells of a dataset; the same command again runs nothing; parquet and CSV have every column."""
    out = tmp_path / "out"
    wanted = grid([dataset], settings=TINY, snapshots=[0, 3], **FEW)
    assert [c.method for c in wanted] == ["teacher", "bc", "random", "relabelled", "auto"]
    outcome = run_cells(wanted, out, threads=1)
    assert (outcome.done, outcome.skipped, outcome.failed) == (5, 0, {})
    again = run_cells(wanted, out, threads=1)
    assert (again.done, again.skipped) == (0, 5)

    rows = collect(out)
    assert len(rows) == 1 + 1 + 2 + 2 + (2 + 2 + 4)
    parquet, csv = write_results(rows, out)
    read = pyarrow.parquet.read_table(parquet)
    assert read.schema.equals(SCHEMA) and read.to_pylist() == rows
    assert len(csv.read_text().splitlines()) == len(rows) + 1
    teacher = next(r for r in rows if r["method"] == "teacher")
    assert teacher["n_episodes"] == 2 and teacher["fraction_of_teacher"] == 1.0  # 2 students × 1 episode
    for row in rows:
        assert row["fraction_of_teacher"] == row["mean"] / teacher["mean"]
        assert row["n_policies"] >= 1 and row["unit"] and row["date"]
    at = {r["snapshot"]: r for r in rows if r["group"] == "snapshots" and r["protocol"] == "recipe"}
    assert at[0]["outer_steps"] == 0 and at[3]["outer_steps"] == 3
    last = next(r for r in rows if r["method"] == "auto" and r["group"] == "main")
    assert last["outer_steps"] == 6 and json.loads(last["config"])["outer_steps"] == 6
    assert learning_figure(rows, EMBEDDED_ID, out / "figures").stat().st_size > 1000
    made = tables.all_tables(rows)
    assert set(made) == {"table1", "table3", "table4"}  # neither other students nor other sizes were run


def test_snapshots_change_nothing(dataset, tmp_path):
    """Law: a run that is stopped at its snapshots ends with the pairs of one that is not."""
    one = Cell(dataset, "av_pbc", (), 8, settings=TINY)
    whole = dict(score._snapshots(one, [], tmp_path / "a", silent, NEVER))[None]
    cut = dict(score._snapshots(one, [0, 3, 5], tmp_path / "b", silent, NEVER))
    assert (whole.observations == cut[None].observations).all() and (whole.actions == cut[None].actions).all()
    assert [cut[s].metadata["outer_steps_done"] for s in (0, 3, 5)] == [0, 3, 5]
    with pytest.raises(ConfigError, match="at step 6 already"):
        dict(score._snapshots(one, [2], tmp_path / "a", silent, NEVER))


def test_a_killed_cell_keeps_its_readings(dataset, tmp_path, monkeypatch):
    """What was read before a kill is not read again; an error is recorded, and the next run removes it."""
    wanted = grid([dataset], settings=TINY, baselines=False, groups=["main"], **FEW)
    cell, calls = wanted[1], []
    honest = score.score_reading

    def killed_at_second(synset, cell, reading, report):
        calls.append(reading.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(synset, cell, reading, report)

    monkeypatch.setattr(score, "score_reading", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        run_cells(wanted, tmp_path, threads=1)
    assert [r.key for r in missing(cell, tmp_path)] == ["main/general"]
    assert run_cells(wanted, tmp_path, threads=1).done == 1
    assert calls == ["main/recipe", "main/general", "main/general"] and not missing(cell, tmp_path)


def test_a_failed_cell_is_recorded_and_the_others_go_on(dataset, tmp_path):
    """n_syn beyond the dataset fails; the next cell and the teacher are done; a later run tries again."""
    wanted = grid([dataset], settings=TINY, baselines=False, groups=["main"], **FEW | {"sizes": [10**6, 8]})
    outcome = run_cells(wanted, tmp_path, threads=1)
    assert outcome.done == 2 and list(outcome.failed) == [wanted[1].name]
    assert "n_syn=1000000" in read_cell(wanted[1], tmp_path)["error"]
    assert run_cells(wanted, tmp_path, threads=1).skipped == 2


def test_other_numbers_add_what_is_missing_and_answer_nothing_twice(dataset, tmp_path):
    """More students under another label share the teacher's and BC's answers; more ensembles replace fewer; tables go on being written."""
    settings = {"settings": TINY, "objectives": ["dbc"]}
    run_cells(grid([dataset], **settings, **FEW), tmp_path, threads=1)
    before, told = collect(tmp_path), []
    more = grid([dataset], **settings, **FEW | {"n_students": 3}, label="more", groups=["main"])
    run_cells(more, tmp_path, threads=1, report=lambda progress: told.append(progress.text))
    after = collect(tmp_path)
    for method in ("teacher", "bc"):
        assert [r for r in after if r["method"] == method] == [r for r in before if r["method"] == method]
    assert sum("done before with other numbers" in text for text in told) == 2
    wanted = grid([dataset], **settings, **FEW, n_ensembles=3, groups=["ensembles"], baselines=False)
    assert run_cells(wanted, tmp_path, threads=1).done == 1
    counts = {
        r["n_policies"] for r in collect(tmp_path) if r["group"] == "ensembles" and r["method"] == "dbc"
    }
    assert counts == {3}


@pytest.mark.parametrize("changed", [name for name in TEACHER_SETTINGS if name != "seed"])
def test_a_teacher_is_known_by_all_that_it_depends_on(dataset, tmp_path, changed: str):
    """Other settings, another file: rows of two labels never speak of one teacher."""
    default = getattr(DistillConfig(), changed)
    other = {"teacher_method": "cal_ql", "precision": "float64"}.get(changed) or default / 2 + 1
    other = round(other) if isinstance(default, int) else other
    other = 0.3 if changed in ("discount", "target_rate", "top_fraction") else other
    files = {
        teacher_file(
            Cell(dataclasses.replace(dataset, teacher=None), "auto", (), settings=settings), tmp_path
        )
        for settings in ({}, {changed: other})
    }
    assert len(files) == 2


def test_one_label_has_one_learnt_teacher(tmp_path):
    """Other settings of a teacher under the same label are refused before anything runs, with what to type instead."""
    learnt = Dataset.parse(EMBEDDED_ID)
    given = TINY | {"teacher_method": "filtered_bc", "teacher_steps": 3}
    only = {"objectives": ["pbc"], "groups": ["main"], "baselines": False}
    assert not run_cells(grid([learnt], settings=given, **only, **FEW), tmp_path, threads=1).failed
    wanted = FEW | {"sizes": [9]}
    assert run_cells(grid([learnt], settings=given, **only, **wanted), tmp_path, threads=1).done == 1
    other = given | {"teacher_steps": 4}
    with pytest.raises(
        ConfigError, match="under the label 'default', and no teacher of these settings.*--label"
    ):
        run_cells(grid([learnt], settings=other, **only, **wanted), tmp_path, threads=1)
    assert not run_cells(
        grid([learnt], settings=other, label="b", **only, **wanted), tmp_path, threads=1
    ).failed


def test_a_grid_names_everything_once(dataset):
    """What is given twice is one cell; a bad seed is refused before anything is run."""
    once, twice = grid([dataset], **FEW), grid([dataset, dataset], seeds=[0, 0], **FEW | {"sizes": [8, 8]})
    assert [cell.name for cell in once] == [cell.name for cell in twice]
    with pytest.raises(ConfigError, match="seed=-1"):
        grid([dataset], seeds=[-1], **FEW)


def test_a_stopped_cell_goes_on_where_it_was(dataset, tmp_path):
    """Law: stopped in the midst of a distillation and between two readings, a cell ends with the rows of an unbroken one."""
    (cell,) = (c for c in grid([dataset], settings=TINY, baselines=False, groups=["main"], **FEW) if c.n_syn)
    assert run_cells([cell], tmp_path / "whole", threads=1).done == 1
    seen, asks = [], itertools.count()
    in_the_distillation = lambda: next(asks) >= 3  # noqa: E731
    between_readings = lambda: bool(read_cell(cell, tmp_path / "cut")["rows"])  # noqa: E731
    for should_stop in (in_the_distillation, between_readings):
        outcome = run_cells(
            [cell],
            tmp_path / "cut",
            threads=1,
            report=lambda progress: seen.append(progress.text),
            should_stop=should_stop,
        )
        assert (outcome.done, outcome.left, outcome.failed) == (0, 1, {})
        assert len(read_cell(cell, tmp_path / "cut")["rows"]) == (should_stop is between_readings)
    assert any("not finished; the same command goes on" in text for text in seen)
    assert run_cells([cell], tmp_path / "cut", threads=1).done == 1
    whole, cut = (collect(tmp_path / name) for name in ("whole", "cut"))
    assert [r["per_policy"] for r in whole] == [r["per_policy"] for r in cut] and len(whole) == 2


def test_bc_on_all_data_can_be_stopped(dataset, tmp_path):
    """A million steps end at once."""
    cell = Cell(dataset, "bc", (Reading("main", "general", 1),), n_episodes=1, bc_steps=10**6, bc_batch=4)
    asks = itertools.count()
    outcome = run_cells([cell], tmp_path, threads=1, should_stop=lambda: next(asks) >= 5)
    assert (outcome.done, outcome.left, outcome.failed) == (0, 1, {})


def test_a_damaged_cell_is_one_sentence(tmp_path):
    """Half a file: what to remove."""
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "x-0.json").write_text('{"rows": {')
    result = CliRunner().invoke(app, ["benchmark", "--tables-only", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 1 and "is damaged" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("how", ["asked", "killed"])
def test_a_benchmark_takes_its_processes_along(teacher, tmp_path, how):
    """Real processes: asked to end, both jobs keep a checkpoint and go; if the benchmark is killed they go as well."""
    out = tmp_path / "out"
    settings = [text for k, v in TINY.items() for text in ("--set", f"{k}={v}")]
    command = [sys.executable, "-m", "minari_distill", "benchmark", "--dataset", f"{EMBEDDED_ID}={teacher}"]
    command += [
        "--seed",
        "0",
        "--seed",
        "1",
        "--size",
        "8",
        "--jobs",
        "2",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    command += ["--no-baselines", "--read", "main", *settings, "--set", "outer_steps=1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def checkpoints():
        return list(out.glob("runs/*/checkpoint.safetensors"))

    def wait_for(what):
        ends = time.monotonic() + 60
        while not what():
            assert time.monotonic() < ends and (process.poll() is None or how == "killed")
            time.sleep(0.1)

    def free(run):
        with (run / "lock").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    wait_for(lambda: len(checkpoints()) == 2)
    runs = [path.parent for path in checkpoints()]
    assert not any(map(free, runs))
    process.send_signal(signal.SIGTERM if how == "asked" else signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    wait_for(lambda: all(map(free, runs)))
    assert len(checkpoints()) == 2
    if how == "asked":
        assert process.returncode == 0 and "2 to go on with by the same command" in said, said


def test_cells_in_processes_of_their_own(dataset, tmp_path, monkeypatch):
    """Two jobs; each has the threads that it was given, and a process that dies is one failed cell."""
    main = (Reading("main", "recipe", 1),)
    good = Cell(dataset, "random", main, 8, settings=TINY, n_episodes=1)
    bad = dataclasses.replace(good, settings={**TINY, "n_students": 0})
    outcome = run_cells([good, bad], tmp_path, jobs=2, threads=1)
    assert outcome.done == 1 and "n_students=0" in outcome.failed[bad.name]
    assert [row["threads"] for row in collect(tmp_path)] == [1]


def test_every_student_uses_the_optimiser_named(dataset, tmp_path, monkeypatch):
    """Law: per row of Table 2, one optimiser of the named kind is made once and takes every one of its steps."""
    made = []

    def spying(module, name, count):
        honest = getattr(module, name)

        def spy(*args):
            optimizer, steps = honest(*args), []
            count(optimizer, steps)
            made.append((optimizer, steps))
            return optimizer

        monkeypatch.setattr(module, name, spy)

    def count_engine(optimizer, steps):
        step = optimizer.step
        optimizer.step = lambda *args: (steps.append(1), step(*args))

    distilled = grid([dataset], settings=TINY, baselines=False, groups=["main"], **FEW)
    assert run_cells(distilled, tmp_path, threads=1).failed == {}
    spying(loop, "inner_optimizer", count_engine)
    spying(
        students,
        "make_optimizer",
        lambda optimizer, steps: optimizer.register_step_post_hook(lambda *_: steps.append(1)),
    )
    wanted = grid([dataset], settings=TINY, baselines=False, groups=["optimizers"], **FEW)
    assert run_cells(wanted, tmp_path, threads=1).failed == {}
    rows = [r for r in read_cell(wanted[1], tmp_path)["rows"].values() if r["group"] == "optimizers"]
    assert [r["variant"] for r in rows] == list(OPTIMIZERS) * 2
    assert len(made) == len(rows)
    kinds = {"sgd": Sgd, "momentum": Momentum, "adam": Adam, "adamw": torch.optim.AdamW}
    for row, (optimizer, steps) in zip(rows, made, strict=True):
        asked = OPTIMIZERS[row["variant"]]
        assert type(optimizer) is kinds[row["variant"]]
        assert len(steps) == row["student_steps"] == 4
        assert row["optimizer"] == row["variant"] and row["lr"] == asked["lr"]
        if row["variant"] == "adamw":
            assert {int(s["step"]) for s in optimizer.state.values()} == {4}  # never rebuilt between steps
            (group,) = optimizer.param_groups
            assert group["lr"] == asked["lr"] and group["weight_decay"] == 0.01
        else:
            assert optimizer.lr == asked["lr"]
        if row["variant"] == "momentum":
            assert optimizer.momentum == 0.9 and optimizer.m.any()
        if row["variant"] == "adam":
            assert optimizer.powers.tolist() == pytest.approx(
                [0.9**4, 0.999**4]
            )  # four steps since the reset


def test_networks_are_taught_by_the_pairs_own_student(dataset, tmp_path, monkeypatch):
    """The reading "expanded": many pairs, general students on minibatches, a table beside the synset's own students."""
    expanding = importlib.import_module("minari_distill.expand")
    monkeypatch.setattr(cells, "EXPANDED_PAIRS", 50)
    monkeypatch.setattr(expanding, "RECIPE", expanding.RECIPE.replace(hidden_width=16, steps=4, batch=8))
    options = FEW | {"preset": "infinite", "baselines": False}
    settings = {k: v for k, v in TINY.items() if k not in NETWORK_SETTINGS}
    wanted = grid([dataset], settings=settings, groups=["main", "expanded"], **options)
    assert run_cells(wanted, tmp_path, threads=1).failed == {}
    rows = collect(tmp_path)
    (one,) = [r for r in rows if r["group"] == "expanded"]
    assert (one["n_pairs"], one["n_syn"], one["n_policies"], one["protocol"]) == (50, 8, 2, "expanded")
    assert (one["student_batch"], one["student_steps"]) == (8, 4) and not json.loads(one["student_recipe"])[
        "infinite"
    ]
    recipe = next(r for r in rows if r["protocol"] == "recipe")
    assert (recipe["n_pairs"], recipe["n_policies"], recipe["outer_steps"]) == (8, 1, one["outer_steps"])
    made = tables.all_tables(rows)["table6"]
    lines = [line.split(" | ")[0] for line in made.splitlines()[2:5]]
    assert lines == [
        f"| auto (infinite), {what}" for what in ("`recipe`", "`general`", "expanded to 50 pairs")
    ]


@pytest.mark.parametrize("discrete", [False, True])
def test_cloning_all_data_is_adam_on_minibatches(discrete):
    """Law: each student is what torch's Adam and autograd make of its own minibatches."""
    transitions = point_mass(discrete=discrete)
    policy = bc.clone_all(transitions, steps=6, batch=16, n_students=2, seed=5, device=torch.device("cpu"))
    units, recipe, g = transitions.units(), policy.recipe, torch.Generator().manual_seed(5)
    x = units.normalise(torch.as_tensor(transitions.observations))
    u = units.scale(torch.as_tensor(transitions.actions))
    theta = initialize(policy.arch, 2, scheme=recipe.init, generator=g).requires_grad_()
    adam = torch.optim.Adam([theta], recipe.lr, recipe.betas, recipe.eps)
    for _ in range(6):
        i = torch.randint(len(x), (2, 16), generator=g)
        z = forward(theta, x[i], policy.arch, logits=True)
        if discrete:
            loss = -(u[i] * torch.log_softmax(z, -1)).sum() / 16
        else:
            loss = (torch.tanh(z) - u[i]).square().sum() / (16 * 2)
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(policy.theta, theta.detach(), rtol=1e-3, atol=1e-4)
    assert (policy.theta[0] - policy.theta[1]).abs().max() > 0.01


def row(method, mean, *, protocol="recipe", n_syn=256, seed=0, width=1.0, **more):
    """A row by hand."""
    whole = {
        "dataset": "d/one-v0",
        "teacher_digest": "t",
        "label": "" if method in ("teacher", "bc") else "default",
        "method": method,
        "n_syn": None if method in ("teacher", "bc") else n_syn,
        "seed": seed,
        "group": "main",
        "protocol": {"teacher": "teacher", "bc": "bc"}.get(method, protocol),
        "variant": "",
        "ensemble": 1,
        "mean": mean,
        "ci95_half_width": width,
        "n_policies": 5,
        "n_episodes": 10,
        "unit": "normalised, 0 to 100",
        "n_pairs": 256,
        "student_steps": 100,
        "student_batch": 256,
        "student_seconds": 0.5,
        "trained_together": 5,
        "hardware": "a CPU",
        "threads": 1,
        "outer_steps": 900,
        "distillation_seconds": 60.0,
    }
    return whole | more


def test_an_objective_of_ones_own_has_its_place_in_the_tables():
    """By its name, after the built-in ones and before BC on all data; entered before the tables were first imported or not."""
    rows = with_fractions([row(m, 40.0) for m in ("bc", "teacher", "top_pbc", "auto", "own_dbc", "random")])
    lines = [line.split(" | ")[0] for line in tables.objectives_table(rows).splitlines()[2:8]]
    assert lines == [
        *("| random pairs (default)", "| auto (default)", "| own_dbc (default)", "| top_pbc (default)"),
        *("| BC on all data", "| teacher"),
    ]
    entered = (
        "import minari_distill as md, torch\n@md.objectives.objective('own')\ndef own(labels, config): ...\n"
    )
    subprocess.run([sys.executable, "-c", entered + "import minari_distill.benchmark.tables"], check=True)


def test_table_1_by_hand():
    """Seeds 40 and 44: mean 42; s = √8, half-width 12.706·√8/√2 = 25.4; of a teacher at 80: 52.5 %, printed 52."""
    rows = with_fractions(
        [
            row("teacher", 80.0),
            row("av_pbc", 40.0),
            row("av_pbc", 44.0, seed=1),
            row("random", 8.0, width=None),
        ]
    )
    lines = tables.objectives_table(rows).splitlines()
    assert lines[0] == "| `recipe` students | d/one-v0 |"
    assert lines[2:5] == [
        "| random pairs (default) | 8.0 (10 %) |",
        "| Av-PBC (default) | 42.0 ± 25.4 (52 %) |",
        "| teacher | 80.0 ± 1.0 (100 %) |",
    ]
    assert "1 or 2 synset seeds; 5 policies × 10 episodes; 256 pairs" in lines[6]


def test_means_are_over_the_same_datasets_only():
    """A method that misses a dataset has no mean; 40 and 60 of teachers at 80 and 60 have 50.0 (75 %)."""
    two = {"dataset": "d/two-v0"}
    rows = with_fractions(
        [
            *(row("teacher", 80.0), row("teacher", 60.0, **two), row("av_pbc", 40.0)),
            *(row("av_pbc", 60.0, **two), row("pbc", 30.0)),
        ]
    )
    text = tables.objectives_table(rows)
    assert "students | d/one-v0 | d/two-v0 | mean |" in text
    assert "| PBC (default) | 30.0 ± 1.0 (38 %) | – | – |" in text
    assert "| Av-PBC (default) | 40.0 ± 1.0 (50 %) | 60.0 ± 1.0 (100 %) | 50.0 (75 %) |" in text
    assert "| teacher | 80.0 ± 1.0 (100 %) | 60.0 ± 1.0 (100 %) | 70.0 (100 %) |" in text


def test_a_table_is_of_the_size_that_most_synsets_have():
    """One synset of 1024 pairs among two of 256 stands in the table of sizes alone; of one each the larger size is shown."""
    rows = with_fractions(
        [row("av_pbc", 40.0), row("av_pbc", 60.0, dataset="d/two-v0"), row("av_pbc", 50.0, n_syn=1024)]
    )
    assert "256 pairs" in tables.objectives_table(rows) and "50.0 ± 1.0" not in tables.objectives_table(rows)
    assert "| 256 | 1024 |" in tables.sizes_table(rows)
    assert "1024 pairs" in tables.objectives_table([rows[0], rows[2]])


def test_the_longer_side_of_a_table_goes_down():
    """Two datasets and one method are two lines and two columns; combined datasets can break at their plus."""
    rows = [row("av_pbc", 40.0, dataset="d/a-v0+d/b-v0"), row("av_pbc", 60.0, dataset="d/two-v0")]
    lines = tables.objectives_table(with_fractions(rows)).splitlines()
    assert lines[0] == "| `recipe` students | Av-PBC (default) |"
    assert lines[2:5] == ["| d/a-v0 + d/b-v0 | 40.0 ± 1.0 |", "| d/two-v0 | 60.0 ± 1.0 |", "| mean | 50.0 |"]


def test_tables_3_and_5_by_hand():
    """Ensembles stand beside the students of the same synsets; sizes are columns in order."""
    ensemble = row("av_pbc", 50.0, group="ensembles", variant="ensemble of 10", ensemble=10, n_policies=1)
    rows = with_fractions([row("av_pbc", 40.0), row("av_pbc", 20.0, n_syn=16), ensemble])
    text = tables.ensembles_table(rows)
    assert "| Av-PBC (default), `recipe`, one student | 40.0 ± 1.0 |" in text
    assert "| Av-PBC (default), `recipe`, ensemble of 10 | 50.0 ± 1.0 |" in text
    assert "20.0" not in text  # another size is another synset
    sizes = tables.sizes_table(rows)
    assert "| dataset | students | 16 | 256 |" in sizes
    assert "| Av-PBC (default), `recipe` | 20.0 ± 1.0 | 40.0 ± 1.0 |" in sizes
    assert not tables.sizes_table(rows[:1])


def test_two_teachers_are_no_two_seeds():
    """Given teachers of one dataset stand in columns of their own; one that was learnt stays beside its only given one."""
    rows = [
        row("teacher", mean, teacher_digest=d)
        for mean, d in ((100.0, "aaaaaaaaaaaa"), (50.0, "bbbbbbbbbbbb"))
    ]
    both = apart(with_fractions(rows))
    assert {r["dataset"] for r in both} == {"d/one-v0 (aaaaaa)", "d/one-v0 (bbbbbb)"}
    with_learnt = apart(with_fractions([rows[0], row("teacher", 40.0, teacher_digest="", label="own")]))
    assert {r["dataset"] for r in with_learnt} == {"d/one-v0"}


def test_fractions_are_of_positive_returns():
    """Twice the cost is not 200 % of a teacher; BC on all data is compared with the only teacher that was learnt."""
    costs = with_fractions([row("teacher", -150.0), row("bc", -300.0)])
    assert {r["fraction_of_teacher"] for r in costs} == {None}
    learnt = with_fractions(
        [row("teacher", 80.0, teacher_digest="", label="default"), row("bc", 40.0, teacher_digest="")]
    )
    assert [r["fraction_of_teacher"] for r in learnt] == [1.0, 0.5]


def test_two_answers_to_one_question_are_refused():
    """Rows that differ in settings alone are never averaged."""
    with pytest.raises(ConfigError, match="another --label"):
        with_fractions([row("av_pbc", 40.0), row("av_pbc", 44.0)])


def test_markers_are_filled_and_missing_ones_named():
    """The text around stays, a second filling replaces the first."""
    page = "a\n<!-- table1 -->\nold\n<!-- /table1 -->\nb\n"
    once = tables.fill_markers(page, {"table1": "new"})
    assert once == "a\n<!-- table1 -->\nnew\n<!-- /table1 -->\nb\n"
    assert tables.fill_markers(once, {"table1": "new"}) == once
    with pytest.raises(ConfigError, match="no place for table2"):
        tables.fill_markers(page, {"table2": "x"})


def test_identity(dataset, monkeypatch):
    """Where the teacher's file lies and which readings are wanted do not make another cell; the seed does,
    and so does a preset that another release ships with other settings, but not for what needs none."""
    cell = Cell(dataset, "av_pbc", (Reading("main", "recipe", 5),), 8)
    moved = dataclasses.replace(dataset, teacher="/elsewhere.safetensors")
    assert dataclasses.replace(cell, dataset=moved, readings=()).name == cell.name
    assert dataclasses.replace(cell, seed=1).name != cell.name
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
    teacher = dataclasses.replace(cell, method="teacher", label="")
    names = cell.name, cell.run_name, teacher.name
    monkeypatch.setitem(PRESETS, "default", {"inner_lr": 0.5})
    assert (cell.name, cell.run_name) != names[:2] and teacher.name == names[2]


BAD = [
    (["--dataset", "a/b-v0="], "must be ID, ID=TEACHER"),
    (["--dataset", "a/b-v0=none.safetensors"], "does not exist"),
    (["--dataset", EMBEDDED_ID, "--objective", "av_pcb"], "Did you mean 'av_pbc'?"),
    (["--dataset", EMBEDDED_ID, "--read", "optimisers"], "Did you mean 'optimizers'?"),
    (["--dataset", EMBEDDED_ID, "--set", "n_syn=3"], "--size"),
    (["--dataset", EMBEDDED_ID, "--set", "outer_step=3"], "Did you mean 'outer_steps'?"),
    (["--dataset", EMBEDDED_ID, "--snapshot", "9999"], "between 0 and outer_steps"),
    (["--tables-only"], "holds no results"),
    ([], "--dataset ID"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_commands_are_one_line(arguments, message, tmp_path):
    """Before anything is run."""
    result = CliRunner().invoke(app, ["benchmark", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 1 and message in " ".join(result.output.split())


def test_the_command_writes_rows_and_fills_the_page(dataset, tmp_path, monkeypatch):
    """Two objectives by the command line, then their tables from the results alone."""
    drawn = []

    def draw(synset, path, **options):  # a machine may have no OpenGL
        drawn.append((len(synset), options))
        path.write_bytes(b"")
        return True

    monkeypatch.setattr(figures, "render_strip", draw)
    page = tmp_path / "page.md"
    marked = (f"<!-- {m} -->\n<!-- /{m} -->" for m in ("table1", "table4", "figure2", "figure3"))
    page.write_text("\n".join(marked))
    flags = [x for k, v in TINY.items() for x in ("--set", f"{k}={v}")]
    flags += ["--size", "8", "--students", "2", "--episodes", "1", "--read", "main", "--no-baselines"]
    flags += ["--objective", "pbc", "--objective", "av_pbc"]
    spec = f"{dataset.name}={dataset.teacher}"
    common = ["benchmark", "--out", str(tmp_path / "out"), "--json"]
    (tmp_path / "plain.md").write_text("No table here.")
    refused = CliRunner().invoke(
        app, [*common, "--dataset", spec, *flags, "--docs", str(tmp_path / "plain.md")]
    )
    assert refused.exit_code == 1 and "has no place for a table" in json.loads(refused.stdout)["error"]
    assert not (tmp_path / "out").exists()  # before anything is run
    first = CliRunner().invoke(app, [*common, "--dataset", spec, *flags])
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["done"] == 3
    second = CliRunner().invoke(app, [*common, "--tables-only", "--docs", str(page)])
    assert second.exit_code == 0, second.output
    assert "| Av-PBC (default) | " in page.read_text() and json.loads(second.stdout)["rows"] == 5
    assert drawn == [(8, {"follow": True})] and "](figures/states-demo-hopper" in page.read_text()
    assert "](figures/objectives-demo-hopper" in page.read_text()


def test_states_and_what_follows_them_are_two_rows_of_pictures(dataset, tmp_path):
    """2 states: 400 pixels wide and 400 high; the rows differ, for the actions move the robot."""
    synset = distill(
        EMBEDDED_ID, objective="dbc", initializer="random", **{**TINY, "outer_steps": 0}, report=silent
    )
    if not render_strip(synset, tmp_path / "strip.png", n=2, follow=True):
        pytest.skip("no OpenGL on this machine")
    picture = np.asarray(Image.open(tmp_path / "strip.png"))
    assert picture.shape == (400, 400, 3) and (picture[:200] != picture[200:]).any()


def test_bars_are_means_over_seeds(monkeypatch, tmp_path):
    """Two seeds of 40 and 60: one bar of 50 ± t(1)·σ/√2 = 12.706 · 10; each has the line of its own teacher; other sizes are left out."""
    drawn = []
    monkeypatch.setattr(
        figures, "returns_by_objective", lambda *given, **options: drawn.append((given, options))
    )
    row = {"dataset": "a/b-v0", "group": "main", "method": "dbc", "label": "quick", "protocol": "recipe", "n_syn": 8,
           "seed": 0, "mean": 40.0, "ci95_half_width": 1.0, "unit": "normalised", "teacher_mean": 90.0}  # fmt: skip
    teacher = row | {"method": "teacher", "label": "", "protocol": "teacher", "n_syn": None, "mean": 90.0}
    random = row | {"method": "random", "mean": 8.0, "teacher_mean": None}
    rows = [row, row | {"seed": 1, "mean": 60.0}, row | {"n_syn": 4, "mean": 0.0}, random, teacher]
    figures.objectives_figure(rows, "a/b-v0", tmp_path)
    (bars, unit, title, path), options = drawn[0]
    assert bars == {
        "random pairs (quick)": {"recipe students": {"mean": 8.0, "ci95_half_width": 1.0}},
        "DBC (quick)": {"recipe students": {"mean": 50.0, "ci95_half_width": pytest.approx(127.06)}},
    }
    assert (unit, title, options) == (
        "score (normalised)",
        "a/b-v0: 8 pairs",
        {"teachers": {"DBC (quick)": 90.0}},
    )
    assert figures.objectives_figure(rows, "none", tmp_path) is None and path.parent == tmp_path
    assert figures.objectives_figure([row, teacher], "a/b-v0", tmp_path) is None  # one bar compares nothing


def test_published_rows_go_back_into_a_folder_unchanged(tmp_path, monkeypatch):
    """rows → CSV → cells → rows is the identity on the rows that the repository publishes; a label can be renamed."""
    from benchmarks import rows_to_cells

    published = Path(__file__).parents[1] / "benchmarks" / "results" / "quality.csv"
    monkeypatch.setattr("sys.argv", ["rows_to_cells", str(published), str(tmp_path)])
    rows_to_cells.main()
    rows = collect(tmp_path)
    write_results(rows, tmp_path)
    lines = [sorted(path.read_text().splitlines()) for path in (published, tmp_path / "results.csv")]
    assert lines[0] == lines[1]

    label = next(row["label"] for row in rows if row["label"])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--rename", f"{label}=before"])
    rows_to_cells.main()
    assert {"before" if r["label"] == label else r["label"] for r in rows} == {
        r["label"] for r in collect(tmp_path)
    }
