"""Discrete Cal-QL: its step against autograd, a chain whose optimal values are known, numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minari_distill.config import make_config
from minari_distill.errors import ConfigError, TeacherError
from minari_distill.inner.batch_loss import BatchLoss
from minari_distill.networks import Architecture, forward
from minari_distill.objectives import Labels, find_objective
from minari_distill.source import Source
from minari_distill.spaces import SpaceCodec
from minari_distill.teachers import learn_teacher, load_teacher, make_trainer, save_teacher
from minari_distill.teachers.cal_ql import CalQL
from minari_distill.teachers.discrete_cal_ql import DiscreteCalQL
from minari_distill.teachers.q_teacher import QTeacher
from minari_distill.transitions import Transitions
from minari_distill.units import Units
from tests.small_transitions import point_mass

CPU = torch.device("cpu")


def settings(**overrides: Any):
    return make_config(
        **{
            "teacher_method": "cal_ql",
            "teacher_batch": 48,
            "precision": "float64",
            "critic_lr": 1e-3,
            **overrides,
        }
    )


def discrete(obs, actions, rewards, next_obs, terminations, starts, n_actions: int) -> Transitions:
    """Transitions with one-hot actions; episodes that do not terminate are cut."""
    obs, next_obs = (np.asarray(o, np.float32).reshape(len(rewards), -1) for o in (obs, next_obs))
    last = np.isin(np.arange(len(rewards)), np.append(np.asarray(starts)[1:], len(rewards)) - 1)
    box = spaces.Box(-np.inf, np.inf, (obs.shape[1],), np.float32)
    return Transitions(
        obs,
        np.eye(n_actions, dtype=np.float32)[np.asarray(actions)],
        np.asarray(rewards, np.float32),
        next_obs,
        np.asarray(terminations, bool),
        last & ~np.asarray(terminations, bool),
        np.asarray(starts),
        SpaceCodec(box),
        SpaceCodec(spaces.Discrete(n_actions)),
        Source(("tests/discrete-v0",)),
    )


def by_autograd(trainer: DiscreteCalQL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1) to (4) as they are written, one state and one action at a time: loss (mean of the critics), ∂(their sum)/∂φ."""
    c, arch = trainer.config, trainer.critic_arch
    online = trainer.critics[:2].clone().requires_grad_()
    obs, action, reward, discount, bound, next_obs = batch.split(
        (trainer.obs_dim, 1, 1, 1, 1, trainer.obs_dim), 1
    )
    losses = []
    q, next_q = forward(online, obs, arch), forward(online, next_obs, arch).detach()
    target_q = forward(trainer.critics[2:], next_obs, arch)
    for i in range(2):
        for j in range(len(batch)):
            a = int(action[j])
            lowest = [next_q[:, j, b].min() for b in range(arch.act_dim)]
            total = sum(math.exp(q / c.q_temperature) for q in lowest)
            policy = [math.exp(q / c.q_temperature) / total for q in lowest]
            y = reward[j, 0] + discount[j, 0] * sum(p * target_q[:, j, b].min() for b, p in enumerate(policy))
            soft_max = c.q_temperature * torch.log(
                sum(
                    torch.exp(torch.clamp(q[i, j, b], min=float(bound[j])) / c.q_temperature)
                    for b in range(arch.act_dim)
                )
            )
            losses.append((q[i, j, a] - y.detach()) ** 2 + c.discrete_cql_alpha * (soft_max - q[i, j, a]))
    total = torch.stack(losses).sum() / len(batch)
    (gradient,) = torch.autograd.grad(total, online)
    return total.detach() / 2, gradient


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_gradient_is_autograd_s(temperature):
    """(6), in double precision, where some actions are calibrated and some are not, and episodes end both ways."""
    trainer = DiscreteCalQL(
        point_mass(discrete=True, ends=True),
        settings(q_temperature=temperature, discrete_cql_alpha=2.5, critic_lr=1e-2, discount=0.8),
        CPU,
    )
    trainer.advance(20)  # targets and critics differ by now
    batch = trainer.table[torch.arange(0, 960, 20)]
    batch[:, 5] += 1.5
    q = forward(trainer.critics[:2], batch[:, :2], trainer.critic_arch)
    assert 0.1 < (q > batch[:, 5:6]).double().mean() < 0.9  # both sides of the calibration
    loss, gradient = by_autograd(trainer, batch)
    trainer._loss.zero_()
    trainer.update(batch)
    torch.testing.assert_close(trainer._loss, loss)
    torch.testing.assert_close(trainer.adam.gradients[0], gradient, rtol=1e-10, atol=1e-13)


