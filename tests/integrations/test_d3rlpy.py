"""Synsets in d3rlpy: nothing lost on the way in, its own BC trained, its policy as good as ours."""

import logging
import re

import gymnasium
import numpy as np
import pytest
import torch

d3rlpy = pytest.importorskip("d3rlpy", reason="pip install 'minari-distill[d3rlpy]'")
pytestmark = pytest.mark.filterwarnings("default")  # the codebase's own warnings are not ours

import structlog  # noqa: E402

from minari_distill.exporters import d3rlpy as exporter  # noqa: E402
from tests.integrations.conftest import HIDDEN, LR, N_STUDENTS, STEPS, run_docstring, run_page  # noqa: E402
from tests.synsets import make_synset  # noqa: E402


@pytest.fixture(autouse=True)
def quiet():
    """It logs to standard output, which a docstring's output must not hold."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def test_the_docstring_is_a_run(synset):
    """What opens the module is what it prints."""
    run_docstring("minari_distill.exporters.d3rlpy", synset)


def test_256_pairs_in_order(synset, tmp_path):
    """Every pair is a transition, values and order as in the synset, in memory and in d3rlpy's own file."""
    dataset = exporter.mdp_dataset(synset)
    path = exporter.save(synset, tmp_path / "hopper.h5")
    with path.open("rb") as file:
        loaded = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
    for buffer in (dataset, loaded):
        assert buffer.transition_count == buffer.size() == 256
        picker = d3rlpy.dataset.BasicTransitionPicker()
        rows = [picker(episode, 0) for episode in buffer.episodes]
        np.testing.assert_array_equal([row.observation for row in rows], synset.observations)
        np.testing.assert_array_equal([row.action for row in rows], synset.actions)
        assert all(row.terminal and row.reward == 0 for row in rows)


def test_its_normalisation_is_the_students(synset):
    """Its scaler adds an ε of 1e-3 to std unless told otherwise; here it gives the students' x."""
    scaled = exporter.scalers(synset)
    units = synset.units()
    obs = torch.as_tensor(synset.observations)
    x = scaled["observation_scaler"].transform(obs)
    torch.testing.assert_close(x.float(), units.normalise(obs), rtol=1e-6, atol=1e-6)
    act = torch.as_tensor(synset.actions)
    torch.testing.assert_close(scaled["action_scaler"].transform(act).float(), units.scale(act))


def test_its_bc_scores_as_ours(synset, agrees, tmp_path, monkeypatch):
    """BC, trained by d3rlpy's own `fit`, rolled out in Hopper."""
    monkeypatch.chdir(tmp_path)  # it logs into the current folder
    dataset = exporter.mdp_dataset(synset)
    policies = []
    for seed in range(N_STUDENTS):
        d3rlpy.seed(seed)
        bc = d3rlpy.algos.BCConfig(
            batch_size=256,
            learning_rate=LR,
            encoder_factory=d3rlpy.models.VectorEncoderFactory(HIDDEN),
            **exporter.scalers(synset),
        ).create()
        bc.fit(
            dataset,
            n_steps=STEPS,
            n_steps_per_epoch=STEPS,
            show_progress=False,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        )
        policies.append(bc.predict)
    agrees("d3rlpy BC", policies)


def test_the_lines_on_a_card_act_in_the_environments_units(tmp_path, monkeypatch):
    """Actions reach ±2: cloned by the lines that every card carries, they do so afterwards."""
    from minari_distill.hub.card import usage

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    synset = make_synset(64)
    synset.save("me/pairs-v0")
    (lines,) = re.findall(
        r"```python\n(import d3rlpy.*?)```", usage(synset, "me/synsets", "pairs-v0"), re.DOTALL
    )
    names = {}
    exec(lines.replace("hf://me/synsets/pairs-v0", "me/pairs-v0"), names)
    bc = names["bc"].create()
    quiet_logger = d3rlpy.logging.NoopAdapterFactory()
    bc.fit(
        names["dataset"],
        n_steps=1500,
        n_steps_per_epoch=1500,
        show_progress=False,
        logger_adapter=quiet_logger,
    )
    assert np.abs(synset.actions).max() > 1.9
    assert np.square(bc.predict(synset.observations) - synset.actions).mean() < 0.5  # inside ±1: 0.9


def test_discrete_actions(tmp_path, monkeypatch):
    """Integers go in, and its discrete BC takes them."""
    monkeypatch.chdir(tmp_path)
    discrete = make_synset(8, action_space=gymnasium.spaces.Discrete(3))
    dataset = exporter.mdp_dataset(discrete)
    assert dataset.dataset_info.action_size == 3
    actions = [episode.actions.item() for episode in dataset.episodes]
    np.testing.assert_array_equal(actions, discrete.to_arrays()["actions"])
    bc = d3rlpy.algos.DiscreteBCConfig(batch_size=8, **exporter.scalers(discrete)).create()
    quiet_logger = d3rlpy.logging.NoopAdapterFactory()
    bc.fit(dataset, n_steps=300, n_steps_per_epoch=300, show_progress=False, logger_adapter=quiet_logger)
    np.testing.assert_array_equal(bc.predict(discrete.observations), actions)


def test_the_page_runs(synset, tmp_path, monkeypatch):
    """Its block in docs/exporters.md."""
    monkeypatch.chdir(tmp_path)
    names = run_page("d3rlpy", synset)
    assert np.square(names["actions"] - synset.actions).mean() < 0.1
