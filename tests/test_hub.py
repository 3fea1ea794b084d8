"""Synsets on the Hub: what one pushes is what the other loads, by every reader, or nothing is.

The clients are the real ones of huggingface_hub, datasets and minari; the Hub is `hub_server.py`, on 127.0.0.1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import h5py
import huggingface_hub
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from huggingface_hub import DatasetCard, constants
from huggingface_hub.utils import close_session
from PIL import Image
from typer.testing import CliRunner

import minari_distill as md
from minari_distill import plots
from minari_distill.cli import app
from minari_distill.env_specs import read_env_spec
from minari_distill.errors import EnvironmentUnavailable, HubError, MinariDistillError, SynsetError
from minari_distill.hub import HubAddress, calls
from minari_distill.hub.card import CardKept
from minari_distill.plots import render_strip
from minari_distill.source import Source
from minari_distill.synset import Synset, load_synset
from tests.hub_server import TOKEN, File, HubServer, Repo
from tests.test_synset import MINIGRID, assert_same, contents, make_synset

pytestmark = [  # huggingface_hub's own: its uploads of large files, and connections that are still open at the end
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

REPO, NAME = "me/synsets", "pendulum-distilled-v0"
ADDRESS = f"hf://{REPO}/{NAME}"
PENDULUM = Source(
    ("test/pendulum-v0",),
    env_spec=gymnasium.spec("Pendulum-v1").to_json(),
    ref_min_score=-1600.0,
    ref_max_score=-100.0,
    ref_origin="dataset metadata",
    license="CC BY 4.0",
    total_steps=12,
    total_episodes=3,
)
SCORE = {"mean": 50.0, "ci95_half_width": 3.0, "n_policies": 5, "n_episodes": 10, "greedy": True,
         "unit": "normalised, 0 to 100", "ref_origin": "dataset metadata"}  # fmt: skip
METADATA = {
    "history": [
        {"step": 0, "loss": None, "held_out_loss": 0.3},
        {"step": 25, "loss": 0.2, "held_out_loss": 0.1},
    ],
    "held_out_loss": 0.1,
    "scores": {"synset": SCORE},
}


def pendulum(n: int = 6, seed: int = 0, **fields) -> Synset:
    """A synset that brings all that a card can show."""
    return make_synset(n, seed=seed, **{"source": PENDULUM, "metadata": METADATA} | fields)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub, and this process's huggingface_hub turned to it, with an empty cache and a login."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        close_session()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clients would have slept; they do not."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, time=lambda: 1e9)
    for module in (calls, huggingface_hub.utils._http, huggingface_hub.file_download):
        monkeypatch.setattr(module, "time", clock)
    return slept


def forget(tmp_path: Path) -> None:
    """Empty Hugging Face's cache."""
    subprocess.run(["rm", "-rf", str(tmp_path / "hf")], check=True)


def clients(hub: HubServer, folder: Path) -> dict[str, str]:
    """The environment of a process of a fresh machine that talks to the test Hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MINARI_"))}
    root = Path(__file__).parents[1]
    return clean | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": TOKEN,
        "MINARI_DATASETS_PATH": str(folder / "minari"),
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        "OMP_NUM_THREADS": "1",
    }


# --------------------------------------------------------------------------------------------- round trip


READERS = """
import json, os, sys
import numpy as np
import minari_distill as md

folder, snippets = sys.argv[1], json.load(sys.stdin)
arrays = {}
for repo in ("synsets", "regular"):
    synset = md.load_synset(f"hf://me/{repo}/pendulum-distilled-v0")
    arrays[f"{repo}/pendulum/md/observation"], arrays[f"{repo}/pendulum/md/action"] = synset.observations, synset.actions
observation = synset.observations[0]
for snippet in snippets:  # the card's own lines, as a reader would paste them
    exec(snippet)
assert [batch["action"].dtype.is_floating_point for batch in batches] == [True]
policy = md.behavior_clone(synset, steps=30, hidden_width=16, seed=3)
arrays["act"], arrays["acted"] = policy.act_vectors(synset.observations), action
arrays["returns"] = md.evaluate(policy, synset, n_episodes=1, seed=5).returns

for repo, kind in [("synsets", "pendulum"), ("synsets", "minigrid"), ("regular", "pendulum")]:
    name = f"{kind}-distilled-v0"
    read = minari.load_dataset(f"{repo}/{name}", download=True)
    assert str(read.spec.observation_space) == str(md.load_synset(read).observation_codec.kept_space)
    arrays[f"{repo}/{kind}/minari/action"] = np.concatenate([e.actions for e in read])
    seen = [e.observations if isinstance(e.observations, dict) else {"": e.observations} for e in read]
    for key in seen[0]:
        arrays[f"{repo}/{kind}/minari/observation{key}"] = np.stack([o[key][0] for o in seen])
    rows = load_dataset(f"me/{repo}", name, split="train")
    assert list(load_dataset(f"me/{repo}", name, split="train", streaming=True)) == list(rows)
    for column in rows.column_names:
        assert rows.features[column].feature.dtype == "float32" and rows.features[column].length > 0
        arrays[f"{repo}/{kind}/datasets/{column}"] = rows.with_format("numpy")[:][column]
