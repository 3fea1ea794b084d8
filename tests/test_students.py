"""Students really use the recipe they are given, and a policy keeps its units."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minari_distill.config import DistillConfig, make_config
from minari_distill.errors import ConfigError, DatasetError
from minari_distill.networks import Architecture, forward, initialize
from minari_distill.policy import Policy
from minari_distill.recipe import GENERAL_RECIPE, StudentRecipe
from minari_distill.spaces import SpaceCodec
from minari_distill.students import _batches, behavior_clone, make_optimizer, resolve_recipe, train_students
from minari_distill.units import Units
from tests.synsets import make_synset

OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def pairs(n=20, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g, dtype=dtype), torch.tanh(
        torch.randn(n, 2, generator=g, dtype=dtype)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_student_uses_the_optimiser_named(name):
    """Its type, rate, momentum and weight decay are the recipe's."""
    recipe = StudentRecipe(optimizer=name, lr=0.07, momentum=0.8, weight_decay=0.02)
    optimizer = make_optimizer(torch.zeros(1, 3, requires_grad=True), recipe)
    assert type(optimizer) is OPTIMIZERS[name]
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.07 and group["weight_decay"] == 0.02
    if name in ("sgd", "momentum"):
        assert group["momentum"] == (0.8 if name == "momentum" else 0.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_members_of_an_ensemble_are_trained_independently(optimizer):
    """A student of three is the student that it would have been alone with its own initial parameters."""
    recipe = StudentRecipe(hidden_layers=1, hidden_width=8, optimizer=optimizer, lr=0.05, steps=5)
    S, A = pairs()
    three = train_students(S, A, recipe, 3, torch.Generator().manual_seed(0))
    recipe_ = recipe.replace(steps=5)
    theta_0 = initialize(
        Architecture.of(recipe, 4, 2), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for k in range(3):
        alone = theta_0[k : k + 1].clone().requires_grad_()
        optimizer_k = make_optimizer(alone, recipe_)
        for _ in range(5):
            optimizer_k.zero_grad()
            loss = ((forward(alone, S, Architecture.of(recipe, 4, 2)) - A) ** 2).mean()
            loss.backward()
            optimizer_k.step()
        torch.testing.assert_close(three[k], alone[0].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layers", "residual"), [(1, False), (5, False), (3, True)])
def test_any_architecture_trains(layers, residual):
    """Two to six layers and residual: the loss on the pairs falls by half."""
    recipe = GENERAL_RECIPE.replace(
        hidden_layers=layers, residual=residual, hidden_width=32, lr=1e-2, steps=100
    )
    S, A = pairs()
    theta = train_students(S, A, recipe, 1, torch.Generator().manual_seed(0))
    fitted = ((forward(theta, S, Architecture.of(recipe, 4, 2)) - A) ** 2).mean()
    assert fitted < A.square().mean() / 2


def test_recipes_by_name():
    """ "recipe" is the synset's own, "general" the untuned one with the synset's kind of head."""
    own = make_config().recipe
    assert resolve_recipe(own, "recipe", {}) == own
    assert resolve_recipe(own, "general", {}) == GENERAL_RECIPE
    assert resolve_recipe(own.replace(head="softmax"), "general", {}).head == "softmax"
    assert resolve_recipe(own, own, {"steps": 7}).steps == 7
    with pytest.raises(ConfigError, match="Give 'recipe' .* or 'general'"):
        resolve_recipe(own, "best", {})
    with pytest.raises(ConfigError, match="Did you mean 'optimizer'"):
        resolve_recipe(own, "recipe", {"optimiser": "sgd"})


def make_policy(K=2):
    recipe = StudentRecipe(hidden_layers=1, hidden_width=8)
    low, high = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)
    units = Units.of([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], low, high)
    theta = initialize(Architecture.of(recipe, 3, 2), K, generator=torch.Generator().manual_seed(0))
    return Policy(
        theta * 5,
        recipe,
        units,
        SpaceCodec(spaces.Box(-np.inf, np.inf, (3,), np.float32)),
        SpaceCodec(spaces.Box(low, high)),
    )


def test_a_policy_takes_and_gives_raw_units():
    """The action is low + (tanh z((s − mean)/std) + 1)/2 · (high − low), averaged over members, in the space."""
    policy = make_policy()
    observation = np.array([0.5, -4.0, 7.0], np.float32)
    action = policy.act(observation)
    x = torch.tensor([[-0.25, -3.0, 2.0]])
    u = forward(policy.theta, x, policy.arch)[:, 0].numpy()
    expected = np.stack([u[:, 0] * 2, (u[:, 1] + 1) * 5], 1).mean(0)
    np.testing.assert_allclose(action, expected, rtol=1e-5)
    assert policy.action_codec.space.contains(action)
    each = [member.act(observation) for member in policy.members()]
    np.testing.assert_allclose(np.mean(each, 0), action, rtol=1e-5)


def test_saving_then_loading_a_policy_is_the_identity(tmp_path):
    """Every tensor, the recipe and the spaces come back."""
    policy = make_policy()
    loaded = Policy.load(policy.save(tmp_path / "policy.safetensors"))
    assert torch.equal(loaded.theta, policy.theta) and loaded.recipe == policy.recipe
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(loaded.act_vectors(obs), policy.act_vectors(obs))
    assert loaded.action_codec == policy.action_codec
    (tmp_path / "other.safetensors").write_bytes(b"no policy at all")
    with pytest.raises(ConfigError, match=r"is not a policy file.*policy\.save\(\)"):
        Policy.load(tmp_path / "other.safetensors")


def test_an_ensemble_needs_a_member():
    """n_policies=0 is refused."""
    with pytest.raises(ConfigError, match="n_policies=0 must be a whole number, at least 1"):
        behavior_clone(None, n_policies=0)


def test_a_damaged_policy_is_named(tmp_path):
    """Parameters and statistics that are not of its recipe are told when it is read, and not when it acts."""
    tensors = load_file(make_policy().save(tmp_path / "policy.safetensors"))
    with safe_open(str(tmp_path / "policy.safetensors"), "pt") as file:
        header = file.metadata()
    for changed, message in (
        ({"theta": torch.zeros(2, 5)}, "5 parameters a student, which its recipe has not"),
        ({"theta": torch.zeros(5)}, r"float32 of shape \(5,\)"),
        ({"theta": tensors["theta"].long()}, "are torch.int64"),
        ({"obs_mean": torch.zeros(2)}, r"obs_mean has shape \(2,\), \(3,\) expected"),
    ):
        save_file(tensors | changed, tmp_path / "bad.safetensors", header)
        with pytest.raises(ConfigError, match=f"damaged policy: .*{message}"):
            Policy.load(tmp_path / "bad.safetensors")


def test_what_is_no_observation_is_told_so():
    """The pair that env.reset gives, another shape, a batch where one is asked and the other way round."""
    policy = make_policy()
    with pytest.raises(DatasetError, match=r"env.reset\(\) gives a pair"):
        policy.act((np.zeros(3, np.float32), {}))
    with pytest.raises(DatasetError, match=r"values of shape \(2, 3\)"):
        policy.act(np.zeros((2, 3), np.float32))
    with pytest.raises(ConfigError, match=r"shape \(2, 1\) given, \(n, 3\) expected"):
        policy.act_vectors(np.zeros((2, 1)))


def test_float64_observations_are_normalised_before_rounding():
    """States of 10⁸ ± 1, of which float32 knows every eighth: cloned and acted on as those of ± 1 are."""
    S = np.random.default_rng(0).normal(size=(32, 2))
    box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    near, far = (
        make_synset(
            32,
            box,
            dtype="float64",
            observations=S + offset,
            actions=np.tanh(S[:, :1]),
            observation_mean=np.full(2, offset, np.float32),
            observation_std=np.ones(2, np.float32),
        )
        for offset in (0.0, 1e8)
    )
    a, b = (behavior_clone(s, recipe="general", steps=50, hidden_width=16) for s in (near, far))
    np.testing.assert_allclose(a.act_vectors(S), b.act_vectors(S + 1e8), atol=1e-3)


@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"optimizer": "sgd", "residual": True}])
def test_students_that_diverge_are_no_policies(changes):
    """By the inner loop and by autograd."""
    with pytest.raises(ConfigError, match="2 of 2 students diverged: lower the recipe's lr"):
        behavior_clone(
            make_synset(), recipe="general", n_policies=2, head="linear", lr=1e6, steps=50, **changes
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be finite, at least 0"),
        ({"momentum": 1.5}, "momentum=1.5 must be finite, at least 0 and below 1"),
        ({"eps": float("nan")}, "eps=nan must be finite"),
        ({"output_gain": float("inf")}, "output_gain=inf must be finite"),
        ({"steps": 1.5}, "steps=1.5 must be a whole number"),
        ({"lr": "x"}, "lr='x' must be a number"),
        ({"betas": 0.9}, "betas=0.9 must be a list"),
    ],
)
def test_values_of_a_recipe_are_checked(changes, message):
    """However the recipe is made."""
    with pytest.raises(ConfigError, match=message):
        StudentRecipe(**changes)
    with pytest.raises(ConfigError, match=message):
        GENERAL_RECIPE.replace(**changes)


