"""Synsets in RLlib: nothing lost on the way in, its own BC trained, its policy as good as ours."""

import gymnasium
import numpy as np
import pytest
import torch

ray = pytest.importorskip("ray", reason="pip install 'minari-distill[rllib]'")
pytestmark = [
    pytest.mark.filterwarnings("default"),  # the codebase's own warnings are not ours
    pytest.mark.timeout(900),  # Ray starts servers and workers
]

from ray.rllib.core import DEFAULT_MODULE_ID  # noqa: E402

from minari_distill.exporters import rllib as exporter  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402
from tests.synsets import make_synset  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_machine():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


def test_the_docstring_is_a_run(synset, tmp_path, monkeypatch):
    """What opens the module is what it prints."""
    monkeypatch.chdir(tmp_path)
    run_docstring("minari_distill.exporters.rllib", synset)


def test_256_pairs_in_order(synset, tmp_path):
    """As Ray's own reader sees the file."""
    rows = ray.data.read_parquet(str(exporter.save(synset, tmp_path / "hopper.parquet"))).take_all()
    rows.sort(key=lambda row: row["eps_id"])
    assert len(rows) == 256 and all(row["terminateds"] and row["rewards"] == 0 for row in rows)
    np.testing.assert_array_equal([row["obs"] for row in rows], synset.observations)
    np.testing.assert_allclose([row["actions"] for row in rows], synset.actions, atol=1e-6)  # bounds are ±1


def build(synset, path, seed):
    config = exporter.bc_config(synset, path, fcnet_hiddens=HIDDEN).training(lr=LR).debugging(seed=seed)
    return config.offline_data(dataset_num_iters_per_learner=STEPS).build_algo()


def test_its_normalisation_is_the_students(synset, tmp_path):
    """The encoder sees the students' x."""
    algorithm = build(synset, exporter.save(synset, tmp_path / "hopper.parquet"), 0)
    obs = torch.as_tensor(synset.observations)
    x = exporter.trained_module(algorithm)._normalize(obs)
    torch.testing.assert_close(x, synset.units().normalise(obs))
    algorithm.stop()


def test_its_bc_scores_as_ours(synset, agrees, tmp_path):
    """BC by `algorithm.train` (log-likelihood of a Gaussian), greedy, in Hopper."""
    path = exporter.save(synset, tmp_path / "hopper.parquet")
    policies = []
    for seed in range(N_STUDENTS):
        algorithm = build(synset, path, seed)
        trained = algorithm.train()["learners"][DEFAULT_MODULE_ID]
        assert trained["num_module_steps_trained"] == 256 * STEPS
        module = exporter.trained_module(algorithm)
        algorithm.stop()

        def act(obs, module=module):
            with torch.no_grad():
                out = module.forward_inference({"obs": torch.as_tensor(obs)})["action_dist_inputs"]
            u = out[:, :3]  # tanh of the mean, then log std; actions live in [−1, 1]
            return synset.units().unscale(u).numpy()

        policies.append(act)
    agrees("RLlib BC", policies)


def test_discrete_actions(tmp_path):
    """Logits, as RLlib has them: BC learns every pair's action."""
    discrete = make_synset(6, gymnasium.make("CartPole-v1").observation_space, gymnasium.spaces.Discrete(2))
    algorithm = build(discrete, exporter.save(discrete, tmp_path / "cart.parquet"), 0)
    algorithm.train()
    module = exporter.trained_module(algorithm)
    algorithm.stop()
    logits = module.forward_inference({"obs": torch.as_tensor(discrete.observations).float()})[
        "action_dist_inputs"
    ]
    np.testing.assert_array_equal(logits.argmax(1), discrete.actions.argmax(1))


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("RLlib", synset)
    assert names["result"]["training_iteration"] == 1
