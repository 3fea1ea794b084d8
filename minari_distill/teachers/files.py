"""Teachers on disk: safetensors, written atomically, read with every fault named.

A file of this package holds the layers by name, all ensemble members in one tensor:

    actor.0.weight (A, in, out)   actor.0.bias (A, out)   actor.1.weight …
    critic.0.weight (C, in, out)  critic.0.bias (C, out)  critic.1.weight …
    obs_mean, obs_std (obs_dim,)  act_low, act_high (act_dim,)

and in its header "format", "head", "reduction", "q_scale", "q_shift" and "metadata" (JSON). A teacher of discrete
actions that is its action values has no actor, and "temperature" instead of "head", "reduction" and "q_shift". Files
of CORL-style Cal-QL actors and critics (keys `actor.base_network.*`, `critic1.network.*`, `critic2.network.*`) are
read too.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minari_distill.errors import TeacherError, did_you_mean
from minari_distill.files import write_atomically
from minari_distill.networks import views
from minari_distill.teachers.foreign import OPENERS
from minari_distill.teachers.q_teacher import QTeacher
from minari_distill.teachers.teacher import NetworkTeacher, Teacher, pack_layers
from minari_distill.units import Units

FORMAT = "minari_distill.teacher/1"
Q_FORMAT = "minari_distill.q_teacher/1"
_STATISTICS = ("obs_mean", "obs_std", "act_low", "act_high")


def save_teacher(teacher: Teacher, path: str | os.PathLike[str]) -> Path:
    """Write a teacher as safetensors; the file appears whole or not at all.

    Args:
        teacher: One that was learnt, or loaded from a file of networks.
        path: The `.safetensors` file to write.

    Returns:
        The path.

    Raises:
        TeacherError: The teacher is made of functions, which no file can hold.
    """
    if isinstance(teacher, NetworkTeacher):
        networks = {
            "actor": (teacher.actor, teacher.actor_arch),
            "critic": (teacher.critic, teacher.critic_arch),
        }
        header = {
            "format": FORMAT,
            "head": teacher.actor_arch.head,
            "reduction": teacher.reduction,
            "q_shift": repr(teacher.q_shift),
        }
    elif isinstance(teacher, QTeacher):
        networks = {"critic": (teacher.critic, teacher.critic_arch)}
        header = {"format": Q_FORMAT, "temperature": repr(teacher.temperature)}
    else:
        raise TeacherError(
            f"A {type(teacher).__name__.lstrip('_')} cannot be saved: only teachers made of networks can. "
            "Pass it again as `teacher=` instead."
        )
    header |= {"q_scale": repr(teacher.q_scale), "metadata": json.dumps(teacher.metadata, sort_keys=True)}
    tensors = {name: getattr(teacher.units, name) for name in _STATISTICS}
    for name, (theta, arch) in networks.items():
        weights, biases = views(theta, arch)
        for l, (W, b) in enumerate(zip(weights, biases, strict=True)):
            tensors[f"{name}.{l}.weight"], tensors[f"{name}.{l}.bias"] = W, b[:, 0]
    path = Path(os.path.expanduser(path))
    write_atomically(path, save({k: v.cpu().contiguous() for k, v in tensors.items()}, header))
    return path


def load_teacher(teacher: str | os.PathLike[str] | Teacher) -> Teacher:
    """A teacher from a file; a `Teacher` is returned as it is.

    Args:
        teacher: A `.safetensors` file, or by suffix a file of another codebase: `agent.zip` of Stable-Baselines3,
            `agent.d3` of d3rlpy, `policy.onnx`, `policy.pt` (TorchScript). A zip and a d3 file run code that they hold:
            open those you trust.

    Returns:
        π* and q, in the units of the source dataset.

    Raises:
        TeacherError: The file is missing, unreadable, a pickle, or not a teacher.
    """
    if isinstance(teacher, Teacher):
        return teacher
    if not isinstance(teacher, str | os.PathLike):
        raise TeacherError(
            f"A teacher is a path or a Teacher, not a {type(teacher).__name__}: wrap your own functions "
            "with Teacher.from_callable(policy, q, obs_dim=…, act_dim=…)."
        )
    path = Path(os.path.expanduser(teacher))
    if path.suffix in OPENERS and path.is_file():
        return OPENERS[path.suffix](path)
    header, tensors = _read(path)
    try:
        if header.get("format") == FORMAT:
            return _from_own(header, tensors)
        if header.get("format") == Q_FORMAT:
            return _from_values(header, tensors)
        if "actor.base_network.0.weight" in tensors:
            return _from_corl(header, tensors)
    except KeyError as missing:
        raise TeacherError(
            f"Teacher file '{path}' lacks {missing}: it is incomplete; train or download it again."
        ) from missing
    except (TeacherError, ValueError, RuntimeError) as fault:
        raise TeacherError(f"Teacher file '{path}' is unfit: {fault}") from fault
    if header.get("format") == "minari_distill.policy":
        raise TeacherError(
            f"'{path}' is a policy of behavior_clone. As a teacher it must be TorchScript: "
            f"load_policy({str(path)!r}).save('policy.pt'), and give that file."
        )
    if "format" in header:
        raise TeacherError(
            f"Teacher file '{path}' has the format {header['format']!r}; this version reads {FORMAT!r}: "
            "upgrade with pip install -U minari-distill, or learn the teacher again."
        )
    raise TeacherError(
        f"Teacher file '{path}' holds no teacher (its tensors: {', '.join(sorted(tensors)[:4])} …). "
        "Expected actor.0.weight, critic.0.weight … as save_teacher writes, or CORL's "
        "actor.base_network.*, critic1.network.*, critic2.network.*."
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file."""
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TeacherError(
            f"Teacher file '{path}' {what}.{did_you_mean(path.name, siblings)} Give a .safetensors file, or "
            "leave `teacher` out to learn one."
        )
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A zip archive of torch.save, or a bare pickle; a safetensors file may begin with \x80 too, the low
        # byte of its header's length, but its ninth byte opens the JSON header.
        if start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{"):
            raise TeacherError(
                f"Teacher file '{path}' is a pickle, and opening one runs whatever code it holds: convert "
                "its tensors where you trust it, with safetensors.torch.save_file(state_dict, "
                f"'{path.stem}.safetensors')."
            )
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as fault:
        raise TeacherError(
            f"Teacher file '{path}' cannot be read ({fault}): it is truncated or no safetensors file; "
            "train or download it again."
        ) from fault


def _from_own(header: dict[str, str], tensors: dict[str, Tensor]) -> NetworkTeacher:
    actor, actor_arch = pack_layers(_layers(tensors, "actor"), header["head"])
    critic, critic_arch = pack_layers(_layers(tensors, "critic"), "linear")
    return NetworkTeacher(
        actor=actor,
        actor_arch=actor_arch,
        critic=critic,
        critic_arch=critic_arch,
        reduction=header["reduction"],
        units=Units(discrete=header["head"] == "softmax", **{name: tensors[name] for name in _STATISTICS}),
        metadata=_metadata(header),
        q_scale=_finite(header, "q_scale"),
        q_shift=_finite(header, "q_shift"),
    )


def _from_values(header: dict[str, str], tensors: dict[str, Tensor]) -> QTeacher:
    critic, critic_arch = pack_layers(_layers(tensors, "critic"), "linear")
    return QTeacher(
        critic=critic,
        critic_arch=critic_arch,
        temperature=_finite(header, "temperature"),
        units=Units(discrete=True, **{name: tensors[name] for name in _STATISTICS}),
        metadata=_metadata(header),
        q_scale=_finite(header, "q_scale"),
    )


def _finite(header: dict[str, str], name: str, usual: str | None = None) -> float:
    """The header's number of that name; TeacherError for NaN and infinity."""
    number = float(header[name] if usual is None else header.get(name, usual))
    if not math.isfinite(number):
        raise TeacherError(f"{name} is {number}, expected a finite number")
    return number


def _metadata(header: dict[str, str]) -> dict[str, Any]:
    metadata = json.loads(header["metadata"])
    if not isinstance(metadata, dict):
        raise TeacherError(f"metadata is a {type(metadata).__name__}, expected a JSON object")
    return metadata


def _layers(tensors: dict[str, Tensor], name: str) -> list[tuple[Tensor, Tensor]]:
    """(weight (K, in, out), bias (K, out)) of every layer of "actor" or "critic", first to last."""
    n_layers = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in tensors)
    return [(tensors[f"{name}.{l}.weight"], tensors[f"{name}.{l}.bias"]) for l in range(max(n_layers, 1))]


