"""Every family of published Minari datasets, in miniature: from the dataset to a student that acts."""

import re
import sys
from pathlib import Path

import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from typer.testing import CliRunner

import minari_distill as md
from benchmarks.catalogue import entries, table
from minari_distill.cli import app
from minari_distill.errors import DatasetError, EnvironmentUnavailable
from minari_distill.progress import silent
from minari_distill.spaces import SpaceCodec
from tests.conftest import write_dataset

TINY = {
    "teacher_method": "filtered_bc",
    "teacher_steps": 5,
    "n_syn": 6,
    "hidden_width": 16,
    "hidden_layers": 2,
    "inner_steps": 6,
    "window": 3,
    "outer_batch": 16,
    "outer_steps": 3,
    "validate_every": 1,
}


def box(dim, dtype=np.float64):
    return spaces.Box(-np.inf, np.inf, (dim,), dtype)


def control(dim, dtype=np.float32, bound=1.0):
    return spaces.Box(-bound, bound, (dim,), dtype)


def goals(dim):
    return spaces.Dict(achieved_goal=box(2), desired_goal=box(2), observation=box(dim))


def kitchen():
    sizes = {"bottom burner": 2, "hinge cabinet": 2, "kettle": 7, "light switch": 2, "microwave": 1}
    goal = spaces.Dict({name: box(n) for name, n in sizes.items()})
    return spaces.Dict(achieved_goal=goal, desired_goal=goal, observation=box(59))


def grid(size):
    image = spaces.Box(0, 255, (size, size, 3), np.uint8)
    return spaces.Dict(direction=spaces.Discrete(4), image=image, mission=spaces.Text(256, min_length=1))


# A hand's position within the table, the gripper within [−1, 1], no bounds for objects, a goal that is constant 0.
HAND = spaces.Box(
    np.array(([-0.525, 0.348, -0.0525, -1] + [-np.inf] * 14) * 2 + [0] * 3),
    np.array(([0.525, 1.025, 0.7, 1] + [np.inf] * 14) * 2 + [0] * 3),
    dtype=np.float64,
)

FAMILIES = {  # family: (observation space, action space, parts to drop, what is read)
    "mujoco": (box(348), control(17, bound=0.4), [], 348),
    "mujoco float32": (box(11, np.float32), control(3), [], 11),
    "D4RL/door": (box(39), control(28), [], 39),
    "D4RL/hammer": (box(46), control(26), [], 46),
    "D4RL/pen": (box(45), control(24), [], 45),
    "D4RL/relocate": (box(39), control(30), [], 39),
    "metaworld": (HAND, control(4), [], 39),
    "D4RL/pointmaze": (goals(4), control(2), [], 8),
    "D4RL/antmaze": (goals(27), control(8), [], 31),
    "community": (goals(105), control(8), [], 109),
    "D4RL/kitchen": (kitchen(), control(9, np.float64), [], 87),
    "D4RL/minigrid": (grid(7), spaces.Discrete(7), ["mission"], 151),
    "minigrid": (grid(22), spaces.Discrete(7), ["mission"], 1456),
}


@pytest.fixture
def quick_estimate(monkeypatch):
    """No second of timed teacher steps before each run."""
    monkeypatch.setattr(sys.modules["minari_distill.how_long"], "estimate_seconds", lambda *_: 0.0)


def steps_of(space, batch, n):
    """The first n values of a batch, one at a time."""
    if isinstance(space, spaces.Dict):
        columns = {key: steps_of(child, batch[key], n) for key, child in space.spaces.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(n)]
    return list(batch[:n])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_road(family, quick_estimate):
    """Load → teacher → distil → save → Minari reload → behaviour clone → act, inside the spaces all along."""
    observation_space, action_space, drop, obs_dim = FAMILIES[family]
    dataset = write_dataset(
        "mini/set-v0",
        observation_space=observation_space,
        action_space=action_space,
        lengths=(9, 12, 8),
        env=None,
    )
    synset = md.distill("mini/set-v0", drop=drop, report=silent, **TINY)
    assert synset.observations.shape == (6, obs_dim)
    synset.save("mini/distilled-v0")

    reloaded = minari.load_dataset("mini/distilled-v0")
    assert reloaded.total_episodes == 6 and reloaded.total_steps == 6
    assert reloaded.action_space == action_space
    kept = reloaded.observation_space
    if drop:
        assert set(kept.spaces) == set(observation_space.spaces) - set(drop)
    else:
        assert kept == observation_space
    for episode in reloaded.iterate_episodes():
        assert all(o in kept for o in steps_of(kept, episode.observations, 2))
        assert all(a in action_space for a in steps_of(action_space, episode.actions, 1))

    again = md.load_synset("mini/distilled-v0")
    np.testing.assert_array_equal(again.observations, synset.observations)
    np.testing.assert_array_equal(again.actions, synset.actions)
    policy = md.behavior_clone(again, n_policies=2, seed=1)
    for observation in steps_of(observation_space, dataset[0].observations, 3):
        assert policy.act(observation) in action_space
    with pytest.raises(EnvironmentUnavailable, match="mini/set-v0 names no environment"):
        md.evaluate(policy, again)


def test_images_are_refused_with_the_memory_they_would_need():
    """Atari: the message holds the shape, the memory and the repair; nothing has been read."""
    write_dataset(
        "atari/mini-v0",
        observation_space=spaces.Box(0, 255, (210, 160, 3), np.uint8),
        action_space=spaces.Discrete(18),
        lengths=(2, 2),
        env=None,
    )
    with pytest.raises(
        DatasetError, match=r"\(210, 160, 3\) is an image of 100,800 numbers: \d+ GB of memory"
    ):
        md.distill("atari/mini-v0", report=silent, **TINY)


