"""Synsets on disk: what is saved is what is loaded, by every reader, or nothing is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from minari_distill import files, layout, one_step_episodes
from minari_distill.config import StudentRecipe, make_config
from minari_distill.errors import DatasetError, SynsetError
from minari_distill.loading import ROADS, load_synset
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.synset import Synset
from minari_distill.targets import refuse_existing
from minari_distill.transitions import load_transitions
from tests.conftest import PENDULUM_ACTIONS, PENDULUM_OBSERVATIONS, write_dataset

ID = "me/pendulum-distilled-v0"


def make_synset(
    n: int = 6,
    observation_space=PENDULUM_OBSERVATIONS,
    action_space=PENDULUM_ACTIONS,
    *,
    drop=(),
    seed: int = 0,
    soft: bool = True,
    dtype: str = "float32",
    **fields,
) -> Synset:
    """n random pairs, as distillation leaves them: integers still fractions, actions still probabilities."""
    rng = np.random.default_rng(seed)
    observation_codec = SpaceCodec(observation_space, drop, dtype)
    action_codec = SpaceCodec(action_space, dtype=dtype)
    arrays = [
        c.project(3 * rng.normal(size=(n, c.dim)), soft=soft) for c in (observation_codec, action_codec)
    ]
    d = observation_codec.dim
    config = make_config(n_syn=n, seed=seed)
    return Synset(
        **{
            "observations": arrays[0],
            "actions": arrays[1],
            "observation_codec": observation_codec,
            "action_codec": action_codec,
            "source": Source(
                ("test/pendulum-v0",), ref_origin="dataset metadata", requirements=("numpy>=1",)
            ),
            "observation_mean": rng.normal(size=d).astype(np.float32),
            "observation_std": rng.uniform(0.1, 2, size=d).astype(np.float32),
            "recipe": config.recipe,
            "config": config,
            "input_metric": rng.normal(size=(d, d)).astype(np.float32),
            "metadata": {"history": [{"step": 0, "loss": np.float32(0.1)}]},
        }
        | fields
    )


def assert_same(a: Synset, b: Synset):
    """Every field, every bit."""
    for name in ("observations", "actions", "observation_mean", "observation_std"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        assert x.tobytes() == y.tobytes(), name
    np.testing.assert_array_equal(a.input_metric, b.input_metric)
    for name in ("observation_codec", "action_codec", "source", "recipe", "config", "metadata"):
        assert getattr(a, name) == getattr(b, name), name


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder`, hidden ones too, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


# ------------------------------------------------------------------------------------------- identity


MINIGRID = spaces.Dict(
    {
        "direction": spaces.Discrete(4),
        "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        "mission": spaces.Text(9),
    }
)
GOALS = spaces.Dict(
    {
        "achieved goal": spaces.Dict({"slide cabinet": spaces.Box(-np.inf, np.inf, (2,), np.float64)}),
        "observation": spaces.Tuple((spaces.Box(-1, 1, (2, 2), np.float32), spaces.MultiBinary(3))),
    }
)
SPACES = {
    "flat": (PENDULUM_OBSERVATIONS, PENDULUM_ACTIONS, {}),
    "minigrid": (MINIGRID, spaces.Discrete(7, start=1), {"drop": ["mission"]}),
    "goals": (GOALS, spaces.Box(-0.1, 0.1, (4,), np.float64), {}),
    "float64": (GOALS, spaces.Box(-0.1, 0.1, (4,), np.float64), {"dtype": "float64"}),
    "tuple without its first": (
        spaces.Tuple((spaces.Text(3), spaces.MultiDiscrete([3, 2]))),
        spaces.MultiDiscrete([2, 5], start=[1, -1]),
        {"drop": ["0"]},
    ),
}


@pytest.mark.parametrize("case", SPACES)
@pytest.mark.parametrize("soft", [True, False])
def test_load_undoes_save(case, soft):
    """load_synset(save(x)) = x, bit for bit, for every kind of space, also where the space cannot hold the vector."""
    observation_space, action_space, options = SPACES[case]
    synset = make_synset(5, observation_space, action_space, soft=soft, **options)
    folder = synset.save("me/any-v0")
    assert_same(load_synset("me/any-v0"), synset)
    assert_same(load_synset(folder), synset)
    assert_same(load_synset(minari.load_dataset("me/any-v0")), synset)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=15, deadline=None)
def test_any_float32_survives(tmp_path_factory, n, obs_dim, act_dim, seed, data):
    """Any shape, any finite float32, denormals and negative zeros included, comes back bit for bit."""
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
    box = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
    synset = make_synset(
        n,
        box,
        spaces.Box(-1, 1, (act_dim,), np.float32),
        seed=seed,
        observations=np.array(
            data.draw(st.lists(numbers, min_size=n * obs_dim, max_size=n * obs_dim)), np.float32
        ).reshape(n, obs_dim),
    )
    folder = synset.save(tmp_path_factory.mktemp("any") / "synset-v0")
    assert_same(load_synset(folder), synset)
    rows = pq.read_table(folder / "synset/train.parquet")
    assert np.array(rows["observation"].to_pylist(), np.float32).tobytes() == synset.observations.tobytes()


def test_the_same_synset_gives_the_same_bytes(tmp_path: Path):
    """Saving twice, even seconds apart, writes identical files: a second push changes nothing."""
    make_synset().save(tmp_path / "a" / "x-v0")
    time.sleep(1.1)  # HDF5 keeps time in seconds
    make_synset().save(tmp_path / "b" / "x-v0")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# --------------------------------------------------------------------------------------- other readers


def test_minari_alone_reads_it():
    """N one-step episodes [s, s], truncated, reward 0; the environment recovers; Minari's own calls work."""
    source = load_transitions(write_dataset(ref_min_score=-10.0, ref_max_score=2.0)).source
    synset = make_synset(source=source)
    synset.save(ID)
    dataset = minari.load_dataset(ID)
    assert dataset.total_episodes == dataset.total_steps == 6
    for i, episode in enumerate(dataset):
        np.testing.assert_array_equal(episode.observations, np.stack([synset.observations[i]] * 2))
        np.testing.assert_array_equal(episode.actions, synset.actions[i][None])
        assert episode.rewards.tolist() == [0.0]
        assert episode.terminations.tolist() == [False]
        assert episode.truncations.tolist() == [True]
        assert repr(episode).startswith("EpisodeData(")
    assert dataset.recover_environment().spec.id == "Pendulum-v1"
    assert dataset.observation_space == PENDULUM_OBSERVATIONS
    assert minari.get_normalized_score(dataset, np.array([-4.0])) == pytest.approx(0.5)
    assert len(dataset.filter_episodes(lambda episode: episode.actions[0, 0] > 0)) < 6
    assert list(minari.list_local_datasets()) == [ID, "test/pendulum-v0"]


