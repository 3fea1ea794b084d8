"""What is no synset, or no longer one, is refused in one line, with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from minari_distill.errors import SynsetError
from minari_distill.loading import ROADS, load_synset
from tests.conftest import write_dataset
from tests.synsets import ID, assert_same, make_synset


def edit_record(**changes):
    def edit(folder: Path):
        path = folder / "data/metadata.json"
        metadata = json.loads(path.read_text())
        metadata["synset"] |= changes
        path.write_text(json.dumps(metadata))

    return edit


def edit_file(change):
    def edit(folder: Path):
        with h5py.File(folder / "data/main_data.hdf5", "a", libver="latest") as file:
            change(file, folder)

    return edit


def replace(name: str, **options):
    def change(file, folder):
        del file[name]
        file.create_dataset(name, **options)

    return edit_file(change)


def link_outside(file, folder):
    (folder.parent / "secret").mkdir(exist_ok=True)
    with h5py.File(folder.parent / "secret/s.hdf5", "w") as other:
        other["x"] = np.zeros((2, 3), np.float32)
    del file["episode_1/observations"]
    file["episode_1/observations"] = h5py.ExternalLink(str(folder.parent / "secret/s.hdf5"), "x")


def store_outside(file, folder):
    del file["episode_1/observations"]
    file.create_dataset(
        "episode_1/observations", (2, 3), np.float32, external=[(str(folder / "data/metadata.json"), 0, 24)]
    )


DAMAGES = {
    "not JSON": (lambda f: (f / "data/metadata.json").write_text("{"), "metadata.json' cannot be read"),
    "a list": (lambda f: (f / "data/metadata.json").write_text("[]"), "metadata.json' cannot be read"),
    "later version": (
        edit_record(format_version=99),
        "format version 99.*pip install --upgrade minari-distill",
    ),
    "another format": (edit_record(format="cake"), "not of the format"),
    "more pairs declared": (
        edit_record(n_syn=10**12),
        "it holds 6 episodes, its metadata says n_syn=1000000000000",
    ),
    "fewer declared": (edit_record(n_syn=5), "it holds 6 episodes, its metadata says n_syn=5"),
    "no source": (edit_record(source=None), "is damaged"),
    "unknown setting": (
        edit_record(config={"magic": 1}),
        "written by a newer minari_distill: its magic is unknown.*pip install --upgrade",
    ),
    "bad setting": (edit_record(config={"n_syn": 0}), "n_syn=0 must be at least 1"),
    "no statistics": (edit_record(normalisation={}), "'mean' is missing"),
    "short statistics": (
        edit_record(normalisation={"mean": [0.0], "std": [1.0]}),
        "observation_mean of shape",
    ),
    "no space": (edit_record(observation_codec={}), "no description of a space"),
    "cut file": (
        lambda f: (f / "data/main_data.hdf5").write_bytes((f / "data/main_data.hdf5").read_bytes()[:2000]),
        "main_data.hdf5' cannot be read",
    ),
    "no file": (lambda f: (f / "data/main_data.hdf5").unlink(), "main_data.hdf5' cannot be read"),
    "an array missing": (
        edit_file(lambda h, f: h.pop("episode_1/actions")),
        "there is no actions in episode_1",
    ),
    "another shape": (
        replace("episode_1/observations", data=np.zeros((2, 4), np.float32)),
        r"observations in episode_1 has the shape \(2, 4\), expected \(2, 3\)",
    ),
    "a huge array": (
        replace("episode_1/observations", shape=(10**12, 3), dtype="f4", chunks=(1, 3)),
        r"has the shape \(1000000000000, 3\)",
    ),
    "huge chunks": (
        replace(
            "episode_1/observations", shape=(2, 3), maxshape=(None, None), dtype="f4", chunks=(2**14, 2**14)
        ),
        "lies in chunks of",
    ),
    "text": (replace("episode_1/actions", data=[[b"x"]]), "not numbers"),
    "another type": (
        replace("episode_1/observations", data=np.zeros((2, 3))),
        "observations in episode_1 holds float64 numbers, others float32",
    ),
    "a group of arrays": (
        edit_file(lambda h, f: (h.pop("episode_1/observations"), h.create_group("episode_1/observations"))),
        r"observations in episode_1 has the shape None, expected \(2, 3\)",
    ),
    "NaN": (replace("episode_1/observations", data=np.full((2, 3), np.nan, "f4")), "is nan in row 1"),
    "out of bounds": (
        replace("episode_1/actions", data=np.full((1, 1), 9, "f4")),
        "is 9.0 in row 1, outside",
    ),
    "a link out": (edit_file(link_outside), "there is no observations in episode_1"),
    "data outside": (edit_file(store_outside), "no data outside of the file"),
    "a vector of another pair": (
        edit_file(lambda h, f: h["episode_1"].attrs.update(action_vector=np.float32([1.5]))),
        "the action_vector in episode_1 is not of its action",
    ),
    "a vector of text": (
        edit_file(lambda h, f: h["episode_1"].attrs.update(action_vector=np.array([b"x"]))),
        "the action_vector in episode_1 is not of its action",
    ),
    "a long vector": (
        edit_file(lambda h, f: h["episode_1"].attrs.update(action_vector=np.zeros(10**6, np.float32))),
        "the action_vector in episode_1 is not of its action",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_and_hostile_synsets(case):
    """Each is refused with its reason, in one line, without reading more than a synset can hold."""
    damage, message = DAMAGES[case]
    folder = make_synset().save(ID)
    damage(folder)
    with pytest.raises(SynsetError, match=message) as error:
        load_synset(ID)
    assert "\n" not in str(error.value)


def test_what_is_no_synset(tmp_path: Path):
    """An ordinary dataset, an unknown id, an unknown scheme: said, with what to type."""
    write_dataset("test/pendulum-v0")
    with pytest.raises(
        SynsetError, match=r"'test/pendulum-v0' is a Minari dataset but no synset.*distill distill test"
    ):
        load_synset("test/pendulum-v0")
    make_synset().save(ID)
    with pytest.raises(SynsetError, match=f"'me/pendulum-distiled-v0' not found. Did you mean '{ID}'"):
        load_synset("me/pendulum-distiled-v0")
    with pytest.raises(SynsetError, match="is a Minari dataset but no synset.*distill demo/hopper"):
        load_synset("demo/hopper-medium-replay-v0")
    with pytest.raises(SynsetError, match="'ftp://x': nothing here reads ftp://"):
        load_synset("ftp://x")
    with pytest.raises(SynsetError, match="not a int"):
        load_synset(3)
    with pytest.raises(SynsetError, match="holds no Minari dataset"):
        load_synset(tmp_path)


def test_roads_fetch_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A scheme in ROADS gets the whole address and gives a folder."""
    synset = make_synset()
    folder = synset.save(tmp_path / "fetched-v0")
    monkeypatch.setitem(ROADS, "test", lambda address: folder if address == "test://me/x-v0@main" else None)
    assert_same(load_synset("test://me/x-v0@main"), synset)
