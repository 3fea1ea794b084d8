"""Repositories made to harm: refused, before anything of them is run or believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import minari_distill as md
from minari_distill.cli import app
from minari_distill.env_specs import read_env_spec
from minari_distill.errors import EnvironmentUnavailable, SynsetError
from minari_distill.loading import load_synset
from tests.hub.sample import ADDRESS, CLIENTS_OWN_WARNINGS, NAME, PENDULUM, REPO, pendulum
from tests.hub_server import File, HubServer
from tests.synsets import contents

pytestmark = CLIENTS_OWN_WARNINGS


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
        "a Discrete of 1,000,000,000,000 numbers",
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
    "an unknown setting": (
        in_record(config={"magic": 1}),
        "written by a newer minari_distill: its magic is unknown.*pip install --upgrade",
    ),
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