def test_targets_follow_at_their_rate():
    """(5): φ̄ ← (1 − ρ) φ̄ + ρ φ, after the step."""
    trainer = DiscreteCalQL(point_mass(discrete=True), settings(target_rate=0.25), CPU)
    before = trainer.critics[2:].clone()
    trainer.advance(1)
    torch.testing.assert_close(trainer.critics[2:], 0.75 * before + 0.25 * trainer.critics[:2])


def one_state(rewards: tuple[float, float], counts: tuple[int, int]) -> Transitions:
    """A bandit of two arms, each drawn `counts` times, whose episodes end at once."""
    actions = np.repeat([0, 1], counts)
    n = len(actions)
    return discrete(
        np.zeros(n), actions, np.asarray(rewards)[actions], np.zeros(n), np.ones(n), np.arange(n), 2
    )


def learn(
    data: Transitions, n_steps: int, *, lr: float = 1e-2, bound: float | None = None, **overrides: Any
) -> DiscreteCalQL:
    """A training on all of the data at every step, its rate falling to zero; `bound` in place of G."""
    trainer = DiscreteCalQL(data, settings(**overrides), CPU)
    if bound is not None:
        trainer.table[:, -trainer.obs_dim - 1] = bound
    for step in range(n_steps):
        trainer.adam.set_lr([lr * (1 - step / n_steps)])
        trainer.update(trainer.table)
    return trainer


HERE = torch.zeros(1, 1, dtype=torch.float64)


def test_a_bandit_by_hand():
    """Two arms, rewards 1 and −1, as often: G has mean 0 and standard deviation 1, so numbers are raw ones.

    With bounds far below, α_cql = 2 and τ = 1, the expected loss of Q = (u, v) is
        ½ (u − 1)² + ½ (v + 1)² + 2 (log(e^u + e^v) − ½ u − ½ v),
    stationary where (u − 1) + 2 (p − ½) = 0 with p = 1 / (1 + e^(v−u)). By symmetry v = −u, so p − ½ = ½ tanh u
    and u + tanh u = 1, that is u = 0.5213 (0.5213 + 0.4787 = 1.0000), p = 1 / (1 + e^(−1.0426)) = 0.7394.
    """
    trainer = learn(one_state((1.0, -1.0), (8, 8)), 300, bound=-100.0, discrete_cql_alpha=2.0)
    assert trainer.q_scale == pytest.approx(1.0)
    teacher = trainer.teacher()
    assert teacher.values(HERE)[0].tolist() == pytest.approx([0.5213, -0.5213], abs=2e-3)
    policy = teacher.policy(HERE)
    assert policy[0].tolist() == pytest.approx([0.7394, 0.2606], abs=1e-3)
    # the sum over actions is exact: 0.7394 · 0.5213 − 0.2606 · 0.5213 = 0.2496
    assert teacher.q(HERE, policy).item() == pytest.approx(0.2496, abs=2e-3)


def test_a_large_alpha_gives_the_behaviour_and_a_small_one_the_better_arm():
    """Arm 0 was drawn three times as often and pays less: frequencies (¾, ¼) at one end, arm 1 at the other."""
    data = one_state((0.0, 1.0), (12, 4))
    imitator = learn(data, 300, bound=-100.0, discrete_cql_alpha=300.0).teacher()
    assert imitator.policy(HERE)[0].tolist() == pytest.approx([0.75, 0.25], abs=5e-3)
    optimist = learn(data, 450, lr=3e-2, bound=-100.0, discrete_cql_alpha=0.0).teacher()
    assert (optimist.q_scale * optimist.values(HERE))[0].tolist() == pytest.approx([0.0, 1.0], abs=0.02)


