"""A saved policy acts as the policy did: raw observation in, raw action out, whatever reads the file."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file

import minari_distill as md
from minari_distill.errors import ConfigError
from minari_distill.networks import Architecture, initialize
from minari_distill.policy import Policy
from minari_distill.recipe import StudentRecipe
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers import Teacher, load_teacher
from minari_distill.units import Units
from tests.synsets import make_synset

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOUNDS = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))
SPACES = {
    "box": (BOX, BOUNDS),
    "matrix": (spaces.Box(-5, 5, (2, 2), np.float32), spaces.Box(-1, 1, (2, 1), np.float32)),
    "a number": (spaces.Box(-5, 5, ()), spaces.Box(-1, 1, ())),
    "integers": (BOX, spaces.Box(0, 7, (2,), np.int32)),
    "discrete": (BOX, spaces.Discrete(4)),
    "discrete from 3": (BOX, spaces.Discrete(4, start=3)),
    "goal": (spaces.Dict(goal=BOX, state=spaces.Box(-1, 1, (2,))), BOUNDS),
}


def make_policy(name: str, K: int = 1, residual: bool = False) -> Policy:
    """Untrained students with large weights, so that actions differ between states."""
    observations, actions = (SpaceCodec(space) for space in SPACES[name])
    discrete = actions.is_discrete
    recipe = StudentRecipe(
        hidden_layers=2, hidden_width=16, head="softmax" if discrete else "tanh", residual=residual
    )
    theta = initialize(
        Architecture.of(recipe, observations.dim, actions.dim), K, generator=torch.Generator().manual_seed(0)
    )
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=observations.dim), rng.uniform(0.5, 2, observations.dim)
    units = Units.of(mean, std, actions.low, actions.high, discrete=discrete)
    return Policy(1.5 * theta, recipe, units, observations, actions)


def observations_of(policy: Policy, n: int = 9) -> np.ndarray:
    """n observations in raw units, as one float32 batch."""
    rng = np.random.default_rng(2)
    return policy.observation_codec.project(rng.normal(size=(n, policy.observation_codec.dim)) * 2)


def each_act(policy: Policy, vectors: np.ndarray) -> np.ndarray:
    values = [policy.observation_codec.decode_one(v) for v in vectors]
    return np.stack([policy.act(value) for value in values])


def run_torchscript(path, batch: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path))(torch.as_tensor(batch)).numpy()


def same_actions(run: Callable[[np.ndarray], np.ndarray], policy: Policy, vectors: np.ndarray) -> None:
    """`run` gives `policy.act` row by row, for a batch and for a single observation, in the right dtype."""
    expected = each_act(policy, vectors)
    shape = policy.observation_codec.space.shape
    shape = (-1,) if shape is None else shape
    for n in (1, len(vectors)):
        actual = run(vectors[:n].reshape(n, *shape))
        assert actual.shape == expected[:n].shape
        assert actual.dtype == (np.int64 if policy.action_codec.is_discrete else np.float32)
        np.testing.assert_allclose(actual, expected[:n], rtol=1e-5, atol=1e-5)


def teaches_as(teacher: Teacher, policy: Policy) -> None:
    """The teacher fits the policy's data and acts as it does."""
    teacher.check_fits(policy.observation_codec.dim, policy.action_codec.dim)
    vectors = observations_of(policy)
    actual = policy.action_codec.decode(teacher.policy(torch.as_tensor(vectors)).numpy())
    np.testing.assert_allclose(actual, each_act(policy, vectors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_file_acts_as_the_policy(tmp_path, suffix, name, K):
    """Single students and ensembles, continuous and discrete, any batch size: `policy.act` row by row."""
    policy = make_policy(name, K)
    path = policy.save(tmp_path / "deep" / f"policy{suffix}")
    vectors = observations_of(policy)
    expected = each_act(policy, vectors)
    assert len(np.unique(expected, axis=0)) > 1
    if suffix == ".safetensors":
        actual = each_act(md.load_policy(path), vectors)
        assert np.array_equal(actual, expected)
        return
    same_actions(partial(run_torchscript, path), policy, vectors)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no file beside it


def test_a_residual_student_too(tmp_path):
    """The architecture travels inside the module."""
    policy = make_policy("box", residual=True)
    vectors = observations_of(policy)
    actual = run_torchscript(policy.save(tmp_path / "p.pt"), vectors)
    np.testing.assert_allclose(actual, each_act(policy, vectors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_a_saved_student_is_a_teacher(tmp_path, name):
    """What `save` writes, `load_teacher` reads: the circle closes."""
    policy = make_policy(name)
    teaches_as(load_teacher(policy.save(tmp_path / "policy.pt")), policy)


def test_a_torchscript_policy_moves_with_its_numbers(tmp_path):
    """Everything that it calculates with is a buffer: nothing stays behind on the CPU."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        loaded = torch.jit.load(make_policy("box").save(tmp_path / "policy.pt")).to("meta")
    assert loaded(torch.zeros(4, 3, device="meta")).device.type == "meta"


def test_home_is_home(tmp_path, monkeypatch):
    """`~` in the path of a policy is the home directory, for saving and loading."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    policy = make_policy("box")
    assert policy.save("~/policy.safetensors") == tmp_path / "policy.safetensors"
    assert torch.equal(md.load_policy("~/policy.safetensors").theta, policy.theta)
    assert not (tmp_path / "~").exists()


def test_what_cannot_be_saved_says_so(tmp_path):
    """Suffixes, action spaces without a tensor, files for other runtimes."""
    policy = make_policy("box")
    with pytest.raises(ConfigError, match=r"saved as \.safetensors, \.pt, \.onnx, not as '\.pkl'"):
        policy.save(tmp_path / "policy.pkl")
    with pytest.raises(ConfigError, match=r"is for torch\.jit\.load; this reads the \.safetensors"):
        md.load_policy(policy.save(tmp_path / "policy.pt"))
    several = SpaceCodec(spaces.MultiDiscrete([2, 3]))
    low, high = several.low, several.high
    other = Policy(
        initialize(Architecture.of(policy.recipe, 3, 5), 1, generator=torch.Generator().manual_seed(0)),
        policy.recipe,
        Units.of(np.zeros(3), np.ones(3), low, high),
        policy.observation_codec,
        several,
    )
    with pytest.raises(ConfigError, match=r"of a Box or a Discrete space, not MultiDiscrete.*\.safetensors"):
        other.save(tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()
    assert md.load_policy(other.save(tmp_path / "other.safetensors")).action_codec == several


def test_onnx_without_its_exporter_names_the_extra(tmp_path, monkeypatch):
    """The install command."""
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnxscript.*pip install 'minari-distill\[onnx\]'"):
        make_policy("box").save(tmp_path / "policy.onnx")


def test_torchscript_takes_what_gymnasium_gives(tmp_path):
    """Observations of MuJoCo's environments are float64."""
    policy = make_policy("box")
    x = np.random.default_rng(0).normal(size=(4, 3))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        scripted = torch.jit.load(policy.save(tmp_path / "policy.pt"))
    np.testing.assert_array_equal(scripted(torch.as_tensor(x)), scripted(torch.as_tensor(x).float()))


def test_torchscript_takes_one_observation_too(tmp_path):
    """As a batch of one; numbers that are no observation are refused."""
    policy = make_policy("box")
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    path = policy.save(tmp_path / "policy.pt")
    np.testing.assert_allclose(run_torchscript(path, x), policy.act(x)[None], rtol=1e-5, atol=1e-6)
    for shape in ((4, 1), (3, 8), (2, 6), (5, 2, 3)):
        with pytest.raises(torch.jit.Error, match="another shape given"):
            run_torchscript(path, np.zeros(shape, np.float32))


def test_torchscript_normalises_before_rounding(tmp_path):
    """float64 observations of 10⁸ ± 1."""
    policy = make_policy("box")
    policy.units = dataclasses.replace(policy.units, obs_mean=torch.full((3,), 1e8))
    x = np.random.default_rng(0).normal(size=(4, 3))
    acted = run_torchscript(policy.save(tmp_path / "policy.pt"), x + 1e8)
    policy.units = dataclasses.replace(policy.units, obs_mean=torch.zeros(3))
    np.testing.assert_allclose(acted, run_torchscript(policy.save(tmp_path / "near.pt"), x), atol=1e-5)


def test_a_policy_of_a_later_release(tmp_path):
    """An unknown field of its recipe: told, with the way on."""
    path = md.behavior_clone(make_synset(), steps=1, in_metric=False).save(tmp_path / "policy.safetensors")
    with safe_open(str(path), "pt") as file:
        header, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    header["recipe"] = json.dumps(json.loads(header["recipe"]) | {"dropout": 0.1})
    save_file(tensors, path, header)
    with pytest.raises(ConfigError, match="does not know .*dropout.*pip install --upgrade"):
        md.load_policy(path)
