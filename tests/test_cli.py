"""The command line: each command's help, a run, its JSON, and a failing run."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import minari
import pytest
import typer
from typer.testing import CliRunner

import minari_distill as md
from minari_distill import demo
from minari_distill.cli import app
from minari_distill.transitions import EMBEDDED_ID
from tests.test_distill import TINY

runner = CliRunner()
FLAGS = [x for k, v in TINY.items() if k != "n_syn" for x in ("--set", f"{k}={v}")]
FLAGS += ["--n-syn", "16", "--objective", "dbc", "--set", "initializer=random"]


def run(*arguments):
    return runner.invoke(app, [str(a) for a in arguments])


def plain(text):
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


@pytest.fixture
def synset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("distill", EMBEDDED_ID, "-o", "me/hop-v0", *FLAGS, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


COMMANDS = sorted(c.name or c.callback.__name__ for c in app.registered_commands)


def test_the_commands_are_the_words_of_the_python_door():
    """Those that the README names, at least."""
    assert set(COMMANDS) >= {"distill", "evaluate", "show", "push", "pull", "benchmark", "demo", "doctor"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    """--help shows a command line to copy, every option has a help text, and --json is one of them."""
    result = run(command, "--help")
    text = plain(result.stdout)
    assert result.exit_code == 0 and f"Example: minari-distill {command}" in text and "--json" in text
    assert all(param.help for param in typer.main.get_command(app).commands[command].params)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_exit_code_2(command):
    """What Typer itself refuses: usage, the command's --help, no traceback."""
    result = run(command, "--no-such-option")
    assert result.exit_code == 2 and "--help" in plain(result.output) and "Traceback" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_told_in_json_too(command):
    """With --json whoever reads standard output finds one object there, and nothing else."""
    result = run(command, "--json", "--no-such-option")
    told = json.loads(result.stdout)
    assert result.exit_code == 2 and "--no-such-option" in told["error"] and told["kind"] == "NoSuchOption"


def test_the_gallery_is_listed():
    """As a table and as JSON, in this or any other encoding of the terminal."""
    assert "gallery/hopper-medium-replay-v0" in run("gallery").stdout
    ids = [entry["id"] for entry in json.loads(run("gallery", "--json").stdout)["synsets"]]
    assert ids == [entry.id for entry in md.gallery()]
    command = [sys.executable, "-m", "minari_distill", "show", ids[0]]
    shown = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True
    )
    assert shown.returncode == 0 and not shown.stderr and "256 ? 17" in shown.stdout


def test_a_seed_that_is_too_large_is_told_as_it_was_typed():
    result = run("evaluate", "gallery/hopper-medium-replay-v0", "--seed", 10**17)
    assert result.exit_code == 1 and f"seed={10**17} must be below" in plain(result.output)


def test_help_and_version_stand_beside_json():
    """--help is for people whatever stands beside it, and an unknown command is an error like others."""
    assert run("distill", "--json", "--help").exit_code == 0
    result = run("destill", "--json")
    assert result.exit_code == 2 and "destill" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", ["distill", "benchmark"])
def test_a_setting_given_as_an_option_is_told_how(command):
    """`--outer-steps 5` and `--outer_steps=5` are answered with --set."""
    for option in (["--outer-steps", "5"], ["--outer_steps=5"]):
        result = run(command, EMBEDDED_ID, *option)
        assert result.exit_code == 2 and "--set outer_steps=VALUE" in plain(result.output)


def test_distil_evaluate_show(synset):
    """A synset is saved where Minari finds it, evaluated, shown; each answers in JSON too."""
    assert synset["id"] == "me/hop-v0" and synset["n_syn"] == 16 and synset["stopped"] is False
    assert "me/hop-v0" in minari.list_local_datasets()
    result = run("evaluate", "me/hop-v0", "--students", 2, "--episodes", 2)
    assert result.exit_code == 0 and "2 policies × 2 episodes" in plain(result.output)
    assert "Reference scores: D4RL's table" in plain(result.output)
    score = json.loads(run("evaluate", "me/hop-v0", "--students", 1, "--episodes", 1, "--json").stdout)
    assert score["recipe"] == "recipe" and score["n_episodes"] == 1
    assert "Hopper-v5" in run("show", "me/hop-v0").stdout
    assert json.loads(run("show", "me/hop-v0", "--json").stdout)["n_syn"] == 16


