"""The recipe of online fine-tuning with Stable-Baselines3 itself, in small."""

import pytest
import torch

from examples import fine_tune_online
from tests.test_recipes import make_synset

pytest.importorskip("stable_baselines3")


@pytest.fixture
def synset():
    return make_synset("Pendulum-v1", 3, 1, seed=0)


TINY = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}


def test_the_warm_up_moves_the_critic_alone(synset):
    """The cloned actor is bit for bit what it was, and learns again afterwards."""
    model = fine_tune_online.make_ppo(synset, "synset", 0, **TINY)
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    fine_tune_online.critic_warm_up(model, 64)
    for name, parameter in model.policy.named_parameters():
        assert torch.equal(parameter, before[name]) == ("value" not in name)
        assert parameter.requires_grad
    model.learn(64, reset_num_timesteps=False)
    assert not torch.equal(model.policy.action_net[0].weight, before["action_net.0.weight"])


def test_the_fine_tuning_recipe_runs(synset, tmp_path, capsys, monkeypatch):
    """Both arms leave their curves, table and figure; a second run adds nothing."""
    synset.save("me/swing-v0")
    for arm, settings in fine_tune_online.ARMS.items():
        monkeypatch.setitem(fine_tune_online.ARMS, arm, settings | TINY)
    options = "--steps 128 --warm-up 32 --every 64 --seeds 1 --episodes 1 --target 0".split()
    files = ["--csv", str(tmp_path / "c.csv"), "--figure", str(tmp_path / "c.png")]
    fine_tune_online.main(["me/swing-v0", *options, *files])
    curves = fine_tune_online.read_curves(tmp_path / "c.csv")
    assert {key: curve[:, 0].tolist() for key, curve in curves.items()} == {
        ("scratch", 0): [0, 64, 128],
        ("synset", 0): [0, 64, 128],
    }
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| scratch", "| synset"]
    assert (tmp_path / "c.png").exists()
    before = (tmp_path / "c.csv").read_bytes()
    fine_tune_online.main(["me/swing-v0", *options, *files])
    assert (tmp_path / "c.csv").read_bytes() == before