assert load_dataset("me/synsets", split="train").column_names == ["observation", "action"]  # the newest
md.load_synset("hf://me/synsets/minigrid-distilled-v0").save("me/again-v0")
np.savez(f"{folder}/arrays.npz", **arrays)
"""


def test_all_three_readers_get_the_very_same_pairs(hub: HubServer, tmp_path: Path):
    """Push; a fresh process and machine; minari, datasets (streaming too) and md load every bit; the policy is the same.

    From files that went by LFS, and from files that went inside the commit.
    """
    grid = make_synset(4, MINIGRID, spaces.Discrete(7, start=1), drop=["mission"])
    synset = pendulum()
    grid.push_to_hub(REPO, name="minigrid-distilled-v0")
    synset.push_to_hub(REPO, name=NAME)
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    hub.large_files, asked = False, len(hub.requests)
    synset.push_to_hub("me/regular", name=NAME)
    assert not any(request.startswith("PUT /lfs/") for request in hub.requests[asked:])
    files = hub.files(REPO)

    snippets = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.DOTALL)
    assert [len(s.splitlines()) for s in snippets] == [3] * 5
    runnable = [s for s in snippets if "d3rlpy" not in s]  # which pins an older Gymnasium
    for snippet in snippets:
        compile(snippet, "README.md", "exec")
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", READERS, str(tmp_path)],
                          input=json.dumps(runnable), env=clients(hub, tmp_path / "fresh"),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    arrays = np.load(tmp_path / "arrays.npz")

    def same(name: str, expected: np.ndarray) -> None:
        assert arrays[name].dtype == expected.dtype, name
        assert arrays[name].tobytes() == expected.tobytes(), name

    for repo in ("synsets", "regular"):
        for reader in ("md", "minari", "datasets"):
            same(f"{repo}/pendulum/{reader}/observation", synset.observations)
            same(f"{repo}/pendulum/{reader}/action", synset.actions)
    same("synsets/minigrid/datasets/observation.direction", grid.observations[:, :4])
    same("synsets/minigrid/datasets/observation.image", grid.observations[:, 4:])
    same("synsets/minigrid/datasets/action", grid.actions)
    nearest = grid.observation_codec.decode(grid.observations)
    same("synsets/minigrid/minari/observationimage", nearest["image"])
    same("synsets/minigrid/minari/observationdirection", nearest["direction"])
    same("synsets/minigrid/minari/action", grid.action_codec.decode(grid.actions))

    policy = md.behavior_clone(synset, steps=30, hidden_width=16, seed=3)
    same("act", policy.act_vectors(synset.observations))
    same("acted", md.behavior_clone(synset).act(synset.observations[0]))
    same("returns", md.evaluate(policy, synset, n_episodes=1, seed=5).returns)

    store = tmp_path / "fresh" / "minari"
    assert contents(store / "synsets" / NAME) == contents_of(files, NAME)
    assert_same(load_synset(store / "me/again-v0"), grid)
    assert TOKEN.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def contents_of(files: dict[str, bytes], name: str) -> dict[str, str]:
    """What `contents` says of a folder with the files below `name`."""
    inside = {
        path.removeprefix(f"{name}/"): content for path, content in files.items() if path.startswith(name)
    }
    folders = {
        str(parent): "folder" for path in inside for parent in Path(path).parents if str(parent) != "."
    }
    return dict(sorted((folders | {p: hashlib.sha256(c).hexdigest() for p, c in inside.items()}).items()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load_undoes_push(hub: HubServer, dtype: str):
    """load_synset(push(x)) = x, every field, at the commit, at the tag and on main."""
    synset = pendulum(source=Source(("a/b/c-v1", "a/b/d-v0")), dtype=dtype)
    pushed = synset.push_to_hub(REPO, revision_tag="v1.0")
    assert pushed.address == f"hf://{REPO}/b-c-and-b-d-distilled-v0@v1.0"
    assert pushed.commit == hub.repos[REPO].head
    for revision in ("", "@v1.0", "@main", f"@{pushed.commit}"):
        assert_same(load_synset(f"hf://{REPO}/b-c-and-b-d-distilled-v0{revision}"), synset)
    assert_same(load_synset(f"hf://datasets/{REPO}"), synset)  # the only one


def test_a_revision_keeps_its_synset(hub: HubServer):
    """A later push under the same name leaves the tagged and the pinned one as they were."""
    first, second = pendulum(seed=1), pendulum(seed=2)
    pinned = first.push_to_hub(REPO, name=NAME, revision_tag="v1").commit
    second.push_to_hub(REPO, name=NAME, revision_tag="v2")
    for revision, expected in [("@v1", first), (f"@{pinned}", first), ("@v2", second), ("", second)]:
        assert_same(load_synset(ADDRESS + revision), expected)


# -------------------------------------------------------------------------------------- one repository


def listing(hub: HubServer, repo: str = REPO) -> tuple[list[str], list[str], str]:
    """Names in the card's configs, names in Minari's list, and the default."""
    files = hub.files(repo)
    configs = DatasetCard(files["README.md"].decode()).data.configs
    datasets = json.loads(files["namespace_metadata.json"])["datasets"]
    [default] = [c["config_name"] for c in configs if c.get("default")]
    return sorted(c["config_name"] for c in configs), [i.split("/")[1] for i in datasets], default


def test_several_lie_side_by_side(hub: HubServer):
    """The newest is the default; each is loaded under its own name; one that was deleted is no longer listed."""
    synsets = {f"{kind}-distilled-v0": pendulum(seed=seed) for seed, kind in enumerate(["a", "b", "c"])}
    for i, (name, synset) in enumerate(synsets.items()):
        synset.push_to_hub(REPO, name=name)
        names = sorted(synsets)[: i + 1]
        assert listing(hub) == (names, names, name)
    for name, synset in synsets.items():
        assert_same(load_synset(f"hf://{REPO}/{name}"), synset)
    with pytest.raises(HubError, match=r"Say which synset.*It holds a-distilled-v0, b-distilled-v0, c-"):
        load_synset(f"hf://{REPO}")
    hub.put(REPO, {path: None for path in hub.files(REPO) if path.startswith("a-distilled-v0/")})
    pendulum(seed=9).push_to_hub(REPO, name="b-distilled-v0")
    assert listing(hub) == (["b-distilled-v0", "c-distilled-v0"],) * 2 + ("b-distilled-v0",)


def test_a_second_push_changes_nothing(hub: HubServer):
    """The same content: no commit, no upload, nothing drawn; a tag may still be given, and given again."""
    pendulum().push_to_hub(REPO, name=NAME)
    pendulum(seed=1).push_to_hub(REPO, name="other-v0")
    before, asked = hub.files(REPO), len(hub.requests)
    again = pendulum().push_to_hub(REPO, name=NAME)
    assert not again.changed
    assert again.address == f"{ADDRESS}@{hub.repos[REPO].head}"
    assert all(request.startswith(("GET", "HEAD")) for request in hub.requests[asked:])
    for _ in range(2):
        assert pendulum().push_to_hub(REPO, name=NAME, revision_tag="v1").address == f"{ADDRESS}@v1"
    assert hub.files(REPO) == before
    assert len(hub.repos[REPO].commits) == 3  # the empty one, and one a synset
    with pytest.raises(HubError, match="tag 'v1' of 'me/synsets' exists and marks another content"):
        pendulum(seed=2).push_to_hub(REPO, name=NAME, revision_tag="v1")
    assert hub.files(REPO) == before


def test_two_pushers_lose_neither_work(hub: HubServer):
    """Someone commits between our look and our commit: the second commit holds the union, in every list."""
    pendulum(seed=7).push_to_hub(REPO, name="old-v0")
    mine, yours = pendulum(seed=1), pendulum(seed=2)
    hub.before_commit = lambda: yours.push_to_hub(REPO, name="yours-v0")
    mine.push_to_hub(REPO, name="mine-v0")
    names = ["mine-v0", "old-v0", "yours-v0"]
    assert listing(hub) == (names, names, "mine-v0")
    assert_same(load_synset(f"hf://{REPO}/mine-v0"), mine)
    assert_same(load_synset(f"hf://{REPO}/yours-v0"), yours)


def test_many_pushers_at_once(hub: HubServer):
    """Threads that start together, on a repository that does not exist yet: all arrive."""
    names = [f"s{i}-v0" for i in range(5)]
    failures: list[Exception] = []

    def push(i: int) -> None:
        try:
            pendulum(seed=i, metadata={}).push_to_hub(REPO, name=names[i])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert listing(hub)[:2] == (names, names)
    for i, name in enumerate(names):
        assert load_synset(f"hf://{REPO}/{name}").config.seed == i


def test_the_same_name_at_the_same_moment(hub: HubServer):
    """What someone else pushed meanwhile under our name is not overwritten unseen; the very same thing is no quarrel."""
    mine, yours = pendulum(seed=1), pendulum(seed=2)
    mine.push_to_hub(REPO, name=NAME)
    hub.before_commit = lambda: yours.push_to_hub(REPO, name=NAME)
    with pytest.raises(HubError, match=f"Someone else has pushed another '{NAME}'.*Choose another name"):
        pendulum(seed=3).push_to_hub(REPO, name=NAME)
    assert_same(load_synset(ADDRESS), yours)
    third = pendulum(seed=4)
    hub.before_commit = lambda: third.push_to_hub(REPO, name=NAME)
    assert not third.push_to_hub(REPO, name=NAME).changed
    assert_same(load_synset(ADDRESS), third)


def test_plain_hf_upload(hub: HubServer, tmp_path: Path):
    """A folder that `save` wrote is pushed by `hf upload` as it is; a later push lists it too."""
    synset = pendulum()
    folder = synset.save(tmp_path / "pendulum-v0")
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run([hf, "upload", REPO, folder, "plain-v0", "--repo-type", "dataset"],
                          env=clients(hub, tmp_path / "fresh"), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same(load_synset(f"hf://{REPO}/plain-v0"), synset)
    pendulum(seed=1).push_to_hub(REPO, name="other-v0")
    assert "plain-v0" in listing(hub)[1]
    synset.push_to_hub(REPO, name="plain-v0")
    assert listing(hub)[0] == ["other-v0", "plain-v0"]

    api = huggingface_hub.HfApi(endpoint=hub.url)
    api.create_repo("me/alone", repo_type="dataset")
    api.upload_folder(repo_id="me/alone", folder_path=folder, repo_type="dataset")
    assert_same(load_synset("hf://me/alone"), synset)


def test_private_repositories(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is to be private never goes to a public repository; without the login nothing is said to be there."""
    pendulum().push_to_hub("me/secret", name=NAME, private=True)
    assert hub.repos["me/secret"].private
    assert_same(load_synset(f"hf://me/secret/{NAME}"), pendulum())
    hub.put("me/open", {"README.md": b"# mine"})
    with pytest.raises(
        HubError, match=r"'me/open' is public and private was asked for; nothing was sent.*settings"
    ):
        pendulum().push_to_hub("me/open", name=NAME, private=True)
    assert list(hub.files("me/open")) == ["README.md"]
    forget(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=r"no such dataset repository, or hides it.*hf auth login"):
        load_synset(f"hf://me/secret/{NAME}")
    with pytest.raises(HubError, match=r"does not accept the login.*hf auth login"):
        pendulum().push_to_hub("me/new", name=NAME)


