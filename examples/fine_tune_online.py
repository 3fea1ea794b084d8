"""Pretrain on a synset, then fine-tune online: PPO started from a few hundred pairs, against PPO from scratch.

    pip install minari-distill stable-baselines3
    python -m examples.fine_tune_online gallery/hopper-medium-replay-v0 --figure curve.png

Both arms are Stable-Baselines3's PPO. From scratch it has the settings that were tuned for that, see `TUNED`. The synset
arm has a policy whose mean ends in a tanh, as students do, and

    1  copies the synset's statistics into VecNormalize and clones the pairs into the actor    `pretrain`
    2  learns the values of that actor before it may move it                                   `critic_warm_up`
    3  goes on as ordinary PPO                                                                 `model.learn`

Environment steps of the second stage count, but only what is evaluated after it can count as reached: the clone alone is not
online learning. Every `--every` steps, greedy episodes in an environment of their own are a row of the CSV file, which grows
while the program runs; a second run with the same file adds what is missing, and begins anew what was cut off.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers import NormalizeReward

import minari_distill as md
from minari_distill.evaluate import make_environment
from minari_distill.plots.style import BLUE, GREY, ORANGE, figure

FIELDS = ("arm", "seed", "step", "return", "length")
LOG_STD = -2.0  # of the actions: as little exploration as a cloned actor survives

# What RL Baselines3 Zoo tuned for PPO in Hopper (hyperparams/ppo.yml, Hopper-v3): the best known start from scratch.
TUNED = {
    "n_steps": 512,
    "batch_size": 32,
    "n_epochs": 5,
    "gamma": 0.999,
    "gae_lambda": 0.99,
    "learning_rate": 9.80828e-05,
    "ent_coef": 0.00229519,
    "clip_range": 0.2,
    "max_grad_norm": 0.7,
    "vf_coef": 0.835671,
    "policy_kwargs": {
        "log_std_init": LOG_STD,
        "ortho_init": False,
        "activation_fn": torch.nn.ReLU,
        "net_arch": {"pi": [256, 256], "vf": [256, 256]},
    },
}
# An actor that is already good is moved with more care: more data an update, and a rate that falls to zero.
GENTLE = TUNED | {
    "n_steps": 2048,
    "batch_size": 128,
    "learning_rate": lambda left: 5e-5 * left,
    "clip_range": 0.1,
    "policy_kwargs": TUNED["policy_kwargs"] | {"net_arch": {"pi": [256, 256, 256], "vf": [256, 256]}},
}
ARMS = {"scratch": TUNED, "synset": GENTLE}


def make_ppo(synset: md.Synset, arm: str, seed: int, **changes: Any) -> Any:
    """PPO in the synset's environment; `VecNormalize` scales observations, a wrapper of Gymnasium's rewards."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from minari_distill.exporters.tanh_policy import TanhActorCriticPolicy

    settings = ARMS[arm] | changes
    policy = TanhActorCriticPolicy if arm == "synset" else "MlpPolicy"
    env = DummyVecEnv([lambda: NormalizeReward(make_environment(synset.source), gamma=settings["gamma"])])
    env.seed(seed)
    return PPO(policy, VecNormalize(env, norm_reward=False), seed=seed, device="cpu", **settings)


def critic_warm_up(model: Any, steps: int, callback: Any = None) -> None:
    """Learn the value of the cloned actor, which stays as it is: a critic that knows nothing would undo it."""
    actor = [p for name, p in model.policy.named_parameters() if "value" not in name]
    for parameter in actor:
        parameter.requires_grad_(False)
    model.learn(steps, callback=callback)
    for parameter in actor:
        parameter.requires_grad_(True)


def train(
    synset: md.Synset, arm: str, seed: int, steps: int, warm_up: int, callback: Any = None, **changes: Any
) -> Any:
    """One arm, one seed; `callback` is Stable-Baselines3's, `changes` are settings of its PPO."""
    model = make_ppo(synset, arm, seed, **changes)
    if arm == "synset":
        from minari_distill.exporters.stable_baselines3 import pretrain

        pretrain(model, synset, std=math.exp(LOG_STD))
        critic_warm_up(model, warm_up, callback)
    return model.learn(
        steps - model.num_timesteps, callback=callback, reset_num_timesteps=not model.num_timesteps
    )


