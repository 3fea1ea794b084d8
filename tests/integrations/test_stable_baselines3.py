"""Synsets in Stable-Baselines3: PPO, SAC and TD3 cloned, with the source's statistics in `VecNormalize`."""

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="pip install 'minari-distill[stable-baselines3]'")
pytestmark = pytest.mark.filterwarnings("default")  # the codebase's own warnings are not ours

from stable_baselines3 import A2C, PPO, SAC, TD3  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

from minari_distill.errors import ExportError  # noqa: E402
from minari_distill.exporters import stable_baselines3 as exporter  # noqa: E402
from minari_distill.exporters.tanh_policy import TanhActorCriticPolicy  # noqa: E402
from minari_distill.wrappers import NormalizeObservation  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402
from tests.synsets import make_synset  # noqa: E402

KINDS = {PPO: {}, SAC: {"buffer_size": 10}, TD3: {"buffer_size": 10}}
POLICIES = {PPO: TanhActorCriticPolicy, SAC: "MlpPolicy", TD3: "MlpPolicy"}


def hopper():
    return DummyVecEnv([lambda: gymnasium.make("Hopper-v5")])


def make(kind, env, seed=0, policy_class=None):
    policy = {"net_arch": HIDDEN, "activation_fn": torch.nn.ReLU}
    if kind is PPO:
        policy["ortho_init"] = False  # initialised as our students are
    return kind(
        policy_class or POLICIES[kind], env, seed=seed, device="cpu", policy_kwargs=policy, **KINDS[kind]
    )


@pytest.mark.parametrize("module", ["stable_baselines3", "tanh_policy"])
def test_the_docstring_is_a_run(synset, module):
    """What opens the module is what it prints."""
    run_docstring(f"minari_distill.exporters.{module}", synset)


def test_its_normalisation_is_the_students(synset):
    """`VecNormalize` gives the students' x, does not clip it, and keeps it while the environment runs."""
    env = exporter.vec_normalize(hopper(), synset)
    far = synset.observations * 100
    for _ in range(2):
        x = torch.as_tensor(env.normalize_obs(far))
        torch.testing.assert_close(x, synset.units().normalise(torch.as_tensor(far)), rtol=1e-5, atol=1e-5)
        env.reset()
        env.step(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_its_policies_score_as_ours(synset, agrees, kind):
    """The greedy policy of `model.predict`, in Hopper. All 256 pairs are learnt, each its own action."""
    policies = []
    for seed in range(N_STUDENTS):
        env = exporter.vec_normalize(hopper(), synset)
        model = make(kind, env, seed)
        losses = exporter.pretrain(model, synset, steps=STEPS, lr=LR)
        act = lambda obs, model=model, env=env: model.predict(env.normalize_obs(obs), deterministic=True)[0]  # noqa: E731
        errors = np.square(act(synset.observations) - synset.actions).mean(1)
        assert len(errors) == 256
        assert errors.mean() < 2 * losses[-1] + 1e-3 < 0.3 * losses[0]
        policies.append(act)
    agrees(f"Stable-Baselines3 {kind.__name__}", policies)


def test_mlp_policy_learns_the_pairs(synset):
    """PPO's own policy, whose mean is linear: cloned all the same, clipped at the bounds."""
    env = exporter.vec_normalize(hopper(), synset)
    model = make(PPO, env, policy_class="MlpPolicy")
    losses = exporter.pretrain(model, synset, steps=STEPS, lr=LR)
    actions = model.predict(env.normalize_obs(synset.observations), deterministic=True)[0]
    assert np.square(actions - synset.actions).mean() < 2 * losses[-1] < 0.3 * losses[0]


def test_noise_of_the_state_is_not_set(synset):
    """With gSDE there is no one standard deviation: refused before anything is trained. So are no steps."""
    env = exporter.vec_normalize(hopper(), synset)
    model = SAC("MlpPolicy", env, device="cpu", use_sde=True, buffer_size=10)
    before = [p.clone() for p in model.actor.parameters()]
    with pytest.raises(ExportError, match="without use_sde=True"):
        exporter.pretrain(model, synset, steps=1, std=0.1)
    with pytest.raises(ExportError, match="steps=0 must be at least 1"):
        exporter.pretrain(model, synset, steps=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))