@pytest.mark.parametrize("drop", [[], ["utterances"]])
def test_text_alone_is_refused(drop):
    """webagents: no number anywhere, whatever is dropped."""
    text = spaces.Text(64, min_length=1)
    write_dataset(
        "webagents/mini-v0",
        observation_space=spaces.Dict(clean_html=text, utterances=text),
        action_space=text,
        env=None,
    )
    with pytest.raises(DatasetError, match="'webagents/mini-v0': part 'clean_html' is text"):
        md.distill("webagents/mini-v0", drop=drop, report=silent, **TINY)


def test_the_message_names_the_text_to_drop():
    """minigrid without `drop` says what to type."""
    write_dataset("mini/grid-v0", observation_space=grid(7), action_space=spaces.Discrete(7), env=None)
    with pytest.raises(DatasetError, match=r"'mission' is text.*leave it out with drop=\['mission'\]"):
        md.distill("mini/grid-v0", report=silent, **TINY)


@pytest.mark.parametrize("objective", ["dbc", "pbc", "av_pbc"])
@pytest.mark.parametrize(
    ("action_space", "teacher"),
    [
        (spaces.Discrete(3, start=-1), "QTeacher"),
        (spaces.MultiDiscrete([3, 2]), "NetworkTeacher"),
        (spaces.MultiBinary(3), "NetworkTeacher"),
    ],
    ids=["discrete", "multi-discrete", "multi-binary"],
)
def test_the_default_teacher_takes_every_choice_of_actions(
    action_space, teacher, objective, quick_estimate, tmp_path
):
    """Cal-QL without a word about it: exact over one choice among n, on the relaxed vectors of several choices."""
    write_dataset(
        "mini/set-v0", observation_space=box(4), action_space=action_space, lengths=(9, 12), env=None
    )
    settings = TINY | {"teacher_method": "cal_ql", "cql_n_actions": 2, "objective": objective}
    synset = md.distill("mini/set-v0", run_dir=tmp_path / "run", report=silent, **settings)
    if objective != "dbc":
        assert type(md.load_teacher(tmp_path / "run" / "teacher.safetensors")).__name__ == teacher
    if teacher == "QTeacher":
        assert synset.recipe.head == "softmax"
        np.testing.assert_allclose(synset.actions.sum(1), 1, atol=1e-5)
    assert md.behavior_clone(synset).act(np.zeros(4)) in action_space


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_float64_stays_float64(precision, quick_estimate):
    """dtype="float64": positions near 1e6 that differ by 1e-3 survive; in float32 they would be 0.06 apart."""

    def far_away(fields, i):
        fields["observations"] = 1e6 + 1e-3 * np.arange(fields["observations"].size).reshape(-1, 2)

    write_dataset("mini/far-v0", observation_space=box(2), action_space=control(1), env=None, change=far_away)
    synset = md.distill(
        "mini/far-v0", dtype="float64", report=silent, **TINY | {"outer_steps": 0, "precision": precision}
    )
    assert synset.observations.dtype == np.float64
    synset.save("mini/far-distilled-v0")
    stored = minari.load_dataset("mini/far-distilled-v0")[0].observations
    assert stored.dtype == np.float64
    # σ is 1e-2: float32's 1e-7 of it, plus ε
    thousandths = (synset.observations - 1e6) * 1e3
    np.testing.assert_allclose(thousandths, np.rint(thousandths), atol=1e-3)


CATALOGUE = list(entries())


def test_the_catalogue_is_whole():
    """393 datasets, every space parsed; the one without printed spaces is known by name."""
    assert len(CATALOGUE) == 393
    assert [e.id for e in CATALOGUE if e.observation_space is None] == ["community/Farama-Antmaze-v5"]


def test_every_published_space_is_encoded_exactly_or_refused():
    """Sampled values of each distinct pair of spaces: decode(encode(v)) = v; atari and webagents are refused."""
    seen = {}
    for entry in CATALOGUE:
        if entry.observation_space is not None:
            seen.setdefault((str(entry.observation_space), str(entry.action_space)), entry)
    for entry in seen.values():
        if entry.family in ("atari", "webagents"):
            with pytest.raises(DatasetError, match="image|text"):
                _ = entry.codecs
            continue
        for codec in entry.codecs:
            exact = SpaceCodec(codec.space, codec.drop, "float64")
            exact.kept_space.seed(0)
            for value in (exact.kept_space.sample() for _ in range(3)):
                assert data_equivalence(exact.decode_one(exact.encode_one(value)), value)


def test_the_table_in_the_docs_is_the_script_s():
    """docs/catalogue.md holds what `python -m benchmarks.catalogue` prints, and its tests exist."""
    page = (Path(__file__).parent.parent / "docs" / "catalogue.md").read_text()
    assert table() in page
    for name, family in re.findall(r"test_families\.py::(\w+)(?:\[([^\]]+)\])?", page):
        assert name in globals() and (not family or family in FAMILIES)


def test_the_command_line_drops_parts(quick_estimate, tmp_path, monkeypatch):
    """--drop mission --dtype float64 do what drop=["mission"], dtype="float64" do."""
    monkeypatch.chdir(tmp_path)
    write_dataset("mini/grid-v0", observation_space=grid(7), action_space=spaces.Discrete(7), env=None)
    flags = [x for name, value in TINY.items() for x in ("--set", f"{name}={value}")]
    command = [
        "distill",
        "mini/grid-v0",
        "-o",
        "mini/x-v0",
        "--drop",
        "mission",
        "--dtype",
        "float64",
        *flags,
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    synset = md.load_synset("mini/x-v0")
    assert synset.observations.shape == (6, 151) and synset.observations.dtype == np.float64
