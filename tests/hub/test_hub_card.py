"""The card of a repository: what it says of any synset, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from minari_distill import plots
from minari_distill.errors import HubError
from minari_distill.hub.card import CardKept
from minari_distill.plots import render_strip
from minari_distill.recipe import StudentRecipe
from minari_distill.source import Source
from minari_distill.synset import Synset
from tests.hub.sample import CLIENTS_OWN_WARNINGS, METADATA, NAME, PENDULUM, REPO, edit, hopper, pendulum
from tests.hub_server import HubServer

pytestmark = CLIENTS_OWN_WARNINGS


def test_the_card(hub: HubServer):
    """huggingface_hub parses it; it says what a reader must know; its figures are in the repository."""
    pendulum(len_ := 6).push_to_hub(REPO, name=NAME)
    files = hub.files(REPO)
    card = DatasetCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["task_categories"] == ["reinforcement-learning"]
    assert data["size_categories"] == ["n<1K"]
    assert {"minari", "gymnasium", "offline-rl", "dataset-distillation", "behavior-cloning"} < set(
        data["tags"]
    )
    assert "Pendulum-v1" in data["tags"]
    assert data["configs"] == [
        {"config_name": NAME, "default": True,
         "data_files": [{"split": "train", "path": f"{NAME}/synset/train.parquet"}]}
    ]  # fmt: skip
    for text in [
        "| source | `test/pendulum-v0`, 12 steps in 3 episodes |",
        "| licence of the source | CC BY 4.0 |",
        "| environment | `Pendulum-v1` |",
        f"| observations | {len_} × 3 float32, in the units of the source |",
        "| synset | 50.0 | ± 3.0 | 5 × 10 |",
        f"minari-distill evaluate synsets/{NAME} --students 5 --episodes 10",
        "Rewards, terminations and next observations are placeholders",
        "arxiv.org/abs/2410.22728",
        f"(card/{NAME}/learning-curve.png)",
    ]:
        assert text in card.text, text
    for figure in re.findall(r"\]\((card/.*?)\)", card.text):
        assert files[figure].startswith(b"\x89PNG")


def test_pairs_that_networks_read_badly_say_so_first(hub: HubServer):
    """Where the card shows how to use them, before any other codebase's lines, with the command that helps."""
    pendulum(recipe=StudentRecipe(infinite=True)).push_to_hub(REPO, name=NAME)
    card = hub.files(REPO)["README.md"].decode()
    advice = card.index(f"minari-distill expand hf://{REPO}/{NAME} -o me/many-v0")
    assert card.index("## Use") < advice < card.index("import minari_distill as md")
    pendulum().push_to_hub("me/others", name=NAME)
    assert "minari-distill expand" not in hub.files("me/others")["README.md"].decode()


def test_the_command_measures_a_score_that_the_card_shows(hub: HubServer):
    """Of several rows that of the recipe's students, else the general ones'; an ensemble is no student."""
    row = {"mean": 10.0, "ci95_half_width": 1.0, "n_policies": 1, "n_episodes": 10}
    scores = {"ensemble of 10": row, "general students": row | {"n_policies": 5}}
    pendulum(metadata={"scores": scores}).push_to_hub(REPO, name=NAME)
    card = hub.files(REPO)["README.md"].decode()
    assert f"minari-distill evaluate synsets/{NAME} --recipe general --students 5 --episodes 10" in card
    scores["recipe students"] = row | {"n_episodes": 50}
    pendulum(metadata={"scores": scores}).push_to_hub(REPO, name=NAME)
    card = hub.files(REPO)["README.md"].decode()
    assert "Measure recipe students again with" in card
    assert f"minari-distill evaluate synsets/{NAME} --students 1 --episodes 50" in card


LICENSES = {
    None: ("unknown", None),
    "MIT": ("mit", None),
    "CC-BY-NC-4.0": ("cc-by-nc-4.0", None),
    "Ask the Lab: nicely": ("other", "ask-the-lab-nicely"),
}


