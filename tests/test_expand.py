"""Laws of `expand`: many pairs that say what the synset's own student does around its states, and nothing else."""

import dataclasses
import json

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import minari_distill as md
from minari_distill.cli import app
from minari_distill.errors import ConfigError
from minari_distill.expand import RECIPE, expand
from minari_distill.hub.card import write_card
from minari_distill.recipe import StudentRecipe
from minari_distill.show.facts import facts
from tests.conftest import PENDULUM_ACTIONS, PENDULUM_OBSERVATIONS
from tests.synsets import make_synset

INFINITE = StudentRecipe(infinite=True)


UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def few(discrete=False, observation_space=UNBOUNDED):
    recipe = INFINITE.replace(head="softmax" if discrete else "tanh")
    action_space = spaces.Discrete(3) if discrete else PENDULUM_ACTIONS
    return make_synset(20, observation_space, action_space, recipe=recipe)


@given(
    n=st.integers(1, 300),
    noise=st.floats(0.0, 2.0),
    seed=st.integers(0, 5),
    discrete=st.booleans(),
    bounded=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_every_action_is_the_students_own(n, noise, seed, discrete, bounded):
    """n pairs, in their spaces, labelled at the very states that are given, whatever the chunks."""
    synset = few(discrete, PENDULUM_OBSERVATIONS if bounded else UNBOUNDED)
    many = expand(synset, n, noise=noise, seed=seed)
    assert len(many) == n and many.observations.dtype == synset.observations.dtype
    student = md.behavior_clone(synset)
    told = student.act_vectors(many.observations)
    np.testing.assert_allclose(many.actions, synset.action_codec.project(told, soft=True), atol=1e-5)


def test_without_noise_the_states_come_back_in_turn():
    """Worked: 2 n + 1 pairs without noise are the synset's states twice, and its first."""
    synset = few()
    n = len(synset)
    many = expand(synset, 2 * n + 1, noise=0.0)
    expected = np.concatenate([synset.observations] * 2 + [synset.observations[:1]])
    np.testing.assert_allclose(many.observations, expected, rtol=1e-5, atol=1e-5)


def test_the_noise_has_the_covariance_of_the_states():
    """Worked: 20 000 draws around the states have σ² times their covariance, to a few per cent."""
    synset = few()
    units = synset.units()
    many = expand(synset, 20_000, noise=0.5)
    x, S = (units.normalise(torch.as_tensor(s.observations)).double() for s in (many, synset))
    drawn = x - S[torch.arange(20_000) % len(S)]
    expected = 0.25 * torch.cov(S.T, correction=0)
    assert (torch.cov(drawn.T) - expected).abs().max() < 0.04 * expected.diagonal().max()


def test_what_it_was_made_of_is_kept(tmp_path):
    """Its own recipe, for networks; the origin and the distillation's settings; no scores of others; and all of it on disk."""
    synset = few().with_metadata(scores={"recipe students": {"mean": 1.0}}, held_out_loss=0.5)
    many = expand(synset, 50, noise=0.3, seed=2)
    assert many.recipe == RECIPE and many.input_metric is None and many.source == synset.source
    assert not {"scores", "held_out_loss", "history"} & set(many.metadata)  # which are of the few
    made_of = many.metadata["expansion"]
    assert made_of["held_out_loss"] == 0.5 and many.summary()["expansion"] == made_of
    assert facts(many)["made of"] == f"{len(synset)} distilled pairs, by expand" and "made of" not in facts(
        synset
    )
    with pytest.raises(ConfigError, match="50 pairs were made by expand already"):
        expand(many)
    assert (made_of["n_syn"], made_of["noise"], made_of["seed"]) == (len(synset), 0.3, 2)
    assert StudentRecipe(**made_of["recipe"]) == synset.recipe
    many.save(tmp_path / "many-v0")
    back = md.load_synset(tmp_path / "many-v0")
    assert back.recipe == RECIPE and back.metadata["expansion"] == made_of
    np.testing.assert_array_equal(back.observations, many.observations)
    assert f"made of {len(synset)} distilled from" in repr(back)
    again, other = expand(synset, 50, noise=0.3, seed=2), expand(synset, 50, noise=0.3, seed=3)
    assert np.array_equal(again.actions, many.actions) and not np.array_equal(other.actions, many.actions)


def test_networks_learn_from_many_what_they_cannot_from_few():
    """A short real story: a wave that 30 pairs tell a student of infinite width; networks have half its error left, or less."""
    g = torch.Generator().manual_seed(0)
    base = few()
    S = torch.randn(60, base.observation_codec.dim, generator=g)
    units = base.units()
    wave = units.unscale(0.8 * torch.sin(2 * S[:, : base.action_codec.dim]))
    synset = dataclasses.replace(
        base, observations=units.denormalise(S).numpy(), actions=wave.numpy(), recipe=INFINITE
    )
    asked = (
        units.denormalise(S[:, None] + 0.3 * torch.randn(60, 5, S.shape[1], generator=g))
        .flatten(0, 1)
        .float()
        .numpy()
    )
    told = md.behavior_clone(synset).act_vectors(asked)

    def error(policy):
        return np.square(policy.act_vectors(asked) - told).mean()

    plain = md.behavior_clone(synset, recipe="general", steps=300)
    taught = md.behavior_clone(expand(synset, 2000, noise=0.3), steps=300)
    assert error(taught) < error(plain) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_pairs": 0}, "n_pairs=0"),
        ({"n_pairs": True}, "n_pairs=True"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"noise": float("nan")}, "noise=nan"),
    ],
)
def test_bad_numbers_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        expand(few(), **changes)