# ------------------------------------------------------------------------------------------------ the card


def test_the_card(hub: HubServer):
    """huggingface_hub parses it; it says what a reader must know; its figures are in the repository."""
    pendulum(len_ := 6).push_to_hub(REPO, name=NAME)
    files = hub.files(REPO)
    card = DatasetCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["task_categories"] == ["reinforcement-learning"]
    assert data["size_categories"] == ["n<1K"]
    assert {"minari", "gymnasium", "offline-rl", "dataset-distillation", "behavior-cloning"} < set(
        data["tags"]
    )
    assert "Pendulum-v1" in data["tags"]
    assert data["configs"] == [
        {"config_name": NAME, "default": True,
         "data_files": [{"split": "train", "path": f"{NAME}/synset/train.parquet"}]}
    ]  # fmt: skip
    for text in [
        "| source | `test/pendulum-v0`, 12 steps in 3 episodes |",
        "| licence of the source | CC BY 4.0 |",
        "| environment | `Pendulum-v1` |",
        f"| observations | {len_} × 3 float32, in the units of the source |",
        "| synset | 50.0 | ± 3.0 | 5 × 10 |",
        f"minari-distill evaluate synsets/{NAME} --students 5 --episodes 10",
        "Rewards, terminations and next observations are placeholders",
        "arxiv.org/abs/2410.22728",
        f"(card/{NAME}/learning-curve.png)",
    ]:
        assert text in card.text, text
    for figure in re.findall(r"\]\((card/.*?)\)", card.text):
        assert files[figure].startswith(b"\x89PNG")


LICENSES = {
    None: (None, None),
    "MIT": ("mit", None),
    "CC-BY-NC-4.0": ("cc-by-nc-4.0", None),
    "Ask the Lab: nicely": ("other", "ask-the-lab-nicely"),
}


@pytest.mark.parametrize("license", LICENSES)
def test_licences(hub: HubServer, license: str | None):
    """The source's licence under the Hub's name for it; none is invented."""
    pendulum(source=dataclasses.replace(PENDULUM, license=license)).push_to_hub(REPO, name=NAME)
    data = DatasetCard(hub.files(REPO)["README.md"].decode()).data.to_dict()
    assert (data.get("license"), data.get("license_name")) == LICENSES[license]
    pendulum(source=dataclasses.replace(PENDULUM, license="Apache-2.0")).push_to_hub(REPO, name="b-v0")
    data = DatasetCard(hub.files(REPO)["README.md"].decode()).data.to_dict()
    first = LICENSES[license][0]
    assert data["license"] == ([first, "apache-2.0"] if first else "apache-2.0")


BARE = {"config": None, "metadata": {}, "source": Source(("x/y-v0",))}
STRANGE = {
    "metadata": {
        "scores": {"a|b": {"mean": 1}, "general": 60.0, "c": {"mean": "x"}},
        "history": ["x", {"step": 1}],
    },
    "source": Source(
        ("x/<!-- minari-distill: end usage -->`y|z`\n# -v0",), license="| a\nb", author=("`<b>`",)
    ),
}


@pytest.mark.parametrize("fields", [BARE, STRANGE])
def test_a_card_of_anything(hub: HubServer, fields: dict):
    """Little metadata, or metadata of strange shapes and signs: still one valid card, block by block."""
    for seed in (0, 1):
        pendulum(seed=seed, **fields).push_to_hub(REPO, name=NAME)
    text = DatasetCard(hub.files(REPO)["README.md"].decode()).text
    assert re.findall(r"<!-- minari-distill: (.*?)( [0-9a-f]{16})? -->", text) == [
        (what, digest)
        for name in ("usage", NAME)
        for what, digest in re.findall(rf"minari-distill: ((?:end )?{name})( [0-9a-f]{{16}})? -->", text)
    ]
    assert "learning-curve" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows
    assert all(line.count("|") in (3, 5) for line in rows)


