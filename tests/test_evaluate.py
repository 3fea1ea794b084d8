"""Evaluation: the interval by hand, lockstep equals one episode at a time, and what cannot be evaluated says why."""

import dataclasses
import importlib
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import minari_distill as md
from minari_distill.config import make_config
from minari_distill.errors import ConfigError, EnvironmentUnavailable
from minari_distill.evaluate import (
    _T95,
    Evaluation,
    Score,
    TeacherPolicy,
    close_environment,
    evaluate,
    make_environment,
)
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.transitions import EMBEDDED_ID
from tests.synsets import make_synset


@pytest.fixture(scope="module")
def data():
    return md.load_transitions(EMBEDDED_ID)


def linear(data, seed, scale=0.3):
    M = scale * torch.randn(11, 3, generator=torch.Generator().manual_seed(seed))
    teacher = md.Teacher.from_callable(lambda obs: torch.tanh(obs @ M), obs_dim=11, act_dim=3)
    return TeacherPolicy(teacher, data.observation_codec, data.action_codec)


def test_the_interval_of_three_values_by_hand():
    """1, 2, 3: mean 2, standard deviation 1, t = 4.303, half-width 4.303/√3 = 2.484."""
    score = Score.of([1.0, 2.0, 3.0])
    assert score.mean == 2 and score.half_width == pytest.approx(2.484, abs=1e-3)
    assert score.low == pytest.approx(-0.484, abs=1e-3) and score.high == pytest.approx(4.484, abs=1e-3)
    assert math.isnan(Score.of([5.0]).half_width) and str(Score.of([5.0])) == "5.0"
    many = np.random.default_rng(0).normal(size=101)
    assert Score.of(many).half_width == pytest.approx(1.984 * many.std(ddof=1) / math.sqrt(101), rel=1e-2)


def test_the_quantiles_are_students():
    """Each within rounding of the point below which 97.5 % of Student's t lies, by integration of its density."""
    for nu, t in enumerate(_T95, 1):
        x = np.linspace(0, t, 20_001)
        density = (1 + x**2 / nu) ** (-(nu + 1) / 2)
        density *= math.gamma((nu + 1) / 2) / (math.gamma(nu / 2) * math.sqrt(nu * math.pi))
        assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=5e-5)


def test_the_score_of_several_policies_by_hand():
    """Returns (0, 2) and (4, 6): the policies' means 1 and 5, 3 ± 12.706·2.828/√2 = 25.4; of one policy, its episodes."""
    several = Evaluation(np.array([[0.0, 2], [4, 6]]), np.ones((2, 2)), "X-v0", None, None, "", 0, 0.0)
    assert several.score.mean == 3 and several.score.half_width == pytest.approx(25.412, abs=1e-3)
    alone = dataclasses.replace(several, returns=several.returns[:1])
    assert alone.score.half_width == pytest.approx(12.706, abs=1e-3)


@pytest.mark.parametrize(
    ("mean", "width", "told"),
    [
        (45.93, 0.21, "45.9 ± 0.2"),
        (-0.04, 0.6, "0.0 ± 0.6"),
        (0.0449, 0.004, "0.045 ± 0.004"),
        (-0.015, 0.0635, "-0.015 ± 0.064"),
        (0.00042, 0.00004, "0.00042 ± 0.00004"),
        (0.04, math.nan, "0.040"),
        (0.0, math.nan, "0.0"),
        (0.0, 0.03, "0.000 ± 0.030"),
    ],
)
def test_small_returns_keep_their_digits(mean, width, told):
    assert str(Score(mean, width, 5)) == told