@pytest.mark.parametrize("license", LICENSES)
def test_licences(hub: HubServer, license: str | None):
    """The source's licence under the Hub's name for it; none is invented, and one does not stand for a synset that states none."""
    pendulum(source=dataclasses.replace(PENDULUM, license=license)).push_to_hub(REPO, name=NAME)
    data = DatasetCard(hub.files(REPO)["README.md"].decode()).data.to_dict()
    assert (data.get("license"), data.get("license_name")) == LICENSES[license]
    pendulum(source=dataclasses.replace(PENDULUM, license="Apache-2.0")).push_to_hub(REPO, name="b-v0")
    data = DatasetCard(hub.files(REPO)["README.md"].decode()).data.to_dict()
    first = LICENSES[license][0]
    assert data["license"] == [first, "apache-2.0"]


def test_the_owners_licence_stays_where_a_synset_states_none(hub: HubServer):
    """What the owner wrote for the repository, before anything was pushed to it, holds for what states nothing."""
    hub.put(REPO, {"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    pendulum(source=dataclasses.replace(PENDULUM, license=None)).push_to_hub(REPO, name=NAME)
    assert DatasetCard(hub.files(REPO)["README.md"].decode()).data.to_dict()["license"] == "cc-by-4.0"


BARE = {"config": None, "metadata": {}, "source": Source(("x/y-v0",))}

STRANGE = {
    "metadata": {
        "scores": {"a|b": {"mean": 1}, "general": 60.0, "c": {"mean": "x"}},
        "history": ["x", {"step": 1}],
    },
    "source": Source(
        ("x/<!-- minari-distill: end usage -->`y|z`\n# -v0",), license="| a\nb", author=("`<b>`",)
    ),
}


@pytest.mark.parametrize("fields", [BARE, STRANGE])
def test_a_card_of_anything(hub: HubServer, fields: dict):
    """Little metadata, or metadata of strange shapes and signs: still one valid card, block by block."""
    for seed in (0, 1):
        pendulum(seed=seed, **fields).push_to_hub(REPO, name=NAME)
    text = DatasetCard(hub.files(REPO)["README.md"].decode()).text
    assert re.findall(r"<!-- minari-distill: (.*?)( [0-9a-f]{16})? -->", text) == [
        (what, digest)
        for name in ("usage", NAME)
        for what, digest in re.findall(rf"minari-distill: ((?:end )?{name})( [0-9a-f]{{16}})? -->", text)
    ]
    assert "learning-curve" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows
    assert all(line.count("|") in (3, 5) for line in rows)


def test_hand_written_text_survives(hub: HubServer):
    """Text around the blocks, tags added and removed, a comment in the YAML: all still there after every push."""
    pendulum().push_to_hub(REPO, name=NAME)
    edited = edit(
        hub,
        ("pretty_name: Synsets", "pretty_name: My own name  # chosen with care"),
        ("- offline-rl\n", ""),
        ("# Synsets\n", "# Our synsets\n\nThanks to everybody.\n"),
    )
    assert not pendulum().push_to_hub(REPO, name=NAME).changed
    assert hub.files(REPO)["README.md"].decode() == edited
    pendulum(seed=1, metadata={}).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert "chosen with care" in text
    assert "learning-curve" not in text  # its block is of the new synset
    assert f"card/{NAME}/learning-curve.png" not in hub.files(REPO)
    pendulum(seed=2).push_to_hub(REPO, name="other-v0")
    card = DatasetCard(hub.files(REPO)["README.md"].decode())
    assert card.data.pretty_name == "My own name"
    assert "offline-rl" not in card.data.tags
    assert "# Our synsets\n\nThanks to everybody.\n" in card.text
    assert (
        card.text.count("end other-v0") == card.text.count(f"end {NAME}") == card.text.count("end usage") == 1
    )


def test_an_edited_block_stays(hub: HubServer):
    """A generated section that someone has edited is left alone, with a warning; deleted, it is written anew."""
    pendulum().push_to_hub(REPO, name=NAME)
    edit(hub, ("| synset | 50.0 |", "| synset, with luck | 50.0 |"))
    with pytest.warns(CardKept, match=f"section on {NAME} was edited by hand and stays"):
        pendulum(seed=1).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert "| synset, with luck | 50.0 |" in text
    block = text[
        text.index(f"<!-- minari-distill: {NAME}") : text.index(f"end {NAME} -->") + len(f"end {NAME} -->\n")
    ]
    edit(hub, (block, ""))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CardKept)
        pendulum(seed=2).push_to_hub(REPO, name=NAME)
    assert "| synset | 50.0 |" in hub.files(REPO)["README.md"].decode()


def test_windows_line_ends(hub: HubServer):
    """A card saved with CRLF is still recognised, block by block."""
    pendulum().push_to_hub(REPO, name=NAME)
    edit(hub, ("\n", "\r\n"))
    pendulum(seed=1).push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    assert text.count(f"end {NAME} -->") == text.count("end usage -->") == 1
    assert DatasetCard(text).data.configs[0]["config_name"] == NAME


def test_a_repository_that_was_there(hub: HubServer):
    """Someone's own card, files and Minari list are joined, not replaced."""
    hub.put(REPO, {
        "README.md": b"---\ntags: [robots]\nconfigs:\n- config_name: raw\n  data_files: raw.csv\n  default: true\n---\n# Robots\n",
        "raw.csv": b"a\n1\n",
        "big-v0/data/metadata.json": b"{}",
        "namespace_metadata.json": b'{"description": "Robots", "datasets": ["synsets/big-v0", "synsets/gone-v0"], "more": 1}',
    })  # fmt: skip
    pendulum().push_to_hub(REPO, name=NAME)
    files = hub.files(REPO)
    card = DatasetCard(files["README.md"].decode())
    assert card.text.startswith("# Robots\n")
    assert card.data.tags[0] == "robots"
    assert [(c["config_name"], c.get("default")) for c in card.data.configs] == [(NAME, True), ("raw", None)]
    assert json.loads(files["namespace_metadata.json"]) == {
        "description": "Robots", "namespaces": [], "more": 1, "datasets": ["synsets/big-v0", f"synsets/{NAME}"],
    }  # fmt: skip
    assert files["raw.csv"] == b"a\n1\n"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("README.md", b"---\na: [\n---\n", "front matter of README.md in 'me/synsets' is no YAML.*Mend it"),
        ("README.md", b"---\n- a\n---\n", "front matter of README.md.*Mend it"),
        ("namespace_metadata.json", b"{", "namespace_metadata.json of 'me/synsets' is no list.*Delete it"),
        ("namespace_metadata.json", b"[]", "namespace_metadata.json of 'me/synsets' is no list.*Delete it"),
    ],
)
def test_broken_lists_are_not_overwritten(hub: HubServer, path: str, content: bytes, message: str):
    """What cannot be joined is left as it is, and said."""
    hub.put(REPO, {path: content})
    with pytest.raises(HubError, match=message):
        pendulum().push_to_hub(REPO, name=NAME)
    assert hub.files(REPO) == {path: content}