def edit(hub: HubServer, *changes: tuple[str, str], repo: str = REPO) -> str:
    """Edit the card as one does in the browser; returns the whole new text."""
    text = hub.files(repo)["README.md"].decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    hub.put(repo, {"README.md": text.encode()})
    return text


def test_hand_written_text_survives(hub: HubServer):
    """Text around the blocks, tags added and removed, a comment in the YAML: all still there after every push."""
    pendulum().push_to_hub(REPO, name=NAME)
    edited = edit(
        hub,
        ("pretty_name: Synsets", "pretty_name: My own name  # chosen with care"),
        ("- offline-rl\n", ""),
        ("# Synsets\n", "# Our synsets\n\nThanks to everybody.\n"),
    )
    assert not pendulum().push_to_hub(REPO, name=NAME).changed
    assert hub.files(REPO)["README.md"].decode() == edited
    pendulum(seed=1, metadata={}).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert "chosen with care" in text
    assert "learning-curve" not in text  # its block is of the new synset
    assert f"card/{NAME}/learning-curve.png" not in hub.files(REPO)
    pendulum(seed=2).push_to_hub(REPO, name="other-v0")
    card = DatasetCard(hub.files(REPO)["README.md"].decode())
    assert card.data.pretty_name == "My own name"
    assert "offline-rl" not in card.data.tags
    assert "# Our synsets\n\nThanks to everybody.\n" in card.text
    assert (
        card.text.count("end other-v0") == card.text.count(f"end {NAME}") == card.text.count("end usage") == 1
    )


def test_an_edited_block_stays(hub: HubServer):
    """A generated section that someone has edited is left alone, with a warning; deleted, it is written anew."""
    pendulum().push_to_hub(REPO, name=NAME)
    edit(hub, ("| synset | 50.0 |", "| synset, with luck | 50.0 |"))
    with pytest.warns(CardKept, match=f"section on {NAME} was edited by hand and stays"):
        pendulum(seed=1).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert "| synset, with luck | 50.0 |" in text
    block = text[
        text.index(f"<!-- minari-distill: {NAME}") : text.index(f"end {NAME} -->") + len(f"end {NAME} -->\n")
    ]
    edit(hub, (block, ""))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CardKept)
        pendulum(seed=2).push_to_hub(REPO, name=NAME)
    assert "| synset | 50.0 |" in hub.files(REPO)["README.md"].decode()


def test_windows_line_ends(hub: HubServer):
    """A card saved with CRLF is still recognised, block by block."""
    pendulum().push_to_hub(REPO, name=NAME)
    edit(hub, ("\n", "\r\n"))
    pendulum(seed=1).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert text.count(f"end {NAME} -->") == text.count("end usage -->") == 1
    assert DatasetCard(text).data.configs[0]["config_name"] == NAME


def test_a_repository_that_was_there(hub: HubServer):
    """Someone's own card, files and Minari list are joined, not replaced."""
    hub.put(REPO, {
        "README.md": b"---\ntags: [robots]\nconfigs:\n- config_name: raw\n  data_files: raw.csv\n  default: true\n---\n# Robots\n",
        "raw.csv": b"a\n1\n",
        "big-v0/data/metadata.json": b"{}",
        "namespace_metadata.json": b'{"description": "Robots", "datasets": ["synsets/big-v0", "synsets/gone-v0"], "more": 1}',
    })  # fmt: skip
    pendulum().push_to_hub(REPO, name=NAME)
    files = hub.files(REPO)
    card = DatasetCard(files["README.md"].decode())
    assert card.text.startswith("# Robots\n")
    assert card.data.tags[0] == "robots"
    assert [(c["config_name"], c.get("default")) for c in card.data.configs] == [(NAME, True), ("raw", None)]
    assert json.loads(files["namespace_metadata.json"]) == {
        "description": "Robots", "namespaces": [], "more": 1, "datasets": ["synsets/big-v0", f"synsets/{NAME}"],
    }  # fmt: skip
    assert files["raw.csv"] == b"a\n1\n"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("README.md", b"---\na: [\n---\n", "front matter of README.md in 'me/synsets' is no YAML.*Mend it"),
        ("README.md", b"---\n- a\n---\n", "front matter of README.md.*Mend it"),
        ("namespace_metadata.json", b"{", "namespace_metadata.json of 'me/synsets' is no list.*Delete it"),
        ("namespace_metadata.json", b"[]", "namespace_metadata.json of 'me/synsets' is no list.*Delete it"),
    ],
)
def test_broken_lists_are_not_overwritten(hub: HubServer, path: str, content: bytes, message: str):
    """What cannot be joined is left as it is, and said."""
    hub.put(REPO, {path: content})
    with pytest.raises(HubError, match=message):
        pendulum().push_to_hub(REPO, name=NAME)
    assert hub.files(REPO) == {path: content}


