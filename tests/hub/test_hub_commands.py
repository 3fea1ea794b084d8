"""`push`, `pull` and the page in the docs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from minari_distill.cli import app
from minari_distill.loading import load_synset
from tests.hub.sample import (
    ADDRESS,
    CLIENTS_OWN_WARNINGS,
    NAME,
    REPO,
    clients,
    contents_of,
    edit,
    hopper,
    listing,
    pendulum,
)
from tests.hub_server import HubServer
from tests.synsets import assert_same, contents

pytestmark = CLIENTS_OWN_WARNINGS


def run(*arguments: str) -> dict:
    """A command's JSON answer."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_commands(hub: HubServer, minari_store: Path):
    """push, push again, pull, pull elsewhere: what is saved is what was pushed."""
    synset = pendulum()
    synset.save("me/pendulum-v0")
    pushed = run("push", "me/pendulum-v0", REPO, "--tag", "v1", "--private")
    assert pushed["address"] == f"hf://{REPO}/pendulum-v0@v1"
    assert pushed["changed"]
    assert not run("push", "me/pendulum-v0", REPO)["changed"]
    assert run("pull", pushed["address"])["id"] == "synsets/pendulum-v0"
    assert_same(load_synset("synsets/pendulum-v0"), synset)
    assert run("pull", f"hf://{REPO}", "-o", "me/copy-v0")["n_syn"] == 6
    pulled, own = contents(minari_store / "synsets/pendulum-v0"), contents_of(hub.files(REPO), "pendulum-v0")
    assert pulled == own

    # pushed on from an address, or from the folder that Minari shows, it keeps its name
    assert run("push", pushed["address"], "me/second")["address"].startswith("hf://me/second/pendulum-v0@")
    folder = minari_store / "me/pendulum-v0/data"
    assert run("push", str(folder), "me/third")["address"].startswith("hf://me/third/pendulum-v0@")

    for here in (".", ".."):
        with contextlib.chdir(folder):
            assert run("push", here, "me/fourth")["address"].startswith("hf://me/fourth/pendulum-v0@")

    text = CliRunner().invoke(app, ["push", "me/pendulum-v0", REPO])
    assert "holds it already: nothing was sent" in text.output
    edit(hub, ("## pendulum-v0", "## My pendulum"))
    pendulum(seed=1).save("me/pendulum-v0", overwrite=True)
    text = CliRunner().invoke(app, ["push", "me/pendulum-v0", REPO])
    assert "was edited by hand" in text.output
    assert "minari-distill pull hf://me/synsets/pendulum-v0@" in text.output
    for arguments, message in {
        ("pull", ADDRESS): f"holds no synset '{NAME}'",
        ("pull", f"hf://{REPO}"): "Say under which id to save it: -o",
        ("pull", f"hf://{REPO}/pendulum-v0"): "'synsets/pendulum-v0' exists already",
        ("push", "me/pendulum-v0", REPO, "--tag", "main"): "'main' is a branch, which moves on",
        ("push", "me/nothing-v0", REPO): "Synset 'me/nothing-v0' not found",
    }.items():
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 1
        assert message in result.output
    assert run("pull", f"hf://{REPO}/pendulum-v0", "--overwrite")["seed"] == 1


def test_the_page_in_the_docs(hub: HubServer, tmp_path: Path):
    """Every Python block of docs/hub.md runs, in one process of a fresh machine."""
    page = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    fresh = tmp_path / "fresh"
    hopper().save(fresh / "minari/me/hopper-medium-distilled-v0")
    environment = clients(hub, fresh) | {"MUJOCO_GL": "disable"}  # the strip has its own test
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert listing(hub, "me/hopper-synsets")[0] == ["hopper-medium-distilled-v0"]
    tree = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1]
    for path in hub.files("me/hopper-synsets"):
        assert path == ".gitattributes" or path.split("/")[-1] in tree, path
