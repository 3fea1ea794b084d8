"""A discrete case and a goal case from recording to rollouts: small versions of benchmarks/small_worlds.py."""

from types import SimpleNamespace

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.small_worlds import balance, compare, make_cartpole, reach, record, walk_the_maze

SMALL = {
    "teacher_method": "filtered_bc",
    "teacher_steps": 400,
    "top_fraction": 0.3,
    "n_syn": 64,
    "hidden_width": 64,
    "hidden_layers": 2,
    "outer_batch": 256,
    "outer_steps": 100,
    "validate_every": 20,
    "inner_lr": 3e-3,
    "inner_steps": 300,
    "window": 10,
    "student_pool": 8,
    "pool_life": 100,
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
    """64 pairs with probabilities for actions, of discrete Cal-QL; half of the recorded episodes are random."""
    record("test/cartpole-v0", make_cartpole(), balance, episodes=16, random_shares=(0.1, 1.0))
    of_teacher = {
        "teacher_method": "cal_ql",
        "teacher_steps": 1000,  # by then every teacher balances to the end; after 400 it depends on the processor
        "teacher_batch": 64,
        "critic_lr": 1e-3,
        "q_temperature": 0.1,
    }
    longer = {"objective": "pbc", "outer_steps": 200}
    returns = compare("test/cartpole-v0", students=6, episodes=4, **SMALL | of_teacher | longer)
    assert returns["teacher"].mean() > 450, returns
    assert returns["distilled"].mean() >= 0.9 * returns["teacher"].mean(), returns


def test_students_reach_the_goals_that_they_are_given():
    """Goals are parts of the observation; each student of distilled pairs beats all of relabelled random ones."""
    gymnasium.register("test/ReachPoint-v0", "test_small_worlds:ReachPoint", max_episode_steps=60)
    try:
        env = gymnasium.make("test/ReachPoint-v0")
        record("test/reach-v0", env, reach, episodes=30, random_shares=(0.1, 1.0))
        # without the metric: in it, relabelled pairs are as good at the start as a hundred steps make them
        returns = compare("test/reach-v0", students=6, episodes=10, **SMALL | {"metric_share": 0.0})
    finally:
        del gymnasium.registry["test/ReachPoint-v0"]
    assert returns["distilled"].min() > returns["random pairs relabelled"].max(), returns


class Corridor:
    """A maze in the shape of a U, three cells wide: walls are 1, cells one unit wide, row 0 at the top."""

    maze_map = ((1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (1, 1, 1, 0, 1), (1, 0, 0, 0, 1), (1, 1, 1, 1, 1))

    def cell_xy_to_rowcol(self, xy):
        return np.array([int(2.5 - xy[1]), int(xy[0] + 2.5)])

    def cell_rowcol_to_xy(self, cell):
        return np.array([cell[1] - 2.0, 2.0 - cell[0]])


def test_the_controller_walks_round_the_wall():
    """From the end of one arm to the end of the other, though they are two cells apart: right, down, left."""
    maze = Corridor()
    act = walk_the_maze(SimpleNamespace(unwrapped=SimpleNamespace(maze=maze)))
    place, goal, way = maze.cell_rowcol_to_xy((1, 1)), maze.cell_rowcol_to_xy((3, 1)), []
    for _ in range(80):
        observation = {
            "achieved_goal": place,
            "desired_goal": goal,
            "observation": np.concatenate([place, np.zeros(2)]),
        }
        place = place + 0.1 * act(observation)
        cell = tuple(int(i) for i in maze.cell_xy_to_rowcol(place))
        assert maze.maze_map[cell[0]][cell[1]] == 0
        way += [cell] if way[-1:] != [cell] else []
    assert way == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    assert np.abs(place - goal).max() < 0.05
