"""Shell completion, asked as bash asks."""

import os
import subprocess
import sys

import pytest

from minari_distill import completion
from minari_distill.loading import gallery_ids
from tests.conftest import write_dataset
from tests.synsets import make_synset


def complete(line: str) -> list[str]:
    """What bash would offer for the last word of a line."""
    environment = {"_MINARI_DISTILL_COMPLETE": "complete_bash", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(line.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-m", "minari_distill"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture
def store():
    write_dataset()
    make_synset().save("me/pairs-v0")


def test_bash_completes_commands_and_ids(store):
    """Through the whole command line: a command, and the only synset beside the gallery's."""
    assert complete("minari-distill distil") == ["distill"]
    assert complete("minari-distill show m") == ["me/pairs-v0"]
    assert complete("minari-distill benchmark --preset q") == ["quick"]
    assert "gallery/hopper-medium-replay-v0" in complete("minari-distill show gal")


def test_a_namespace_named_data_hides_nothing(store):
    """`data/…` is a namespace like any other."""
    make_synset().save("data/pairs-v0")
    assert set(completion.synsets("")) == {"data/pairs-v0", "me/pairs-v0", *gallery_ids()}
    assert set(completion.datasets("")) >= {"demo/hopper-medium-replay-v0", "test/pendulum-v0"}


def test_each_word_completes_to_what_fits_there(store):
    """Synsets where synsets are read, datasets where datasets are, names of settings with their `=`."""
    assert list(completion.synsets("m")) == ["me/pairs-v0"] and list(completion.synsets("x")) == []
    assert list(completion.datasets("")) == ["demo/hopper-medium-replay-v0", "test/pendulum-v0"]
    assert list(completion.settings("inner_l")) == ["inner_lr="]
    assert list(completion.presets("q")) == ["quick"] and list(completion.recipes("g")) == ["general"]
    assert {"dbc", "pbc", "av_pbc"} <= set(completion.objectives(""))