def _from_corl(header: dict[str, str], tensors: dict[str, Tensor]) -> NetworkTeacher:
    """CORL's Cal-QL: a tanh-Gaussian actor (first half of its output is the mean), two critics.

    Its actions are tanh's times "max_action" of the header (1 where it is not said), and so are those its critics see.
    """
    reach = _finite(header, "max_action", "1.0")
    if not reach > 0:
        raise TeacherError(f"max_action is {reach}, expected a positive number")
    actor_layers = _corl_layers(tensors, "actor.base_network")
    W, b = actor_layers[-1]
    act_dim = W.shape[2] // 2
    actor_layers[-1] = (W[..., :act_dim], b[..., :act_dim])  # the other half is the log-std
    actor, actor_arch = pack_layers(actor_layers, "tanh")
    both = zip(
        _corl_layers(tensors, "critic1.network"), _corl_layers(tensors, "critic2.network"), strict=True
    )
    critic_layers = [(torch.cat(w), torch.cat(b)) for w, b in (zip(*two, strict=True) for two in both)]
    first, bias = critic_layers[0]
    scaled = torch.cat([first[:, :-act_dim], reach * first[:, -act_dim:]], 1)  # of actions in [−1, 1]
    critic, critic_arch = pack_layers([(scaled, bias), *critic_layers[1:]], "linear")
    metadata: dict[str, Any] = {"method": "cal_ql", **header}
    if "gradient_steps" in header:
        metadata["gradient_steps"] = int(header["gradient_steps"])
    return NetworkTeacher(
        actor=actor,
        actor_arch=actor_arch,
        critic=critic,
        critic_arch=critic_arch,
        reduction="min",
        units=Units(
            tensors["observation_mean"],
            tensors["observation_std"],
            -reach * torch.ones(act_dim),
            reach * torch.ones(act_dim),
        ),
        metadata=metadata,
    )


def _corl_layers(tensors: dict[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """The linear layers of an nn.Sequential, weights turned from (out, in) to (1, in, out)."""
    places = sorted(int(k.split(".")[-2]) for k in tensors if k.startswith(prefix) and k.endswith(".weight"))
    return [
        (tensors[f"{prefix}.{i}.weight"].T.unsqueeze(0), tensors[f"{prefix}.{i}.bias"].unsqueeze(0))
        for i in places or [0]
    ]
