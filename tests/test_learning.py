"""Laws of learning a teacher: determinism, checkpoints, estimates; and filtered behavioural cloning itself."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minari_distill.best_episodes import best_transitions
from minari_distill.config import make_config, unchecked_settings
from minari_distill.errors import ConfigError, Diverged, TeacherError
from minari_distill.networks import Architecture, forward, initialize
from minari_distill.progress import Progress
from minari_distill.teachers import (
    estimate_seconds,
    learn,
    learn_teacher,
    load_teacher,
    make_trainer,
    save_teacher,
    settle_teacher,
)
from minari_distill.teachers.cut_episodes import least_returns_to_go, seen_share
from minari_distill.teachers.mlp import Layers, activations, backward
from tests.small_transitions import point_mass

METHODS = ["cal_ql", "filtered_bc"]


@pytest.mark.parametrize(
    ("gpu", "given", "expected"),
    [
        (False, {}, ("filtered_bc", 5_000)),
        (True, {}, ("cal_ql", 1_000_000)),
        (True, {"device": "cpu"}, ("filtered_bc", 5_000)),
        (False, {"teacher_method": "cal_ql"}, ("cal_ql", 1_000_000)),
        (True, {"teacher_method": "filtered_bc", "teacher_steps": 7}, ("filtered_bc", 7)),
    ],
)
def test_what_auto_stands_for(gpu, given, expected, monkeypatch):
    """Cal-QL where a GPU learns it in minutes; a clone of the best episodes on a CPU; a choice stays."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu))
    settled = settle_teacher(make_config(**given))
    assert (settled.teacher_method, settled.teacher_steps) == expected
    assert settle_teacher(settled) == settled


def settings(method: str, **overrides):
    small = {"teacher_method": method, "teacher_steps": 12, "teacher_batch": 32, "cql_n_actions": 2}
    return make_config("quick", **{**small, **overrides})


@pytest.mark.parametrize("method", METHODS)
def test_a_learnt_teacher_survives_its_file(tmp_path, method):
    """Learn, save, load: same actions and values, in the dataset's units, with its origin."""
    data = point_mass()
    teacher = learn_teacher(data, settings(method))
    back = load_teacher(save_teacher(teacher, tmp_path / "teacher.safetensors"))
    obs = torch.as_tensor(data.observations)
    assert torch.equal(back.policy(obs), teacher.policy(obs))
    assert torch.equal(back.q(obs, back.policy(obs)), teacher.q(obs, teacher.policy(obs)))
    assert back.policy(obs).abs().max() <= 2
    assert back.metadata["method"] == method
    assert back.metadata["dataset_ids"] == ["tests/point-mass-v0"]
    assert back.metadata["gradient_steps"] == 12


class _Stopwatch:
    """Stops training at the given questions; keeps what was reported."""

    def __init__(self, *stops: int) -> None:
        self.stops, self.asked = stops, 0
        self.records: list[Progress] = []

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked in self.stops


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_training_goes_on_to_the_same_teacher(tmp_path, method):
    """Stopped twice and resumed from its checkpoint: bit for bit the unbroken teacher."""
    data, config = point_mass(), settings(method)
    unbroken = learn_teacher(data, config)
    file = tmp_path / "checkpoint.safetensors"
    for _ in range(2):
        with pytest.raises(TeacherError, match="go on with resume"):
            learn_teacher(data, config, checkpoint=file, should_stop=_Stopwatch(2))
    resumed = learn_teacher(data, config, checkpoint=file)
    obs = torch.as_tensor(data.observations)
    assert torch.equal(resumed.policy(obs), unbroken.policy(obs))
    assert torch.equal(resumed.q(obs, unbroken.policy(obs)), unbroken.q(obs, unbroken.policy(obs)))


def test_a_checkpoint_is_written_while_training(tmp_path, monkeypatch):
    """About once a minute; here, at every chance."""
    monkeypatch.setattr("minari_distill.teachers.learn._CHECKPOINT_SECONDS", 0.0)
    file = tmp_path / "checkpoint.safetensors"
    learn_teacher(point_mass(), settings("filtered_bc"), checkpoint=file)
    trainer = make_trainer(point_mass(), settings("filtered_bc"))
    trainer.load_state_dict(load_file(file))
    assert trainer.step_count == 12