class _Two(gymnasium.Env):
    """Observes 1 and −1; the reward is the action."""

    observation_space = spaces.Dict({name: spaces.Box(-1, 1, (1,), np.float32) for name in "ab"})
    action_space = spaces.Box(-5, 5, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return {"a": np.float32([1]), "b": np.float32([-1])}, {}

    def step(self, action):
        return self.reset()[0], float(action[0]), True, False, {}


def test_each_policy_reads_with_its_own_codec():
    """Of two policies that act as they see, one sees a and one sees b, in whatever order they are rolled out."""
    gymnasium.register("tests/Two-v0", entry_point="tests.test_evaluate:_Two")
    source = Source(("test/two-v0",), env_spec=gymnasium.spec("tests/Two-v0").to_json())
    teacher = md.Teacher.from_callable(lambda obs: 3 * obs, obs_dim=1, act_dim=1)
    action = SpaceCodec(_Two.action_space)
    a, b = (TeacherPolicy(teacher, SpaceCodec(_Two.observation_space, drop=d), action) for d in "ba")
    assert evaluate([a, b], source, n_episodes=1).returns.tolist() == [[3], [-3]]
    assert evaluate([b, a], source, n_episodes=1).returns.tolist() == [[-3], [3]]
    whole = TeacherPolicy(teacher, SpaceCodec(spaces.Box(-1, 1, (4,), np.float32)), action)
    with pytest.raises(ConfigError, match=r"reads the space of shape \(4,\), .* of tests/Two-v0 have None"):
        evaluate([a, whole], source, n_episodes=1)


class _Talks(_Two):
    """Says more than was learnt from, part of it no numbers."""

    observation_space = spaces.Dict(
        {**_Two.observation_space.spaces, "log": spaces.Text(9), "c": spaces.Box(0, 1, (3,))}
    )

    def reset(self, *, seed=None, options=None):
        return {**super().reset()[0], "log": "a", "c": np.zeros(3, np.float32)}, {}


def test_what_a_policy_does_not_read_may_be_anything():
    """An environment whose observations hold more than the dataset's is one that the policy can act in."""
    gymnasium.register("tests/Talks-v0", entry_point="tests.test_evaluate:_Talks")
    source = Source(("test/talks-v0",), env_spec=gymnasium.spec("tests/Talks-v0").to_json())
    teacher = md.Teacher.from_callable(lambda obs: 3 * obs[:, :1], obs_dim=2, act_dim=1)
    policy = TeacherPolicy(teacher, SpaceCodec(_Two.observation_space), SpaceCodec(_Two.action_space))
    assert evaluate(policy, source, n_episodes=2).returns.tolist() == [[3, 3]]


@pytest.mark.parametrize("n", [0, 2.5, True])
def test_numbers_of_episodes_are_whole(data, n):
    with pytest.raises(ConfigError, match="n_episodes=.* must be a whole number, at least 1"):
        evaluate(linear(data, 0), data, n_episodes=n)


def test_normalised_scores_and_their_unit():
    """0 at the reference minimum, 100 at the maximum; the raw return where there are none."""
    evaluation = Evaluation(
        np.array([[10.0, 20.0]]), np.array([[1, 1]]), "X-v0", 10.0, 20.0, "by hand", 0, 0.0
    )
    assert evaluation.normalized.tolist() == [[0.0, 100.0]]
    assert evaluation.to_json()["unit"].startswith("normalised") and evaluation.to_json()["mean"] == 50
    raw = dataclasses.replace(evaluation, ref_min_score=None)
    assert raw.normalized is None and raw.score.mean == 15 and raw.to_json()["unit"] == "return"


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 3), "(2 policies × 3 episodes, 95 % interval)"),
        ((1, 3), "(1 policy × 3 episodes, 95 % interval)"),
        ((1, 1), "(1 policy × 1 episode)"),
    ],
)
def test_a_score_says_what_it_is_of(shape, told):
    """One of a kind is one, and a single episode has no interval."""
    zeros = np.zeros(shape)
    assert str(Evaluation(zeros, zeros, "E-v0", None, None, "none", 0, 1.0)).endswith(told)


def test_lockstep_equals_one_episode_at_a_time(data):
    """Returns and lengths are those of plain rollouts of each policy from each seed."""
    policies = [linear(data, 0), linear(data, 1)]
    together = evaluate(policies, data, n_episodes=3, seed=5)
    for p, policy in enumerate(policies):
        for j in range(3):
            env = gymnasium.make("Hopper-v5")
            obs, _ = env.reset(seed=5 + j)
            total, steps, over = 0.0, 0, False
            while not over:
                action = policy.act_vectors(np.float32(obs)[None])[0]
                obs, reward, terminated, truncated, _ = env.step(action)
                total, steps, over = total + reward, steps + 1, terminated or truncated
            assert together.lengths[p, j] == steps
            assert together.returns[p, j] == pytest.approx(total, rel=1e-5)