def test_minari_show_prints_it():
    """The command line of Minari describes it."""
    from minari.cli import app

    source = load_transitions(write_dataset()).source
    make_synset(source=source).save(ID)
    result = CliRunner().invoke(app, ["show", ID])
    assert result.exit_code == 0, result.output
    assert ID in result.output
    assert "6 synthetic pairs distilled from test/pendulum-v0" in " ".join(result.output.split())
    assert "Pendulum-v1" in result.output


def test_minari_reads_the_nearest_value_of_soft_pairs():
    """Probabilities and fractions cannot be in the episodes: the nearest legal value is, of the right dtype."""
    synset = make_synset(8, MINIGRID, spaces.Discrete(7, start=1), drop=["mission"])
    synset.save(ID)
    episode = minari.load_dataset(ID)[3]
    assert set(episode.observations) == {"direction", "image"}
    assert episode.observations["image"].dtype == np.uint8
    np.testing.assert_array_equal(
        episode.observations["image"][0].ravel(), np.rint(synset.observations[3, 4:])
    )
    assert episode.actions.tolist() == [int(synset.actions[3].argmax()) + 1]


def test_hugging_face_datasets_reads_it(tmp_path: Path):
    """load_dataset("parquet", …): fixed-size lists of float32, every bit."""
    datasets = pytest.importorskip("datasets")
    synset = make_synset(7)
    folder = synset.save(ID)
    train = datasets.load_dataset(
        "parquet", data_files=str(folder / "synset/train.parquet"), cache_dir=str(tmp_path / "hf")
    )["train"]
    assert train.features == datasets.Features(
        observation=datasets.List(datasets.Value("float32"), length=3),
        action=datasets.List(datasets.Value("float32"), length=1),
    )
    columns = train.with_format("numpy")[:]
    assert columns["observation"].tobytes() == synset.observations.tobytes()
    assert columns["action"].tobytes() == synset.actions.tobytes()


