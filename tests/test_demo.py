"""The demo in small: every file it promises, and a synset that Minari lists."""

import json

import minari

from minari_distill.demo import run_demo
from tests.test_distill import TINY


def test_the_demo_writes_report_plot_and_synset(tmp_path):
    """Six rows with intervals, seconds by stage, the settings; a PNG; and the Minari dataset."""
    result = run_demo(tmp_path / "out", "demo/small-v0", **TINY | {"teacher_steps": 30, "outer_steps": 4})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == json.loads(json.dumps(result))
    names = ["random_pairs", "relabelled_pairs", "synset", "synset,_general_students"]
    assert list(report["scores"]) == [*names, "synset,_ensemble_of_10", "teacher"]
    for name in names:
        row = report["scores"][name]
        assert (row["n_policies"], row["n_episodes"]) == (5, 10) and row["ci95_half_width"] is not None
    assert set(report["seconds"]) == {"teacher", "distillation", "evaluation", "total"}
    assert report["config"]["n_syn"] == 16
    assert (tmp_path / "out" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert minari.load_dataset("demo/small-v0").total_episodes == 16