def test_the_same_curve_gives_the_same_bytes(tmp_path: Path):
    """A figure drawn twice is the same file, so that it is not a change."""
    paths = [plots.held_out_curve(METADATA["history"], NAME, tmp_path / f"{i}.png") for i in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def hopper(**fields) -> Synset:
    """Six states around Hopper's initial one."""
    space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
    states = np.float32([1.25] + [0] * 10) + 0.1 * np.random.default_rng(0).normal(size=(6, 11)).astype(
        np.float32
    )
    source = Source(("mujoco/hopper/medium-v0",), env_spec=gymnasium.spec("Hopper-v5").to_json())
    return make_synset(
        6, space, spaces.Box(-1, 1, (3,), np.float32), **{"observations": states, "source": source} | fields
    )


def test_the_strip_of_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Six states of Hopper side by side where MuJoCo can render; no strip, and no error, where it cannot."""
    assert not render_strip(pendulum(), tmp_path / "p.png")
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")
    assert not render_strip(hopper(), tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()
    monkeypatch.delenv("MUJOCO_GL")
    if not render_strip(hopper(), tmp_path / "h.png"):
        pytest.skip("MuJoCo renders nothing on this machine")
    pixels = np.asarray(Image.open(tmp_path / "h.png"))
    assert pixels.shape == (200, 1200, 3)
    first, second = pixels[:, :200].astype(int), pixels[:, 200:400].astype(int)
    assert np.abs(first - second).mean() > 1  # another pose


def test_the_strip_is_on_the_card(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    """Drawn once, pushed with the synset, shown by the card; removed with a synset that has none."""

    def draw(synset: Synset, path: Path) -> bool:
        if synset.source.env_id == "Hopper-v5":
            Image.new("RGB", (4, 4)).save(path)
        return path.exists()

    monkeypatch.setattr("minari_distill.plots.render_strip", draw)
    hopper().push_to_hub(REPO, name=NAME)
    assert f"![Distilled states of {NAME}](card/{NAME}/states.png)" in hub.files(REPO)["README.md"].decode()
    assert hub.files(REPO)[f"card/{NAME}/states.png"].startswith(b"\x89PNG")
    pendulum().push_to_hub(REPO, name=NAME)
    assert f"card/{NAME}/states.png" not in hub.files(REPO)
    assert "states.png" not in hub.files(REPO)["README.md"].decode()


# -------------------------------------------------------------------------------------------------- faults


INFO, RESOLVE = r"^/api/datasets/me/synsets(/revision/.*)?$", "/resolve/"
PUSH_STEPS = [
    ("GET", INFO), ("POST", "/repos/create"), ("POST", "/validate-yaml"), ("POST", "/preupload/"),
    ("POST", "/objects/batch"), ("PUT", "/lfs/"), ("POST", "/commit/"), ("GET", "/refs"), ("POST", "/tag/"),
]  # fmt: skip
PULL_STEPS = [("GET", INFO), ("HEAD", RESOLVE), ("GET", RESOLVE), ("GET", "/cdn/")]
PASSING = {
    "429 and a wait": {"status": 429, "Retry_After": "7"},
    "500": {"status": 500},
    "503": {"status": 503},
    "408": {"status": 408},
    "a page instead of JSON": {"kind": "html"},
    "cut halfway": {"kind": "cut"},
    "answer lost": {"kind": "lost"},
    "slow": {"kind": "slow", "seconds": 0.2},
}
LASTING = {
    "401": ({"status": 401}, r"does not accept the login.*/settings/tokens.*hf auth login"),
    "403": ({"status": 403}, r"login does not allow it.*write access.*hf auth login"),
    "404": ({"status": 404}, r"no such dataset repository.*Check the spelling"),
    "409": ({"status": 409}, r"(is changing it|change it all the time|Try again)"),
    "412": ({"status": 412}, r"(is changing it|change it all the time|Try again)"),
    "429": (
        {"status": 429, "Retry_After": "7"},
        r"wants fewer requests\. Wait 7 s and try again.*hf auth login",
    ),
    "429 for long": ({"status": 429, "Retry_After": "4000"}, r"wants fewer requests\. Wait 4000 s"),
    "500": ({"status": 500}, r"answers 500.*status\.huggingface\.co; try again later.*is whole"),
    "418": ({"status": 418}, r"refuses it with 418 \("),
    "cut halfway": (
        {"kind": "cut"},
        r"cannot be reached, or its answer broke off.*Check the network.*is whole",
    ),
}


def pairs(steps: list, faults: dict, everywhere: tuple[str, ...], always_at: tuple[str, str]) -> list:
    """Some faults at every step, and all of them at one step."""
    chosen = [(step, fault) for step in steps for fault in faults if fault in everywhere or step == always_at]
    return [pytest.param(step, fault, id=f"{step[0]} {ids(step)} {fault}") for step, fault in chosen]


COMMIT, DOWNLOAD = ("POST", "/commit/"), ("HEAD", RESOLVE)


def ids(step: tuple[str, str]) -> str:
    return step[1].strip("^/$").split("(")[0].replace("/", "_")


def all_is_whole(hub: HubServer, expected: dict[str, Synset], tmp_path: Path) -> None:
    """Whatever the repository lists can be loaded, and is what was pushed."""
    hub.faults.clear()
    forget(tmp_path)
    names, datasets, _ = listing(hub)
    assert names == datasets
    assert set(names) >= {"old-v0"}
    for name in names:
        assert_same(load_synset(f"hf://{REPO}/{name}"), expected[name])


@pytest.mark.parametrize(
    ("step", "fault"), pairs(PUSH_STEPS, PASSING, ("cut halfway", "answer lost"), COMMIT)
)
def test_a_passing_fault_of_a_push(hub: HubServer, tmp_path: Path, naps: list[float], step, fault: str):
    """Each step, struck once in each way: the push succeeds, by one commit."""
    old, new = pendulum(seed=1, metadata={}), pendulum(seed=2, metadata={})
    if step[1] != "/repos/create":
        old.push_to_hub(REPO, name="old-v0")
    commits = len(hub.repos[REPO].commits) if REPO in hub.repos else 1
    struck = hub.fail(*step, **PASSING[fault])
    pushed = new.push_to_hub(REPO, name=NAME, revision_tag="v1")
    assert struck.hits == 1
    assert len(hub.repos[REPO].commits) == commits + 1
    assert hub.repos[REPO].tags == {"v1": pushed.commit}
    if fault == "429 and a wait":
        assert 7 <= max(naps) <= 8
    old.push_to_hub(REPO, name="old-v0")
    all_is_whole(hub, {"old-v0": old, NAME: new}, tmp_path)


@pytest.mark.parametrize(("step", "fault"), pairs(PUSH_STEPS, LASTING, ("500", "cut halfway"), COMMIT))
def test_a_lasting_fault_of_a_push(
    hub: HubServer, tmp_path: Path, minari_store: Path, naps: list[float], step, fault: str
):
    """Each step, struck for ever: a message that names the repair; all is whole, and afterwards it works."""
    old, new = pendulum(seed=1, metadata={}), pendulum(seed=2, metadata={})
    old.save("me/old-v0")
    local = contents(minari_store)
    if step[1] != "/repos/create":
        old.push_to_hub(REPO, name="old-v0")
    how, message = LASTING[fault]
    hub.fail(*step, **how, times=10**6)
    if (step[1], fault) == ("/repos/create", "409"):  # it exists already: someone else has just made it
        hub.put(REPO, {".gitattributes": b""})
        new.push_to_hub(REPO, name=NAME)
    else:
        with pytest.raises(HubError, match=message) as caught:
            new.push_to_hub(REPO, name=NAME, revision_tag="v1")
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
    assert contents(minari_store) == local
    hub.faults.clear()
    old.push_to_hub(REPO, name="old-v0")
    all_is_whole(hub, {"old-v0": old, NAME: new}, tmp_path)
    new.push_to_hub(REPO, name=NAME, revision_tag="v1")
    assert_same(load_synset(f"{ADDRESS}@v1"), new)


@pytest.mark.parametrize(("step", "fault"), pairs(PULL_STEPS, PASSING, ("cut halfway", "500"), DOWNLOAD))
def test_a_passing_fault_of_a_pull(hub: HubServer, tmp_path: Path, naps: list[float], step, fault: str):
    """Each step, struck once in each way: what arrives is every bit of it."""
    synset = pendulum()
    synset.push_to_hub(REPO, name=NAME)
    forget(tmp_path)
    struck = hub.fail(*step, **PASSING[fault])
    assert_same(load_synset(ADDRESS), synset)
    assert struck.hits == 1


@pytest.mark.parametrize(("step", "fault"), pairs(PULL_STEPS, LASTING, ("cut halfway", "500"), DOWNLOAD))
def test_a_lasting_fault_of_a_pull(
    hub: HubServer, tmp_path: Path, minari_store: Path, naps: list[float], step, fault: str
):
    """Each step, struck for ever: a message that names the repair, nothing saved; afterwards it works."""
    synset = pendulum()
    synset.push_to_hub(REPO, name=NAME)
    forget(tmp_path)
    how, message = LASTING[fault]
    hub.fail(*step, **how, times=10**6)
    result = CliRunner().invoke(app, ["pull", ADDRESS, "-o", "me/pulled-v0", "--json"])
    assert result.exit_code == 1
    error = json.loads(result.stdout)
    assert error["kind"] == "HubError"
    assert re.search(message, error["error"]), error["error"]
    assert not minari_store.exists() or not any(minari_store.iterdir())
    hub.faults.clear()
    assert_same(load_synset(ADDRESS), synset)


def test_a_hub_that_does_not_answer(hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch):
    """An answer that does not come is not waited for for ever, and the client's own settings stay as they were."""
    monkeypatch.setattr(calls, "PATIENCE", 0.1)
    session = huggingface_hub.utils.get_session()
    before = session.timeout
    hub.put(REPO, {"README.md": b""})
    hub.fail("POST", "/commit/", "slow", times=10**6, seconds=1.0)
    with pytest.raises(HubError, match="cannot be reached"):
        pendulum(metadata={}).push_to_hub(REPO, name=NAME)
    assert session.timeout == before


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]):
    """Nobody listens there: the endpoint is named, and HF_ENDPOINT."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached.*HF_ENDPOINT"):
        load_synset(ADDRESS)


def test_a_retry_date(hub: HubServer, naps: list[float]):
    """Retry-After may be a date."""
    pendulum().push_to_hub(REPO, name=NAME)
    hub.fail(
        "GET", INFO, status=429, Retry_After="Sun, 09 Sep 2001 01:46:52 GMT"
    )  # the clock stands at 10^9 s
    load_synset(ADDRESS)
    assert naps == [12.0]


RARE = {
    "a full disk": (
        OSError(28, "No space left on device", "/cache"),
        "No space left on device in /cache. Mend that",
    ),
    "another size than announced": (
        OSError("Consistency check failed"),
        r"Consistency check failed Try again\.",
    ),
    "a refusal of the storage": (
        ValueError("LFS batch API returned errors:\nquota"),
        "LFS batch API returned errors:$",
    ),
    "an error of hf_xet": (RuntimeError("Data processing error"), r"broke off \(Data processing error\)"),
}


@pytest.mark.parametrize("case", RARE)
def test_rare_faults(hub: HubServer, naps: list[float], monkeypatch: pytest.MonkeyPatch, case: str):
    """What the test Hub cannot do itself is done in its client's place; the network's faults are tried again."""
    error, message = RARE[case]
    pendulum().push_to_hub(REPO, name=NAME)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("minari_distill.hub.download.hf_hub_download", fail)
        with pytest.raises(HubError, match=message):
            load_synset(ADDRESS)
    assert len(naps) == (3 if case in ("another size than announced", "an error of hf_xet") else 0)
    assert_same(load_synset(ADDRESS), pendulum())


def test_an_error_of_our_own_is_not_the_hubs(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    """What has nothing to do with the Hub is not explained away."""

    def fail(*args, **kwargs):
        raise AttributeError("a bug")

    monkeypatch.setattr("minari_distill.hub.download.check_listing", fail)
    pendulum().push_to_hub(REPO, name=NAME)
    with pytest.raises(AttributeError, match="a bug"):
        load_synset(ADDRESS)


def test_a_gated_repository(hub: HubServer, naps: list[float]):
    """Access is granted by its owner: said, with the page to ask at; a wait that is no number is not waited for."""
    pendulum().push_to_hub(REPO, name=NAME)
    hub.fail("GET", INFO, status=429, Retry_After="soon")
    hub.fail("GET", INFO, status=403, X_Error_Code="GatedRepo")
    with pytest.raises(
        HubError, match=r"grants access one by one. Ask for it at http://.*/datasets/me/synsets, then"
    ):
        load_synset(ADDRESS)
    assert naps == [1.0]


def test_a_repository_that_changes_while_it_is_read(hub: HubServer, naps: list[float]):
    """Files of two commits are never mixed: reading begins again."""
    first, second = pendulum(seed=1), pendulum(seed=2)
    first.push_to_hub(REPO, name=NAME)
    old = hub.repos[REPO].find("main")
    second.push_to_hub(REPO, name=NAME)
    new, repo = hub.repos[REPO].commits.pop(), hub.repos[REPO]
    assert repo.commits[-1] == old
    struck = hub.fail("HEAD", f"/resolve/main/{NAME}/data/metadata.json", "slow")  # after synset.json
    fault = hub._server.RequestHandlerClass._fault

    def push_meanwhile(handler, path):
        found = fault(handler, path)
        if found is struck:
            repo.commits.append(new)
        return found

    hub._server.RequestHandlerClass = type(
        "Handler", (hub._server.RequestHandlerClass,), {"_fault": push_meanwhile}
    )
    close_session()  # new connections meet the new handler
    assert_same(load_synset(ADDRESS), second)
    assert struck.hits == 1


def test_offline_and_pinned(
    hub: HubServer, tmp_path: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch
):
    """What was loaded once is there without the Hub: pinned to a commit always, by its name with HF_HUB_OFFLINE."""
    synset = pendulum()
    pushed = synset.push_to_hub(REPO, name=NAME)
    load_synset(ADDRESS)
    asked = len(hub.requests)
    assert_same(load_synset(pushed.address), synset)
    assert len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert_same(load_synset(ADDRESS), synset)
    with pytest.raises(HubError, match="while HF_HUB_OFFLINE is set. Unset it"):
        load_synset(f"hf://{REPO}/other-v0")
    with pytest.raises(HubError, match="Cannot push to 'me/synsets' while HF_HUB_OFFLINE is set"):
        synset.push_to_hub(REPO, name=NAME)


def test_a_damaged_cache_heals(hub: HubServer, tmp_path: Path):
    """A cached file that is no longer what was downloaded is fetched again."""
    synset = pendulum()
    address = synset.push_to_hub(REPO, name=NAME).address
    load_synset(address)
    for blob in (tmp_path / "hf").rglob("blobs/*"):
        blob.write_bytes(blob.read_bytes().replace(b"0", b"1"))
    assert_same(load_synset(address), synset)


def test_the_token_stays_where_it_is(hub: HubServer, tmp_path: Path, naps, caplog: pytest.LogCaptureFixture):
    """Not in logs at any level, not in messages, not in any file here or on the Hub."""
    caplog.set_level(logging.DEBUG)
    pendulum().push_to_hub(REPO, name=NAME)
    load_synset(ADDRESS)
    hub.fail("POST", "/commit/", status=403, times=10**6)
    with pytest.raises(HubError) as caught:
        pendulum(seed=1).push_to_hub(REPO, name=NAME)
    assert caplog.records
    assert TOKEN not in caplog.text + str(caught.value) + "".join(hub.requests)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    assert not any(TOKEN.encode() in content for content in hub.files(REPO).values())


# ------------------------------------------------------------------------------------------------- hostile


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def reseal(files: dict[str, bytes | File]) -> None:
    """Record the files' true sizes and checksums in synset.json, as an attacker would."""
    record = json.loads(files["synset/synset.json"])
    for path in record["files"]:
        content = files[path]
        record["files"][path] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    files["synset/synset.json"] = json.dumps(record).encode()


