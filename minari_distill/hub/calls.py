"""Calls to the Hub: repeated where that can help, explained with their repair where it cannot.

What `insist` calls must be safe to repeat: it looks at what is there first, and changes it by one commit or not at
all. So a fault leaves a repository as it was or as it should be, and trying again is always right.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,  # the base of all of the HTTP client's errors, whichever client this version has
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from minari_distill.errors import HubError, MinariDistillError

PATIENCE = 60.0  # seconds that one answer may take; huggingface_hub itself waits for ever
TRIES = 4
MOVES = 20  # how often someone else may come first
LONGEST_WAIT = 120.0  # seconds that the Hub may ask to wait before the user is told instead
LOGIN = "log in with: hf auth login"

T = TypeVar("T")


class Moved(Exception):
    """The repository is no longer at the commit that the work began from: look again and join both."""


def insist(call: Callable[[], T], repo_id: str, doing: str) -> T:
    """The result of `call`, tried again while the fault is the network's or the Hub's own.

    Args:
        call: Safe to repeat.
        repo_id: For the messages.
        doing: "push to" or "load from", for the messages.

    Raises:
        HubError: It does not succeed; the message names the repair.
    """
    attempt, moves = 1, 0
    while True:
        try:
            with _patience():
                return call()
        except MinariDistillError:
            raise
        except Moved as error:
            moves += 1
            if moves > MOVES:
                raise HubError(
                    f"Cannot {doing} '{repo_id}': others change it all the time. Try again later.{_WHOLE}"
                ) from error
            time.sleep(random.uniform(0, 0.05 * min(moves, 10)))
            continue
        except Exception as error:
            fault = diagnose(error, repo_id, doing)
            if fault is None:
                raise
            wait = fault.wait if fault.wait is not None else 2.0 ** (attempt - 1)
            if not fault.passes or attempt == TRIES or wait > LONGEST_WAIT:
                raise HubError(fault.message) from error
        time.sleep(wait)
        attempt += 1


@dataclass(frozen=True)
class Fault:
    """What went wrong.

    Attributes:
        message: For the user, with the repair.
        passes: Whether trying again can help.
        wait: Seconds that the Hub asks to wait, if it does.
    """

    message: str
    passes: bool = False
    wait: float | None = None


def diagnose(error: BaseException, repo_id: str, doing: str) -> Fault | None:
    """What an exception of huggingface_hub means; None for one that has nothing to do with it."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, OfflineModeIsEnabled):
            return Fault(f"Cannot {doing} '{repo_id}' while HF_HUB_OFFLINE is set. Unset it and try again.")
        if getattr(link, "response", None) is not None:
            return _of_status(link, repo_id, doing)
    for link in chain:
        of_xet = isinstance(link, RuntimeError) and link is chain[-1]  # hf_xet knows no other error
        if of_xet or isinstance(link, HTTPError | json.JSONDecodeError):
            return Fault(
                f"Cannot {doing} '{repo_id}': {constants.ENDPOINT} cannot be reached, or its answer broke off "
                f"({_first_line(link)}). Check the network (and HF_ENDPOINT, if it is set) and try again.{_WHOLE}",
                passes=True,
            )
    if isinstance(error, OSError):
        if error.errno is None:  # a download of another size than announced
            return Fault(f"Cannot {doing} '{repo_id}': {_first_line(error)} Try again.{_WHOLE}", passes=True)
        where = f" in {error.filename}" if error.filename else ""
        return Fault(f"Cannot {doing} '{repo_id}': {error.strerror}{where}. Mend that and try again.")
    if isinstance(error, ValueError):
        return Fault(f"Cannot {doing} '{repo_id}': {_first_line(error)}")
    return None


_WHOLE = " What is on the Hub and on this machine is whole."


def _of_status(error: Any, repo_id: str, doing: str) -> Fault:
    status = error.response.status_code
    cannot = f"Cannot {doing} '{repo_id}'"
    page = f"{constants.ENDPOINT}/datasets/{repo_id}"
    words = _first_line(error.server_message) if getattr(error, "server_message", None) else f"error {status}"
    if isinstance(error, GatedRepoError):
        return Fault(f"{cannot}: its owner grants access one by one. Ask for it at {page}, then {LOGIN}")
    if isinstance(error, RevisionNotFoundError):
        return Fault(
            f"{cannot}: it has no such revision. Its branches, tags and commits: {page}/commits/main"
        )
    # Before 401, which is also what the Hub answers to who is not logged in and asks for what is not there.
    if status == 404 or isinstance(error, RepositoryNotFoundError):
        return Fault(f"{cannot}: the Hub has no such dataset repository, or hides it from this login. Check the "
                     f"spelling at {page}; if it is private, {LOGIN}")  # fmt: skip
    if status == 401:
        return Fault(f"{cannot}: the Hub does not accept the login. Make a token at "
                     f"{constants.ENDPOINT}/settings/tokens and {LOGIN}  (or set HF_TOKEN)")  # fmt: skip
    if status == 403:
        return Fault(f"{cannot}: the login does not allow it ({words}). Make a token with write access to it at "
                     f"{constants.ENDPOINT}/settings/tokens and {LOGIN}")  # fmt: skip
    if status == 429:
        wait = _retry_after(error.response.headers)
        pause = f"Wait {wait:.0f} s and try again" if wait else "Try again in some minutes"
        return Fault(f"{cannot}: the Hub wants fewer requests. {pause}; a login raises the limit: hf auth login",
                     passes=True, wait=wait)  # fmt: skip
    if status in (409, 412):
        return Fault(
            f"{cannot}: someone else is changing it at this moment ({words}). Try again.", passes=True
        )
    if status in (408, 416) or status >= 500:
        return Fault(f"{cannot}: the Hub answers {status} ({words}). Its state is at "
                     f"https://status.huggingface.co; try again later.{_WHOLE}", passes=True)  # fmt: skip
    return Fault(f"{cannot}: the Hub refuses it with {status} ({words}).")


def _retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first_line(error: object) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:200]


@contextmanager
def _patience() -> Iterator[None]:
    """Let no answer take for ever: most calls of huggingface_hub have no time limit of their own."""
    session = get_session()
    before = session.timeout
    session.timeout = PATIENCE
    try:
        yield
    finally:
        session.timeout = before
