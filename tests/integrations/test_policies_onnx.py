"""Policies as ONNX: written by PyTorch's exporter, run by onnxruntime; and ONNX graphs as teachers."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minari_distill.errors import TeacherError
from minari_distill.teachers import load_teacher
from tests.test_foreign_teachers import OBS, TwoLayers
from tests.test_policy_files import SPACES, each_act, make_policy, observations_of, same_actions, teaches_as

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["action"], {"observation": batch})[0]


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_the_graph_acts_as_the_policy(tmp_path, name, K):
    """Single students and ensembles, continuous and discrete, any batch size; one file."""
    policy = make_policy(name, K)
    path = policy.save(tmp_path / "policy.onnx")
    vectors = observations_of(policy)
    assert len(np.unique(each_act(policy, vectors), axis=0)) > 1
    same_actions(partial(run, path), policy, vectors)
    assert [p.name for p in tmp_path.glob("policy*")] == ["policy.onnx"]


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_a_saved_student_is_a_teacher(tmp_path, name):
    """What `save` writes, `load_teacher` reads."""
    policy = make_policy(name)
    teaches_as(load_teacher(policy.save(tmp_path / "policy.onnx")), policy)


def export(module: nn.Module, path: Path, *, dynamic: bool, n: int = 1) -> Path:
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2 if dynamic else n, 3),),
            path,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    return path


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_graph_from_elsewhere_is_a_teacher(tmp_path, dynamic):
    """Its own actions, for batches of any size or asked row by row; it knows its dimensions."""
    module = TwoLayers()
    teacher = load_teacher(export(module, tmp_path / "agent.onnx", dynamic=dynamic))
    assert (teacher.obs_dim, teacher.act_dim, teacher.has_q) == (3, 2, False)
    torch.testing.assert_close(teacher.policy(OBS), module(OBS).detach(), atol=1e-6, rtol=1e-5)


class TwoOutputs(nn.Module):
    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return obs + 1, obs - 1


def test_graphs_of_no_use_are_refused(tmp_path):
    """Noise, two outputs, batches of a fixed size."""
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(TeacherError, match="is no ONNX graph"):
        load_teacher(tmp_path / "noise.onnx")
    with pytest.raises(TeacherError, match="has 1 inputs and 2 outputs"):
        load_teacher(export(TwoOutputs(), tmp_path / "two.onnx", dynamic=True))
    with pytest.raises(TeacherError, match="takes batches of exactly 4: export it with a dynamic first axis"):
        load_teacher(export(TwoLayers(), tmp_path / "four.onnx", dynamic=False, n=4))