def in_record(**changes):
    """Change the record wherever it stands."""

    def change(files, tmp_path):
        for path, key in [("synset/synset.json", None), ("data/metadata.json", "synset")]:
            whole = json.loads(files[path])
            (whole[key] if key else whole).update(changes)
            files[path] = json.dumps(whole).encode()

    return change


def in_data(change_file, *, sealed: bool = True):
    """Change the HDF5 file, and the checksum with it."""

    def change(files, tmp_path):
        path = tmp_path / "hostile.hdf5"
        path.write_bytes(files["data/main_data.hdf5"])
        with h5py.File(path, "a", libver="latest") as file:
            change_file(file)
        files["data/main_data.hdf5"] = path.read_bytes()
        if sealed:
            reseal(files)

    return change


def replaced(name: str, **options):
    def change_file(file):
        del file[name]
        file.create_dataset(name, **options)

    return change_file


def pickled(files, tmp_path):
    files["data/main_data.hdf5"] = pickle.dumps([Bomb(tmp_path / "ran"), "x" * 2000])
    reseal(files)


def stored(path: str, content: bytes | File):
    return lambda files, tmp_path: files.update({path: content})


def listed_as(path: str, size: int):
    return lambda files, tmp_path: files.update({path: File(files[path], declared_size=size)})


