"""Figures: the colours can be told apart, the numbers drawn are right, the same drawing gives the same bytes."""

import matplotlib.colors
import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.axes import Axes

from minari_distill import plots
from minari_distill.plots.pairs import MOST_ACTIONS, _components, _panels
from minari_distill.plots.style import PALETTE
from minari_distill.spaces import SpaceCodec
from minari_distill.transitions import load_transitions
from tests.conftest import write_dataset
from tests.synsets import MINIGRID, make_synset

# Machado, Oliveira and Fernandes 2009, severity 1: what a colour in linear RGB looks like without one kind of cone.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
TRITANOPIA = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
]


@pytest.mark.parametrize("sight", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_the_palette_is_safe_for_every_kind_of_colour_vision(sight):
    """Any two colours lie at least 10 apart in CIELAB, also for people without red, green or blue cones."""
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(sight), 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    t = xyz / [0.9505, 1.0, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(lab))
    assert apart.min() > 10


def test_components_of_a_line():
    """Points on (3, 4)·t: the first direction is (0.6, 0.8) with all of the variance."""
    t = np.linspace(-1, 1, 9)
    centre, directions, shares = _components(np.stack([3 * t + 1, 4 * t], 1))
    assert np.allclose(centre, [1, 0]) and np.allclose(directions[0], [0.6, 0.8])
    assert np.allclose(shares, [1, 0], atol=1e-12)
    _, directions, shares = _components(t[:, None])  # one number a state
    assert directions.shape == (2, 1) and np.allclose(shares, [1, 0])


def test_the_same_drawing_gives_the_same_bytes(tmp_path):
    """Every figure drawn twice is the same file, so that it is not a change."""
    source = load_transitions(write_dataset())
    synset = make_synset(20)
    score = {"mean": 1.0, "ci95_half_width": None, "unit": "return"}
    history = [{"step": i, "loss": i and 0.1, "held_out_loss": 0.2 / (i + 1)} for i in range(3)]
    for draw in (
        lambda path: plots.learning_curve(history, {"synset": score, "teacher": score}, "t", path),
        lambda path: plots.held_out_curve(history, "t", path),
        lambda path: plots.returns_by_objective(
            {"DBC": {"recipe": score}, "PBC": {"recipe": score}}, "score", "t", path, teachers={"DBC": 2.0}
        ),
        lambda path: plots.principal_components(synset, source, "t", path),
        lambda path: plots.action_histograms(synset, source, "t", path),
    ):
        first, second = draw(tmp_path / "a.png").read_bytes(), draw(tmp_path / "b.png").read_bytes()
        assert first == second and first.startswith(b"\x89PNG")


def test_shares_of_a_discrete_action(tmp_path, monkeypatch):
    """One panel: the source's frequencies and the synset's mean probabilities, by hand."""
    drawn = []
    bar = Axes.bar
    monkeypatch.setattr(
        Axes,
        "bar",
        lambda self, at, height, *args, **kw: drawn.append(height) or bar(self, at, height, *args, **kw),
    )
    data = write_dataset(action_space=spaces.Discrete(3), env=None)
    synset = make_synset(4, action_space=spaces.Discrete(3))
    source = load_transitions(data)
    plots.action_histograms(synset, source, "t", tmp_path / "a.png")
    assert np.allclose(drawn[0], [(source.actions.argmax(1) == k).mean() for k in range(3)])
    assert np.allclose(drawn[1], synset.actions.mean(0)) and np.isclose(drawn[1].sum(), 1)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "drop"),
    [
        (MINIGRID, spaces.Discrete(7), ("mission",)),
        (spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-np.inf, np.inf, (1,), np.float32), ()),
        (spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (MOST_ACTIONS + 6,), np.float32), ()),
        (
            spaces.Box(-1, 1, (2,), np.float32),
            spaces.Dict(a=spaces.Box(0, 1), b=spaces.MultiDiscrete([2, 3])),
            (),
        ),
    ],
    ids=["minigrid", "one number", "many actions", "a tree of actions"],
)
def test_any_space_can_be_drawn(tmp_path, observation_space, action_space, drop):
    """Neither figure needs more than one pair, or a second dimension."""
    synset = make_synset(1, observation_space, action_space, drop=drop)
    for draw in (plots.principal_components, plots.action_histograms):
        assert draw(synset, None, "t", tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_panels_of_every_kind_of_action():
    """A histogram a number, bars a choice, each with the number that its first value has."""
    space = spaces.Dict(
        {
            "a": spaces.Box(-1, 1, (2,), np.float32),
            "b": spaces.Discrete(3, start=5),
            "c": spaces.MultiDiscrete([2, 3]),
            "d": spaces.MultiBinary(2),
        }
    )
    assert _panels(SpaceCodec(space)) == [
        ("a 0", 0, 0),
        ("a 1", 1, 0),
        ("b", slice(2, 5), 5),
        ("c 0", slice(5, 7), 0),
        ("c 1", slice(7, 10), 0),
        ("d", slice(10, 12), 0),
    ]


def test_bounds_that_say_nothing_do_not_set_the_axis(tmp_path, monkeypatch):
    """Actions of ±1 in bounds of ±10⁹ fill their histogram."""
    edges = []
    monkeypatch.setattr(Axes, "hist", lambda self, values, bins, **rest: edges.append(bins))
    synset = make_synset(
        action_space=spaces.Box(-1e9, 1e9, (1,), np.float32), actions=np.float32([[-1], [1]] * 3)
    )
    plots.action_histograms(synset, None, "t", tmp_path / "a.png")
    assert edges[0][0] == -1 and edges[0][-1] == 1


def test_components_of_long_states_are_quick_and_right():
    """Six states of 5000 numbers on a line: no matrix of 5000 × 5000 is made, and the line is found."""
    direction = np.random.default_rng(0).normal(size=5000)
    states = np.arange(6.0)[:, None] * direction
    _, directions, shares = _components(states)
    assert abs(directions[0] @ direction) == pytest.approx(np.linalg.norm(direction)) and shares[0] > 0.999
