"""Laws of a teacher: its units, its files, and every way in which a file can be unfit."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import minari_distill as md
import minari_distill.teachers.files as files
from minari_distill.errors import TeacherError
from minari_distill.networks import Architecture, initialize
from minari_distill.teachers import NetworkTeacher, Teacher, load_teacher, save_teacher
from minari_distill.units import Units
from tests.synsets import make_synset


def make_units(
    obs_dim: int, act_dim: int, low: float = -3.0, high: float = 1.0, discrete: bool = False
) -> Units:
    return Units(
        torch.linspace(-1, 1, obs_dim),
        torch.linspace(0.5, 2, obs_dim),
        torch.full((act_dim,), low),
        torch.full((act_dim,), high),
        discrete,
    )


def make_teacher(obs_dim: int = 3, act_dim: int = 2, *, head: str = "tanh", **replaced) -> NetworkTeacher:
    generator = torch.Generator().manual_seed(0)
    actor_arch = Architecture(obs_dim, act_dim, (8, 8), head)
    critic_arch = Architecture(obs_dim + act_dim, 1, (8,), "linear")
    parts = {
        "actor": initialize(actor_arch, 2, generator=generator),
        "actor_arch": actor_arch,
        "critic": initialize(critic_arch, 2, generator=generator),
        "critic_arch": critic_arch,
        "reduction": "min",
        "units": make_units(obs_dim, act_dim, discrete=head == "softmax"),
        "metadata": {"method": "test", "seed": 0},
    }
    return NetworkTeacher(**{**parts, **replaced})


def corl_tensors(
    obs_dim: int = 3, act_dim: int = 2
) -> tuple[dict[str, torch.Tensor], nn.Module, list[nn.Module]]:
    """The tensors of a CORL-style file, and the modules they belong to."""
    torch.manual_seed(0)
    actor = nn.Sequential(
        nn.Linear(obs_dim, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2 * act_dim)
    )
    critics = [nn.Sequential(nn.Linear(obs_dim + act_dim, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)]
    tensors = {f"actor.base_network.{k}": v for k, v in actor.state_dict().items()}
    for i, critic in enumerate(critics, 1):
        tensors |= {f"critic{i}.network.{k}": v for k, v in critic.state_dict().items()}
    tensors |= {
        "actor.log_std_multiplier.constant": torch.ones(1),
        "actor.log_std_offset.constant": -torch.ones(1),
        "observation_mean": torch.randn(obs_dim),
        "observation_std": torch.rand(obs_dim) + 0.5,
    }
    return tensors, actor, critics


def test_a_corl_teacher_of_wider_actions(tmp_path):
    """ "max_action" 2: its actions are 2·tanh, and its critics read those."""
    tensors, actor, critics = corl_tensors()
    teacher = load_teacher(_save(tmp_path / "wide.safetensors", tensors, {"max_action": "2.0"}))
    obs = torch.randn(20, 3)
    x = (obs - tensors["observation_mean"]) / tensors["observation_std"]
    action = 2 * actor(x)[:, :2].tanh()
    torch.testing.assert_close(teacher.policy(obs), action.detach())
    q = torch.min(*(critic(torch.cat([x, action], 1))[:, 0] for critic in critics))
    torch.testing.assert_close(teacher.q(obs, action.detach()), q.detach())


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    """~ is the home folder, as it is for policies."""
    monkeypatch.setenv("HOME", str(tmp_path))
    save_teacher(make_teacher(), "~/t.safetensors")
    assert (tmp_path / "t.safetensors").is_file() and load_teacher("~/t.safetensors").obs_dim == 3


def test_actions_are_in_the_units_of_the_source():
    """π*(s) = low + (tanh + 1)/2 (high − low), and q reads actions in the same units."""
    teacher, obs = make_teacher(), torch.randn(50, 3) * 4
    action = teacher.policy(obs)
    assert action.min() >= -3
    assert action.max() <= 1
    assert action.min() < -1.5
    narrow = make_teacher(units=make_units(3, 2, -1.0, 1.0))
    torch.testing.assert_close(action, -3 + (narrow.policy(obs) + 1) / 2 * 4)
    torch.testing.assert_close(teacher.q(obs, action), narrow.q(obs, narrow.policy(obs)))


def test_discrete_actions_are_probabilities():
    """A softmax teacher's actions sum to one, and its q takes them unscaled."""
    teacher, obs = make_teacher(head="softmax"), torch.randn(5, 3)
    torch.testing.assert_close(teacher.policy(obs).sum(1), torch.ones(5))
    assert teacher.q(obs, torch.eye(2)[torch.zeros(5, dtype=torch.long)]).shape == (5,)


def test_large_batches_are_labelled_in_chunks(monkeypatch):
    """Chunking changes nothing but the memory used."""
    teacher, obs = make_teacher(), torch.randn(10, 3)
    whole = teacher.policy(obs), teacher.q(obs, teacher.policy(obs))
    monkeypatch.setattr("minari_distill.teachers.teacher.CHUNK", 3)
    torch.testing.assert_close((teacher.policy(obs), teacher.q(obs, whole[0])), whole)


