"""Faults of the network and of the Hub: whatever breaks off, both sides stay whole, and the message names the repair."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from typer.testing import CliRunner

from minari_distill.cli import app
from minari_distill.errors import HubError
from minari_distill.hub import calls
from minari_distill.loading import load_synset
from minari_distill.synset import Synset
from tests.hub.sample import ADDRESS, CLIENTS_OWN_WARNINGS, NAME, REPO, forget, listing, pendulum
from tests.hub_server import TOKEN, HubServer
from tests.synsets import assert_same, contents

pytestmark = CLIENTS_OWN_WARNINGS

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
    assert_same(load_synset(f"hf://{REPO}"), synset)  # the only one of the repository
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
