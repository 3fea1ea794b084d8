"""A discrete case and a goal case, recorded here: CartPole and PointMaze, each distilled to 64 pairs.

    $ python -m benchmarks.small_worlds cartpole
    $ pip install gymnasium-robotics && python -m benchmarks.small_worlds pointmaze

Each dataset mixes episodes of a simple good controller with episodes of random actions. A filtered-BC teacher is
learnt from it; then students of the distilled pairs, of random real states relabelled by the teacher, and of random
real pairs are rolled out beside the teacher.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer

import minari_distill as md
from minari_distill.evaluate import TeacherPolicy
from minari_distill.progress import silent
from minari_distill.teachers import learn_teacher

Controller = Callable[[Any], Any]

SETTINGS = {"teacher_method": "filtered_bc", "teacher_steps": 3000, "n_syn": 64, "top_fraction": 0.3}


def balance(observation: Any) -> int:
    """CartPole: push towards where the pole falls, leaning against the cart's drift; holds it to the time limit."""
    x, speed, angle, turning = observation
    return int(0.05 * x + 0.2 * speed + angle + 0.5 * turning > 0)


def reach(observation: Any) -> np.ndarray:
    """PointMaze without inner walls: a spring to the goal and a damper, as a force in [−1, 1]."""
    away = observation["desired_goal"] - observation["achieved_goal"]
    return np.clip(5 * away - 2 * observation["observation"][2:], -1, 1).astype(np.float32)


def make_cartpole() -> gymnasium.Env:
    """CartPole-v1, at most 200 steps."""
    return gymnasium.make("CartPole-v1", max_episode_steps=200)


def make_pointmaze() -> gymnasium.Env:
    """PointMaze_Open-v3 with the dense reward exp(−distance), at most 100 steps: the return tells how soon."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(
        "PointMaze_Open-v3", reward_type="dense", continuing_task=True, max_episode_steps=100
    )


WORLDS: dict[str, tuple[Callable[[], gymnasium.Env], Controller]] = {
    "cartpole": (make_cartpole, balance),
    "pointmaze": (make_pointmaze, reach),
}


def record(
    dataset_id: str, env: gymnasium.Env, controller: Controller, *, episodes: int, skilled: float
) -> None:
    """Write a Minari dataset: a share `skilled` of the episodes by `controller`, the others random."""
    env.action_space.seed(0)
    rng = np.random.default_rng(0)

    def episode(i: int) -> EpisodeBuffer:
        act = controller if i < round(skilled * episodes) else lambda _: env.action_space.sample()
        observation, _ = env.reset(seed=100_000 + i)  # far from the seeds of the evaluation
        observations, steps, done = [observation], [], False
        while not done:
            # a tenth of random actions shows how to come back from a mistake
            action = env.action_space.sample() if rng.random() < 0.1 else act(observation)
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
    dataset_id: str, *, students: int, episodes: int, seed: int = 0, **settings: Any
) -> dict[str, md.Evaluation]:
    """Rollouts of the teacher and of students of three synsets of `dataset_id`."""
    transitions = md.load_transitions(dataset_id)
    config = md.make_config(**settings)
    teacher = learn_teacher(transitions, config)
    codecs = transitions.observation_codec, transitions.action_codec
    results = {
        "teacher": md.evaluate(
            TeacherPolicy(teacher, *codecs), transitions, n_episodes=students * episodes, seed=seed
        )
    }
    for name, changes in {
        "distilled": {},
        "random pairs relabelled": {"outer_steps": 0, "initializer": "relabelled"},
        "random pairs": {"outer_steps": 0, "initializer": "random"},
    }.items():
        synset = md.distill(transitions, teacher=teacher, report=silent, config=config, **changes)
        policies = md.behavior_clone(synset, n_policies=students, seed=seed).members()
        results[name] = md.evaluate(policies, synset, n_episodes=episodes, seed=seed)
    return results


def main() -> None:
    """Record, distil, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--outer-steps", type=int, default=300)
    parser.add_argument("--initializer", default="relabelled")
    arguments = parser.parse_args()
    make, controller = WORLDS[arguments.world]
    dataset_id = f"benchmark/{arguments.world}-v0"
    if dataset_id not in minari.list_local_datasets():
        record(dataset_id, make(), controller, episodes=200, skilled=0.5)
    started = time.perf_counter()
    settings = SETTINGS | {"outer_steps": arguments.outer_steps, "initializer": arguments.initializer}
    results = compare(dataset_id, students=arguments.students, episodes=arguments.episodes, **settings)
    teacher = results["teacher"].returns.mean()
    print("| policy | mean return | of the teacher's |\n|---|---|---|")
    for name, score in results.items():
        returns = score.returns.mean(1)
        spread = "" if len(returns) == 1 else f" ({returns.min():.1f} to {returns.max():.1f})"
        print(f"| {name} | {returns.mean():.1f}{spread} | {returns.mean() / teacher:.0%} |")
    print(f"\n{time.perf_counter() - started:.0f} s after recording")


if __name__ == "__main__":
    main()
