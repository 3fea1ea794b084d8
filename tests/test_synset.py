"""Synsets on disk: what is saved is what is loaded, by every reader; and no synset that could not be saved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from minari_distill import layout
from minari_distill.errors import DatasetError, SynsetError
from minari_distill.loading import load_synset
from minari_distill.recipe import StudentRecipe
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.transitions import load_transitions
from tests.conftest import PENDULUM_ACTIONS, PENDULUM_OBSERVATIONS, write_dataset
from tests.synsets import ID, MINIGRID, assert_same, contents, make_synset

# ------------------------------------------------------------------------------------------- identity


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


def test_a_filtered_or_split_synset_has_the_pairs_that_were_kept():
    """Pairs are episodes to Minari, and what it leaves out is left out."""
    synset = make_synset()
    synset.save(ID)
    whole = minari.load_dataset(ID)
    kept = load_synset(whole.filter_episodes(lambda e: e.id in (1, 4)))
    np.testing.assert_array_equal(kept.observations, synset.observations[[1, 4]])
    first, second = minari.split_dataset(whole, [2, 4])
    assert (len(load_synset(first)), len(load_synset(second)), len(load_synset(whole))) == (2, 4, 6)
    with pytest.raises(SynsetError, match=f"No pair of '{ID}' is left"):
        load_synset(whole.filter_episodes(lambda e: False))


def test_two_parts_are_never_one_column():
    """A key with a dot meets a nested one: told, not lost."""
    box = spaces.Box(-1, 1, (2,))
    codec = SpaceCodec(spaces.Dict({"a.b": box, "a": spaces.Dict(b=box)}))
    with pytest.raises(SynsetError, match="would be one column 'observation.a.b'"):
        layout.pair_columns("observation", np.zeros((3, 4), np.float32), codec)


@pytest.mark.parametrize(("key", "instead"), [("walker/joints", "walker_joints"), ("", "state")])
def test_keys_that_no_file_can_hold(tmp_path, key: str, instead: str):
    """Minari takes "/" for the border between groups, and could not read the synset: told with what to write instead."""
    box = spaces.Box(-1, 1, (2,))
    synset = make_synset(observation_space=spaces.Dict({key: box, "other": box}))
    with pytest.raises(SynsetError, match=f"key '{key}', which no HDF5 file.*for instance '{instead}'"):
        synset.save(tmp_path / "one")


def test_a_part_of_size_zero(tmp_path):
    """It holds nothing, and comes back as nothing, from the folder and from Parquet."""
    space = spaces.Dict(a=spaces.Box(-1, 1, (0,), np.float32), x=spaces.Box(-1, 1, (2,), np.float32))
    synset = make_synset(observation_space=space)
    assert_same(load_synset(synset.save(tmp_path / "one")), synset)
    synset.to_parquet(tmp_path / "one.parquet")
