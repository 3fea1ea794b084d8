"""`minari-distill show`: text, figures, and one page that a browser opens without asking for anything else."""

import json
import re
from html.parser import HTMLParser

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from typer.testing import CliRunner

from minari_distill import plots
from minari_distill.cli import app
from minari_distill.recipe import StudentRecipe
from minari_distill.show.cli import sparkline
from minari_distill.show.facts import facts
from minari_distill.show.figures import draw_figures, source_at_hand
from minari_distill.show.page import write_page
from minari_distill.source import Source
from tests.browser import Browser
from tests.conftest import write_dataset
from tests.synsets import make_synset

SCORE = {
    "mean": 50.0,
    "ci95_half_width": 3.0,
    "n_policies": 5,
    "n_episodes": 10,
    "unit": "normalised, 0 to 100",
}
METADATA = {
    "history": [
        {"step": 0, "loss": None, "held_out_loss": 0.3},
        {"step": 25, "loss": 0.2, "held_out_loss": 0.1},
    ],
    "held_out_loss": 0.1,
    "scores": {"random_pairs": SCORE, "synset": SCORE, "teacher": SCORE | {"ci95_half_width": None}},
    "teacher": {"method": "filtered_bc"},
}
ID = "me/pendulum-distilled-v0"


def pendulum(**fields):
    """A synset that has everything to show, of a source that conftest writes."""
    source = Source(("test/pendulum-v0",), env_spec=gymnasium.spec("Pendulum-v1").to_json(), total_steps=1200)
    return make_synset(40, **{"source": source, "metadata": METADATA} | fields)


def show(*arguments):
    return CliRunner().invoke(app, ["show", *map(str, arguments)])


@pytest.fixture(autouse=True)
def no_rendering(monkeypatch):
    """What MuJoCo renders is tested in test_plots.py."""
    monkeypatch.setattr(plots, "render_strip", lambda synset, path, **options: False)


def test_figures_and_page_are_written_and_named(tmp_path):
    """--plot writes three PNGs, --html one page; both say what could not be drawn; --json lists the files."""
    pendulum().save(ID)
    page, folder = tmp_path / "new" / "page.html", tmp_path / "figures"
    result = show(ID, "--plot", folder, "--html", page)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "test/pendulum-v0 is not on this machine" in text and "minari download test/pendulum-v0" in text
    assert "50.0 ± 3.0" in text and "█▁" in text and "filtered_bc" in text
    assert sorted(path.name for path in folder.iterdir()) == ["actions.png", "components.png", "loss.png"]
    answer = json.loads(show(ID, "--plot", folder, "--html", page, "--json").stdout)
    assert answer["files"] == [str(folder / f"{n}.png") for n in ("loss", "components", "actions")] + [
        str(page)
    ]
    assert len(answer["notes"]) == 2 and answer["n_syn"] == 40 and answer["id"] == ID
    assert f"minari.load_dataset(&quot;{ID}&quot;)" in page.read_text()
    assert show("gallery/hopper-medium-replay-v0", "--html", page).exit_code == 0
    assert "minari.load_dataset" not in page.read_text()  # which knows no gallery


def test_the_source_lies_behind_the_synset_where_it_is_at_hand(tmp_path):
    """With the source on this machine, the figures differ and nothing is missing but the pictures of states."""
    alone = draw_figures(pendulum(), ID, tmp_path / "alone")
    write_dataset(lengths=(50, 60))
    over = draw_figures(pendulum(), ID, tmp_path / "over")
    assert len(alone.notes) == 2 and [note[:11] for note in over.notes] == ["No pictures"]
    for name in ("components.png", "actions.png"):
        assert (tmp_path / "alone" / name).read_bytes() != (tmp_path / "over" / name).read_bytes()
    other = pendulum(source=Source(("test/other-v0",)))
    write_dataset("test/other-v0", action_space=spaces.Box(-1, 1, (1,), np.float32))
    assert "has other spaces" in draw_figures(other, ID, tmp_path / "other").notes[0]


class _Addresses(HTMLParser):
    """Every attribute of a page that makes a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "srcset", "href", "data", "poster", "action")]


def test_a_browser_opens_the_page(tmp_path):
    """Chromium fetches the one file and nothing else, has nothing to complain of, and shows every image."""
    write_dataset(lengths=(50, 60))
    synset = pendulum()
    path = write_page(synset, ID, draw_figures(synset, ID, tmp_path), tmp_path / "page.html")
    parser = _Addresses()
    parser.feed(path.read_text())
    assert len(parser.found) == 4 and all(address.startswith("data:") for address in parser.found)
    with Browser() as browser:
        browser.open(path)
        assert browser.requests == [path.as_uri()] and browser.complaints == []
        assert browser.value("document.title") == ID
        assert (
            browser.value("[...document.images].map(i => i.complete && i.naturalWidth > 300)") == [True] * 3
        )
        assert browser.value("document.querySelectorAll('tbody tr').length") > 10
        assert "filtered_bc" in browser.value("document.body.innerText")
        for width in (1200, 390):  # a screen and a telephone: nothing runs over the edge
            browser.resize(width)
            assert browser.value("document.documentElement.scrollWidth") <= width
        picture = np.asarray(Image.open(browser.screenshot(tmp_path / "page.png")).convert("RGB"))
    assert picture.shape[0] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


HOSTILE = "<script>fetch('http://127.0.0.1:9/')</script><img src=x onerror=alert(1)>"


def test_a_hostile_synset_is_text_on_the_page(tmp_path):
    """What comes from anywhere is escaped, and records that cannot be drawn are left out."""
    source = Source((HOSTILE,), license=HOSTILE, author=(HOSTILE,))
    metadata = {
        "history": [{"step": HOSTILE}, 3, {"step": 0, "held_out_loss": True}],
        "scores": {HOSTILE: SCORE, "none": {"mean": HOSTILE}, "wide": SCORE | {"ci95_half_width": HOSTILE}},
        "teacher": {"method": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "held_out_loss": HOSTILE,
    }
    synset = pendulum(source=source, metadata=metadata)
    path = write_page(synset, HOSTILE, draw_figures(synset, "hostile", tmp_path), tmp_path / "page.html")
    assert not re.search(r"<script|onerror=(?!alert\(1\)&gt;)", path.read_text())
    with Browser() as browser:
        browser.open(path)
        assert browser.requests == [path.as_uri()] and browser.complaints == []
        assert browser.value("document.scripts.length + document.querySelectorAll('[onerror]').length") == 0


def test_a_synset_without_history_or_scores_is_shown():
    """Nothing is invented for what it does not record."""
    make_synset(4, source=Source(("a/b-v0",))).save(ID)
    result = show(ID)
    assert result.exit_code == 0 and "Scores" not in result.output and "a/b-v0" in result.output


def test_pairs_that_networks_read_badly_say_so():
    """On the screen and on the page, which show the same facts."""
    assert "minari-distill expand" in facts(make_synset(recipe=StudentRecipe(infinite=True)))["for networks"]
    assert "for networks" not in facts(make_synset())


def test_a_sparkline_has_at_most_forty_bars():
    """Long curves are thinned; a flat one does not divide by zero."""
    assert len(sparkline(list(range(1000)))) == 40
    assert sparkline([1.0, 1.0]) == "▁▁"


def test_a_synset_of_no_named_source():
    """Its figures show it alone, and nothing is offered for download."""
    source, told = source_at_hand(make_synset(source=Source(())))
    assert source is None and told == "The source is not on this machine: the figures show the synset alone."
