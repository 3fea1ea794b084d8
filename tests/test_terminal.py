"""The command line in a real terminal: a pseudo-terminal of 100 columns, keys pressed, what is shown read back."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from minari_distill.transitions import EMBEDDED_ID
from tests.test_cli import FLAGS


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 100):
        self.shown = ""
        self._end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

        def own_terminal() -> None:  # so that Ctrl-C is a signal for this command alone
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minari_distill", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            preexec_fn=own_terminal,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(inner)

    def read_until(self, pattern: str, seconds: float = 120) -> str:
        """Wait until what was shown, without its colours and movements, matches."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert self._read(deadline - time.monotonic()), f"{pattern!r} was not shown:\n{self.text}"
        return self.text

    def finish(self, seconds: float = 120) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(10)

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    def _read(self, seconds: float) -> bool:
        """Take in what there is to read; False at the end or when time is up."""
        if seconds <= 0 or not select.select([self._end], [], [], seconds)[0]:
            return False
        try:
            block = os.read(self._end, 65536)
        except OSError:  # Linux answers EIO once the other side is closed
            return False
        self.shown += block.decode(errors="replace")
        return bool(block)


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    """A maker of terminals, closed at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    opened = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


DISTILL = ("distill", EMBEDDED_ID, "-o", "me/hop-v0", *FLAGS)


def test_progress_shows_a_bar_losses_and_the_time_left_until_ctrl_c(terminal):
    """A bar that is redrawn in place; the first Ctrl-C saves the best so far and says how to go on."""
    screen = terminal(*DISTILL, "--set", "outer_steps=100000")
    bar = r"distil +[━╸╺ ]+ +\d+/100000 +loss 0\.\d{4}  held out 0\.\d{4}  \d[\d.]* (s|min|h) left"
    screen.read_until(bar)
    assert "\x1b[2K" in screen.shown and "\x1b[?25l" in screen.shown  # redrawn, and the cursor hidden
    assert re.search(r"On this machine: distillation about", screen.text)
    screen.press("\x03")
    screen.read_until("Ending after this step; press Ctrl-C again to end at once")
    assert screen.finish() == 0
    assert re.search(
        r"Stopped after \d+ of 100000 steps; .* the same command and --resume", " ".join(screen.text.split())
    )
    assert (
        screen.shown.rstrip().endswith("minari-distill evaluate me/hop-v0\x1b[0m") or "Next:" in screen.text
    )
    assert "\x1b[?25h" in screen.shown  # the cursor is back


def test_the_second_ctrl_c_ends_at_once_with_130(terminal):
    """While a slow outer step is under way; nothing is saved."""
    screen = terminal(
        *DISTILL, "--set", "outer_steps=100000", "--set", "hidden_width=1024", "--n-syn", "1024"
    )
    screen.read_until(r"distil +[━╸╺ ]+ +\d+/100000|On this machine")
    screen.press("\x03")
    screen.read_until("Ctrl-C again")
    screen.press("\x03")
    assert screen.finish() == 130
    assert "Interrupted." in screen.text and "Traceback" not in screen.text


def test_lines_fit_the_terminal_and_errors_are_red(terminal):
    """One red line on stderr, exit code 1; --verbose shows where it came from."""
    screen = terminal("show", "me/none-v0")
    assert screen.finish() == 1
    assert "\x1b[31m" in screen.shown and "Traceback" not in screen.text and "me/none-v0" in screen.text
    screen = terminal("--verbose", "show", "me/none-v0")
    assert screen.finish() == 1 and "Traceback" in screen.text and "SynsetError" in screen.text


def test_in_a_pipe_there_are_no_bars(tmp_path, monkeypatch):
    """No escape sequences; JSON alone on standard output, nothing on standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [sys.executable, "-m", "minari_distill", *DISTILL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr and "Saved me/hop-v0" in done.stderr
    done = subprocess.run(
        [*command, "--overwrite", "--run-dir", "other", "--json"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("{") and done.stderr == ""