def test_the_dtype_of_the_observations_is_kept():
    teacher, obs = make_teacher(), torch.randn(4, 3, dtype=torch.float64)
    assert teacher.policy(obs).dtype == teacher.q(obs, teacher.policy(obs)).dtype == torch.float64


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_saving_then_loading_is_the_identity(tmp_path, reduction):
    teacher, obs = make_teacher(reduction=reduction, q_scale=0.1, q_shift=1 / 3), torch.randn(20, 3)
    back = load_teacher(save_teacher(teacher, tmp_path / "deep" / "teacher.safetensors"))
    assert isinstance(back, NetworkTeacher)
    assert back.metadata == teacher.metadata
    assert torch.equal(back.actor, teacher.actor)
    assert torch.equal(back.critic, teacher.critic)
    assert (back.actor_arch, back.critic_arch) == (teacher.actor_arch, teacher.critic_arch)
    assert torch.equal(back.policy(obs), teacher.policy(obs))
    assert torch.equal(back.q(obs, back.policy(obs)), teacher.q(obs, teacher.policy(obs)))
    assert os.listdir(tmp_path / "deep") == ["teacher.safetensors"]  # nothing temporary stays


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """The file is replaced whole or not at all."""
    path = save_teacher(make_teacher(), tmp_path / "teacher.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_teacher(make_teacher(4), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_corl_files_are_read(tmp_path):
    """Policy tanh(mean) and q = min(Q1, Q2) of CORL's own modules, on normalised observations."""
    tensors, actor, critics = corl_tensors()
    save_file(tensors, tmp_path / "t.safetensors", {"gradient_steps": "1000000", "trained_on": "x"})
    teacher, obs = load_teacher(tmp_path / "t.safetensors"), torch.randn(30, 3)
    x = (obs - tensors["observation_mean"]) / tensors["observation_std"]
    action = torch.tanh(actor(x)[:, :2])
    torch.testing.assert_close(teacher.policy(obs), action)
    q = torch.minimum(*(c(torch.cat([x, action], 1))[:, 0] for c in critics))
    torch.testing.assert_close(teacher.q(obs, action), q)
    assert teacher.metadata["gradient_steps"] == 1_000_000
    assert (teacher.obs_dim, teacher.act_dim) == (3, 2)
    again = load_teacher(save_teacher(teacher, tmp_path / "own.safetensors"))
    torch.testing.assert_close(again.policy(obs), action)


def test_a_teacher_made_of_functions():
    teacher = Teacher.from_callable(lambda o: o[:, :2], lambda o, a: a.sum(1), obs_dim=3, act_dim=2)
    obs = torch.randn(4, 3)
    assert torch.equal(teacher.q(obs, teacher.policy(obs)), obs[:, :2].sum(1))
    assert load_teacher(teacher) is teacher
    with pytest.raises(TeacherError, match="cannot be saved"):
        save_teacher(teacher, "never-written.safetensors")
    assert not Path("never-written.safetensors").exists()


def test_functions_are_held_to_their_word():
    teacher = Teacher.from_callable(lambda o: o, obs_dim=3, act_dim=2)
    with pytest.raises(TeacherError, match=r"policy returned shape \(4, 3\); expected \(4, 2\)"):
        teacher.policy(torch.zeros(4, 3))
    assert not teacher.has_q
    with pytest.raises(TeacherError, match="objective='pbc'"):
        teacher.q(torch.zeros(4, 3), torch.zeros(4, 2))


def test_a_teacher_of_another_dataset_is_refused():
    with pytest.raises(TeacherError, match=r"maps 3 observation numbers to 2 .* but me/set-v0 has 11 and 3"):
        make_teacher().check_fits(11, 3, "me/set-v0")
    make_teacher().check_fits(3, 2)


def _save(path: Path, tensors, header=None) -> Path:
    save_file(tensors, path, header)
    return path


def _own(tmp_path: Path, change) -> Path:
    """A file of this package with its tensors changed."""
    path = save_teacher(make_teacher(), tmp_path / "own.safetensors")
    tensors = load_file(path)
    header = {
        "format": files.FORMAT,
        "head": "tanh",
        "reduction": "min",
        "metadata": "{}",
        "q_scale": "1",
        "q_shift": "0",
    }
    change(tensors, header)
    return _save(tmp_path / "changed.safetensors", tensors, header)


def _torch_save(tmp_path: Path) -> Path:
    torch.save({"actor": torch.zeros(2)}, tmp_path / "t.pt")
    return tmp_path / "t.pt"


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _truncated(tmp_path: Path) -> Path:
    whole = save_teacher(make_teacher(), tmp_path / "t.safetensors").read_bytes()
    return _write(tmp_path / "cut.safetensors", whole[: len(whole) // 2])


def _corl_without_critics(tmp_path: Path) -> Path:
    tensors = {k: v for k, v in corl_tensors()[0].items() if not k.startswith("critic2")}
    return _save(tmp_path / "c.safetensors", tensors)


UNFIT = {
    "missing": (lambda p: p / "none.safetensors", "does not exist"),
    "folder": (lambda p: p, "is a folder"),
    "torch.save": (_torch_save, "is a pickle"),
    "pickle": (lambda p: _write(p / "t.safetensors", pickle.dumps({"a": 1})), "is a pickle"),
    "truncated": (_truncated, "is truncated or no safetensors file"),
    "empty": (lambda p: _write(p / "t.safetensors", b""), "is truncated or no safetensors file"),
    "noise": (lambda p: _write(p / "t.safetensors", struct.pack("<Q", 1 << 60) + b"x"), "is truncated or no"),
    "other tensors": (lambda p: _save(p / "t.safetensors", {"w": torch.zeros(2)}), "holds no teacher"),
    "newer format": (
        lambda p: _own(p, lambda t, h: h.update(format="minari_distill.teacher/9")),
        "pip install -U minari-distill",
    ),
    "q_scale NaN": (
        lambda p: _own(p, lambda t, h: h.update(q_scale="nan")),
        "q_scale is nan, expected a finite",
    ),
    "q upside down": (lambda p: _own(p, lambda t, h: h.update(q_scale="-1")), "expected a positive factor"),
    "metadata a list": (lambda p: _own(p, lambda t, h: h.update(metadata="[]")), "metadata is a list"),
    "max_action 0": (
        lambda p: _save(p / "c.safetensors", corl_tensors()[0], {"max_action": "0"}),
        "max_action is 0.0, expected a positive",
    ),
    "lacks a layer": (lambda p: _own(p, lambda t, h: t.pop("actor.1.bias")), "lacks 'actor.1.bias'"),
    "lacks all layers": (
        lambda p: _own(p, lambda t, h: [t.pop(k) for k in list(t) if k.startswith("critic")]),
        "lacks 'critic.0.weight'",
    ),
    "lacks statistics": (lambda p: _own(p, lambda t, h: t.pop("obs_std")), "lacks 'obs_std'"),
    "NaN": (lambda p: _own(p, lambda t, h: t["actor.0.weight"].fill_(float("nan"))), "NaN or infinite"),
    "zero std": (lambda p: _own(p, lambda t, h: t["obs_std"].zero_()), "obs_std must be positive"),
    "bounds": (lambda p: _own(p, lambda t, h: t["act_low"].fill_(5.0)), "must lie above its act_low"),
    "unknown head": (lambda p: _own(p, lambda t, h: h.update(head="relu")), "head is 'relu'"),
    "unknown reduction": (lambda p: _own(p, lambda t, h: h.update(reduction="max")), "reduced by 'max'"),
    "broken metadata": (lambda p: _own(p, lambda t, h: h.update(metadata="{")), "is unfit"),
    "layers do not chain": (
        lambda p: _own(p, lambda t, h: t.update({"actor.1.weight": torch.zeros(2, 5, 8)})),
        "a layer of 8 outputs is followed by one of 5 inputs",
    ),
    "critic of other length": (
        lambda p: _own(p, lambda t, h: t.update({"critic.0.weight": torch.zeros(2, 9, 8)})),
        "its critics map 9 numbers to 1, expected 5 to 1",
    ),
    "bias of other width": (
        lambda p: _own(p, lambda t, h: t.update({"actor.0.bias": torch.zeros(2, 7)})),
        "is unfit",
    ),
    "one critic only": (_corl_without_critics, "lacks 'critic2.network.0.weight'"),
    "not a path": (lambda p: 3, "a path or a Teacher, not a int"),
}


@pytest.mark.parametrize("case", UNFIT, ids=str)
def test_an_unfit_file_says_what_to_do(tmp_path, case):
    """Every fault is a TeacherError of one line that names the file and the repair."""
    build, message = UNFIT[case]
    path = build(tmp_path)
    with pytest.raises(TeacherError) as caught:
        load_teacher(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if not isinstance(path, int):
        assert str(path) in str(caught.value)


def test_a_students_file_is_told_how_to_teach(tmp_path):
    """A policy of behavior_clone teaches as TorchScript."""
    path = md.behavior_clone(make_synset(), steps=1, in_metric=False).save(tmp_path / "policy.safetensors")
    with pytest.raises(TeacherError, match=r"is a policy of behavior_clone.*save\('policy.pt'\)"):
        load_teacher(path)


def test_a_misspelt_file_is_answered_with_the_nearest(tmp_path):
    save_teacher(make_teacher(), tmp_path / "hopper.safetensors")
    with pytest.raises(TeacherError, match=r"Did you mean 'hopper\.safetensors'"):
        load_teacher(tmp_path / "hoper.safetensors")


def test_the_header_is_plain_json(tmp_path):
    """Any safetensors reader can tell what the file is."""
    content = save_teacher(make_teacher(), tmp_path / "t.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    assert header["format"] == files.FORMAT
    assert json.loads(header["metadata"])["method"] == "test"
