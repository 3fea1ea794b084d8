"""Evaluation: greedy rollouts in the dataset's environment, in lockstep, scored with an interval."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from minari_distill.checks import check_seed, check_whole
from minari_distill.env_specs import read_env_spec
from minari_distill.errors import ConfigError, EnvironmentUnavailable
from minari_distill.policy import Policy
from minari_distill.progress import Progress, Report, silent
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers import Teacher, as_read
from minari_distill.transitions import Source

# Two-sided 95 % quantiles of Student's t for 1 … 30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

_LONGEST = 10_000  # steps of an episode where the environment has no time limit: it may never end by itself


@dataclass(frozen=True)
class Score:
    """A mean with its 95 % interval (Student's t), over `n` independent values.

    Attributes:
        mean, half_width: the interval is mean ± half_width; half_width is NaN for a single value.
        n: how many values.
    """

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Score:
        """The score of independent values.

        >>> Score.of([1.0, 2.0, 3.0])
        Score(mean=2.0, half_width=2.48414, n=3)
        """
        x = np.asarray(values, dtype=np.float64)
        n = len(x)
        if n < 2:
            return cls(float(x.mean()), math.nan, n)
        t = _T95[n - 2] if n - 1 <= len(_T95) else 1.96 + 2.4 / (n - 1)
        return cls(float(x.mean()), float(f"{t * x.std(ddof=1) / math.sqrt(n):.6g}"), n)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        digits, size = 1, max(abs(self.mean), 0.0 if math.isnan(self.half_width) else self.half_width)
        if size > 0 and abs(self.mean) < 1 and not self.half_width >= 0.1:  # raw returns may be small
            digits = min(max(3, 1 - math.floor(math.log10(size))), 6)
        width = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        return f"{round(self.mean, digits) + 0.0:.{digits}f}{width}"


@dataclass(frozen=True)
class Evaluation:
    """What rollouts gave.

    Attributes:
        returns: (n_policies, n_episodes) undiscounted raw returns.
        lengths: (n_policies, n_episodes) steps.
        env_id: the environment.
        ref_min_score, ref_max_score: raw returns that are 0 and 100 normalised, or None.
        ref_origin: where those two come from.
        seed: the first episode's seed; episodes have consecutive ones.
        seconds: wall time.
    """

    returns: np.ndarray
    lengths: np.ndarray
    env_id: str
    ref_min_score: float | None
    ref_max_score: float | None
    ref_origin: str
    seed: int
    seconds: float

    @property
    def normalized(self) -> np.ndarray | None:
        """(n_policies, n_episodes) scores, 0 the reference minimum and 100 the maximum; None without them, or where the maximum is not above the minimum."""
        if self.ref_min_score is None or self.ref_max_score is None:
            return None
        if not self.ref_min_score < self.ref_max_score:  # no scale: raw returns are all that can be said
            return None
        return 100 * (self.returns - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    @property
    def score(self) -> Score:
        """The normalised score (the raw return without references), with its interval.

        Over the policies' means if there are several, since students differ more than episodes; over the
        episodes of a single one.
        """
        values = self.returns if self.normalized is None else self.normalized
        return Score.of(values.mean(1) if len(values) > 1 else values[0])

    def to_json(self) -> dict[str, Any]:
        """The numbers and the protocol behind them, in JSON types."""
        score = self.score
        return {
            "unit": "return" if self.normalized is None else "normalised, 0 to 100",
            "mean": score.mean,
            "ci95_half_width": None if math.isnan(score.half_width) else score.half_width,
            "per_policy": (self.returns if self.normalized is None else self.normalized).mean(1).tolist(),
            "raw_return_mean": float(self.returns.mean()),
            "n_policies": len(self.returns),
            "n_episodes": self.returns.shape[1],
            "env_id": self.env_id,
            "ref_min_score": self.ref_min_score,
            "ref_max_score": self.ref_max_score,
            "ref_origin": self.ref_origin,
            "greedy": True,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        unit = "return" if self.normalized is None else "normalised"
        n, e = self.returns.shape
        rolled = f"{n} {'policy' if n == 1 else 'policies'} × {e} {'episode' if e == 1 else 'episodes'}"
        # one episode of one policy has a score and no interval
        return f"{self.score} {unit} in {self.env_id} ({rolled}{', 95 % interval' if n * e > 1 else ''})"


def evaluate(
    policy: Policy | TeacherPolicy | Sequence[Policy | TeacherPolicy],
    data: Any,
    *,
    n_episodes: int = 10,
    seed: int = 0,
    report: Report = silent,
) -> Evaluation:
    """Roll policies out greedily in the environment of `data`, all episodes in lockstep.

    >>> score = evaluate(policy.members(), synset, n_episodes=10)  # doctest: +SKIP

    Args:
        policy: One policy (an ensemble acts as one), or several of them.
        data: A `Synset`, `Transitions` or `Source`: its evaluation environment and reference scores are used.
        n_episodes: Episodes a policy.
        seed: Episode j of every policy starts from seed + j, so policies meet the same starts.
        report: Receives progress.

    Returns:
        Raw returns and lengths of every episode, and the normalised score with its interval. Where the environment has no time
        limit, an episode ends after 10 000 steps.

    Raises:
        EnvironmentUnavailable: The environment cannot be made here; the reason and the repair are named.
        ConfigError: No policy, no episode, or a bad seed.
    """
    policies = list(policy) if isinstance(policy, Sequence) and not isinstance(policy, str) else [policy]
    if not policies:
        raise ConfigError("No policies given: give one at least, for instance behavior_clone(synset).")
    n_episodes, seed = check_whole("n_episodes", n_episodes), check_seed(seed)
    if not isinstance(data, Source) and not hasattr(data, "source"):
        raise ConfigError(
            f"{data!r} is no Synset, Transitions or Source: its environment is not known. Read a synset with load_synset first."
        )
    wrong = next((p for p in policies if not hasattr(p, "act_vectors")), None)
    if wrong is not None:
        raise ConfigError(
            f"{wrong!r} is no policy. Clone one with behavior_clone(synset), or read one with load_policy('policy.safetensors')."
        )
    source: Source = data if isinstance(data, Source) else data.source
    started = time.perf_counter()
    envs = [[make_environment(source) for _ in range(n_episodes)] for _ in policies]
    try:
        returns, lengths = _lockstep(policies, envs, seed, report)
        env_id = envs[0][0].spec.id if envs[0][0].spec else "unknown"
    finally:
        for env in (e for row in envs for e in row):
            close_environment(env)
    return Evaluation(
        returns,
        lengths,
        env_id,
        source.ref_min_score,
        source.ref_max_score,
        source.ref_origin,
        seed,
        time.perf_counter() - started,
    )


class TeacherPolicy:
    """A teacher as a policy that `evaluate` rolls out."""

    def __init__(self, teacher: Teacher, observation_codec: SpaceCodec, action_codec: SpaceCodec):
        # on the CPU, as the environments are
        self.teacher, self.observation_codec, self.action_codec = (
            teacher.to("cpu"),
            observation_codec,
            action_codec,
        )

    def act_vectors(self, obs: np.ndarray) -> np.ndarray:
        """Encoded greedy actions (n, act_dim) for encoded observations (n, obs_dim)."""
        return self.teacher.policy(as_read(self.teacher, obs)).numpy()


def make_environment(source: Source, **kwargs: Any) -> gymnasium.Env:
    """The evaluation environment of a dataset.

    Raises:
        EnvironmentUnavailable: There is no env spec, or Gymnasium cannot make it.
    """
    spec = source.eval_env_spec or source.env_spec
    name = ", ".join(source.dataset_ids)
    if spec is None:
        raise EnvironmentUnavailable(
            f"{name} names no environment, so policies cannot be evaluated in it. Roll them out yourself: "
            "policy.act(observation)."
        )
    try:
        with _no_compiler_warnings():
            return gymnasium.make(read_env_spec(spec), **kwargs)
    except EnvironmentUnavailable:
        raise
    except Exception as error:  # any import of any package may fail in any way here
        needs = f" It asks for: {', '.join(source.requirements)}." if source.requirements else ""
        raise EnvironmentUnavailable(
            f"The environment of {name} cannot be made ({type(error).__name__}: {error}).{needs} Install what "
            "it names and evaluate again; the synset itself is not affected."
        ) from error


def close_environment(env: gymnasium.Env) -> None:
    """Close it, and remove the model file that each maze of Gymnasium-Robotics leaves in the temporary folder."""
    env.close()
    if model := getattr(env.unwrapped, "tmp_xml_file_path", None):
        Path(model).unlink(missing_ok=True)


@contextmanager
def _no_compiler_warnings() -> Iterator[None]:
    """MuJoCo 4 prints a line for every Walker2d made: a model attribute of Gymnasium's own is deprecated."""
    import mujoco  # here: a policy that is only cloned needs no simulator

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _lockstep(
    policies: Sequence[Policy | TeacherPolicy], envs: list[list[gymnasium.Env]], seed: int, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    P, E = len(policies), len(envs[0])
    codecs, env = [policy.observation_codec for policy in policies], envs[0][0]
    for codec in codecs:
        codec.check_fits(env.observation_space, env.spec.id if env.spec else str(env))
    obs = [
        np.stack([codec.encode_one(env.reset(seed=seed + j)[0]) for j, env in enumerate(row)])
        for codec, row in zip(codecs, envs, strict=True)
    ]
    spec = envs[0][0].spec
    endless = spec is None or spec.max_episode_steps is None
    if endless:
        report(
            Progress(
                "message",
                f"This environment has no time limit: episodes end after {_LONGEST:,} steps at the latest.",
            )
        )
    returns, lengths = np.zeros((P, E)), np.zeros((P, E), dtype=np.int64)
    running = np.ones((P, E), dtype=bool)
    while running.any():
        for p in np.flatnonzero(running.any(1)).tolist():
            live = np.flatnonzero(running[p]).tolist()
            actions = policies[p].act_vectors(obs[p][live])
            for j, vector in zip(live, actions, strict=True):
                action = policies[p].action_codec.decode_one(vector)
                observation, reward, terminated, truncated, _ = envs[p][j].step(action)
                obs[p][j] = codecs[p].encode_one(observation)
                returns[p, j] += float(reward)
                lengths[p, j] += 1
                cut = endless and lengths[p, j] >= _LONGEST
                running[p, j] = not (terminated or truncated or cut)
        if lengths.max() % 100 == 0:
            report(Progress("evaluate", step=int((~running).sum()), total=P * E))
    report(Progress("evaluate", step=P * E, total=P * E))
    return returns, lengths