def recorded_files(change_files):
    def change(files, tmp_path):
        record = json.loads(files["synset/synset.json"])
        change_files(record["files"])
        files["synset/synset.json"] = json.dumps(record).encode()

    return change


HUGE = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 10**12}
HOSTILE = {
    "a path out of the folder": (
        stored("../../../evil.txt", b"x"),
        r"'\.\./\.\./\.\./evil\.txt' does not belong",
    ),
    "a path out, recorded": (
        recorded_files(lambda files: files.update({"../../evil": {"sha256": "0" * 64, "bytes": 1}})),
        r"records the files \['\.\./\.\./evil'",
    ),
    "wrong shapes": (
        in_data(replaced("episode_1/observations", data=np.zeros((2, 4), "f4"))),
        r"episode_1.* shape \(2, 4\), expected \(2, 3\)",
    ),
    "other shapes than recorded": (
        in_record(
            observation_codec={"space": '{"type": "MultiBinary", "n": 5}', "drop": [], "dtype": "float32"}
        ),
        r"episode_0.* shape \(2, 3\), expected \(2, 5\)",
    ),
    "NaN": (in_data(replaced("episode_2/actions", data=np.full((1, 1), np.nan, "f4"))), "is nan in row 2"),
    "infinite statistics": (
        in_record(normalisation={"mean": [1e999] * 3, "std": [1] * 3}),
        "finite numbers expected",
    ),
    "out of bounds": (
        in_data(replaced("episode_2/actions", data=np.full((1, 1), 9, "f4"))),
        "is 9.0 in row 2",
    ),
    "a huge count": (in_record(n_syn=10**15), "says n_syn=1000000000000000, for which .* are no place"),
    "a huge file": (listed_as("data/main_data.hdf5", 10**13), "said to have 10000000000000 bytes"),
    "a huge record": (listed_as("synset/synset.json", 10**10), "said to have 10000000000 bytes"),
    "a huge array": (
        in_data(replaced("episode_1/observations", shape=(10**12, 3), dtype="f4", chunks=(1, 3))),
        r"shape \(1000000000000, 3\)",
    ),
    "a huge space": (
        in_record(observation_codec={"space": json.dumps(HUGE), "drop": [], "dtype": "float32"}),
        "an image of 1,000,000,000,000 numbers",
    ),
    "bytes that are not there": (
        recorded_files(lambda files: files["data/main_data.hdf5"].update(bytes=5)),
        "synset.json says 5",
    ),
    "no checksum": (
        recorded_files(lambda files: files["synset/train.parquet"].pop("sha256")),
        "no checksum of synset/train",
    ),
    "no checksums": (recorded_files(lambda files: files.clear()), r"records the files \[\]"),
    "another checksum": (
        in_data(replaced("episode_1/actions", data=np.full((1, 1), 0.5, "f4")), sealed=False),
        "is not the file whose checksum synset.json records|bytes, synset.json says",
    ),
    "two stories": (
        lambda files, tmp_path: files.update(
            {
                "data/metadata.json": files["data/metadata.json"].replace(
                    b'"hidden_width": 256', b'"hidden_width": 255'
                )
            }
        ),
        "tell different things of the synset",
    ),
    "unknown format version": (
        in_record(format_version=99),
        "format version 99.*pip install --upgrade minari-distill",
    ),
    "another format": (in_record(format="cake"), "not of the format"),
    "a list": (stored("synset/synset.json", b"[]"), "no JSON object"),
    "no JSON": (stored("synset/synset.json", b"{"), "is no JSON"),
    "brackets in brackets": (stored("synset/synset.json", b"[" * 10**5), "is no JSON"),
    "brackets elsewhere": (stored("data/metadata.json", b'{"a":' * 10**5), "is no JSON"),
    "a pickle for the data": (pickled, "main_data.hdf5' cannot be read"),
    "a pickle beside": (
        stored("synset/weights.pkl", b"\x80\x04."),
        "'synset/weights.pkl' does not belong to a synset",
    ),
    "a script": (stored("synsets.py", b"import os"), r"'synsets\.py' does not belong"),
    "a link out of the data": (
        in_data(
            lambda file: (
                file.pop("episode_1/actions"),
                file.update({"episode_1/actions": h5py.ExternalLink("/etc/passwd", "x")}),
            )
        ),
        "no actions in episode_1",
    ),
    "no data": (
        lambda files, tmp_path: files.pop("data/main_data.hdf5"),
        "no whole synset: it has no data/main_data",
    ),
    "an unknown setting": (in_record(config={"magic": 1}), "is damaged.*magic"),
    "metadata of another kind": (in_record(metadata="text"), "is damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repository(hub: HubServer, tmp_path: Path, minari_store: Path, case: str):
    """Each is refused with its reason, in one line; nothing is saved, nothing runs, nothing lies elsewhere."""
    folder = pendulum().save(tmp_path / "pushed" / NAME)
    files: dict[str, bytes | File] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    change, message = HOSTILE[case]
    change(files, tmp_path)
    hub.put(REPO, {f"{NAME}/{path}": content for path, content in files.items()})
    before = contents(tmp_path)
    with pytest.raises(SynsetError, match=message) as caught:
        load_synset(ADDRESS)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(app, ["pull", ADDRESS, "-o", "me/pulled-v0"])
    assert result.exit_code == 1
    assert not minari_store.exists() or not any(minari_store.iterdir())
    after = {k: v for k, v in contents(tmp_path).items() if not k.startswith(("hf", "minari"))}
    assert after == before
    inside = tmp_path / "hf" / "hub"
    assert all(path.resolve().is_relative_to(inside.resolve()) for path in inside.rglob("*"))


BAD_ADDRESSES = {
    "hf://me": "is no address of a synset. Write hf://USER/REPO/NAME-vN",
    "hf://me/synsets/../../etc-v0": "is no address",
    "hf://me/..": r"Cannot have -- or \.\.|must use alphanumeric",
    "hf://me/synsets/..-v0": r"'\.\.-v0' is no name of a synset",
    "hf://me/synsets/hopper": "'hopper' is no name of a synset.*for instance 'hopper-v0'",
    "hf://me/synsets/hopper--x-v0": "no name of a synset.*'hopper-x-v0'",
    "hf://me/synsets/hopper-v0@../../x": r"'\.\./\.\./x' is no name of a tag",
    "hf://me/synsets/hopper-v0@/etc": "'/etc' is no name of a tag",
    "hf://me/synsets/hopper-v0@a.lock": "'a.lock' is no name of a tag",
    "hf://me/my.synsets/hopper-v0": "Minari cannot read from a repository called 'my.synsets'.*me/my-synsets",
    "hf://me/x/hopper-v0": "Minari cannot read from a repository called 'x'.*me/x_",
}  # fmt: skip


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_bad_addresses(address: str):
    """Refused before anything is asked, with what to write instead."""
    with pytest.raises(HubError, match=BAD_ADDRESSES[address]):
        load_synset(address)


def test_addresses():
    """Reading undoes writing."""
    for text in (
        "hf://me/synsets",
        ADDRESS,
        f"{ADDRESS}@v1.0",
        f"{ADDRESS}@refs/pr/1",
        "hf://me/synsets@main",
    ):
        assert str(HubAddress.parse(text)) == text


def test_what_is_not_there(hub: HubServer):
    """Another name, revision or repository: said, with the nearest that there is."""
    pendulum().push_to_hub(REPO, name=NAME, revision_tag="v1.0")
    hub.put(REPO, {"big-v0/data/metadata.json": b"{}"})
    hub.repos["me/empty"] = Repo()
    hub.put("me/empty", {})
    for address, message in {
        f"hf://{REPO}/pendulum-distiled-v0": f"holds no synset 'pendulum-distiled-v0'. Did you mean '{NAME}'",
        f"hf://{REPO}/big-v0": "'big-v0' in 'me/synsets' is no synset.*minari.load_dataset",
        f"{ADDRESS}@v1.1": r"has no revision 'v1.1'. Did you mean 'v1.0'\? It has main, v1.0, and commits",
        f"{ADDRESS}@{'0' * 40}": "has no revision '0000",
        f"hf://me/synset/{NAME}": "no such dataset repository.*/datasets/me/synset;",
        "hf://me/empty": "It holds none; push one with: minari-distill push",
    }.items():
        with pytest.raises(MinariDistillError, match=message):
            load_synset(address)


@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        (
            "synsets",
            {},
            "'synsets' names no user. Write the repository as user/name, for instance me/synsets",
        ),
        ("me/a/b", {}, "Repo id must be in the form"),
        ("me/my.synsets", {}, "for instance me/my-synsets"),
        (REPO, {"name": "hopper"}, "'hopper' is no name of a synset.*'hopper-v0'"),
        (REPO, {"name": "../x-v0"}, "no name of a synset.*'x-v0'"),
        (REPO, {"revision_tag": "a b"}, "'a b' is no name of a tag"),
        ("you/synsets", {}, r"login does not allow it.*hf auth login"),
    ],
)
def test_bad_targets(hub: HubServer, repo_id: str, options: dict, message: str):
    """Refused before anything is sent."""
    with pytest.raises(HubError, match=message):
        pendulum().push_to_hub(repo_id, **options)
    assert not hub.repos