def test_what_is_no_synset_is_refused():
    with pytest.raises(ConfigError, match="'gallery/x' is no Synset. Read one with load_synset"):
        expand("gallery/x")


def test_the_seed_is_the_networks_too():
    """Of pairs that were distilled for networks, another seed is another student, at the same states."""
    synset = make_synset(12, recipe=StudentRecipe(hidden_width=8, steps=20), input_metric=None)
    a, b, again = (expand(synset, 12, noise=0.0, seed=seed) for seed in (0, 1, 0))
    assert np.array_equal(a.observations, b.observations) and np.array_equal(a.actions, again.actions)
    assert np.abs(a.actions - b.actions).max() > 1e-3


def test_who_exports_or_finds_pairs_that_networks_cannot_read_is_told(tmp_path):
    """On the command line and on the Hub's card; of many pairs made of few, the card says so instead."""
    synset = few()
    synset.save("me/few-v0")
    command = ["export", "me/few-v0", "--to", "npz", "--out", str(tmp_path / "few.npz")]
    advice = "minari-distill expand me/few-v0 -o me/many-v0"
    assert advice in " ".join(CliRunner().invoke(app, command).output.split())
    card = write_card(None, synset, "me/repo", "few-v0", figures=[], present=[])
    assert "minari-distill expand hf://me/repo/few-v0 -o me/many-v0" in card
    many = write_card(None, expand(synset, 30), "me/repo", "many-v0", figures=[], present=[])
    assert f"| made of | {len(synset)} distilled pairs" in many and "read these pairs badly" not in many


@pytest.mark.parametrize("expansion", ["x", 3, {}, {"n_syn": None}])
def test_odd_metadata_of_others_does_no_harm(expansion):
    synset = few().with_metadata(expansion=expansion)
    assert "pairs (obs_dim 3, act_dim" in repr(synset) and "made of" not in repr(synset)
    assert "| made of |" not in write_card(None, synset, "me/repo", "few-v0", figures=[], present=[])


def test_the_command(tmp_path, monkeypatch):
    """A synset in, a Minari dataset of many pairs out; what is there already is not overwritten unasked."""
    few().save("me/few-v0")
    command = ["expand", "me/few-v0", "-o", "me/many-v0", "--pairs", "40"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_syn"] == 40
    assert minari.load_dataset("me/many-v0").total_episodes == 40
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "exists already" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*command, "--overwrite"])
    assert result.exit_code == 0 and "Saved me/many-v0 (40 pairs)" in " ".join(result.output.split())
