"""A discrete case and a goal case, recorded here: CartPole and PointMaze, each distilled to 64 pairs.

    $ python -m benchmarks.small_worlds cartpole
    $ pip install gymnasium-robotics && python -m benchmarks.small_worlds pointmaze

Each dataset mixes episodes of a simple good controller, some of them with half of the actions random, with episodes
of random actions alone. A teacher is learnt from it. Then students of distilled pairs, of random real states
relabelled by the teacher and of random real pairs are rolled out beside the teacher; several times over, each time
with other pairs to begin from. n counts the teacher's episodes and the students, each the mean of its episodes.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer

import minari_distill as md
from minari_distill.evaluate import Score, TeacherPolicy, close_environment
from minari_distill.progress import silent
from minari_distill.teachers import learn_teacher

Controller = Callable[[Any], Any]

RANDOM_SHARES = (0.1, 0.2, 1.0)
"""Shares of random actions; episodes take them in turn."""

ARMS: dict[str, dict[str, Any]] = {
    "distilled": {},
    "random pairs relabelled": {"outer_steps": 0, "initializer": "relabelled"},
    "random pairs": {"outer_steps": 0, "initializer": "random"},
}
"""What changes in the settings."""


def balance(observation: Any) -> int:
    """CartPole: push towards where the pole falls, leaning against the cart's drift; holds it to the time limit."""
    x, speed, angle, turning = observation
    return int(0.05 * x + 0.2 * speed + angle + 0.5 * turning > 0)


def reach(observation: Any) -> np.ndarray:
    """A plane without walls: a spring to the goal and a damper, as a force in [−1, 1]."""
    return _towards(observation, observation["desired_goal"])


def _towards(observation: Any, place: np.ndarray) -> np.ndarray:
    away = place - observation["achieved_goal"]
    return np.clip(5 * away - 2 * observation["observation"][2:], -1, 1).astype(np.float32)


def walk_the_maze(env: gymnasium.Env) -> Controller:
    """PointMaze: from cell to cell along a shortest way, by breadth-first search from the goal's cell."""
    maze = env.unwrapped.maze
    free = {tuple(cell) for cell in np.argwhere(np.array([[c != 1 for c in row] for row in maze.maze_map]))}

    def act(observation: Any) -> np.ndarray:
        here, goal = (
            tuple(int(i) for i in maze.cell_xy_to_rowcol(observation[key]))
            for key in ("achieved_goal", "desired_goal")
        )
        step_from: dict[tuple[int, int], tuple[int, int]] = {goal: goal}
        queue = deque([goal])
        while queue:
            cell = queue.popleft()
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                neighbour = (cell[0] + down, cell[1] + right)
                if neighbour in free and neighbour not in step_from:
                    step_from[neighbour] = cell
                    queue.append(neighbour)
        following = step_from.get(here, goal)
        if following == goal:
            return _towards(observation, observation["desired_goal"])
        return _towards(observation, maze.cell_rowcol_to_xy(np.array(following)))

    return act


def make_cartpole() -> gymnasium.Env:
    """CartPole-v1: 500 steps at most."""
    return gymnasium.make("CartPole-v1")


