"""Synsets in imitation: nothing lost on the way in, its own BC trained, its policy as good as ours."""

import numpy as np
import pytest
import torch

pytest.importorskip(
    "imitation", reason="pip install 'minari-distill[imitation]', then imitation without dependencies"
)
pytestmark = pytest.mark.filterwarnings("default")  # the codebase's own warnings are not ours

from imitation.algorithms.bc import BC  # noqa: E402
from imitation.data import rollout, serialize  # noqa: E402

from minari_distill.exporters import imitation as exporter  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402


def test_the_docstring_is_a_run(synset):
    """What opens the module is what it prints."""
    run_docstring("minari_distill.exporters.imitation", synset)


def test_256_pairs_in_order(synset, tmp_path):
    """In memory, in imitation's own folder, and in one epoch of its loader."""
    loaded = serialize.load(exporter.save(synset, tmp_path / "hopper"))
    for pairs in (exporter.transitions(synset), rollout.flatten_trajectories(loaded)):
        assert len(pairs) == 256 and pairs.dones.all()
        np.testing.assert_array_equal(pairs.obs, synset.observations)
        np.testing.assert_array_equal(pairs.acts, synset.actions)


def test_its_normalisation_is_the_students(synset):
    """The features that the policy's network sees are the students' x."""
    policy = exporter.actor_critic_policy(synset)
    obs = torch.as_tensor(synset.observations)
    torch.testing.assert_close(policy.extract_features(obs), synset.units().normalise(obs))


def test_its_policy_is_saved_and_loaded(synset, tmp_path):
    """With its normalisation: the same raw actions, none outside the bounds."""
    policy = exporter.actor_critic_policy(synset)
    policy.save(tmp_path / "policy.pt")
    actions, _ = type(policy).load(tmp_path / "policy.pt").predict(synset.observations, deterministic=True)
    np.testing.assert_array_equal(actions, policy.predict(synset.observations, deterministic=True)[0])
    far = policy.get_distribution(torch.as_tensor(synset.observations) * 1e6).distribution.mean
    assert far.abs().max() <= 1


def test_its_bc_scores_as_ours(synset, agrees):
    """BC by imitation's trainer (log-likelihood of a Gaussian), greedy, in Hopper; initialised as our students are."""
    policies = []
    for seed in range(N_STUDENTS):
        torch.manual_seed(seed)
        policy = exporter.actor_critic_policy(synset, net_arch=HIDDEN, ortho_init=False)
        bc = BC(
            observation_space=policy.observation_space,
            action_space=policy.action_space,
            rng=np.random.default_rng(seed),
            policy=policy,
            demonstrations=exporter.transitions(synset),
            batch_size=256,
            optimizer_kwargs={"lr": LR},
            ent_weight=0.0,
            device="cpu",
        )
        bc.train(n_batches=STEPS, progress_bar=False, log_interval=10 * STEPS)
        policies.append(lambda obs, policy=policy: policy.predict(obs, deterministic=True)[0])
    agrees("imitation BC", policies)


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("imitation", synset)
    assert np.square(names["actions"] - synset.actions).mean() < 0.1