def test_a_second_synset_of_one_id_is_refused_before_anything_is_computed(synset):
    """With the way to replace it."""
    result = run("distill", EMBEDDED_ID, "-o", "me/hop-v0", *FLAGS, "--run-dir", "other")
    assert result.exit_code == 1 and "overwrite" in plain(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("./thesis", "is no synset: it is not overwritten"),
        ("hop", "is no Minari id"),
        ("me/hop-v0/inner-v0", "would lie inside the dataset"),
    ],
)
def test_what_overwrite_does_not_replace_is_refused_before_anything_is_computed(
    synset, target, message, monkeypatch
):
    """No run is begun for what could not be saved, and nothing is expanded."""
    monkeypatch.setattr(md, "expand", lambda *_, **__: pytest.fail("too late"))
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("1")
    for command in (
        ("distill", EMBEDDED_ID, *FLAGS, "--run-dir", "other"),
        ("expand", "gallery/hopper-medium-replay-infinite-v0"),
    ):
        result = run(*command, "-o", target, "--overwrite")
        assert result.exit_code == 1 and message in plain(result.output)
    assert not Path("other").exists()


def test_a_run_that_is_there_already_says_every_way_on(synset):
    """`--overwrite` is about the synset, and not about the checkpoints."""
    result = run("distill", EMBEDDED_ID, "-o", "me/hop-v0", *FLAGS, "--overwrite")
    assert result.exit_code == 1 and "delete that folder" in plain(result.output)


def test_resume_replaces_what_its_own_run_saved_and_nothing_else(synset):
    """The same command with --resume; a synset of another seed, or a run that never began, is refused."""
    again = ("distill", EMBEDDED_ID, *FLAGS, "--resume")
    assert run(*again, "-o", "me/hop-v0").exit_code == 0
    assert run("distill", EMBEDDED_ID, "-o", "me/hop-v1", *FLAGS, "--seed", 1).exit_code == 0
    for more in (
        ("-o", "me/hop-v1", "--run-dir", "runs/me-hop-v0"),
        ("-o", "me/hop-v0", "--run-dir", "runs/none"),
    ):
        result = run(*again, *more)
        assert result.exit_code == 1 and "exists already" in plain(result.output)


def test_another_synset_of_the_same_dataset_has_a_run_of_its_own(synset):
    """README's two commands, one after the other: each target has its own folder below runs/."""
    assert run("distill", EMBEDDED_ID, "-o", "me/hop-v1", *FLAGS).exit_code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["me-hop-v0", "me-hop-v1"]