def test_a_tree_has_a_column_a_part():
    """Dict observations become `observation.<key>` columns."""
    folder = make_synset(4, GOALS).save(ID)
    names = pq.read_table(folder / "synset/train.parquet").column_names
    assert names == ["observation.achieved goal.slide cabinet", "observation.observation.0",
                     "observation.observation.1", "action"]  # fmt: skip


def test_what_lies_in_the_folder():
    """Four files; synset.json is the record of the metadata with the checksums; compact."""
    synset = make_synset(64)
    folder = synset.save(ID)
    assert [name for name, what in contents(folder).items() if what != "folder"] == [
        "data/main_data.hdf5",
        "data/metadata.json",
        "synset/synset.json",
        "synset/train.parquet",
    ]
    record = json.loads((folder / "synset/synset.json").read_text())
    checksums = record.pop("files")
    assert record == json.loads((folder / "data/metadata.json").read_text())["synset"]
    for name, checksum in checksums.items():
        content = (folder / name).read_bytes()
        assert checksum == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert record["rewards_are_placeholders"]
    assert record["transitions_are_placeholders"]
    assert record["n_syn"] == 64
    assert record["objective"] == "auto"
    assert record["source"]["dataset_ids"] == ["test/pendulum-v0"]
    assert (folder / "data/main_data.hdf5").stat().st_size < 64 * 2500


def test_a_source_without_environment():
    """No env spec, no scores, no config: still a synset and a Minari dataset."""
    synset = make_synset(source=Source(("x/y-v0",)), config=None, recipe=StudentRecipe())
    synset.save(ID)
    assert_same(load_synset(ID), synset)
    assert minari.load_dataset(ID).env_spec is None


def test_a_synset_is_no_source():
    """Its transitions are placeholders: distilling it is refused."""
    make_synset().save(ID)
    with pytest.raises(DatasetError, match=r"is a synset.*behavior_clone\(load_synset"):
        load_transitions(ID)


# -------------------------------------------------------------------------------------- where it is saved


def test_a_folder_as_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder needs no id for a name; the dataset inside gets one."""
    for target, dataset_id in [("out/run 3", "run-3-v0"), ("out/hopper-v2", "hopper-v2")]:
        folder = make_synset().save(tmp_path / target)
        assert folder == tmp_path / target
        assert minari.MinariDataset(folder / "data").id == dataset_id
    monkeypatch.chdir(tmp_path)
    assert make_synset().save("./here") == tmp_path / "here"
    assert len(load_synset("./here")) == 6


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "hopper distilled",
            r"no Minari id.*'me/hopper-distilled-v0'; for a folder write './hopper distilled'",
        ),
        ("me/hopper", "no Minari id.*'me/hopper-v0'"),
        ("m/hopper-v0", "namespaces of two characters or more"),
        ("me/hopper.2-v0", "no Minari id.*'me/hopper-2-v0'"),
        ("me/hopper--x-v0", "the Hub refuses the name 'hopper--x-v0'"),
        ("-me/hopper-v0", "the Hub refuses the name '-me'"),
        ("me/" + "x" * 99 + "-v0", "at most 96 characters"),
        ("mé/hopper-v0", "no Minari id"),
    ],
)
def test_bad_ids(target, message, minari_store: Path):
    """Refused before anything is written, with an id that would do."""
    with pytest.raises(SynsetError, match=message):
        make_synset().save(target)
    with pytest.raises(SynsetError, match=message):
        refuse_existing(target)
    assert not minari_store.exists() or not any(minari_store.iterdir())


def test_an_existing_id_needs_overwrite():
    """Nothing is replaced unasked; with overwrite the new one is there, whole."""
    first, second = make_synset(seed=1), make_synset(3, seed=2)
    first.save(ID)
    for call in (lambda: second.save(ID), lambda: refuse_existing(ID)):
        with pytest.raises(SynsetError, match=f"'{ID}' exists already.*overwrite=True"):
            call()
    assert_same(load_synset(ID), first)
    second.save(ID, overwrite=True)
    assert_same(load_synset(ID), second)
    refuse_existing("me/other-v0")


def test_an_ordinary_dataset_is_never_overwritten(minari_store: Path):
    """overwrite=True replaces synsets only."""
    write_dataset("test/pendulum-v0")
    before = contents(minari_store)
    with pytest.raises(SynsetError, match="is no synset: it is not overwritten"):
        make_synset().save("test/pendulum-v0", overwrite=True)
    assert contents(minari_store) == before


# ------------------------------------------------------------------------------------- faults while saving


def fail(error: BaseException):
    raise error


def fail_at(monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException):
    """Let a step of the save fail."""

    def stop(*args, **kwargs):
        fail(error)

    if where == "Minari's writing":
        monkeypatch.setattr(layout.MinariStorage, "update_metadata", stop)
    elif where == "in the middle of the episodes":
        fill, calls = one_step_episodes._fill, iter(range(100))
        monkeypatch.setattr(one_step_episodes, "_fill", lambda *a: stop() if next(calls) == 3 else fill(*a))
    elif where == "compaction":
        monkeypatch.setattr(one_step_episodes, "_copy_group", stop)
    elif where == "metadata":
        monkeypatch.setattr(layout, "write_json", stop)
    elif where == "parquet":
        monkeypatch.setattr(layout.pq, "write_table", stop)
    elif where == "flush":
        monkeypatch.setattr(files, "_flush_tree", stop)
    else:
        monkeypatch.setattr(files, "_exchange", stop)
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda self, to: stop() if self.suffix == ".partial" else rename(self, to)
        )


MOMENTS = [
    "Minari's writing", "in the middle of the episodes", "compaction", "metadata", "parquet", "flush", "rename",
]  # fmt: skip


@pytest.mark.parametrize("where", MOMENTS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_changes_nothing(where, error, exists, minari_store: Path, monkeypatch):
    """A full disk or Ctrl-C at any moment: not a file more, not a byte changed; afterwards it works."""
    old, new = make_synset(seed=1), make_synset(seed=2)
    minari_store.mkdir()
    if exists:
        old.save(ID)
    before = contents(minari_store)
    with monkeypatch.context() as patched:
        fail_at(patched, where, error)
        expected, message = (
            (SynsetError, "No space left on device. Nothing was left behind")
            if isinstance(error, OSError)
            else (KeyboardInterrupt, None)
        )
        with pytest.raises(expected, match=message):
            new.save(ID, overwrite=True)
    assert contents(minari_store) == before
    if exists:
        assert_same(load_synset(ID), old)
    new.save(ID, overwrite=True)
    assert_same(load_synset(ID), new)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from tests.test_synset import assert_same, load_synset, make_synset

target, old, new = Path({target!r}), make_synset(16, seed=1), make_synset(16, seed=2)
old.save(target)
for kill in range(12):
    child = os.fork()
    while not child:
        new.save(target, overwrite=True)
    time.sleep(random.Random(kill).uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    loaded = load_synset(target)
    assert_same(loaded, new if loaded.config == new.config else old)
    old.save(target, overwrite=True)
    assert_same(load_synset(target), old)
    assert [p.name for p in target.parent.iterdir()] == [target.name]
"""


