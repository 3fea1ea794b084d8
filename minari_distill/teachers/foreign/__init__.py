"""Agents of other codebases as teachers, so that one's own agent can be distilled.

>>> from stable_baselines3 import SAC                                             # doctest: +SKIP
>>> teacher = Teacher.from_stable_baselines3(SAC.load("agent.zip"))               # doctest: +SKIP
>>> md.distill("mujoco/hopper/medium-v0", teacher=teacher)                        # doctest: +SKIP

Each agent becomes two functions of vectors in the source's units, π*(s) and, where it has critics, q(s, a). An agent
without critics is a teacher for the objective "pbc", which weighs all states alike; nothing stands in for its q.

Opening a Stable-Baselines3 or a d3rlpy file runs code that the file holds (both are pickles): open those you trust.
TorchScript and ONNX files hold no Python code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minari_distill.teachers.foreign.d3rlpy import from_d3rlpy
from minari_distill.teachers.foreign.graphs import from_onnx, from_torchscript
from minari_distill.teachers.foreign.stable_baselines3 import from_stable_baselines3
from minari_distill.teachers.function_teacher import FunctionTeacher

OPENERS: dict[str, Callable[[Path], FunctionTeacher]] = {
    ".zip": from_stable_baselines3,
    ".d3": from_d3rlpy,
    ".onnx": from_onnx,
    ".pt": from_torchscript,
    ".ts": from_torchscript,
    ".torchscript": from_torchscript,
}
"""What opens a foreign agent's file, by its suffix."""

__all__ = ["OPENERS", "from_d3rlpy", "from_onnx", "from_stable_baselines3", "from_torchscript"]
