"""A discrete case and a goal case from recording to rollouts: small versions of benchmarks/small_worlds.py."""

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.small_worlds import balance, compare, make_cartpole, reach, record

SMALL = {
    "teacher_method": "filtered_bc",
    "teacher_steps": 400,
    "top_fraction": 0.3,
    "n_syn": 64,
    "hidden_width": 64,
    "hidden_layers": 2,
    "outer_batch": 256,
    "outer_steps": 60,
    "validate_every": 20,
    "inner_optimizer": "momentum",
    "inner_lr": 0.2,
    "inner_steps": 80,
    "window": 20,
    "student_pool": 0,
    "output_gain": 0.1,
}


class ReachPoint(gymnasium.Env):
    """A point with inertia in a plane and a goal beside it; the reward is exp(−distance)."""

    observation_space = spaces.Dict(
        {
            name: spaces.Box(-np.inf, np.inf, (n,))
            for name, n in {"achieved_goal": 2, "desired_goal": 2, "observation": 4}.items()
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-2, 2, (2, 2)).astype(np.float32)
        self.speed = np.zeros(2, np.float32)
        return self.observe(), {}

    def step(self, action):
        self.speed = 0.9 * self.speed + 0.1 * np.asarray(action, np.float32)
        self.place = self.place + 0.2 * self.speed
        return self.observe(), float(np.exp(-np.linalg.norm(self.goal - self.place))), False, False, {}

    def observe(self):
        state = np.concatenate([self.place, self.speed])
        return {"achieved_goal": self.place, "desired_goal": self.goal.copy(), "observation": state}


def test_cartpole_students_keep_nine_tenths_of_the_teachers_return():
    """64 pairs with probabilities for actions; half of the recorded episodes are random."""
    record("test/cartpole-v0", make_cartpole(), balance, episodes=30, skilled=0.5)
    results = compare("test/cartpole-v0", students=2, episodes=3, **SMALL)
    returns = {name: score.returns.mean() for name, score in results.items()}
    assert returns["teacher"] > 100, returns
    assert returns["distilled"] >= 0.9 * returns["teacher"], returns


def test_students_reach_the_goals_that_they_are_given():
    """Goals are parts of the observation; distilled pairs beat as many random ones that the teacher relabelled."""
    gymnasium.register("test/ReachPoint-v0", "test_small_worlds:ReachPoint", max_episode_steps=60)
    try:
        record("test/reach-v0", gymnasium.make("test/ReachPoint-v0"), reach, episodes=30, skilled=0.5)
        results = compare("test/reach-v0", students=2, episodes=10, **SMALL)
    finally:
        del gymnasium.registry["test/ReachPoint-v0"]
    returns = {name: score.returns.mean() for name, score in results.items()}
    assert returns["distilled"] > returns["random pairs relabelled"], returns
