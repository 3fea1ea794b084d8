"""An id that is neither here nor reachable: said at once, in one line, without a word of retries."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time

import minari
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from minari_distill import locate, reach
from minari_distill.cli import app
from minari_distill.errors import DatasetError
from minari_distill.transitions import load_transitions
from tests.conftest import write_dataset


@pytest.fixture
def server(monkeypatch):
    """A listening port of this machine that never answers, as the Hub's address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


@pytest.fixture
def offline(server, monkeypatch):
    """The Hub's address refuses every connection; a download that is tried all the same fails the test."""
    server.close()
    monkeypatch.setattr(locate, "why_unreachable", reach.why_unreachable)
    monkeypatch.setattr(minari, "download_dataset", lambda *_: pytest.fail("a download was tried"))


def test_an_unknown_id_without_a_network_is_answered_at_once(offline, caplog, capfd):
    """One sentence with the nearest id and what to type; nothing is printed, nothing logged, nothing repeated."""
    write_dataset("mujoco/hopper/medium-v0")
    began, said = time.perf_counter(), []
    with caplog.at_level(logging.WARNING), pytest.raises(DatasetError) as error:
        load_transitions("mujoco/hoper/medium-v0", on_message=said.append)
    assert time.perf_counter() - began < 3
    message = str(error.value)
    assert message.startswith(
        "Dataset 'mujoco/hoper/medium-v0' not found on this machine, nor can it be downloaded: "
    )
    assert f"{constants.ENDPOINT} cannot be reached (" in message
    assert "Did you mean 'mujoco/hopper/medium-v0'?" in message
    assert message.endswith("minari download mujoco/hoper/medium-v0")
    assert "\n" not in message
    assert (said, caplog.messages, capfd.readouterr()) == ([], [], ("", ""))


def test_the_command_line_prints_one_sentence(offline):
    result = CliRunner().invoke(app, ["distill", "mujoco/hoper/medium-v0"])
    assert result.exit_code == 1
    assert "Retry" not in result.output
    assert " ".join(result.output.split()).count("not found on this machine") == 1


def test_a_local_dataset_asks_nobody(offline, monkeypatch):
    """Neither by id nor by folder."""
    monkeypatch.setattr(locate, "why_unreachable", lambda: pytest.fail("the network was asked"))
    write_dataset("mujoco/hopper/medium-v0")
    assert len(load_transitions("mujoco/hopper/medium-v0")) == 12


def test_silence_is_no_answer(server):
    """A server that takes the connection and says nothing."""
    began = time.perf_counter()
    assert "cannot be reached (" in reach.why_unreachable(0.2)
    assert time.perf_counter() - began < 3


def test_a_name_that_is_never_resolved_is_no_answer(monkeypatch):
    """Looking up a name has no timeout of its own."""
    waiting = threading.Event()
    monkeypatch.setattr(reach, "get_session", lambda: waiting.wait(20))
    monkeypatch.setattr(reach.threading, "Thread", ImpatientThread)
    assert "cannot be reached (no answer in 0.1 s)" in reach.why_unreachable(0.1)
    waiting.set()


class ImpatientThread(threading.Thread):
    """Joins a hundred times sooner."""

    def join(self, timeout=None):
        super().join(timeout and timeout / 10)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_answer_will_do(monkeypatch, status):
    """Whatever the server says, it is there: what follows is Minari's to do."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
        assert reach.why_unreachable() is None
        httpd.shutdown()
        thread.join()


def test_offline_mode_is_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert reach.why_unreachable() == "HF_HUB_OFFLINE is set"


def test_another_kind_of_store_is_left_to_minari(offline, monkeypatch):
    monkeypatch.setenv("MINARI_REMOTE", "gcp://some-bucket")
    assert reach.why_unreachable() is None