def test_an_environment_is_no_function(tmp_path: Path):
    """A spec that names os.system as its environment, or as a wrapper, is refused; evaluating runs nothing."""
    command = {"command": f"touch {tmp_path / 'ran'}"}
    spec = json.loads(PENDULUM.env_spec) | {"id": "Evil-v0", "entry_point": "os:system", "kwargs": command}
    wrapped = json.loads(PENDULUM.env_spec)
    wrapped["additional_wrappers"] = [{"name": "x", "entry_point": "os:system", "kwargs": command}]
    for hostile in (spec, wrapped):
        synset = pendulum(source=dataclasses.replace(PENDULUM, env_spec=json.dumps(hostile)))
        policy = md.behavior_clone(synset, steps=1, hidden_width=4)
        with pytest.raises(EnvironmentUnavailable, match="'os:system', which is no gymnasium.*refused"):
            md.evaluate(policy, synset, n_episodes=1)
    assert not (tmp_path / "ran").exists()
    own = json.loads(PENDULUM.env_spec) | {
        "id": "My-v0"
    }  # a class of environments is fine, registered or not
    assert read_env_spec(json.dumps(own)).make().reset(seed=0)[0].shape == (3,)


# -------------------------------------------------------------------------------- command line and the docs


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
        ("push", "me/nothing-v0", REPO): "Synset 'me/nothing-v0' not found",
    }.items():
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 1
        assert message in result.output
    assert run("pull", f"hf://{REPO}/pendulum-v0", "--overwrite")["seed"] == 1


def test_the_page_in_the_docs(hub: HubServer, tmp_path: Path):
    """Every Python block of docs/hub.md runs, in one process of a fresh machine."""
    page = (Path(__file__).parents[1] / "docs" / "hub.md").read_text()
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


def test_yaml_is_what_the_hub_reads(hub: HubServer):
    """The front matter is plain YAML between two lines of dashes, at the very start."""
    pendulum().push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front)["configs"][0]["config_name"] == NAME
