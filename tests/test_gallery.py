"""The gallery: synsets inside the package load, clone and act, in a bare installation."""

import numpy as np
import pytest

import minari_distill as md
from minari_distill import loading
from minari_distill.errors import SynsetError
from minari_distill.loading import load_synset


def test_every_entry_loads_and_names_its_provenance():
    """Each has its scores, its source, an environment and legal actions; the table shows each."""
    entries = md.gallery()
    assert entries
    for entry in entries:
        synset = load_synset(entry.id)
        assert len(synset) == entry.n_syn and synset.config is not None
        assert " + ".join(synset.source.dataset_ids) == entry.dataset and entry.environment
        assert np.abs(synset.actions).max() <= 1.0
        assert entry.id in str(entries)
        networks = entry.expanded_score if synset.recipe.infinite else entry.score
        assert networks / entry.teacher_score > 0.5
        assert entry.recipe_score / entry.teacher_score > (0.7 if synset.recipe.infinite else 0.8)


def test_the_readme_s_first_policy_hops():
    """The one student of infinite width keeps nine tenths of its teacher's score, 3 episodes; all such students are the same."""
    synset = md.load_synset("gallery/hopper-medium-replay-infinite-v0")
    assert synset.recipe.infinite and synset.input_metric is not None
    policy = md.behavior_clone(synset)
    entry = next(e for e in md.gallery() if e.id == "gallery/hopper-medium-replay-infinite-v0")
    assert md.evaluate(policy, synset, n_episodes=3).normalized.mean() > 0.9 * entry.teacher_score
    again = md.behavior_clone(synset, seed=1)
    np.testing.assert_array_equal(
        again.act_vectors(synset.observations), policy.act_vectors(synset.observations)
    )


def test_plain_networks_hop():
    """General students of the Hopper synset score above half of their teacher in the mean, 4 students × 2 episodes.

    One student alone may stumble on a processor that rounds in another way.
    """
    synset = md.load_synset("gallery/hopper-medium-replay-v1")
    students = md.behavior_clone(synset, n_policies=4).members()
    entry = next(e for e in md.gallery() if e.id == "gallery/hopper-medium-replay-v1")
    assert md.evaluate(students, synset, n_episodes=2).normalized.mean() > 0.5 * entry.teacher_score


def test_the_cheetah_runs():
    """Students of its own recipe score above half of their teacher in the mean."""
    synset = md.load_synset("gallery/halfcheetah-medium-replay-v0")
    students = md.behavior_clone(synset, n_policies=2).members()
    entry = next(e for e in md.gallery() if e.id == "gallery/halfcheetah-medium-replay-v0")
    assert md.evaluate(students, synset, n_episodes=1).normalized.mean() > 0.5 * entry.teacher_score


def test_the_walker_walks():
    """Students of its own recipe, which read in the input metric, walk on when half of the episode is over."""
    synset = md.load_synset("gallery/walker2d-medium-replay-v0")
    assert synset.recipe.in_metric and synset.input_metric is not None
    students = md.behavior_clone(synset, n_policies=3).members()
    assert np.median(md.evaluate(students, synset, n_episodes=1).lengths) > 500


def test_an_unknown_name_is_answered_with_the_nearest():
    """And with what there is."""
    with pytest.raises(SynsetError, match=r"Did you mean 'gallery/hopper-medium-replay-v0'"):
        md.load_synset("gallery/hopper-medium-repaly-v0")


def test_a_damaged_file_is_one_sentence(tmp_path, monkeypatch):
    """Cut off on its way to the disk."""
    name = "hopper-medium-replay-infinite-v0"
    whole = (loading.GALLERY_FOLDER / f"{name}.parquet").read_bytes()
    (tmp_path / f"{name}.parquet").write_bytes(whole[:2000])
    monkeypatch.setattr(loading, "GALLERY_FOLDER", tmp_path)
    with pytest.raises(SynsetError, match="cannot be read.*Install the package anew"):
        md.load_synset(f"gallery/{name}")


def test_a_gallery_synset_saves_as_any_other(tmp_path):
    """Single file → synset → Minari folder → synset: the same bits and the same record."""
    synset = md.load_synset("gallery/hopper-medium-replay-v0")
    again = md.load_synset(synset.save(tmp_path / "hopper-v0"))
    np.testing.assert_array_equal(again.observations, synset.observations)
    np.testing.assert_array_equal(again.actions, synset.actions)
    assert again.metadata == synset.metadata and again.recipe == synset.recipe
