"""`minari-distill doctor`: it finds what is there and what is broken, and waits for nobody."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from minari_distill import doctor
from minari_distill.cli import app
from tests.conftest import write_dataset
from tests.hub_server import TOKEN, HubServer
from tests.synsets import make_synset

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture
def no_rendering(monkeypatch):
    """Trying OpenGL takes a second."""
    monkeypatch.setattr(doctor, "rendering", lambda: doctor.Check("rendering", "ok", "not tried"))


@pytest.fixture
def hub(monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def examine(*arguments):
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return result, {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_a_machine_in_order(hub, no_rendering):
    """Every version, what the store holds, who is logged in, and never the token."""
    write_dataset()
    make_synset().save("me/pairs-v0")
    result, checks = examine()
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["ok"] is True and None not in found["versions"].values()
    assert "2 datasets, 1 of them synsets" in checks["store"]["found"]
    assert checks["Hub"] == {
        "name": "Hub",
        "status": "ok",
        "found": f"{hub.url}, logged in as me",
        "repair": "",
    }
    assert TOKEN not in result.output
    assert checks["device"]["found"].startswith(("cpu", "cuda")) and checks["threads"]["status"] == "ok"
    text = CliRunner().invoke(app, ["doctor"])
    assert text.exit_code == 0 and "✓" in text.output and "torch" in text.output and TOKEN not in text.output


def test_a_store_that_cannot_be_written(tmp_path, monkeypatch, no_rendering, hub):
    """Exit code 1, what is wrong, and the variable to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "store"))
    result, checks = examine()
    assert result.exit_code == 1 and json.loads(result.stdout)["ok"] is False
    assert checks["store"]["status"] == "error" and "MINARI_DATASETS_PATH" in checks["store"]["repair"]


def test_a_hub_that_never_answers(monkeypatch):
    """Half a second to wait is half a second."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        began = time.perf_counter()
        check = doctor.hub(0.5)
        assert check.status == "warning" and time.perf_counter() - began < 3
    assert "cannot be reached" in doctor.hub(5).found  # nobody listens any more


def test_a_hub_that_refuses(hub, monkeypatch):
    """No login is fine for public synsets, a bad token is not, and a fault is the Hub's."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    check = doctor.hub(5)
    assert check.status == "warning" and "not accepted" in check.found and check.repair == "hf auth login"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert doctor.hub(5).status == "ok" and "not logged in" in doctor.hub(5).found
    hub.fail("GET", "whoami", status=503)
    assert "status 503" in doctor.hub(5).found
    hub.faults.clear()
    hub.fail("GET", "whoami", kind="html", status=200)
    page = doctor.hub(5)
    assert page.status == "warning" and "no Hub's" in page.found and "check the network" in page.repair
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in doctor.hub(5).repair


def test_no_opengl(monkeypatch):
    """What was tried, and what to install."""
    monkeypatch.setenv("MUJOCO_GL", "no-such-library")
    check = doctor.rendering()
    assert check.status == "warning" and "no-such-library" in check.found and "libosmesa6" in check.repair


def test_a_missing_library_and_an_absent_extra():
    """The first is an error with its repair, the second is fine."""
    assert doctor.libraries({"torch": "2", "minari": None}).repair == "pip install minari"
    check = doctor.extra("no-such-library")
    assert check.status == "absent" and check.repair == 'pip install "minari-distill[no-such-library]"'


def test_more_threads_than_cores(monkeypatch):
    """They make PyTorch many times slower: a warning, and the variable to set."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert doctor.threads() == doctor.Check(
        "threads", "warning", "8 of PyTorch's on 1 cores", "export OMP_NUM_THREADS=1"
    )


def test_a_check_that_breaks_is_a_finding(monkeypatch, hub, no_rendering):
    """The others are made all the same."""

    def fall() -> doctor.Check:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(doctor, "device", fall)
    result, checks = examine()
    assert result.exit_code == 1 and checks["device"]["found"] == "RuntimeError: driver too old"
    assert checks["store"]["status"] == "ok"
