"""Synsets on the Hub: what one pushes is what the other loads, by every reader.

The clients are the real ones of huggingface_hub, datasets and minari; the Hub is `hub_server.py`, on 127.0.0.1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import minari_distill as md
from minari_distill.loading import load_synset
from minari_distill.source import Source
from tests.hub.sample import ADDRESS, CLIENTS_OWN_WARNINGS, NAME, REPO, clients, contents_of, pendulum
from tests.hub_server import TOKEN, HubServer
from tests.synsets import MINIGRID, assert_same, contents, make_synset

pytestmark = CLIENTS_OWN_WARNINGS

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