@pytest.mark.parametrize(
    ("bound", "loss_by_hand", "gradient_by_hand"),
    [(10.0, 42.466, (-1.0, 0.0)), (2.0, 5.566, (2.655, 0.0)), (0.0, 4.635, (3.404, 0.596))],
)
def test_calibration_by_hand(bound, loss_by_hand, gradient_by_hand):
    """One state, critics that are constant: Q = (3, 1), the data's action is the first, y = 1, α_cql = 5, τ = 1.

    G = 10: v = (10, 10), loss (3 − 1)² + 5 (10 + log 2 − 3) = 42.466; neither action is above G, so nothing is
            pushed down: ∂/∂Q = (2·2 − 5, 0) = (−1, 0).
    G = 2:  v = (3, 2), p = (0.7311, 0.2689), loss 4 + 5 log(1 + e⁻¹) = 5.566; (−1 + 5·0.7311, 0) = (2.655, 0).
    G = 0:  v = (3, 1), p = (0.8808, 0.1192), loss 4 + 5 log(1 + e⁻²) = 4.635; (−1 + 4.404, 0.596).
    """
    trainer = DiscreteCalQL(one_state((1.0, -1.0), (1, 1)), settings(discrete_cql_alpha=5.0), CPU)
    trainer.critics.zero_()
    trainer._online.biases[-1][:] = torch.tensor([3.0, 1.0])
    row = trainer.table[:1].clone()  # x | a | r | γ(1 − d) | G | x'
    assert row[0, 1:4].tolist() == [0, 1, 0]
    row[0, 4] = bound
    trainer.update(row)
    assert float(trainer._loss) == pytest.approx(loss_by_hand, abs=1e-3)
    assert trainer._grad.biases[-1][0, 0].tolist() == pytest.approx(gradient_by_hand, abs=1e-3)


def chain(length: int = 5) -> Transitions:
    """Every step of a chain of states, left and right, once: 1 for the step into its last state, where it ends.

    All episodes are one step long, so that no return to go tells of a reward that is further away.
    """
    states, actions = np.divmod(np.arange(2 * (length - 1)), 2)
    after = np.clip(states + 2 * actions - 1, 0, length - 1)
    one_hot = np.eye(length)
    done = after == length - 1
    return discrete(one_hot[states], actions, done, one_hot[after], done, np.arange(len(states)), 2)


def test_values_of_a_chain_are_the_optimal_ones():
    """Q*(s, right) = γ^(3−s), Q*(s, left) = γ·V*(max(s − 1, 0)); stitched from single steps at α_cql = 0, τ ≈ 0."""
    trainer = learn(chain(), 700, discrete_cql_alpha=0.0, q_temperature=1e-3, discount=0.9, target_rate=0.1)
    teacher = trainer.teacher()
    states = torch.eye(5, dtype=torch.float64)[:4]
    right = 0.9 ** np.arange(3, -1, -1.0)
    left = 0.9 * right[[0, 0, 1, 2]]
    q = teacher.q_scale * teacher.values(states)
    np.testing.assert_allclose(q.numpy(), np.stack([left, right], 1), atol=0.02)


def test_values_of_a_chain_are_those_of_the_soft_policy():
    """At τ = 1 and α_cql = 0, Q solves Q(s, a) = r + γ Σ_b π(b|s') Q(s', b), π = softmax(Q); by iteration to its end."""
    trainer = learn(chain(), 700, discrete_cql_alpha=0.0, discount=0.9, target_rate=0.1)
    q, scale = np.zeros((4, 2)), trainer.q_scale
    for _ in range(300):
        p = np.exp(q / scale) / np.exp(q / scale).sum(1, keepdims=True)
        v = np.append((p * q).sum(1), 0.0)
        q = np.array([[0.9 * v[max(s - 1, 0)], 0.9 * v[s + 1] + (s == 3)] for s in range(4)])
    learnt = scale * trainer.teacher().values(torch.eye(5, dtype=torch.float64)[:4])
    np.testing.assert_allclose(learnt.numpy(), q, atol=0.02)


def test_the_conservative_policy_of_a_chain_is_optimal_too():
    """With α_cql = 1, values of a behaviour that goes left as often as right still say: right, everywhere."""
    teacher = learn(chain(), 700, discrete_cql_alpha=1.0, discount=0.9, target_rate=0.1).teacher()
    policy = teacher.policy(torch.eye(5, dtype=torch.float64)[:4])
    assert policy.argmax(1).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(policy.sum(1), torch.ones(4, dtype=torch.float64))