def curve_writer(synset: md.Synset, path: Path, arm: str, seed: int, every: int, n_episodes: int) -> Any:
    """A callback that rolls the greedy policy out at step 0 and every `every` steps, and appends to `path`."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Writer(BaseCallback):
        next_at = 0

        def _on_training_start(self) -> None:
            self._on_step()

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.next_at:
                returns, lengths = roll_out(self.model, synset, n_episodes)
                append(path, (arm, seed, self.next_at, round(float(returns.mean()), 1), lengths.mean()))
                self.next_at += every
            return True

    return Writer()


def roll_out(model: Any, synset: md.Synset, n_episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw returns and lengths (n_episodes,) of the greedy policy, observations normalised as in training."""
    returns, lengths = np.zeros(n_episodes), np.zeros(n_episodes)
    normalise = model.get_vec_normalize_env().normalize_obs
    env = make_environment(synset.source)
    for episode in range(n_episodes):
        observation, done = env.reset(seed=10_000 + episode)[0], False
        while not done:
            action, _ = model.predict(normalise(observation), deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += float(reward)
            lengths[episode] += 1
            done = terminated or truncated
    env.close()
    return returns, lengths


def append(path: Path, row: Sequence[Any]) -> None:
    """One more row of the CSV file, under its header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([FIELDS, row] if new else [row])


def read_curves(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """By arm and seed, an array (n, 2) of environment steps and mean returns."""
    curves: dict[tuple[str, int], list[tuple[float, float]]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                point = (float(row["step"]), float(row["return"]))
                curves.setdefault((row["arm"], int(row["seed"])), []).append(point)
    return {key: np.array(points) for key, points in curves.items()}


def forget(path: Path, arm: str, seed: int) -> None:
    """Take the rows of one arm and seed out of the file: of a run that was cut off, which cannot go on."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["arm"], row["seed"]) != (arm, str(seed))]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def steps_to(curve: np.ndarray, target: float, window: int = 3) -> float:
    """Environment steps after which the mean of the last `window` evaluations is first at least `target`.

    >>> steps_to(np.array([[0, 5], [10, 9], [20, 3], [30, 9], [40, 6]]), target=7)
    30.0
    """
    for last in range(window, len(curve) + 1):
        if curve[last - window : last, 1].mean() >= target:
            return float(curve[last - 1, 0])
    return float("inf")


def table(curves: dict[tuple[str, int], np.ndarray], target: float, warm_up: int) -> str:
    """A Markdown table: start, steps to the target, and end of each arm and seed.

    Evaluations of a clone that has not learnt online yet, up to step `warm_up`, do not count towards the target.
    """
    lines = [
        f"| arm | seed | return at step 0 | steps to {target:.0f} | return at the end |",
        "|---|---|---|---|---|",
    ]
    for (arm, seed), curve in sorted(curves.items()):
        online = curve if arm == "scratch" else curve[curve[:, 0] > warm_up]
        reached = steps_to(online, target)
        steps = f"not in {curve[-1, 0]:.0f}" if np.isinf(reached) else f"{reached:.0f}"
        lines.append(f"| {arm} | {seed} | {curve[0, 1]:.0f} | {steps} | {curve[-3:, 1].mean():.0f} |")
    return "\n".join(lines)


def plot(curves: dict[tuple[str, int], np.ndarray], target: float, title: str, path: Path) -> Path:
    """Returns against environment steps: seeds thin, each arm's mean thick."""
    names = {"scratch": "PPO from scratch", "synset": "PPO from a synset"}
    with figure(path, figsize=(6.4, 3.6)) as (drawing, axes):
        for arm, colour in (("scratch", GREY), ("synset", BLUE)):
            seeds = [curve for (a, _), curve in sorted(curves.items()) if a == arm]
            if not seeds:
                continue
            for curve in seeds:
                axes.plot(*curve.T, color=colour, lw=0.7, alpha=0.5)
            common = min(len(curve) for curve in seeds)
            mean = np.mean([curve[:common] for curve in seeds], axis=0)
            axes.plot(*mean.T, color=colour, lw=2.2, label=f"{names[arm]} ({len(seeds)} seeds)")
        axes.axhline(target, color=ORANGE, lw=1.5, ls="--", label=f"stated return: {target:.0f}")
        axes.set(
            xlabel="environment steps", ylabel="return of the greedy policy", title=title, ylim=(0, None)
        )
        drawing.legend(loc="outside lower center", ncols=2)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the CSV file lacks, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("synset", help="Minari id, folder or hf:// address of a synset")
    parser.add_argument("--steps", type=int, default=120_000, help="environment steps an arm and seed")
    parser.add_argument("--warm-up", type=int, default=10_240, help="of them, for the critic alone")
    parser.add_argument("--target", type=float, default=2500.0, help="the stated return")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=5_000, help="environment steps between evaluations")
    parser.add_argument("--episodes", type=int, default=5, help="greedy episodes an evaluation")
    parser.add_argument("--csv", type=Path, default=Path("fine-tune-online.csv"))
    parser.add_argument("--figure", type=Path, default=None)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # layers this small gain nothing from more

    synset = md.load_synset(given.synset)
    done = read_curves(given.csv)
    for seed in range(given.seeds):
        for arm in given.arms:
            curve = done.get((arm, seed))
            if curve is None or curve[-1, 0] + given.every <= given.steps:
                if curve is not None:
                    forget(given.csv, arm, seed)
                writer = curve_writer(synset, given.csv, arm, seed, given.every, given.episodes)
                train(synset, arm, seed, given.steps, given.warm_up, writer)
    curves = read_curves(given.csv)
    print(table(curves, given.target, given.warm_up))
    if given.figure:
        title = f"PPO in {synset.source.env_id}, {len(synset)} pairs"
        plot(curves, given.target, title, given.figure)


if __name__ == "__main__":
    main()