def test_policies_meet_the_same_starts_and_reruns_agree(data):
    """One policy twice scores the same in every episode; so does a second evaluation."""
    policy = linear(data, 0)
    first = evaluate([policy, policy], data, n_episodes=3, seed=0)
    assert np.array_equal(first.returns[0], first.returns[1])
    assert np.array_equal(first.returns, evaluate([policy, policy], data, n_episodes=3, seed=0).returns)
    assert not np.array_equal(first.returns, evaluate([policy, policy], data, n_episodes=3, seed=50).returns)


def test_without_an_environment_evaluation_says_why_not(data):
    """No spec, and a spec that cannot be made: both name what to do."""
    nowhere = dataclasses.replace(data.source, env_spec=None, eval_env_spec=None)
    with pytest.raises(EnvironmentUnavailable, match="names no environment.*policy.act"):
        evaluate(linear(data, 0), nowhere)
    broken = dataclasses.replace(
        data.source,
        eval_env_spec=data.source.env_spec.replace("Hopper-v5", "Hoper-v5").replace("hopper_v5", "hoper_v5"),
        requirements=("hoper>=1",),
    )
    with pytest.raises(EnvironmentUnavailable, match=r"cannot be made .* It asks for: hoper>=1\."):
        evaluate(linear(data, 0), broken)


def test_making_a_walker_prints_nothing(data, capfd):
    """MuJoCo's remark on Gymnasium's model stays out of the terminal, and its handler is put back."""
    import mujoco

    before = mujoco.get_mju_user_warning()
    walker = dataclasses.replace(
        data.source,
        eval_env_spec=data.source.env_spec.replace("Hopper", "Walker2d").replace("hopper", "walker2d"),
    )
    make_environment(walker).close()
    assert capfd.readouterr().err == ""
    assert mujoco.get_mju_user_warning() == before


def test_a_maze_s_model_file_goes_with_its_environment(tmp_path):
    """Gymnasium-Robotics writes one for every maze made, and leaves it."""
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.tmp_xml_file_path = str(tmp_path / "ant_maze1.xml")
    (tmp_path / "ant_maze1.xml").write_text("<mujoco/>")
    close_environment(env)
    close_environment(env)  # once gone, gone
    assert not list(tmp_path.iterdir())


def test_references_that_are_no_scale_are_not_used():
    """Equal or reversed ones would divide by zero or turn the order round."""
    one = np.ones((1, 2))
    for low, high in ((20.0, 20.0), (100.0, 20.0)):
        made = Evaluation(one, one, "E-v0", low, high, "by hand", 0, 1.0)
        assert made.normalized is None and made.to_json()["unit"] == "return" and made.score.mean == 1


class Endless(gymnasium.Env):
    """An episode that never ends."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


def test_an_environment_without_a_time_limit_comes_to_an_end(monkeypatch):
    """Its episodes are cut, and the user is told."""
    module = importlib.import_module("minari_distill.evaluate")
    monkeypatch.setattr(module, "_LONGEST", 30)
    monkeypatch.setattr(module, "make_environment", lambda source: Endless())
    synset, said = make_synset(), []
    policy = md.behavior_clone(synset, steps=1)
    made = evaluate(policy, synset, n_episodes=2, report=lambda p: said.append(p.text))
    assert made.lengths.tolist() == [[30, 30]]
    assert "This environment has no time limit: episodes end after 30 steps at the latest." in said


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5])
def test_bad_seeds_are_refused_everywhere(seed):
    """Before anything is done."""
    synset = make_synset()
    for ask in (
        lambda: md.behavior_clone(synset, seed=seed),
        lambda: evaluate(object(), synset, seed=seed),
        lambda: make_config(seed=seed),
        lambda: md.expand(synset, 3, seed=seed),
    ):
        with pytest.raises(ConfigError, match="seed=.* must be a"):
            ask()


def test_what_names_no_environment_is_refused():
    """An id instead of a synset, and a device that is none."""
    with pytest.raises(ConfigError, match="'me/x-v0' is no Synset.*load_synset"):
        evaluate(object(), "me/x-v0")
    with pytest.raises(ConfigError, match="'policy.pt' is no policy.*load_policy"):
        evaluate("policy.pt", make_synset())
    with pytest.raises(ConfigError, match="device='gpu' is no device"):
        md.behavior_clone(make_synset(), device="gpu")