@pytest.mark.parametrize("front", ["tags: 5", "configs: 5", "size_categories: 3", "license: {a: 1}"])
def test_odd_front_matter_is_named(hub: HubServer, front: str):
    """YAML that is no list where the Hub has one: named, and not touched."""
    card = f"---\n{front}\n---\nmine\n".encode()
    hub.put(REPO, {"README.md": card})
    with pytest.raises(HubError, match=f"has {front.split(':')[0]}: .*Mend it on the Hub"):
        pendulum().push_to_hub(REPO, name=NAME)
    assert hub.files(REPO)["README.md"] == card


def test_a_card_of_another_encoding(hub: HubServer):
    """A byte order mark hides nothing; Latin-1 is refused, and not made question marks of."""
    hub.put(REPO, {"README.md": "---\nlicense: mit\ntags: [mine]\n---\nmañana\n".encode("utf-8-sig")})
    pendulum().push_to_hub(REPO, name=NAME)
    card = DatasetCard(hub.files(REPO)["README.md"].decode())
    assert "mine" in card.data.tags and "mit" in card.data.to_dict()["license"] and "mañana" in card.text
    hub.put(REPO, {"README.md": "café".encode("latin-1")})
    with pytest.raises(HubError, match="README.md of .* is no text in UTF-8.*Save it as UTF-8"):
        pendulum(seed=1).push_to_hub(REPO, name=NAME)
    assert hub.files(REPO)["README.md"] == "café".encode("latin-1")


