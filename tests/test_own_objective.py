"""An objective of one's own, by `docs/architecture.md` alone: no file of the package changes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minari_distill as md
from minari_distill import objectives
from minari_distill.errors import ConfigError
from minari_distill.objectives import Labels, find_objective, objective
from tests.test_distill import TINY

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
LABELS = Labels(act=torch.zeros(4, 2), teacher_act=torch.ones(4, 2))


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test enters is gone after it."""
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))


def test_the_page_adds_an_objective_in_under_40_lines(tmp_path: Path) -> None:
    """The page's program distils with its own objective; the synset loads where nobody knows that objective."""
    section = PAGE.read_text().split("## Adding an objective")[1]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(program.splitlines()) < 40
    names: dict = {"__name__": "__main__"}
    exec(compile(program, str(PAGE), "exec"), names)
    synset = names["synset"]
    assert synset.config.objective == "top_pbc" and synset.config.outer_steps == 2

    synset.save(tmp_path / "own")
    there = "import sys, minari_distill as md; print(md.load_synset(sys.argv[1]).config.objective)"
    done = subprocess.run(
        [sys.executable, "-c", there, str(tmp_path / "own")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "top_pbc"


def test_weights_decide_what_is_learnt() -> None:
    """An objective without a teacher: distilling towards zero action ends nearer to zero than it began."""

    @objective("stand_still", needs_teacher=False)
    def stand_still(labels, config):
        return torch.zeros_like(labels.act), torch.ones_like(labels.act[:, :1])

    settings = TINY | {"outer_steps": 24, "initializer": "random", "meta_gradient": "unroll"}
    synset = md.distill("demo/hopper-medium-replay-v0", objective="stand_still", **settings)
    losses = [record["held_out_loss"] for record in synset.metadata["history"]]
    assert synset.metadata["teacher"] is None and min(losses) < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda labels, config: (labels.teacher_act, torch.ones(4)),
            r"weights \(4,\); expected \(4, 2\) and \(4, 1\)",
        ),
        (lambda labels, config: (labels.teacher_act[:, :1], torch.ones(4, 1)), r"targets \(4, 1\)"),
        (lambda labels, config: (labels.teacher_act, torch.full((4, 1), torch.nan)), "division by zero"),
        (
            lambda labels, config: (labels.teacher_act, -torch.ones(4, 1)),
            "weights from -1 to -1: a negative one",
        ),
        (lambda labels, config: (labels.teacher_act, torch.zeros(4, 1)), "some must be positive"),
        (lambda labels, config: labels.teacher_act, "returned Tensor; expected a pair of tensors"),
    ],
)
def test_what_a_rule_returns_is_checked(rule, message) -> None:
    """Wrong shapes and NaN are named where they arise, not 100 inner steps later."""
    objective("wrong")(rule)
    with pytest.raises(ConfigError, match=message):
        find_objective("wrong")(LABELS, md.DistillConfig())


def test_names_are_taken_once_and_found_when_misspelt() -> None:
    """A taken name is refused, the same function may be entered again, the nearest name is offered."""

    def mine(labels, config):
        return labels.act, torch.ones(4, 1)

    objective("mine")(mine)
    objective("mine")(mine)
    with pytest.raises(ConfigError, match="'pbc' is taken by minari_distill.objectives.pbc"):
        objective("pbc")(mine)
    with pytest.raises(ConfigError, match="Did you mean 'mine'"):
        find_objective("mimne")
    objective("of the best", best_clone=True)(mine)
    assert find_objective("of the best").needs_clone


def test_two_lambdas_under_one_name_are_two_functions() -> None:
    """A lambda has no name of its own: another line, another function."""
    objective("short")(lambda labels, config: (labels.act, torch.ones(4, 1)))
    with pytest.raises(ConfigError, match="'short' is taken by .*lambda"):
        objective("short")(lambda labels, config: (labels.act, torch.zeros(4, 1)))
