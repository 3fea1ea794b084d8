"""What the tests of the Hub push and pull, and how they ask the real clients."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from huggingface_hub import DatasetCard

from minari_distill.source import Source
from minari_distill.synset import Synset
from tests.hub_server import TOKEN, HubServer
from tests.synsets import make_synset

CLIENTS_OWN_WARNINGS = [  # huggingface_hub's own: its uploads of large files, and connections that are still open at the end
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

REPO, NAME = "me/synsets", "pendulum-distilled-v0"

ADDRESS = f"hf://{REPO}/{NAME}"

PENDULUM = Source(
    ("test/pendulum-v0",),
    env_spec=gymnasium.spec("Pendulum-v1").to_json(),
    ref_min_score=-1600.0,
    ref_max_score=-100.0,
    ref_origin="dataset metadata",
    license="CC BY 4.0",
    total_steps=12,
    total_episodes=3,
)

SCORE = {"mean": 50.0, "ci95_half_width": 3.0, "n_policies": 5, "n_episodes": 10, "greedy": True,
         "unit": "normalised, 0 to 100", "ref_origin": "dataset metadata"}  # fmt: skip

METADATA = {
    "history": [
        {"step": 0, "loss": None, "held_out_loss": 0.3},
        {"step": 25, "loss": 0.2, "held_out_loss": 0.1},
    ],
    "held_out_loss": 0.1,
    "scores": {"synset": SCORE},
}


def pendulum(n: int = 6, seed: int = 0, **fields) -> Synset:
    """A synset that brings all that a card can show."""
    return make_synset(n, seed=seed, **{"source": PENDULUM, "metadata": METADATA} | fields)


def forget(tmp_path: Path) -> None:
    """Empty Hugging Face's cache."""
    subprocess.run(["rm", "-rf", str(tmp_path / "hf")], check=True)


def clients(hub: HubServer, folder: Path) -> dict[str, str]:
    """The environment of a process of a fresh machine that talks to the test Hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MINARI_"))}
    root = Path(__file__).parents[2]
    return clean | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": TOKEN,
        "MINARI_DATASETS_PATH": str(folder / "minari"),
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        "OMP_NUM_THREADS": "1",
    }


def contents_of(files: dict[str, bytes], name: str) -> dict[str, str]:
    """What `contents` says of a folder with the files below `name`."""
    inside = {
        path.removeprefix(f"{name}/"): content for path, content in files.items() if path.startswith(name)
    }
    folders = {
        str(parent): "folder" for path in inside for parent in Path(path).parents if str(parent) != "."
    }
    return dict(sorted((folders | {p: hashlib.sha256(c).hexdigest() for p, c in inside.items()}).items()))


def listing(hub: HubServer, repo: str = REPO) -> tuple[list[str], list[str], str]:
    """Names in the card's configs, names in Minari's list, and the default."""
    files = hub.files(repo)
    configs = DatasetCard(files["README.md"].decode()).data.configs
    datasets = json.loads(files["namespace_metadata.json"])["datasets"]
    [default] = [c["config_name"] for c in configs if c.get("default")]
    return sorted(c["config_name"] for c in configs), [i.split("/")[1] for i in datasets], default


def edit(hub: HubServer, *changes: tuple[str, str], repo: str = REPO) -> str:
    """Edit the card as one does in the browser; returns the whole new text."""
    text = hub.files(repo)["README.md"].decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    hub.put(repo, {"README.md": text.encode()})
    return text


def hopper(**fields) -> Synset:
    """Six states around Hopper's initial one."""
    space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
    states = np.float32([1.25] + [0] * 10) + 0.1 * np.random.default_rng(0).normal(size=(6, 11)).astype(
        np.float32
    )
    source = Source(("mujoco/hopper/medium-v0",), env_spec=gymnasium.spec("Hopper-v5").to_json())
    return make_synset(
        6, space, spaces.Box(-1, 1, (3,), np.float32), **{"observations": states, "source": source} | fields
    )