@pytest.mark.parametrize("n", [0, 1.5, True, "2"])
def test_numbers_of_students_are_whole(n):
    with pytest.raises(ConfigError, match="must be a whole number, at least 1"):
        behavior_clone(make_synset(), n_policies=n)


def test_a_residual_layer_by_hand():
    """Two hidden layers of one unit: h₁ = relu(2·3 + 1) = 7, h₂ = 7 + relu(−7 + 10) = 10, out 0.1·10."""
    arch = Architecture(1, 1, (1, 1), "linear", residual=True)
    theta = torch.tensor([[2.0, 1.0, -1.0, 10.0, 0.1, 0.0]])
    assert forward(theta, torch.tensor([[3.0]]), arch).item() == pytest.approx(1.0)


def test_a_softmax_step_by_hand():
    """Cross-entropy of three logits that are 0, label (1, 0, 0): one step of SGD at 3 moves the biases by (2, −1, −1)."""
    recipe = StudentRecipe(
        hidden_layers=1,
        hidden_width=1,
        head="softmax",
        optimizer="sgd",
        lr=3.0,
        steps=1,
        output_gain=0.0,
        weight_decay=1e-12,
    )
    theta = train_students(torch.zeros(1, 2), torch.tensor([[1.0, 0, 0]]), recipe, 1, torch.Generator())
    torch.testing.assert_close(theta[0, -3:], torch.tensor([2.0, -1.0, -1.0]))


