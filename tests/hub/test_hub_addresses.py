"""Names and addresses: what is accepted, and what is said of the others."""

from __future__ import annotations

import pytest

from minari_distill.errors import HubError, MinariDistillError
from minari_distill.hub import HubAddress
from minari_distill.loading import load_synset
from tests.hub.sample import ADDRESS, CLIENTS_OWN_WARNINGS, NAME, REPO, pendulum
from tests.hub_server import HubServer, Repo

pytestmark = CLIENTS_OWN_WARNINGS

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


def test_what_is_not_there(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
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
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        MinariDistillError, match="no such dataset repository.*Check the spelling.*if it is private, log in"
    ):
        load_synset(f"hf://me/synset/{NAME}")


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