def make_pointmaze() -> gymnasium.Env:
    """PointMaze_Medium-v3 with its own sparse reward: 1 at each of 400 steps at the goal, which stays where it is."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(
        "PointMaze_Medium-v3", continuing_task=True, reset_target=False, max_episode_steps=400
    )


WORLDS: dict[
    str, tuple[Callable[[], gymnasium.Env], Callable[[gymnasium.Env], Controller], dict[str, Any]]
] = {
    "cartpole": (
        make_cartpole,
        lambda _: balance,
        {"teacher_method": "cal_ql", "teacher_steps": 3000, "q_temperature": 0.1},
    ),
    "pointmaze": (
        make_pointmaze,
        walk_the_maze,
        {"teacher_method": "filtered_bc", "teacher_steps": 6000, "top_fraction": 0.65},
    ),
}
"""Environment, controller, settings of the teacher."""

SETTINGS: dict[str, Any] = {
    "n_syn": 64,
    "objective": "pbc",  # a sparse reward makes q, and so Av-PBC's weight, nearly nothing far from the goal
    "outer_steps": 500,
    "metric_share": 0.0,  # with the next five: students that nothing was tuned for
    "hidden_width": 256,
    "inner_lr": 1e-3,
    "inner_steps": 1000,
    "student_widening": 1,
    "student_length": 1.0,
    "validate_every": 100,
}
"""Of the distillation; the rest are the defaults."""


def record(
    dataset_id: str,
    env: gymnasium.Env,
    controller: Controller,
    *,
    episodes: int,
    random_shares: Sequence[float] = RANDOM_SHARES,
) -> None:
    """Write a Minari dataset: episode i acts at random with probability random_shares[i % n], else by `controller`."""
    env.action_space.seed(0)
    rng = np.random.default_rng(0)

    def episode(i: int) -> EpisodeBuffer:
        share = random_shares[i % len(random_shares)]
        observation, _ = env.reset(seed=100_000 + i)  # far from the seeds of the evaluation
        observations, steps, done = [observation], [], False
        while not done:
            action = env.action_space.sample() if rng.random() < share else controller(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            steps.append((action, float(reward), terminated, truncated))
            done = terminated or truncated
        actions, rewards, terminations, truncations = (
            np.array(column) for column in zip(*steps, strict=True)
        )
        return EpisodeBuffer(
            observations=stack(observations),
            actions=actions,
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
            infos={},
        )

    def buffers() -> Iterator[EpisodeBuffer]:
        return (episode(i) for i in range(episodes))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari misses the author, the code …
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers(),
            env=env,
            observation_space=env.observation_space,
            action_space=env.action_space,
        )


def stack(observations: list[Any]) -> Any:
    """Observations as Minari lays them out: an array a key."""
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)


def compare(
    dataset_id: str,
    *,
    repeats: int = 1,
    students: int,
    episodes: int,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """Return of each of the teacher's episodes, and mean return of each student of each arm (repeats · students,).

    Args:
        dataset_id: What to distil.
        repeats: Distillations, each from other initial pairs.
        students: Of each set of pairs.
        episodes: Rollouts a student; the teacher's are twice as many.
        keep: A file of the teacher: read if it exists, else written.
        say: Receives each arm's returns as they come.
        **settings: Of the teacher and the distillation.
    """
    transitions = md.load_transitions(dataset_id)
    config = md.make_config(**settings)
    teacher = md.load_teacher(keep) if keep and keep.exists() else learn_teacher(transitions, config)
    if keep:
        md.save_teacher(teacher, keep)
    codecs = transitions.observation_codec, transitions.action_codec
    of_teacher = md.evaluate(TeacherPolicy(teacher, *codecs), transitions, n_episodes=2 * episodes)
    results: dict[str, list[np.ndarray]] = {name: [] for name in ARMS}
    for seed in range(repeats):
        for name, changes in ARMS.items():
            synset = md.distill(
                transitions, teacher=teacher, report=silent, config=config, **{**changes, "seed": seed}
            )
            policies = md.behavior_clone(synset, n_policies=students, seed=seed).members()
            results[name].append(md.evaluate(policies, synset, n_episodes=episodes).returns.mean(1))
            say(f"{name}, seed {seed}: {np.round(results[name][-1], 1)}")
    return {"teacher": of_teacher.returns[0]} | {name: np.concatenate(r) for name, r in results.items()}


def main() -> None:
    """Record, distil, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--teacher", type=Path, help="its file: read if it is there, else written")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the distillation"
    )
    arguments = parser.parse_args()
    make, controller, of_teacher = WORLDS[arguments.world]
    dataset_id = f"benchmark/{arguments.world}-v0"
    if dataset_id not in minari.list_local_datasets():
        env = make()
        record(dataset_id, env, controller(env), episodes=300)
        close_environment(env)
    started = time.perf_counter()
    given = dict(text.split("=", 1) for text in arguments.set)
    results = compare(
        dataset_id,
        repeats=arguments.repeats,
        students=arguments.students,
        episodes=arguments.episodes,
        keep=arguments.teacher,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        **SETTINGS | of_teacher | {name: _value(text) for name, text in given.items()},
    )
    teacher = results["teacher"].mean()
    print(
        "| policy | mean return, 95 % interval | worst to best student | of the teacher's |\n|---|---|---|---|"
    )
    for name, returns in results.items():
        score = Score.of(returns)
        spread = "" if len(returns) == 1 else f"{returns.min():.1f} to {returns.max():.1f}"
        print(f"| {name} | {score} | {spread} | {score.mean / teacher:.0%} |")
    print(f"\n{time.perf_counter() - started:.0f} s after recording")


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


if __name__ == "__main__":
    main()