def test_minibatches_are_each_students_own():
    """64 draws of 2 of 5 pairs: every pair is drawn, and two students draw differently."""
    recipe = StudentRecipe(batch=2, steps=64)
    S = torch.arange(5.0)[:, None]
    drawn = torch.stack([x for x, _ in _batches(S, S, recipe, 2, torch.Generator().manual_seed(0))])
    assert drawn.shape == (64, 2, 2, 1) and set(drawn.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_one_student_of_infinite_width():
    """However many are asked; what it does with a state does not depend on what else is asked."""
    synset = make_synset(64, recipe=StudentRecipe(infinite=True))
    policy = behavior_clone(synset, n_policies=5)
    assert len(policy) == len(policy.members()) == 1
    obs = np.random.default_rng(1).normal(size=(65, 3)).astype(np.float32)
    alone = np.concatenate([policy.act_vectors(row[None]) for row in obs])
    np.testing.assert_allclose(alone, policy.act_vectors(obs), atol=3e-7)


def test_the_recorded_range_of_actions_is_taken_as_it_is():
    """Pairs of ±5e-5 in bounds of ±2 that were distilled in ±2 are read in ±2; without a record the pairs' own range stands in."""
    tiny = make_synset(actions=5e-5 * np.sign(make_synset().actions))
    assert tiny.units().act_high.item() == pytest.approx(5e-5)
    assert tiny.with_metadata(action_range=[[-2.0], [2.0]]).units().act_high.tolist() == [2]


def test_settings_may_be_arrays_and_devices():
    """What other libraries hand out as such."""
    config = DistillConfig(inner_betas=np.array([0.9, 0.99]), device=torch.device("cpu"), seed=np.int64(3))
    assert (config.inner_betas, config.device, config.seed) == ((0.9, 0.99), "cpu", 3)


def test_a_policy_of_bad_settings_is_damaged(tmp_path):
    """And not of a later release."""
    path = make_policy().save(tmp_path / "policy.safetensors")
    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    recipe = json.loads(header["recipe"]) | {"lr": -1}
    save_file(load_file(path), path, header | {"recipe": json.dumps(recipe)})
    with pytest.raises(ConfigError, match="is a damaged policy: lr=-1"):
        Policy.load(path)


def test_bounds_that_leave_actions_a_corner():
    """Actions of ±0.09 in bounds of ±1 are actions of ±1; in bounds of ±100 their own range stands in."""
    small = 0.09 * np.sign(make_synset().actions)
    for bound, expected in ((1.0, 1.0), (100.0, 0.09)):
        box = spaces.Box(-bound, bound, (1,), np.float32)
        assert make_synset(action_space=box, actions=small).units().act_high.item() == pytest.approx(expected)
