"""The demo in small: every file it promises, and a synset that Minari lists."""

import json

import minari
import pytest

import minari_distill as md
from minari_distill.demo import run_demo
from minari_distill.errors import ConfigError, SynsetError
from minari_distill.transitions import EMBEDDED_ID
from tests.test_distill import TINY


def test_the_demo_writes_report_plot_and_synset(tmp_path):
    """Seven rows with intervals, seconds by stage, the settings; a PNG; and two Minari datasets."""
    result = run_demo(tmp_path / "out", "demo/small-v0", **TINY | {"teacher_steps": 30, "outer_steps": 4})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == json.loads(json.dumps(result))
    names = ["random_pairs", "relabelled_pairs", "synset", "synset,_general_students"]
    assert list(report["scores"]) == [*names, "synset,_ensemble_of_10", "synset_at_infinite_width", "teacher"]
    for name in names:
        row = report["scores"][name]
        assert (row["n_policies"], row["n_episodes"]) == (5, 10) and row["ci95_half_width"] is not None
    row = report["scores"]["synset_at_infinite_width"]
    assert (row["n_policies"], row["n_episodes"]) == (1, 50)
    stages = {"teacher", "distillation", "distillation_at_infinite_width", "evaluation", "total"}
    assert set(report["seconds"]) == stages
    assert report["config"]["n_syn"] == 16 and report["stopped"] is False
    assert (tmp_path / "out" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert minari.load_dataset("demo/small-v0").total_episodes == 16
    infinite = md.load_synset(result["synset_at_infinite_width"])
    assert infinite.source.dataset_ids == (EMBEDDED_ID,) and infinite.recipe.infinite and len(infinite) == 16


def test_a_demo_removes_nothing_of_others_and_says_first_what_cannot_be_saved(tmp_path):
    """A folder `run` that no run made stays; a bad id is refused before anything is learnt."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is no demo's: it is not removed"):
        run_demo(tmp_path, "demo/small-v0")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"
    with pytest.raises(SynsetError, match="is no Minari id"):
        run_demo(tmp_path / "out", "bad name")
    assert not (tmp_path / "out").exists()