def test_an_interruption_is_told_in_json_too(monkeypatch):
    """A program that reads the answer is never left with nothing."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(md, "load_synset", interrupted)
    result = run("evaluate", "gallery/hopper-medium-replay-v0", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout) == {"error": "Interrupted.", "kind": "KeyboardInterrupt"}


FAILURES = [
    (["distill", "mujoco/hoper/medium-v0"], "mujoco/hoper/medium-v0"),
    (["distill", EMBEDDED_ID, "--set", "inner_lr"], "--set 'inner_lr' must be name=value"),
    (["distill", EMBEDDED_ID, "--set", "iner_lr=1"], "Did you mean 'inner_lr'?"),
    (["distill", EMBEDDED_ID, "--set", "run_dir=x"], "Unknown setting 'run_dir'"),
    (["distill", EMBEDDED_ID, "--set", "device=cpux"], "cpux"),
    (
        ["evaluate", "gallery/hopper-medium-replay-infinite-v0", "--seed", "-1"],
        "seed=-1 must be a whole number",
    ),
    (["distill", EMBEDDED_ID, "--seed", "-1"], "seed=-1 must be a whole number"),
    (["distill", EMBEDDED_ID, "--set", "preset=quik"], "Did you mean 'quick'?"),
    (["distill", EMBEDDED_ID, "--set", "seed=1", "--seed", "0"], "--seed 0 and --set seed=1 are given"),
    (["distill", EMBEDDED_ID, "--drop", "mission"], "to drop. Box(-inf, inf, (11,), float32) has no parts"),
    (["distill", "gallery/hopper-medium-replay-v0"], "'gallery/hopper-medium-replay-v0' is a synset"),
    (["distill", "gallery/nope-v0"], "'gallery/nope-v0' not found"),
    (["distill", "https://huggingface.co/me/x"], "it is no folder and no Minari id"),
    (
        ["distill", EMBEDDED_ID, "--n-syn", "256", "--set", "n_syn=8"],
        "--n-syn 256 and --set n_syn=8 are given",
    ),
    (["distill", "hf://me/synsets/hop-v0"], "'hf://me/synsets/hop-v0' is a synset"),
    (["show", "https://huggingface.co/datasets/me/synsets"], "A synset on the Hub is hf://USER/REPO/NAME-vN"),
    (["show", "hopper-medium-replay"], "looks like me/hopper-v0 or gallery/hopper-medium-replay-v0"),
    (["benchmark", "--dataset", EMBEDDED_ID, "--jobs", "0"], "--jobs 0 must be at least 1"),
    (["benchmark", "--dataset", EMBEDDED_ID, "--docs", "no.md"], "--docs 'no.md' is no file"),
    (["benchmark", "--dataset", EMBEDDED_ID, "--docs", os.devnull], "is no file"),
    (["distill", EMBEDDED_ID, "--preset", "quik"], "Did you mean 'quick'?"),
    (["distill", EMBEDDED_ID, "--teacher", "none.safetensors"], "does not exist"),
    (["evaluate", "me/none-v0"], "me/none-v0"),
    (["show", "me/none-v0"], "me/none-v0"),
    (["push", "me/none-v0", "me/synsets"], "me/none-v0"),
    (["pull", "hf://me/synsets"], "names a whole repository"),
    (["benchmark"], "--dataset ID"),
    (
        ["benchmark", "--dataset", EMBEDDED_ID, "--dataset", "mujoco/hoper/medium-v0"],
        "mujoco/hoper/medium-v0",
    ),
    (["export", "gallery/hopper-medium-replay-v0", "--to", "stable-baselines3", "--out", "x"], "pretrain"),
    (["demo", "--output", "/dev/null/here"], "/dev/null"),
]


@pytest.mark.parametrize(("arguments", "message"), FAILURES)
def test_a_failing_command_is_one_line_and_exit_code_1(tmp_path, monkeypatch, arguments, message):
    """No traceback; with --json an object that holds the error."""
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1 and message in plain(result.output)
    assert "Traceback" not in result.output
    result = run(*arguments, "--json")
    assert result.exit_code == 1 and message in json.loads(result.stdout)["error"]


def test_the_demo_prints_its_scores(tmp_path, monkeypatch):
    """A table with shares of the teacher, and the files; with --json what report.json holds."""
    monkeypatch.chdir(tmp_path)
    for name, number in (("N_STUDENTS", 2), ("N_EPISODES", 1), ("N_ENSEMBLE", 2)):
        monkeypatch.setattr(demo, name, number)
    quick = partial(demo.run_demo, **TINY | {"teacher_steps": 30, "outer_steps": 4})
    monkeypatch.setattr(demo, "run_demo", quick)
    result = run("demo", "--output", "out")
    assert result.exit_code == 0, result.output
    text = plain(result.output)
    assert (
        "random pairs" in text and "share of teacher" in text and "100%" in text and "out/report.json" in text
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    monkeypatch.setattr(demo, "run_demo", lambda *given, **options: report)
    assert json.loads(run("demo", "--output", "out", "--json").stdout) == report


def test_version():
    """--version prints it."""
    assert run("--version").stdout.strip() == f"minari-distill {md.__version__}"