def test_a_broken_checkpoint_is_named(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"half a checkpoint")
    with pytest.raises(TeacherError, match="delete it to start the teacher anew"):
        learn_teacher(point_mass(), settings("filtered_bc"), checkpoint=file)


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TeacherError, match="Stopped"):
        learn_teacher(point_mass(), settings("cal_ql"), checkpoint=file, should_stop=_Stopwatch(1))
    with pytest.raises(TeacherError, match="not one of this filtered_bc training"):
        learn_teacher(point_mass(), settings("filtered_bc"), checkpoint=file)


@pytest.mark.parametrize("changed", [{"seed": 9}, {"discount": 0.5}, {"teacher_steps": 13}, {"data": 1}])
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, method, changed):
    """The same shapes are not enough: other settings and other data are told apart."""
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TeacherError, match="Stopped"):
        learn_teacher(point_mass(), settings(method), checkpoint=file, should_stop=_Stopwatch(1))
    overrides = dict(changed)
    data = point_mass(seed=overrides.pop("data", 0))
    with pytest.raises(TeacherError, match=f"of another {method} training"):
        learn_teacher(data, settings(method, **overrides), checkpoint=file)


def test_a_method_of_continuous_actions_alone(monkeypatch):
    """A method may stand in one of the two tables; the other kind of actions is told what there is."""
    monkeypatch.delitem(learn.DISCRETE_TRAINERS, "cal_ql")
    with pytest.raises(TeacherError, match="'cal_ql' learns no discrete actions. Choose one of: filtered_bc"):
        make_trainer(point_mass(discrete=True), settings("cal_ql"))
    monkeypatch.setitem(learn.DISCRETE_TRAINERS, "cal_ql", learn.TRAINERS["filtered_bc"])
    monkeypatch.delitem(learn.TRAINERS, "cal_ql")
    assert learn.settle_teacher(settings("cal_ql", teacher_steps=0)).teacher_steps == 5000


@pytest.mark.parametrize("preset", ["quick", "infinite"])
def test_another_method_than_the_presets_takes_its_own_steps(preset):
    """5000 steps are filtered_bc's: Cal-QL takes its million, unless steps are given, in whatever way it is asked for."""
    whole = {"teacher_method": "cal_ql"}
    given = whole | {"teacher_steps": 7}
    for made in (make_config, make_config(preset).replace):
        named = {"preset": preset} if made is make_config else {}
        assert learn.settle_teacher(made(**named, **whole)).teacher_steps == 10**6
        assert made(**named, **given).teacher_steps == 7
    assert unchecked_settings(preset, **whole)["teacher_steps"] == 0
    assert unchecked_settings(preset)["teacher_steps"] == make_config(preset).teacher_steps == 5000


def test_progress_reaches_the_end():
    """Steps grow to the total, each record with a loss and the seconds left."""
    records: list[Progress] = []
    learn_teacher(point_mass(), settings("filtered_bc"), report=records.append)
    steps = [r.step for r in records]
    assert steps == sorted(steps)
    assert (steps[-1], records[-1].total, records[-1].seconds_left) == (12, 12, 0)
    assert all(r.stage == "teacher" and r.loss is not None and r.loss > 0 for r in records)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_of_the_right_size(method):
    """Within a factor of four of a real run, machines being shared."""
    data, config = point_mass(), settings(method, teacher_steps=60, teacher_batch=64)
    estimate = estimate_seconds(data, config, seconds=0.3)
    began = time.perf_counter()
    learn_teacher(data, config)
    taken = time.perf_counter() - began
    assert taken / 4 < estimate < taken * 4


@pytest.mark.parametrize("method", METHODS)
def test_divergence_is_named(method):
    """A loss that is no number ends the training with advice, at the step where it is seen."""
    trainer = make_trainer(point_mass(), settings(method))
    name = {"cal_ql": "critics", "filtered_bc": "actor"}[method]
    trainer.tensors()[name].fill_(float("nan"))
    with pytest.raises(Diverged, match=f"The {method} teacher's loss became nan"):
        trainer.advance(1)


