"""Students really use the recipe they are given, and a policy keeps its units."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minari_distill.config import GENERAL_RECIPE, StudentRecipe, make_config
from minari_distill.errors import ConfigError
from minari_distill.networks import Architecture, forward, initialize
from minari_distill.spaces import SpaceCodec
from minari_distill.students import Policy, behavior_clone, make_optimizer, resolve_recipe, train_students
from minari_distill.units import Units

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
