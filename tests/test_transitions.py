"""Transitions read from Minari datasets of every storage format, shape and defect."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from minari_distill.errors import DatasetError
from minari_distill.locate import EMBEDDED_ID
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.transitions import Transitions, embedded_dataset, load_transitions
from tests.conftest import write_dataset
from tests.synsets import make_synset

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


def assert_same_arrays(a: Transitions, b: Transitions):
    for name in (*FIELDS, "episode_starts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def by_hand(rewards, starts, **fields) -> Transitions:
    """Transitions of one number a state and one an action."""
    n = len(rewards)
    codec = SpaceCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32))
    states = np.arange(n + 1, dtype=np.float32)[:, None]
    arrays = {
        "observations": states[:-1],
        "actions": np.zeros((n, 1), np.float32),
        "rewards": np.array(rewards, np.float32),
        "next_observations": states[1:],
        "terminations": np.zeros(n, bool),
        "truncations": np.zeros(n, bool),
        "episode_starts": np.array(starts),
    }
    record = {"observation_codec": codec, "action_codec": codec, "source": Source(("test/by-hand-v0",))}
    return Transitions(**(arrays | record | fields))


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_arrays_are_minaris_own(data_format):
    """What is read is what Minari's episodes hold, shifted by one for the next observation, in every format."""
    dataset = write_dataset(lengths=(5, 1, 4), data_format=data_format)
    transitions = load_transitions("test/pendulum-v0")
    assert transitions.episode_starts.tolist() == [0, 5, 6]
    assert len(transitions) == 10
    for i, episode in enumerate(dataset.iterate_episodes()):
        rows = transitions.episode_ids == i
        np.testing.assert_array_equal(transitions.observations[rows], episode.observations[:-1])
        np.testing.assert_array_equal(transitions.next_observations[rows], episode.observations[1:])
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(transitions, name)[rows], getattr(episode, name))
    assert transitions.observations.dtype == transitions.rewards.dtype == np.float32


def test_every_way_to_name_a_dataset(minari_store: Path):
    """An id, its folder, the folder's data, a MinariDataset and Transitions all give the same."""
    dataset = write_dataset()
    expected = load_transitions("test/pendulum-v0")
    folder = minari_store / "test/pendulum-v0"
    for source in (folder, str(folder), folder / "data", dataset, expected):
        assert_same_arrays(load_transitions(source), expected)


def test_selected_episodes_only():
    """Of a filtered MinariDataset only its episodes are read."""
    dataset = write_dataset(lengths=(5, 3, 4))
    kept = dataset.filter_episodes(lambda episode: len(episode) != 3)
    assert_same_arrays(load_transitions(kept), load_transitions(dataset).select([0, 2]))
    with pytest.raises(DatasetError, match="holds no episodes"):
        load_transitions(dataset.filter_episodes(lambda episode: False))


NESTED = spaces.Dict(
    {
        "direction": spaces.Discrete(4),
        "image": spaces.Box(0, 255, (3, 3, 2), np.uint8),
        "mission": spaces.Text(5),
        "pair": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(-1, 1, (2,), np.float64))),
    }
)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_nested_spaces(data_format):
    """Trees of leaves, discrete actions, text dropped: the vectors decode to what the episodes hold."""
    dataset = write_dataset(
        "test/grid-v0",
        observation_space=NESTED,
        action_space=spaces.Discrete(7),
        env=None,
        data_format=data_format,
    )
    with pytest.raises(DatasetError, match=r"dataset 'test/grid-v0'.*'mission' is text.*drop=\['mission'\]"):
        load_transitions(dataset)
    transitions = load_transitions(dataset, drop=["mission"], dtype="float64")
    assert transitions.obs_dim == 4 + 18 + 2 + 2
    assert transitions.act_dim == 7
    assert transitions.action_codec.is_discrete
    episode = dataset[2]
    decoded = transitions.observation_codec.decode(transitions.observations[transitions.episode_ids == 2])
    np.testing.assert_array_equal(decoded["direction"], episode.observations["direction"][:-1])
    np.testing.assert_array_equal(decoded["image"], episode.observations["image"][:-1])
    np.testing.assert_array_equal(decoded["pair"][1], episode.observations["pair"][1][:-1])
    actions = transitions.action_codec.decode(transitions.actions[transitions.episode_ids == 2])
    np.testing.assert_array_equal(actions, episode.actions)