def test_the_tanh_policy_is_ppos_otherwise():
    """Pendulum's bounds are ±2: the mean is 2 tanh of the "MlpPolicy"'s, weight for weight, and small at first (gain 0.01).

    The optimiser holds the same parameters, so that `learn` moves the head.
    """
    env = gymnasium.make("Pendulum-v1")
    plain, ours = (PPO(p, env, seed=0, device="cpu").policy for p in ("MlpPolicy", TanhActorCriticPolicy))
    obs = torch.randn(100, 3)
    mean, bounded = (policy.get_distribution(obs).distribution.mean.detach() for policy in (plain, ours))
    torch.testing.assert_close(bounded, 2 * mean.tanh())
    weight = ours.action_net[0].weight
    assert weight.norm().item() == pytest.approx(0.01)
    assert any(p is weight for group in ours.optimizer.param_groups for p in group["params"])
    ours.action_net[0].bias.data.fill_(100)
    torch.testing.assert_close(ours(obs, deterministic=True)[0].detach(), torch.full((100, 1), 2.0))
    unbounded = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ExportError, match="unbounded, and a tanh needs finite bounds"):
        TanhActorCriticPolicy(env.observation_space, unbounded, lambda progress: 1e-3)


def test_the_tanh_policy_is_saved_and_loaded(synset, tmp_path):
    """Actions and optimiser survive, and learning goes on."""
    env = exporter.vec_normalize(hopper(), synset)
    model = PPO(TanhActorCriticPolicy, env, n_steps=16, batch_size=8, n_epochs=1, device="cpu").learn(16)
    exporter.pretrain(model, synset, steps=20)
    model.save(tmp_path / "ppo.zip")
    loaded = PPO.load(tmp_path / "ppo.zip", env=env, device="cpu")
    assert type(loaded.policy) is TanhActorCriticPolicy
    x = env.normalize_obs(synset.observations)
    before = model.predict(x, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(x, deterministic=True)[0], before)
    loaded.learn(16)
    assert not np.array_equal(loaded.predict(x, deterministic=True)[0], before)


def test_a_model_on_the_wrapper_or_on_statistics_of_its_own(synset):
    """Statistics that an environment has collected are overwritten; `NormalizeObservation` serves as well."""
    own = VecNormalize(hopper())
    own.obs_rms.mean += 1
    exporter.pretrain(make(PPO, own), synset, steps=1)
    np.testing.assert_array_equal(own.obs_rms.mean, synset.observation_mean.astype(np.float64))
    wrapped = DummyVecEnv([lambda: NormalizeObservation.from_synset(gymnasium.make("Hopper-v5"), synset)])
    assert len(exporter.pretrain(make(SAC, wrapped), synset, steps=2)) == 2
    rewards_alone = VecNormalize(wrapped, norm_obs=False)
    assert len(exporter.pretrain(make(PPO, rewards_alone), synset, steps=2)) == 2
    with pytest.raises(ExportError, match="normalises observations twice"):
        exporter.pretrain(make(PPO, VecNormalize(wrapped)), synset)


def test_discrete_actions():
    """PPO learns the probabilities of the synset's actions."""
    space = gymnasium.make("CartPole-v1").observation_space
    discrete = make_synset(6, space, gymnasium.spaces.Discrete(2))
    env = exporter.vec_normalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), discrete)
    model = make(PPO, env)  # the tanh is for continuous actions alone
    exporter.pretrain(model, discrete, steps=500)
    x = torch.as_tensor(env.normalize_obs(discrete.observations))
    probabilities = model.policy.get_distribution(x).distribution.probs.detach()
    np.testing.assert_allclose(probabilities, discrete.actions, atol=0.02)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_the_noise_that_is_asked_for(synset, kind):
    """With std=0.1 sampled actions lie about a tenth of the half range from the greedy ones."""
    model = make(kind, exporter.vec_normalize(hopper(), synset))
    exporter.pretrain(model, synset, steps=20, std=0.1)
    x = np.zeros((4000, 11), np.float32)
    noise = model.predict(x)[0] - model.predict(x, deterministic=True)[0]
    assert noise.std() == pytest.approx(0.1, rel=0.1)


def test_learning_goes_on(synset):
    """`model.learn` runs after `pretrain`, for each kind; TD3's target is its actor."""
    for kind in KINDS:
        model = make(kind, exporter.vec_normalize(hopper(), synset))
        model.learning_starts = 4
        exporter.pretrain(model, synset, steps=5)
        if kind is TD3:
            pairs = zip(model.actor.parameters(), model.actor_target.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        model.learn(8)


def test_errors_say_what_to_do(synset):
    """Another kind of model, no normalisation, another environment."""
    with pytest.raises(ExportError, match="PPO, SAC or TD3 model, not a A2C"):
        exporter.pretrain(A2C("MlpPolicy", hopper()), synset)
    with pytest.raises(ExportError, match="vec_normalize"):
        exporter.pretrain(make(PPO, hopper()), synset)
    with pytest.raises(ExportError, match="set model.action_noise"):
        exporter.pretrain(make(TD3, exporter.vec_normalize(hopper(), synset)), synset, std=0.1)
    pendulum = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    with pytest.raises(ExportError, match="VectorObservation"):
        exporter.pretrain(make(PPO, pendulum), synset)


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("Stable-Baselines3", synset)
    assert names["model"].num_timesteps == 2048
