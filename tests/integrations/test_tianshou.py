"""Synsets in Tianshou: nothing lost on the way in, its imitation learning trained, its policy as good as ours."""

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("tianshou", reason="pip install 'minari-distill[tianshou]'")
pytestmark = pytest.mark.filterwarnings("default")  # the codebase's own warnings are not ours

from tianshou.algorithm.imitation.imitation_base import (  # noqa: E402
    ImitationPolicy,
    OfflineImitationLearning,
)
from tianshou.algorithm.optim import AdamOptimizerFactory  # noqa: E402
from tianshou.data import Batch, ReplayBuffer  # noqa: E402
from tianshou.env import DummyVectorEnv  # noqa: E402
from tianshou.utils.net.common import Net  # noqa: E402
from tianshou.utils.net.continuous import ContinuousActorDeterministic  # noqa: E402
from tianshou.utils.torch_utils import policy_within_training_step  # noqa: E402

from minari_distill.exporters import tianshou as exporter  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402

BOX = gymnasium.spaces.Box(-1, 1, (3,), np.float32)


def hopper():
    return DummyVectorEnv([lambda: gymnasium.make("Hopper-v5")])


def test_the_docstring_is_a_run(synset):
    """What opens the module is what it prints."""
    run_docstring("minari_distill.exporters.tianshou", synset)


def test_256_pairs_in_order(synset, tmp_path):
    """In memory, in Tianshou's own file, and in what it draws for one update."""
    loaded = ReplayBuffer.load_hdf5(str(exporter.save(synset, tmp_path / "hopper.hdf5")))
    for buffer in (exporter.replay_buffer(synset), loaded):
        assert len(buffer) == 256
        batch = buffer.sample(0)[0]
        np.testing.assert_array_equal(batch.obs, synset.observations)
        np.testing.assert_array_equal(batch.act, synset.actions)
        assert batch.done.all() and not batch.truncated.any()
    assert "behavioural cloning only" in loaded.notes


def test_its_normalisation_is_the_students(synset):
    """Buffer and environment show the students' x, unclipped, and go on doing so."""
    env = exporter.norm_obs(hopper(), synset)
    far = synset.observations * 100
    env.reset()
    env.step(np.zeros((1, 3), np.float32))
    x = torch.as_tensor(env.get_obs_rms().norm(far)).float()
    torch.testing.assert_close(x, synset.units().normalise(torch.as_tensor(far)), rtol=1e-5, atol=1e-5)
    x = exporter.replay_buffer(synset, normalised=True).obs
    np.testing.assert_allclose(env.get_obs_rms().norm(synset.observations), x, rtol=1e-4, atol=1e-5)


def test_its_bc_scores_as_ours(synset, agrees):
    """`OfflineImitationLearning` on the normalised buffer, rolled out in Hopper."""
    buffer = exporter.replay_buffer(synset, normalised=True)
    rms = exporter.norm_obs(hopper(), synset).get_obs_rms()
    policies = []
    for seed in range(N_STUDENTS):
        torch.manual_seed(seed)
        actor = ContinuousActorDeterministic(
            preprocess_net=Net(state_shape=(11,), hidden_sizes=HIDDEN), action_shape=(3,)
        )
        policy = ImitationPolicy(actor=actor, action_space=BOX, action_bound_method=None)
        algorithm = OfflineImitationLearning(policy=policy, optim=AdamOptimizerFactory(lr=LR))
        with policy_within_training_step(policy):
            for _ in range(STEPS):
                algorithm.update(buffer, sample_size=0)

        def act(obs, policy=policy):
            with torch.no_grad():
                return policy(Batch(obs=rms.norm(obs).astype(np.float32), info={})).act.numpy()

        policies.append(act)
    agrees("Tianshou OfflineImitationLearning", policies)


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("Tianshou", synset)
    with torch.no_grad():
        actions = names["policy"](Batch(obs=names["buffer"].obs[:256], info={})).act.numpy()
    assert np.square(actions - synset.actions).mean() < 0.1