def test_images_stored_as_jpeg_are_decoded():
    """Minari compresses 32 × 32 uint8 images unless told otherwise; they are read as images all the same."""
    image = spaces.Box(0, 255, (32, 32), np.uint8)
    dataset = write_dataset("test/image-v0", observation_space=image, env=None, lengths=(3, 2), jpeg=True)
    np.testing.assert_array_equal(
        load_transitions(dataset).observations[:3], dataset[0].observations[:-1].reshape(3, 1024)
    )


def test_float64_is_kept_where_asked():
    """float64 sources become float32, unless dtype="float64"."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    dataset = write_dataset("test/wide-v0", observation_space=space, env=None)
    assert load_transitions(dataset).observations.dtype == np.float32
    wide = load_transitions(dataset, dtype="float64")
    assert wide.observations.dtype == np.float64
    np.testing.assert_array_equal(wide.observations[:5], dataset[0].observations[:-1])


def test_metadata_that_counts_too_few_steps():
    """The count in the metadata only sizes the arrays: more steps than it says are read all the same."""
    dataset = write_dataset(lengths=(5, 3, 4))
    expected = load_transitions(dataset)
    dataset.storage.update_metadata({"total_steps": 2})
    assert_same_arrays(load_transitions("test/pendulum-v0"), expected)


# -------------------------------------------------------------------------- T instead of T+1 observations


def test_an_episode_of_T_observations_that_terminated():
    """The last transition is kept: its next state is never bootstrapped from, its own observation stands in."""
    said: list[str] = []
    dataset = write_dataset(lengths=(4, 4), terminated=(0,), short=(0,))
    transitions = load_transitions(dataset, on_message=said.append)
    assert len(transitions) == 8
    np.testing.assert_array_equal(transitions.observations[:4], dataset[0].observations)
    np.testing.assert_array_equal(transitions.next_observations[:3], dataset[0].observations[1:])
    np.testing.assert_array_equal(transitions.next_observations[3], transitions.observations[3])
    assert transitions.terminations.tolist() == [False, False, False, True] + [False] * 4
    assert "1 of 2 episodes hold T observations instead of T+1; 0 transitions" in said[0]


def test_an_episode_of_T_observations_that_was_truncated():
    """The last transition is dropped, the one before it is now the truncated end."""
    said: list[str] = []
    dataset = write_dataset(lengths=(4, 1, 3), terminated=(), short=(0, 1))
    transitions = load_transitions(dataset, on_message=said.append)
    assert len(transitions) == 3 + 0 + 3
    assert transitions.episode_starts.tolist() == [0, 3], "an episode of one such step vanishes"
    np.testing.assert_array_equal(transitions.next_observations[:3], dataset[0].observations[1:])
    assert transitions.truncations.tolist() == [False, False, True] * 2
    assert "2 of 3 episodes hold T observations instead of T+1; 2 transitions" in said[0]


def test_arrow_says_what_minari_lost():
    """Minari's arrow files lose the last action of such an episode when written: the count shows it."""
    said: list[str] = []
    dataset = write_dataset(lengths=(4, 4), short=(0,), terminated=(), data_format="arrow")
    assert len(load_transitions(dataset, on_message=said.append)) == 7
    assert "counts 8 steps, 7 were there" in said[0]


