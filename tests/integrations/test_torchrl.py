"""Synsets in TorchRL: nothing lost on the way in, `BCLoss` trained, the policy as good as ours."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl", reason="pip install 'minari-distill[torchrl]'")
pytestmark = pytest.mark.filterwarnings("default")  # the codebase's own warnings are not ours

from tensordict import TensorDict  # noqa: E402
from tensordict.nn import TensorDictModule  # noqa: E402
from torchrl.modules import MLP  # noqa: E402
from torchrl.objectives import BCLoss  # noqa: E402

from minari_distill.exporters import torchrl as exporter  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402


def test_the_docstring_is_a_run(synset):
    """What opens the module is what it prints."""
    run_docstring("minari_distill.exporters.torchrl", synset)


def test_256_pairs_in_order(synset, tmp_path):
    """Stored in order; one round of sampling gives each pair once; so does the memory-mapped folder."""
    buffer = exporter.replay_buffer(synset, batch_size=64)
    loaded = TensorDict.load_memmap(exporter.save(synset, tmp_path / "hopper"))
    for pairs in (buffer[:], loaded):
        assert len(pairs) == 256
        np.testing.assert_array_equal(pairs["observation"], synset.observations)
        np.testing.assert_array_equal(pairs["action"], synset.actions)
    one_round = torch.cat([buffer.sample()["observation"] for _ in range(4)])
    assert sorted(one_round.tolist()) == sorted(synset.observations.tolist())


def test_its_normalisation_is_the_students(synset):
    """`ObservationNorm` gives the students' x."""
    units = synset.units()
    batch = exporter.observation_norm(synset)(exporter.pairs(synset))
    torch.testing.assert_close(
        batch["observation"], units.normalise(torch.as_tensor(synset.observations)), rtol=1e-6, atol=1e-6
    )


def test_its_bc_scores_as_ours(synset, agrees):
    """A TorchRL actor, trained with `BCLoss` on batches of the buffer, rolled out in Hopper."""
    norm = exporter.observation_norm(synset)
    policies = []
    for seed in range(N_STUDENTS):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            MLP(11, 3, num_cells=HIDDEN, activation_class=torch.nn.ReLU), torch.nn.Tanh()
        )
        actor = TensorDictModule(network, in_keys=["observation"], out_keys=["action"])
        buffer = exporter.replay_buffer(synset)
        buffer.append_transform(exporter.observation_norm(synset))
        loss = BCLoss(actor)
        optimizer = torch.optim.Adam(loss.parameters(), LR)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(buffer.sample())["loss_bc"].backward()
            optimizer.step()

        def act(obs, actor=actor):
            batch = norm(TensorDict({"observation": torch.from_numpy(obs)}, [len(obs)]))
            with torch.no_grad():
                return actor(batch)["action"].numpy()

        policies.append(act)
    agrees("TorchRL BCLoss", policies)


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("TorchRL", synset)
    assert names["loss"](names["buffer"].sample())["loss_bc"] < 0.1
    assert names["episode"]["next", "reward"].sum() > 200  # an untrained actor falls below 50