def test_the_scale_of_the_rewards_does_not_matter():
    """Rewards a thousand times as large: the same policy, values a thousand times as large."""
    data = point_mass(discrete=True)
    one, other = (
        learn_teacher(replace(data, rewards=data.rewards * scale), settings(teacher_steps=30))
        for scale in (1, 1000)
    )
    obs = torch.as_tensor(data.observations).double()
    torch.testing.assert_close(one.policy(obs), other.policy(obs), rtol=1e-4, atol=1e-6)
    p = one.policy(obs)
    torch.testing.assert_close(1000 * one.q(obs, p), other.q(obs, p), rtol=1e-3, atol=1e-2)


def test_the_same_seed_gives_the_same_teacher_and_resume_equals_unbroken():
    """Bit for bit; another seed gives another."""
    data = point_mass(discrete=True)
    unbroken, broken, resumed, other = (
        DiscreteCalQL(data, settings(seed=s, precision="float32"), CPU) for s in (3, 3, 3, 4)
    )
    unbroken.advance(6)
    broken.advance(2)
    resumed.load_state_dict(broken.state_dict())
    resumed.advance(4)
    other.advance(6)
    assert resumed.step_count == 6
    assert torch.equal(unbroken.critics, resumed.critics)
    assert not torch.equal(unbroken.critics, other.critics)


def test_the_teacher_survives_its_file(tmp_path):
    """Learn, save, load: same probabilities and values, and where it comes from."""
    data = point_mass(discrete=True)
    config = settings(teacher_steps=12, q_temperature=0.5, precision="float32")
    teacher = learn_teacher(data, config)
    back = load_teacher(save_teacher(teacher, tmp_path / "teacher.safetensors"))
    obs = torch.as_tensor(data.observations)
    assert torch.equal(back.policy(obs), teacher.policy(obs))
    assert torch.equal(back.q(obs, back.policy(obs)), teacher.q(obs, teacher.policy(obs)))
    assert (back.obs_dim, back.act_dim, back.temperature) == (2, 3, 0.5)
    assert back.metadata["method"] == "cal_ql" and back.metadata["gradient_steps"] == 12
    assert back.metadata["dataset_ids"] == ["tests/point-mass-v0"]


def test_a_stopped_training_goes_on_to_the_same_teacher(tmp_path):
    """By its checkpoint file, bit for bit; a checkpoint of continuous Cal-QL is refused."""
    data, config = point_mass(discrete=True), settings(teacher_steps=12, precision="float32")
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TeacherError, match="go on with resume"):
        learn_teacher(data, config, checkpoint=file, should_stop=lambda: True)
    with pytest.raises(TeacherError, match="not one of this cal_ql training"):
        learn_teacher(point_mass(), config, checkpoint=file)
    obs = torch.as_tensor(data.observations)
    resumed = learn_teacher(data, config, checkpoint=file)
    assert torch.equal(resumed.policy(obs), learn_teacher(data, config).policy(obs))


def test_the_method_follows_the_action_space():
    """One name, "cal_ql", for both; each trainer refuses the other's data."""
    both = [make_trainer(point_mass(discrete=d), settings(teacher_method="cal_ql")) for d in (True, False)]
    assert [type(trainer) for trainer in both] == [DiscreteCalQL, CalQL]
    for kind, data in ((CalQL, point_mass(discrete=True)), (DiscreteCalQL, point_mass())):
        with pytest.raises(TeacherError, match="are (discrete|continuous)"):
            kind(data, settings(), CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"critic": torch.zeros(2, 7)}, r"critic has shape \(2, 7\)"),
        ({"critic": float("nan")}, "critic holds NaN"),
        ({"units": "continuous"}, "units are those of continuous actions"),
    ],
    ids=["temperature", "shape", "nan", "units"],
)
def test_an_unfit_teacher_is_refused(change, message):
    """What cannot be a teacher is named."""
    trainer = DiscreteCalQL(point_mass(discrete=True), settings(), CPU)
    fields = vars(trainer.teacher()) | {}
    fields = {k: fields[k] for k in ("critic", "critic_arch", "temperature", "units", "metadata", "q_scale")}
    if change.get("units"):
        change = {"units": point_mass().units()}
    elif isinstance(change.get("critic"), float):
        change = {"critic": torch.full_like(fields["critic"], change["critic"])}
    with pytest.raises(TeacherError, match=message):
        type(trainer.teacher())(**fields | change)