# -------------------------------------------------------------------------------------------- the record


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda lengths: sum(lengths) > 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_returns_to_go_are_the_recursion(lengths, discount, seed):
    """G_t = r_t + discount · G_{t+1} inside an episode, G = r at its end; undiscounted they are the returns."""
    rewards = np.random.default_rng(seed).normal(size=sum(lengths)).astype(np.float32)
    starts = np.cumsum([0, *lengths[:-1]])
    transitions = by_hand(rewards, starts)
    expected, later = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        later = rewards[t] + discount * (0.0 if t + 1 in {*starts, len(rewards)} else later)
        expected[t] = later
    np.testing.assert_allclose(transitions.returns_to_go(discount), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        transitions.episode_returns(), transitions.returns_to_go(1.0)[starts], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(transitions.episode_lengths, lengths)


def test_statistics_are_exact():
    """σ + 1e-3 over all observations, in double precision: a large mean must not drown a small spread."""
    x = (1e4 + np.random.default_rng(0).normal(size=(200_000, 3)) * 0.1).astype(np.float32)
    wide = SpaceCodec(spaces.Box(-np.inf, np.inf, (3,), np.float32))
    transitions = by_hand(np.zeros(200_000), [0], observations=x, next_observations=x, observation_codec=wide)
    np.testing.assert_array_equal(
        transitions.observation_mean, x.astype(np.float64).mean(0).astype(np.float32)
    )
    np.testing.assert_allclose(transitions.observation_std, x.astype(np.float64).std(0) + 1e-3, rtol=1e-6)
    assert transitions.observation_std.dtype == np.float32


def test_select_by_numbers_or_mask():
    """select keeps whole episodes, in the order given."""
    transitions = load_transitions(write_dataset(lengths=(5, 3, 4)))
    chosen = transitions.select([2, 0])
    assert chosen.episode_lengths.tolist() == [4, 5]
    np.testing.assert_array_equal(chosen.rewards, np.r_[transitions.rewards[8:], transitions.rewards[:5]])
    assert_same_arrays(transitions.select(np.array([True, False, True])), transitions.select([0, 2]))
    assert (chosen.source.total_steps, chosen.source.total_episodes) == (9, 2)


def test_a_wrong_record_is_refused_with_both_numbers():
    """Shapes that do not fit, starts out of order, NaN: named, with what was given and expected."""
    with pytest.raises(DatasetError, match=r"actions of shape \(2, 1\) given, \(3, 1\) expected"):
        by_hand([1, 2, 3], [0], actions=np.zeros((2, 1), np.float32))
    for starts in ([1], [0, 0], [0, 3], []):
        with pytest.raises(DatasetError, match="episode_starts must ascend from 0 to below 3"):
            by_hand([1, 2, 3], np.array(starts, int))
    with pytest.raises(DatasetError, match="'test/by-hand-v0' holds nan in rewards of episode 1, step 0"):
        by_hand([1, 2, np.nan], [0, 2])
    with pytest.raises(DatasetError, match="holds 1 transition: at least two"):
        by_hand([1], [0])


# ----------------------------------------------------------------------------------------- several datasets


def test_several_datasets_in_one():
    """Arrays one after the other, in the order given; every id in the source."""
    write_dataset("test/a-v0", lengths=(2, 3), seed=1)
    write_dataset("test/b-v0", lengths=(4,), seed=2)
    a, b = load_transitions("test/a-v0"), load_transitions("test/b-v0")
    for items in (["test/a-v0", "test/b-v0"], ["test/a-v0", b], (a, "test/b-v0")):
        both = load_transitions(items)
        assert both.episode_starts.tolist() == [0, 2, 5]
        for name in FIELDS:
            np.testing.assert_array_equal(
                getattr(both, name), np.concatenate([getattr(a, name), getattr(b, name)])
            )
        assert both.source.dataset_ids == ("test/a-v0", "test/b-v0")
        assert (both.source.total_steps, both.source.total_episodes) == (9, 3)


def test_what_was_read_is_not_read_otherwise():
    """Parts that are to be left out, or another type, are asked of the id; asking for what it is changes nothing."""
    data = load_transitions("embedded")
    assert load_transitions(data) is load_transitions(data, dtype="float32") is data
    wide = load_transitions("embedded", dtype="float64")
    assert load_transitions(wide) is load_transitions(wide, dtype="float64") is wide
    for changes in ({"drop": "mission"}, {"dtype": "float64"}, {"dtype": "bogus"}):
        with pytest.raises(
            DatasetError, match=r"was read with drop=\[\], dtype=float32, and .* is asked for"
        ):
            load_transitions(data, **changes)


def test_spaces_that_differ_are_refused():
    """The first difference is named."""
    write_dataset("test/a-v0")
    write_dataset("test/b-v0", observation_space=spaces.Box(-1, 1, (4,)), env=None)
    message = r"'test/a-v0' and Dataset 'test/b-v0' cannot be combined: their observation spaces differ, Box.*\(4,\)"
    with pytest.raises(DatasetError, match=message):
        load_transitions(["test/a-v0", "test/b-v0"])
    with pytest.raises(DatasetError, match="the list is empty"):
        load_transitions([])


def test_datasets_of_different_environments():
    """Equal spaces are enough to combine; whose environment is used is said, scores that differ are dropped."""
    said: list[str] = []
    write_dataset("test/a-v0", ref_min_score=0.0, ref_max_score=1.0)
    write_dataset("test/b-v0", env=None)
    source = load_transitions(["test/a-v0", "test/b-v0"], on_message=said.append).source
    assert any(
        "same environment; Pendulum-v1 is used for evaluation, as 'test/a-v0' has it" in t for t in said
    )
    assert (source.ref_min_score, source.ref_max_score, source.ref_origin) == (None, None, "")
    assert load_transitions(["test/b-v0", "test/a-v0"], on_message=said.append).source.env_id == "Pendulum-v1"
    assert "as 'test/a-v0' has it" in said[-1]  # the first that names one, wherever it stands
    file = write_dataset("test/c-v0").storage.data_path / "metadata.json"
    metadata = json.loads(file.read_text())
    spec = json.loads(metadata["env_spec"]) | {"kwargs": {"g": 2.0}}
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    said.clear()
    load_transitions(["test/a-v0", "test/c-v0"], on_message=said.append)
    assert len(said) == 1  # one name, but another gravity


def test_a_list_whose_metadata_count_too_few_steps():
    """Transitions that follow find room all the same."""
    first, second = write_dataset("test/a-v0"), load_transitions(write_dataset("test/b-v0", seed=1))
    first.storage.update_metadata({"total_steps": 3})
    alone = load_transitions("test/a-v0")
    both = load_transitions(["test/a-v0", second])
    assert len(both) == len(alone) + len(second) == 24
    np.testing.assert_array_equal(both.observations[12:], second.observations)


# ----------------------------------------------------------------------------------------------- provenance


def test_reference_scores_and_where_they_come_from():
    """The dataset's own; else D4RL's for the MuJoCo families, and it says so; else none."""
    metadata = {"dataset_id": "x/y-v0", "env_spec": json.dumps({"id": "Hopper-v5"})}
    borrowed = Source.of(metadata)
    assert (borrowed.ref_min_score, borrowed.ref_max_score) == (-20.272305, 3234.3)
    assert borrowed.ref_origin == "D4RL's table for Hopper-v2 (the dataset, of Hopper-v5, has none)"
    own = Source.of(metadata | {"ref_min_score": 1, "ref_max_score": 2.5})
    assert (own.ref_min_score, own.ref_max_score, own.ref_origin) == (1.0, 2.5, "dataset metadata")
    none = Source.of(metadata | {"env_spec": json.dumps({"id": "Pendulum-v1"})})
    assert (none.ref_min_score, none.ref_origin) == (None, "")
    assert Source.of({"dataset_id": "x/y-v0"}).env_id is None
    foreign = Source.of(metadata | {"env_spec": json.dumps({"id": "mycorp/Hopper-v0"})})
    assert foreign.ref_min_score is None  # perhaps of other dynamics
    with pytest.raises(DatasetError, match="'x/y-v0' has 'a' as a reference score"):
        Source.of(metadata | {"ref_max_score": "a"})


def test_several_licences():
    """A list of them is one text, as the card writes it."""
    assert Source.of({"dataset_id": "x/y-v0", "license": ["mit", "x"]}).license == "mit, x"


def test_provenance_goes_through_json():
    """from_json(to_json) is the identity; what the dataset states is in it."""
    source = load_transitions(
        write_dataset(author={"B", "A"}, requirements=["numpy>=1"], ref_min_score=0.0, ref_max_score=3.0)
    ).source
    assert Source.from_json(json.loads(json.dumps(source.to_json()))) == source
    assert source.author == ("A", "B")
    assert source.requirements == ("numpy>=1",)
    assert source.env_id == "Pendulum-v1"
    assert source.minari_version == minari.__version__
    assert (source.total_steps, source.total_episodes) == (12, 3)


def test_the_embedded_dataset():
    """At most 3 MB, read by Minari alone, with Hopper's environment, and named as what it is."""
    folder = embedded_dataset()
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 3_000_000
    dataset = minari.MinariDataset(folder / "data")
    assert dataset.id == EMBEDDED_ID
    assert dataset.env_spec.id == "Hopper-v5"
    transitions = load_transitions("embedded")
    assert (len(transitions), transitions.n_episodes) == (dataset.total_steps, dataset.total_episodes)
    assert (transitions.obs_dim, transitions.act_dim) == (11, 3)
    assert transitions.source.ref_origin.startswith("D4RL")
    assert (folder / "README.md").read_text().count("first") >= 1
    np.testing.assert_array_equal(transitions.observations[:5], dataset[0].observations[:5])


def test_the_embedded_id_gives_way_to_a_local_dataset():
    """Its id is that of a local dataset where there is one."""
    assert load_transitions(EMBEDDED_ID).obs_dim == 11
    write_dataset(EMBEDDED_ID)
    assert load_transitions(EMBEDDED_ID).obs_dim == 3


# -------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_id_names_the_nearest():
    """The download is tried and said; the error names the nearest local id and what to type."""
    said: list[str] = []
    write_dataset("mujoco/hopper/medium-v0")
    with pytest.raises(DatasetError) as error:
        load_transitions("mujoco/hoper/medium-v0", on_message=said.append)
    assert "'mujoco/hoper/medium-v0' not found. Did you mean 'mujoco/hopper/medium-v0'?" in str(error.value)
    assert "minari download mujoco/hoper/medium-v0" in str(error.value)
    assert "downloading it with Minari" in said[0]
    assert "\n" not in str(error.value)


def test_a_missing_dataset_is_downloaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """An id that is not local is fetched by Minari's own download, whose printing is kept off the terminal."""

    def fetch(dataset_id: str) -> None:
        print("Downloading", dataset_id)
        write_dataset(dataset_id)

    monkeypatch.setattr(minari, "download_dataset", fetch)
    assert len(load_transitions("mujoco/pendulum/expert-v0")) == 12
    assert capsys.readouterr().out == ""


def damaged(name: str, value):
    def change(fields, i):
        if i == 1:
            array = np.array(fields[name], np.float32)
            array[(1, *[0] * (array.ndim - 1))] = value
            fields[name] = array

    return change


def cut(name: str):
    def change(fields, i):
        if i == 2:
            fields[name] = fields[name][:-1]

    return change


def as_objects(fields, i):
    fields["observations"] = [str(row) for row in fields["observations"]]


BAD_DATASETS = {
    "NaN observation": (
        {"change": damaged("observations", np.nan)},
        "'test/bad-v0' holds nan in observations of episode 1, step 1. .*filter_episodes",
    ),
    "infinite reward": ({"change": damaged("rewards", np.inf)}, "inf in rewards of episode 1, step 1"),
    "NaN action": ({"change": damaged("actions", np.nan)}, "nan in actions of episode 1, step 1"),
    "too few actions": (
        {"change": cut("actions")},
        "'test/bad-v0': episode 2 holds 5 observations, 3 actions, 4 rewards",
    ),
    "too few rewards": ({"change": cut("rewards")}, "episode 2 holds 5 observations, 4 actions, 3 rewards"),
    "text for numbers": ({"change": as_objects}, "episode 0: the space holds object values, not numbers"),
    "one step": ({"lengths": (1,)}, "'test/bad-v0' holds 1 transition: at least two"),
    "nothing": ({"lengths": ()}, "'test/bad-v0' holds no episodes"),
    "text actions": (
        {"action_space": spaces.Text(3), "env": None},
        "actions of dataset 'test/bad-v0': the space is text",
    ),
    "wrong shape": (
        {"change": lambda fields, i: fields.update(observations=np.zeros((len(fields["observations"]), 7)))},
        r"episode 0: the space has values of shape \(7,\), its space .* expects \(3,\)",
    ),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_bad_datasets(case):
    """Each defect is one line that says which episode, which field, and what to do."""
    options, message = BAD_DATASETS[case]
    write_dataset("test/bad-v0", **options)
    with pytest.raises(DatasetError, match=message) as error:
        load_transitions("test/bad-v0")
    assert "\n" not in str(error.value)


def rewrite_metadata(folder: Path, **changes):
    path = folder / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD_FOLDERS = {
    "cut file": (
        lambda f: (f / "data/main_data.hdf5").write_bytes((f / "data/main_data.hdf5").read_bytes()[:3000]),
        "main_data.hdf5 cannot be read.*minari download test/bad-v0 --force",
    ),
    "no file": (
        lambda f: (f / "data/main_data.hdf5").unlink(),
        "'test/bad-v0' cannot be opened.*No data found",
    ),
    "no metadata": (
        lambda f: (f / "data/metadata.json").unlink(),
        "'test/bad-v0' cannot be opened.*No data found",
    ),
    "broken metadata": (lambda f: (f / "data/metadata.json").write_text("{"), "metadata.json is no JSON"),
    "later Minari": (
        lambda f: rewrite_metadata(f, minari_version="9.0"),
        "Minari 9.0.*pip install --upgrade minari",
    ),
    "no such space": (lambda f: rewrite_metadata(f, observation_space='{"type": "Hat"}'), "cannot be opened"),
    "unknown format": (lambda f: rewrite_metadata(f, data_format="csv"), "cannot be opened.*csv"),
    "fewer episodes": (
        lambda f: rewrite_metadata(f, total_episodes=9),
        "has no episode_3.*counts 9 episodes",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_damaged_folders(case, minari_store: Path):
    """A damaged file is named, with how to get it back."""
    damage, message = BAD_FOLDERS[case]
    write_dataset("test/bad-v0")
    damage(minari_store / "test/bad-v0")
    with pytest.raises(DatasetError, match=message) as error:
        load_transitions("test/bad-v0")
    assert "\n" not in str(error.value)


def test_an_array_missing_from_one_episode(minari_store: Path):
    write_dataset("test/bad-v0")
    with h5py.File(minari_store / "test/bad-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(DatasetError, match=r"'test/bad-v0', episode 1: .*rewards"):
        load_transitions("test/bad-v0")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hopper medium", "it is no folder and no Minari id"),
        (Path("nowhere/at-all"), "it is no folder"),
        (42, "not a int"),
        ("mujoco/hopper/medium", "no Minari id, which looks like mujoco/hopper/medium-v0"),
    ],
)
def test_what_is_no_dataset(source, message):
    with pytest.raises(DatasetError, match=message):
        load_transitions(source)


def test_a_folder_without_a_dataset(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"holds no Minari dataset: there is no metadata.json"):
        load_transitions(tmp_path)


def test_a_copied_folder_is_a_dataset(minari_store: Path, tmp_path: Path):
    """A dataset may lie anywhere."""
    write_dataset()
    expected = load_transitions("test/pendulum-v0")
    shutil.copytree(minari_store / "test/pendulum-v0", tmp_path / "elsewhere")
    assert_same_arrays(load_transitions(tmp_path / "elsewhere"), expected)


def test_records_are_frozen():
    transitions = by_hand([1, 2], [0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        transitions.rewards = np.zeros(2)


def test_combined_synsets_are_no_data():
    """Minari's combination forgets that they are synsets; one step an episode, no reward, s' = s tell it."""
    for name in ("me/one-v0", "me/two-v0"):
        make_synset().save(name)
    minari.combine_datasets(
        [minari.load_dataset("me/one-v0"), minari.load_dataset("me/two-v0")], "me/both-v0"
    )
    with pytest.raises(DatasetError, match="'me/both-v0' holds pairs and no transitions"):
        load_transitions("me/both-v0")


def test_datasets_that_differ_in_what_is_dropped_are_joined():
    """A mission of 14 characters and one of 30; without drop the difference is named."""
    for name, length in (("test/a-v0", 14), ("test/b-v0", 30)):
        space = spaces.Dict(x=spaces.Box(-1, 1, (2,)), mission=spaces.Text(length))
        write_dataset(name, observation_space=space)
    assert len(load_transitions(["test/a-v0", "test/b-v0"], drop=["mission"])) == 24
    with pytest.raises(DatasetError, match="in 'mission'"):
        load_transitions(["test/a-v0", "test/b-v0"])


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_a_damaged_file_of_another_format(data_format):
    """Named, whatever its library raises."""
    dataset = write_dataset(data_format=data_format)
    files = [p for p in Path(dataset.storage.data_path).rglob("*") if p.suffix in (".arrow", ".parquet")]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match="'test/pendulum-v0'.*cannot be (read|opened)"):
        load_transitions("test/pendulum-v0")


def test_metadata_by_hand():
    """No author and one requirement as text are fine; without a count of steps the dataset cannot be opened."""
    path = Path(write_dataset().storage.data_path) / "metadata.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"author": None, "requirements": "gymnasium"}))
    source = load_transitions("test/pendulum-v0").source
    assert (source.author, source.requirements) == ((), ("gymnasium",))
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != "total_steps"}))
    with pytest.raises(DatasetError, match="cannot be opened .*total_steps"):
        load_transitions("test/pendulum-v0")


@pytest.mark.parametrize("bound", [1e9, float(np.finfo(np.float32).max), np.inf])
def test_bounds_that_are_none(bound):
    """Actions within ±1 of a Box to the end of float32 are scaled by what they are; ±1 itself stays."""
    actions = spaces.Box(-bound, bound, (1,), np.float32)

    def sines(fields, i):
        fields["actions"] = np.sin(np.arange(len(fields["rewards"])) + i, dtype=np.float32)[:, None]

    write_dataset(action_space=actions, change=sines)
    t = load_transitions("test/pendulum-v0")
    units, a = t.units(), torch.tensor(t.actions)
    np.testing.assert_allclose(units.unscale(units.scale(a)), a, atol=1e-6)
    assert units.scale(a).min() == -1 and units.scale(a).max() == 1
    assert t.select([0]).n_episodes == 1
    with pytest.raises(DatasetError, match="No episode was selected, of the 3"):
        t.select([])


def test_a_type_that_is_none():
    """Refused with the two that there are."""
    with pytest.raises(DatasetError, match="Vectors are 'float32' or 'float64', not 'flaot32'"):
        load_transitions(EMBEDDED_ID, dtype="flaot32")


@pytest.mark.parametrize(("step", "named"), [(1.0, ["time 0"]), (0.0, []), (1e8, [])])
def test_numbers_that_float32_cannot_tell_apart_are_named(step, named):
    """Seconds since 1970 over half a minute; a constant, however large, and a wide range are none."""
    space = spaces.Dict(x=spaces.Box(-1, 1, (2,)), time=spaces.Box(-np.inf, np.inf, (1,), np.float64))

    def clock(fields, i):
        fields["observations"]["time"] = 1.7e9 + np.arange(len(fields["rewards"]) + 1.0)[:, None] * step

    write_dataset(observation_space=space, change=clock)
    assert load_transitions("test/pendulum-v0", dtype="float64").unresolved() == named