@pytest.mark.parametrize(
    "spec",
    [
        gymnasium.spec("Hopper-v5").to_json().replace("hopper_v5", "hopper_v3"),
        gymnasium.spec("Hopper-v5").to_json().replace("gymnasium.envs.mujoco", "mo_gymnasium.envs.mujoco"),
        "[]",
        "not json",
    ],
)
def test_an_environment_that_cannot_be_read_costs_its_picture_alone(
    hub: HubServer, tmp_path: Path, spec: str
):
    """Recorded with a version that this Gymnasium lacks, or with a package that is not here: pushed all the same."""
    synset = hopper(source=Source(("mujoco/hopper/medium-v0",), env_spec=spec))
    assert not render_strip(synset, tmp_path / "strip.png")
    synset.push_to_hub(REPO, name=NAME)
    assert f"{NAME}/synset/synset.json" in hub.files(REPO)
    assert not any(path.endswith("states.png") for path in hub.files(REPO))


def test_the_same_curve_gives_the_same_bytes(tmp_path: Path):
    """A figure drawn twice is the same file, so that it is not a change."""
    paths = [plots.held_out_curve(METADATA["history"], NAME, tmp_path / f"{i}.png") for i in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_strip_of_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Six states of Hopper side by side where MuJoCo can render; no strip, and no error, where it cannot."""
    assert not render_strip(pendulum(), tmp_path / "p.png")
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")
    assert not render_strip(hopper(), tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()
    monkeypatch.delenv("MUJOCO_GL")
    if not render_strip(hopper(), tmp_path / "h.png"):
        pytest.skip("MuJoCo renders nothing on this machine")
    pixels = np.asarray(Image.open(tmp_path / "h.png"))
    assert pixels.shape == (200, 1200, 3)
    first, second = pixels[:, :200].astype(int), pixels[:, 200:400].astype(int)
    assert np.abs(first - second).mean() > 1  # another pose


def test_the_strip_is_on_the_card(hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    """Drawn once, pushed with the synset, shown by the card; removed with a synset that has none."""

    def draw(synset: Synset, path: Path) -> bool:
        if synset.source.env_id == "Hopper-v5":
            Image.new("RGB", (4, 4)).save(path)
        return path.exists()

    monkeypatch.setattr("minari_distill.plots.render_strip", draw)
    hopper().push_to_hub(REPO, name=NAME)
    assert f"![Distilled states of {NAME}](card/{NAME}/states.png)" in hub.files(REPO)["README.md"].decode()
    assert hub.files(REPO)[f"card/{NAME}/states.png"].startswith(b"\x89PNG")
    pendulum().push_to_hub(REPO, name=NAME)
    assert f"card/{NAME}/states.png" not in hub.files(REPO)
    assert "states.png" not in hub.files(REPO)["README.md"].decode()


def test_yaml_is_what_the_hub_reads(hub: HubServer):
    """The front matter is plain YAML between two lines of dashes, at the very start."""
    pendulum().push_to_hub(REPO, name=NAME)
    text = hub.files(REPO)["README.md"].decode()
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front)["configs"][0]["config_name"] == NAME