def test_killed_saves_leave_a_whole_synset(tmp_path: Path):
    """SIGKILL at random moments of saving: a whole synset is there, and the next save clears the remains away."""
    tests = Path(__file__).parent
    script = KILLS.format(path=[str(tests), str(tests.parent)], target=str(tmp_path / "x-v0"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_writer_is_refused(tmp_path: Path):
    """While one process builds a folder, another is told so, and neither breaks the other's work."""
    target = tmp_path / "x-v0"
    with files.building_folder(target) as temporary:
        with pytest.raises(SynsetError, match="Another process is saving"):
            make_synset().save(target)
        assert temporary.is_dir()
        (temporary / "mine").write_text("kept")
    assert contents(tmp_path) == {"x-v0": "folder", "x-v0/mine": hashlib.sha256(b"kept").hexdigest()}


def test_a_lock_whose_file_was_just_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last holder may remove the file between our opening and our locking it: such a lock is none."""
    lock, flock, calls = tmp_path / "lock", files.fcntl.flock, []

    def flock_after_removal(handle, how):
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()
        flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", flock_after_removal)
    with files._locked(lock), pytest.raises(BlockingIOError), files._locked(lock):
        pass
    assert not lock.exists()


def test_folders_exchange_without_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the system cannot exchange two folders at once, two renames do, and a failed one is undone."""
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *args, **kwargs: object())
    old, new = make_synset(seed=1), make_synset(seed=2)
    old.save(tmp_path / "x-v0")
    new.save(tmp_path / "x-v0", overwrite=True)
    assert_same(load_synset(tmp_path / "x-v0"), new)
    rename = Path.rename

    def fail_to_rename(self: Path, to: Path):
        return fail(OSError(5, "Disk on fire")) if self.suffix == ".partial" else rename(self, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail_to_rename)
        with pytest.raises(SynsetError, match="Disk on fire"):
            old.save(tmp_path / "x-v0", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]
    assert_same(load_synset(tmp_path / "x-v0"), new)
    (tmp_path / "x-v0").rename(tmp_path / ".x-v0.aside")  # as a process killed between the two leaves it
    old.save(tmp_path / "x-v0", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]
    assert_same(load_synset(tmp_path / "x-v0"), old)


# --------------------------------------------------------------------------------------------- the record


BAD_RECORDS = {
    "another width": (
        {"observations": np.zeros((6, 4))},
        r"observations of shape \(6, 4\) given, \(n_syn, 3\)",
    ),
    "a vector": ({"actions": np.zeros(6)}, r"actions of shape \(6,\) given, \(n_syn, 1\) expected"),
    "counts differ": ({"actions": np.zeros((5, 1))}, "6 observations and 5 actions given"),
    "no pairs": ({"observations": np.zeros((0, 3)), "actions": np.zeros((0, 1))}, "at least one"),
    "NaN": ({"observations": np.full((6, 3), np.nan)}, "the space.0. is nan in row 0"),
    "out of bounds": (
        {"actions": np.full((6, 1), 2.001)},
        r"2\.00\d* in row 0, outside \[-2, 2\]. Use SpaceCodec.project",
    ),
    "mean": ({"observation_mean": np.zeros(2)}, r"observation_mean of shape \(2,\) given, \(3,\) finite"),
    "zero std": ({"observation_std": np.zeros(3)}, "observation_std holds 0.0; a divisor is positive"),
    "infinite std": ({"observation_std": np.full(3, np.inf)}, "finite numbers expected"),
    "a function": ({"metadata": {"f": print}}, "metadata cannot hold <built-in function print>"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_wrong_record_is_refused(case):
    """No synset exists that could not be saved."""
    fields, message = BAD_RECORDS[case]
    with pytest.raises(SynsetError, match=message):
        make_synset(**fields)


def test_metadata_becomes_json():
    """NumPy values become numbers and lists; NaN and infinities null, so that the file is strict JSON."""
    synset = make_synset(
        metadata={
            "a": np.float32(0.5),
            "b": np.arange(2),
            "c": (1, Path("x")),
            "d": [np.nan, -np.inf, True, None],
        }
    )
    assert synset.metadata == {"a": 0.5, "b": [0, 1], "c": [1, "x"], "d": [None, None, True, None]}
    more = synset.with_metadata(scores={"general": np.float64(60.0)})
    assert more.metadata["scores"] == {"general": 60.0}
    assert "scores" not in synset.metadata
    json.dumps(more.summary(), allow_nan=False)
    assert more.summary()["scores"] == {"general": 60.0}
    assert more.summary()["source"] == ["test/pendulum-v0"]


def test_units_are_the_sources():
    """Statistics and bounds of the source; where it has none, the recorded range of its actions."""
    synset = make_synset()
    units = synset.units()
    np.testing.assert_array_equal(units.obs_std, synset.observation_std)
    assert (units.act_low.tolist(), units.act_high.tolist()) == ([-2.0], [2.0])
    free = make_synset(
        action_space=spaces.Box(-np.inf, np.inf, (1,)), metadata={"action_range": [[-3.0], [5.0]]}
    )
    assert (free.units().act_low.tolist(), free.units().act_high.tolist()) == ([-3.0], [5.0])


def test_representation():
    assert repr(make_synset()) == "Synset of 6 pairs (obs_dim 3, act_dim 1), distilled from test/pendulum-v0"
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_synset().actions = None


# --------------------------------------------------------------------------------------- damaged and hostile


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
    "unknown setting": (edit_record(config={"magic": 1}), "is damaged.*magic"),
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


def test_threads_do_not_mix(tmp_path: Path):
    """Of several savers of one id at once, one or more succeed and what is there is one of theirs, whole."""
    synsets = [make_synset(seed=seed) for seed in range(4)]
    outcomes: list[str] = []

    def save(synset: Synset):
        try:
            synset.save(tmp_path / "x-v0", overwrite=True)
            outcomes.append("saved")
        except SynsetError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=save, args=(synset,)) for synset in synsets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert "saved" in outcomes
    assert all(outcome == "saved" or "Another process is saving" in outcome for outcome in outcomes)
    loaded = load_synset(tmp_path / "x-v0")
    assert_same(loaded, synsets[loaded.config.seed])
    assert [p.name for p in tmp_path.iterdir()] == ["x-v0"]