@pytest.mark.parametrize("change", [{"q_temperature": 0.0}, {"discrete_cql_alpha": -1.0}])
def test_bad_settings_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        settings(**change)


def test_it_finds_the_skill_in_mixed_data():
    """Story: half of the data's moves are random; the teacher's likeliest ones lead to the origin from either side."""
    data = point_mass(n_episodes=60, discrete=True)
    teacher = learn_teacher(
        data, settings(teacher_steps=300, teacher_batch=128, discount=0.8, precision="float32")
    )
    p = teacher.policy(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert p.argmax(1).tolist() == [0, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_captured_step_equals_the_plain_one():
    """A CUDA graph replays the very step."""
    data, gpu = point_mass(discrete=True), torch.device("cuda")
    captured, stepwise = (DiscreteCalQL(data, settings(), gpu) for _ in range(2))
    captured.advance(4)
    for _ in range(4):
        stepwise._step()
    torch.testing.assert_close(captured.critics, stepwise.critics, rtol=1e-9, atol=1e-11)


def linear_teacher() -> QTeacher:
    """Q(s, ·) = (x, −x) · 10 in raw returns, τ = 1: π*(s) is (e^2x, 1) / (e^2x + 1)."""
    arch = Architecture(1, 2, (), "linear")
    units = Units.of([0.0], [1.0], [0, 0], [1, 1], discrete=True)
    critic = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    return QTeacher(
        critic=critic,
        critic_arch=arch,
        temperature=1.0,
        units=units,
        metadata={"method": "test"},
        q_scale=10.0,
    )


X = [math.log(2) / 2, math.log(3) / 2]


@pytest.mark.parametrize(
    ("objective", "y", "w", "H"),
    [
        ("dbc", [[1, 0], [0, 1]], [1, 1], 0.8370),
        ("pbc", [[2 / 3, 1 / 3], [3 / 4, 1 / 4]], [1, 1], 0.6081),
        ("av_pbc", [[2 / 3, 1 / 3], [3 / 4, 1 / 4]], [0.5922, 1.4078], 0.5894),
    ],
)
def test_objectives_of_two_states_by_hand(objective, y, w, H):
    """States x = log(2)/2 and log(3)/2, the data's actions 0 and 1, a student that says (¾, ¼) everywhere.

    π* = (2/3, 1/3) and (3/4, 1/4); q = 10 x (p_0 − p_1) = 1.1552 and 2.7465, their mean 1.9508: w = 0.5922, 1.4078.
    Cross-entropies, −Σ_a y_a log π_a with −log π = (0.2877, 1.3863):
        DBC     0.2877 and 1.3863, mean 0.8370
        PBC     2/3 · 0.2877 + 1/3 · 1.3863 = 0.6539 and 3/4 · 0.2877 + 1/4 · 1.3863 = 0.5623, mean 0.6081
        Av-PBC  (0.5922 · 0.6539 + 1.4078 · 0.5623) / 2 = 0.5894
    """
    teacher, obs = linear_teacher(), torch.tensor(X)[:, None]
    p = teacher.policy(obs)
    labels = Labels(torch.eye(2), p, teacher.q(obs, p), obs)
    target, weight = find_objective(objective)(labels, settings())
    torch.testing.assert_close(target, torch.tensor(y, dtype=torch.float32))
    torch.testing.assert_close(weight[:, 0], torch.tensor(w, dtype=torch.float32), atol=1e-4, rtol=0)

    arch = Architecture(1, 2, (3,), "softmax")
    theta = torch.zeros(1, arch.n_parameters)
    theta[0, -2] = math.log(3)
    loss = BatchLoss(arch, 1, 2, precision="float32", device=CPU)
    loss.load(0, obs, target, weight, torch.arange(2))
    assert loss.value(theta).item() == pytest.approx(H, abs=1e-4)
