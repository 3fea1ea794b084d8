"""TensorBoard's curves are the numbers of the run."""

import builtins
import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import minari_distill as md
from minari_distill.cli import app
from minari_distill.errors import ConfigError
from minari_distill.tensorboard import curves
from minari_distill.transitions import EMBEDDED_ID
from tests.test_cli import FLAGS


def read(folder, tag):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_the_command_writes_the_curves_of_its_history(tmp_path, monkeypatch):
    """Each validation of the synset's history is one point of distil/held_out_loss."""
    monkeypatch.chdir(tmp_path)
    command = ["distill", EMBEDDED_ID, "-o", "me/hop-v0", *FLAGS, "--tensorboard", "curves", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["id"] == "me/hop-v0"
    history = md.load_synset("me/hop-v0").metadata["history"]
    points = read(tmp_path / "curves", "distil/held_out_loss")
    # The loss of the untrained pairs is reported with the first outer step.
    expected = [(max(row["step"], 1), row["held_out_loss"]) for row in history]
    assert [step for step, _ in points] == [step for step, _ in expected]
    assert [value for _, value in points] == pytest.approx([value for _, value in expected])
    assert len(read(tmp_path / "curves", "distil/loss")) == len(history) - 1


def test_without_tensorboard_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    """No traceback of PyTorch's."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(ConfigError, match=re.escape("pip install 'minari-distill[tensorboard]'")),
        curves(tmp_path),
    ):
        pass


def test_other_receivers_hear_everything(tmp_path):
    """Messages too, in their order."""
    heard = []
    messages = [
        md.progress.Progress("message", "hello"),
        md.progress.Progress("teacher", step=1, total=2, loss=0.5),
    ]
    with curves(tmp_path, also=heard.append) as report:
        for message in messages:
            report(message)
    assert heard == messages and read(tmp_path, "teacher/loss") == [(1, 0.5)]
