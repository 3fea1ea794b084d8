"""One repository, several synsets, several people."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from minari_distill.errors import HubError
from minari_distill.expand import expand
from minari_distill.hub.upload import default_name
from minari_distill.loading import load_synset
from minari_distill.recipe import StudentRecipe
from minari_distill.source import Source
from tests.hub.sample import ADDRESS, CLIENTS_OWN_WARNINGS, NAME, REPO, clients, forget, listing, pendulum
from tests.hub_server import HubServer
from tests.synsets import assert_same

pytestmark = CLIENTS_OWN_WARNINGS


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


def test_what_expand_made_does_not_replace_the_few(hub: HubServer):
    """By default they have names of their own."""
    few = pendulum(recipe=StudentRecipe(hidden_layers=1, infinite=True))
    few.push_to_hub(REPO)
    expand(few, 50).push_to_hub(REPO)
    assert listing(hub)[0] == ["test-pendulum-distilled-v0", "test-pendulum-expanded-v0"]


def test_a_name_nobody_chose_replaces_nothing_of_other_datasets(hub: HubServer):
    """Ids that end alike make one name; with a name that was given, replacing is what was asked for."""
    one, other = (pendulum(source=Source((f"{who}/pendulum/medium-v0",))) for who in ("me", "you"))
    one.push_to_hub(REPO)
    one.push_to_hub(REPO)
    with pytest.raises(HubError, match=r"holds a 'pendulum-medium-distilled-v0' of me/pend.*--name"):
        other.push_to_hub(REPO)
    assert_same(load_synset(f"hf://{REPO}/pendulum-medium-distilled-v0"), one)
    other.push_to_hub(REPO, name="pendulum-medium-distilled-v0")
    assert_same(load_synset(f"hf://{REPO}/pendulum-medium-distilled-v0"), other)


def test_many_datasets_make_a_name_that_tells_them_apart():
    """Too long a name is cut in the middle: what was made stays told, and other datasets have another."""
    ids = [f"mujoco/hopper/medium-{i}-v0" for i in range(30)]
    names = {
        default_name(pendulum(source=Source(tuple(given)), metadata=metadata))
        for given in (ids, [*ids[:-1], "mujoco/hopper/last-v0"])
        for metadata in ({}, {"expansion": {}})
    }
    assert len(names) == 4 and sum(name.endswith("-expanded-v0") for name in names) == 2
    assert all(len(name) < 90 for name in names)


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