def test_hand_written_passes_are_autograd_s():
    """Forward, both gradients and the gradient on the input of a batch of MLPs."""
    generator = torch.Generator().manual_seed(0)
    arch = Architecture(4, 2, (8, 6, 5), "linear")
    flat = initialize(arch, 3, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, 7, 2, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((forward(flat, x, arch) * direction).sum(), (flat, x))
    theta, grad = Layers.of(flat.detach(), arch), Layers.of(torch.full_like(flat, 9.0).detach(), arch)
    hs = activations(theta, x.detach())
    to_x = backward(theta, x.detach(), hs, direction, grad, to_input=True)
    torch.testing.assert_close((grad.flat, to_x), expected)
    torch.testing.assert_close(hs[-1], forward(flat, x, arch).detach())


def test_the_best_episodes_are_taken_until_their_transitions_suffice():
    """By return, not by length, and whole.

    Four episodes of lengths 1, 2, 3, 4 with returns 5, 1, 9, 3: of 10 transitions a share of 0.3 wants 3, and
    up to 0.6 since 10 000 are not reached: 3 (return 9) + 1 (return 5) + 4 (return 3) ≥ 6.
    """
    lengths, starts = np.array([1, 2, 3, 4]), np.array([0, 1, 3, 6])
    base = point_mass(1, 10)
    rewards = np.repeat(np.array([5, 1, 9, 3]) / lengths, lengths)
    data = replace(base, rewards=rewards, episode_starts=starts)
    assert best_transitions(data, 0.3).tolist() == [3, 4, 5, 0, 6, 7, 8, 9]
    assert best_transitions(data, 0.1).tolist() == [3, 4, 5]
    assert sorted(best_transitions(data, 1.0)) == list(range(10))


def test_large_datasets_keep_to_the_share():
    """40 000 transitions in 40 episodes: a share of 0.25 is 10 of them, the doubling is not needed."""
    data = replace(point_mass(40, 1000), rewards=np.repeat(2.0 ** -np.arange(40.0), 1000))
    assert len(best_transitions(data, 0.25)) == 10_000
    assert len(best_transitions(data, 0.15)) == 10_000  # 6 000 is fewer than 10 000, twice it is more
    assert len(best_transitions(data, 0.1)) == 8_000


def test_episodes_as_good_as_the_best_are_all_taken():
    """Returns 100, 95, 91, 89 and 0 six times: those down to 90 count as good, whatever the share."""
    returns = np.array([0, 89, 95, 0, 0, 91, 100, 0, 0, 0])
    data = replace(point_mass(10, 4), rewards=np.repeat(returns / 4, 4))
    assert best_transitions(data, 0.05).tolist() == [*range(24, 28), *range(8, 12), *range(20, 24)]


def test_one_accident_does_not_make_all_others_good():
    """Returns 1, 2, … 100: 90.2 and above are as good as 100, and still are with one of −1000 instead of 1; of five none is left out."""
    data = replace(point_mass(100, 1), rewards=np.arange(1.0, 101.0))
    spoilt = replace(data, rewards=np.where(data.rewards == 1, -1000, data.rewards))
    assert len(best_transitions(data, 0.01)) == len(best_transitions(spoilt, 0.01)) == 10
    five = replace(point_mass(5, 1), rewards=np.array([0, 9, 9.5, 10, 10]))
    assert len(best_transitions(five, 0.01)) == 4


def test_the_seen_share_by_hand():
    """γ = 0.5, three steps: cut off 1 − 0.5³, 1 − 0.5², 1 − 0.5; ended by itself: 1."""
    data = point_mass(2, 3, ends=True)
    assert seen_share(data, 0.5).tolist() == [1, 1, 1, 0.875, 0.75, 0.5]


def test_the_least_of_returns_by_hand():
    """γ = 0.5, three rewards of −1: −1.75, −1.5, −1 where the episode ends; cut off, it may be −1 for ever: −2 from each step."""
    data = replace(point_mass(2, 3, ends=True), rewards=-np.ones(6, np.float32))
    assert least_returns_to_go(data, 0.5).tolist() == [-1.75, -1.5, -1, -2, -2, -2]
    assert least_returns_to_go(data, 1.0).tolist() == [-3, -2, -1, -np.inf, -np.inf, -np.inf]
    gains = replace(data, rewards=np.ones(6, np.float32))
    assert least_returns_to_go(gains, 0.5).tolist() == gains.returns_to_go(0.5).tolist()


def test_the_clone_learns_actions_in_their_units():
    """Every action is (−1.5, 0.5) of ±2: so are the teacher's."""
    data = point_mass()
    data = replace(data, actions=np.tile(np.float32([-1.5, 0.5]), (len(data), 1)))
    teacher = learn_teacher(data, settings("filtered_bc", teacher_steps=200))
    expected = torch.tensor([-1.5, 0.5]).expand(len(data), 2)
    torch.testing.assert_close(teacher.policy(torch.as_tensor(data.observations)), expected, atol=0.2, rtol=0)


def test_the_critics_gradient_is_autograds():
    """Equation (2): squared errors, weighed by the share that a cut leaves to be seen."""
    data = point_mass(4, 5, ends=True)
    trainer = make_trainer(data, settings("filtered_bc", precision="float64", discount=0.5))
    i = torch.arange(len(data))
    loss = trainer._critic_gradient(i)
    theta = trainer.critic.clone().requires_grad_()
    q = forward(theta, torch.cat([trainer.obs, trainer.action], 1), trainer.critic_arch)[..., 0]
    w = torch.as_tensor(seen_share(data, 0.5))
    assert w.min() == 0.5 and w.max() == 1
    returns = torch.as_tensor(data.returns_to_go(0.5)).double()
    target = (returns - returns.mean()) / returns.std(correction=0)
    expected = ((w * (q - target).square()).sum(1) / w.sum()).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(trainer.adam.gradients[1], gradient, rtol=1e-5, atol=1e-7)


def test_critics_that_diverge_are_seen_at_once():
    """Not after all steps, when the teacher labels the data."""
    trainer = make_trainer(point_mass(), settings("filtered_bc"))
    trainer.critic.fill_(float("nan"))
    with pytest.raises(Diverged, match="loss became nan before step 3"):
        trainer.advance(3)


def test_the_filter_finds_the_skill():
    """Story: the data's actions are −2s times a skill; the best episodes' clone is more skilled than all's."""
    data = point_mass(n_episodes=60)
    s = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 0.5

    def skill(top_fraction: float) -> float:
        config = settings("filtered_bc", teacher_steps=200, teacher_batch=128, top_fraction=top_fraction)
        action = learn_teacher(data, config).policy(s)
        return float((action * -2 * s).sum() / (2 * s).square().sum())

    assert skill(0.05) > skill(1.0) + 0.1


def test_q_is_fitted_to_returns():
    """In raw units: q of the data's actions explains most of the returns to go."""
    data = point_mass(ends=True)
    config = settings("filtered_bc", teacher_steps=300, teacher_batch=128, discount=0.8)
    teacher, returns = learn_teacher(data, config), torch.as_tensor(data.returns_to_go(0.8))
    q = teacher.q(torch.as_tensor(data.observations), torch.as_tensor(data.actions))
    assert (q - returns).square().mean() < 0.3 * returns.var()


def test_filtered_bc_learns_discrete_actions():
    """Probabilities, most on the action that the best episodes take: towards the origin."""
    data = point_mass(n_episodes=60, discrete=True)
    teacher = learn_teacher(data, settings("filtered_bc", teacher_steps=300, teacher_batch=128))
    s = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    p = teacher.policy(s)
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    assert p.argmax(1).tolist() == [0, 2]
    assert teacher.q(s, p).shape == (2,)


def test_an_undiscounted_return_counts_whole():
    """γ = 1: nothing beyond a cut is discounted away, and values are learnt; other γ are refused."""
    t = point_mass()
    assert (seen_share(t, 1.0) == 1).all() and (seen_share(t, 0.5) < 1).all()
    for discount in (5.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="give a number between 0 and 1"):
            make_config(discount=discount)
