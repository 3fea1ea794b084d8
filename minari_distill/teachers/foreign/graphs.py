"""TorchScript and ONNX policies as teachers: one tensor of observations in, one of actions out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_distill.errors import TeacherError, missing_package
from minari_distill.teachers.foreign.files import check_exists
from minari_distill.teachers.function_teacher import FunctionTeacher


def from_torchscript(
    path: str | os.PathLike[str], *, obs_dim: int | None = None, act_dim: int | None = None
) -> FunctionTeacher:
    """A teacher from a TorchScript module: observations (N, obs_dim) float32 to actions (N, act_dim) or (N,) integers.

    Args:
        path: What `torch.jit.save` or `policy.save("policy.pt")` wrote.
        obs_dim, act_dim: Lengths of the vectors; left out, those of the dataset that it meets.

    Raises:
        TeacherError: The file is no TorchScript.
    """
    path = Path(path)
    check_exists(path)
    try:
        with warnings.catch_warnings():  # TorchScript is deprecated, and what other codebases write
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as fault:
        raise TeacherError(
            f"Teacher file '{path}' is not TorchScript ({str(fault).splitlines()[0]}). If torch.save wrote it, it is a "
            "pickle, which runs code when it is opened: build the module where you trust it and write it with "
            "torch.jit.save, or wrap it with Teacher.from_callable(policy, q, obs_dim=…, act_dim=…)."
        ) from fault
    return FunctionTeacher(
        lambda obs: module(obs.float().cpu()),
        obs_dim=obs_dim,
        act_dim=act_dim,
        metadata={"method": "torchscript", "file": path.name},
    )


def from_onnx(path: str | os.PathLike[str]) -> FunctionTeacher:
    """A teacher from an ONNX graph of one input (N, obs_dim) and one output: (N, act_dim), or (N,) integers.

    Raises:
        TeacherError: The file is no such graph, or its batch has a fixed size; onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TeacherError(missing_package("Reading an ONNX policy", "onnxruntime", "onnx")) from error
    path = Path(path)
    check_exists(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime's errors have no common base of their own
        raise TeacherError(f"'{path}' is no ONNX graph ({str(fault).splitlines()[0]}).") from fault
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(double)"):
        named = [f"{x.name} {x.type}" for x in (*inputs, *outputs)]
        raise TeacherError(
            f"'{path}' has {len(inputs)} inputs and {len(outputs)} outputs ({', '.join(named)}); expected one float "
            "input, observations (N, obs_dim), and one output, actions. Wrap it: Teacher.from_callable(policy, "
            "obs_dim=…, act_dim=…)."
        )
    batch, *shape = inputs[0].shape
    if isinstance(batch, int) and batch != 1:
        raise TeacherError(f"'{path}' takes batches of exactly {batch}: export it with a dynamic first axis.")
    dtype = np.float32 if inputs[0].type == "tensor(float)" else np.float64

    def act(obs: Tensor) -> np.ndarray:
        x = obs.cpu().numpy().astype(dtype).reshape(-1, *(shape if _known(shape) else obs.shape[1:]))
        if batch == 1:
            return np.concatenate([session.run(None, {inputs[0].name: row[None]})[0] for row in x])
        return session.run(None, {inputs[0].name: x})[0]

    out = outputs[0].shape
    discrete = outputs[0].type == "tensor(int64)" and len(out) == 1
    return FunctionTeacher(
        act,
        obs_dim=int(np.prod(shape)) if _known(shape) else None,
        act_dim=out[1] if not discrete and len(out) == 2 and _known(out[1:]) else None,
        metadata={"method": "onnx", "file": path.name},
    )


def _known(shape: list[Any]) -> bool:
    return bool(shape) and all(isinstance(n, int) for n in shape)
