"""The project's own files: what they promise of each other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import minari_distill as md

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))
YAML = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.name)
def test_yaml_files_can_be_read(path):
    """A workflow or a form with a fault in it is silently ignored where it should work."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflows_call_the_make_targets_of_ones_own_machine():
    """Every target that a workflow calls exists; check, test, docs, integrations and dist are all called."""
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        called |= set(re.findall(r"run: make (\w+)", path.read_text()))
    assert called == {"check", "test", "docs", "integrations", "dist"}
    assert called <= TARGETS


def test_the_guide_lists_every_target():
    """CONTRIBUTING.md's table is the Makefile's."""
    listed = set(re.findall(r"^\| `make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text(), re.M))
    assert listed == TARGETS


def test_pre_commit_runs_the_tools_of_make_check():
    """The same three, in the same versions: those of .venv."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    asked = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert asked
    tools = re.findall(r"\$\(BIN\)/(ruff check|ruff format|mypy)", asked[1])
    assert tools == [h["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for h in hooks]


def test_the_version_is_in_one_place():
    """pyproject.toml reads it from the package, and nothing else states it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "minari_distill/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", md.__version__)
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


def test_what_the_source_distribution_names_exists():
    """A file that was renamed would be left out in silence."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for path in included["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / path.strip("/")).exists(), path
    assert (ROOT / "minari_distill" / "py.typed").exists() and os.access(
        ROOT / "tools/check_dist.sh", os.X_OK
    )


def test_help_is_quick():
    """`--help` and completion load neither Matplotlib nor datasets nor TensorBoard."""
    script = (
        "import sys, minari_distill.cli; print([m for m in ('matplotlib.pyplot', 'datasets', "
        "'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
