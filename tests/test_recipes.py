"""The recipes of docs/recipes.md in small: their laws, and each from its command line to its table."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import spec

import minari_distill as md
from examples import fine_tune_online, multi_task, replay_old_tasks
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec


def make_synset(env_id: str, obs_dim: int, act_dim: int, seed: int, n: int = 12) -> md.Synset:
    """Pairs of a made-up policy in an environment: actions are tanh of a random linear map."""
    rng = np.random.default_rng(seed)
    bound = 2.0 if env_id.startswith("Pendulum") else 1.0
    mean, std = rng.normal(size=obs_dim), rng.uniform(0.5, 2, obs_dim)
    x = rng.normal(size=(n, obs_dim))
    return md.Synset(
        mean + x * std,
        bound * np.tanh(x @ rng.normal(size=(obs_dim, act_dim))),
        SpaceCodec(spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)),
        SpaceCodec(spaces.Box(-bound, bound, (act_dim,), np.float32)),
        Source((f"made-up/{env_id.lower()}",), env_spec=spec(env_id).to_json()),
        mean,
        std,
    )


@pytest.fixture
def synsets() -> list[md.Synset]:
    return [make_synset("Pendulum-v1", 3, 1, seed=0), make_synset("Reacher-v5", 10, 2, seed=1)]


@pytest.fixture
def saved(synsets) -> list[str]:
    names = ["me/swing-v0", "me/reach-v0"]
    for synset, name in zip(synsets, names, strict=True):
        synset.save(name)
    return names


def test_a_task_is_padded_and_numbered(synsets):
    """[(s − mean)/std, zeros, one-hot number], as the recipe says."""
    first, second = multi_task.make_tasks(synsets)
    x = first.inputs(synsets[0].observations)
    normalised = (synsets[0].observations - synsets[0].observation_mean) / synsets[0].observation_std
    np.testing.assert_allclose(x[:, :3], normalised, rtol=1e-5, atol=1e-6)
    assert not x[:, 3:10].any() and x[:, 10:].tolist() == [[1.0, 0.0]] * 12
    assert second.inputs(synsets[1].observations)[:, 10:].tolist() == [[0.0, 1.0]] * 12
    discrete = md.Synset(
        np.zeros((1, 3)),
        np.eye(2)[:1],
        synsets[0].observation_codec,
        SpaceCodec(spaces.Discrete(2)),
        synsets[0].source,
        np.zeros(3),
        np.ones(3),
    )
    with pytest.raises(ValueError, match="has discrete actions"):
        multi_task.make_tasks([discrete])


def test_one_policy_learns_all_tasks_and_replay_keeps_the_old(synsets):
    """After both: both losses low. After the second alone: the first's has risen; with replay it has not."""
    tasks = multi_task.make_tasks(synsets)
    both, forgetful = (multi_task.make_policy(tasks[0], seed=0, width=32) for _ in range(2))
    multi_task.clone(both, tasks, 300)
    assert all(task.loss(both) < 0.01 for task in tasks)
    multi_task.clone(forgetful, tasks[:1], 300)
    assert tasks[0].loss(forgetful) < 0.01
    multi_task.clone(forgetful, tasks[1:], 300)
    assert tasks[1].loss(forgetful) < 0.01 < 0.05 < tasks[0].loss(forgetful)
    multi_task.clone(forgetful, tasks, 300)
    assert all(task.loss(forgetful) < 0.01 for task in tasks)


def test_a_player_gives_raw_actions_of_its_task(synsets):
    """In the task's own bounds and length; on its synset, the synset's actions."""
    tasks = multi_task.make_tasks(synsets)
    policy = multi_task.make_policy(tasks[0], seed=0, width=32)
    multi_task.clone(policy, tasks, 600)
    for task, synset in zip(tasks, synsets, strict=True):
        actions = multi_task.Player(policy, task).act_vectors(synset.observations)
        assert actions.shape == synset.actions.shape
        assert np.abs(actions - synset.actions).mean() < 0.1


def test_the_multi_task_recipe_prints_its_table(saved, capsys):
    """A row a task."""
    multi_task.main([*saved, "--seeds", "2", "--steps", "3", "--episodes", "1"])
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head == "| task | a policy of its own | one policy for all |"
    assert [row.split(" | ")[0] for row in rows] == ["| 1: Pendulum-v1", "| 2: Reacher-v5"]


def test_the_replay_recipe_prints_its_table(saved, capsys):
    """A row a stage, without replay and with it; a task not met yet has no score."""
    replay_old_tasks.main([*saved, "--seeds", "2", "--steps", "3", "--episodes", "1"])
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| no", "1: Pendulum-v1"],
        ["| no", "2: Reacher-v5"],
        ["| yes", "1: Pendulum-v1"],
        ["| yes", "2: Reacher-v5"],
    ]
    assert rows[0].endswith("|  |") and not rows[1].endswith("|  |")


# -------------------------------------------------------------------------------------- fine-tuning online


def test_steps_to_a_stated_return():
    """The mean of three evaluations: (5 + 9 + 3)/3 = 5.7, (9 + 3 + 9)/3 = 7 at step 30, then 6."""
    curve = np.array([[0, 5], [10, 9], [20, 3], [30, 9], [40, 6]])
    assert fine_tune_online.steps_to(curve, 5) == 20
    assert fine_tune_online.steps_to(curve, 7) == 30
    assert fine_tune_online.steps_to(curve, 8) == np.inf
    assert fine_tune_online.steps_to(curve[:2], 1) == np.inf


def test_curves_are_read_back_and_drawn(tmp_path):
    """What `append` wrote, by arm and seed; the table tells who reached the target, and when online learning counts."""
    path = tmp_path / "curve.csv"
    for arm, value in (("scratch", 1.0), ("synset", 9.0)):
        for step in (0, 10, 20):
            fine_tune_online.append(path, (arm, 0, step, value, 7))
    curves = fine_tune_online.read_curves(path)
    assert curves["synset", 0].tolist() == [[0, 9], [10, 9], [20, 9]]
    text = fine_tune_online.table(curves, 5, warm_up=-1)
    assert "| scratch | 0 | 1 | not in 20 | 1 |" in text and "| synset | 0 | 9 | 20 | 9 |" in text
    assert "| synset | 0 | 9 | not in 20 | 9 |" in fine_tune_online.table(
        curves, 5, warm_up=0
    )  # two are left
    assert fine_tune_online.plot(curves, 5, "title", tmp_path / "curve.png").stat().st_size > 1000


def test_a_run_that_was_cut_off_begins_anew(tmp_path, monkeypatch):
    """Of three curves to step 20 the short one is trained again, from its beginning; the whole ones are not."""
    path = tmp_path / "curves.csv"
    for arm, last in (("scratch", 20), ("synset", 10)):
        for step in range(0, last + 1, 10):
            fine_tune_online.append(path, (arm, 0, step, 5, 7))
    trained = []
    monkeypatch.setattr(
        fine_tune_online, "train", lambda synset, arm, seed, *rest: trained.append((arm, seed))
    )
    monkeypatch.setattr(fine_tune_online, "curve_writer", lambda *given: None)
    options = ["--csv", str(path), "--steps", "20", "--every", "10", "--seeds", "1"]
    fine_tune_online.main(["gallery/hopper-medium-replay-v0", *options])
    assert trained == [("synset", 0)]
    assert list(fine_tune_online.read_curves(path)) == [("scratch", 0)]
