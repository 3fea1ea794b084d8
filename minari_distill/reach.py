"""Whether the server of Minari's datasets can be asked at all: one quick question, before any patient download.

huggingface_hub repeats a request five times and prints a line for each; without a network an unknown id would take
twenty seconds to be called unknown.
"""

from __future__ import annotations

import os
import threading

from huggingface_hub import constants
from huggingface_hub.utils import get_session
from minari.storage.remotes import DEFAULT_REMOTE

PATIENCE = 5.0
"""Seconds that the first answer may take."""


def why_unreachable(patience: float = PATIENCE) -> str | None:
    """Why no dataset can be fetched now, in words; None if the server answers, whatever it says."""
    if not os.getenv("MINARI_REMOTE", DEFAULT_REMOTE).startswith("hf://"):
        return None  # another kind of store, whose own errors come at once
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    fault: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=patience)
            fault.append("")
        except Exception as error:  # the HTTP client's, the operating system's, a proxy's …
            fault.append(f"{type(error).__name__}: {error}".splitlines()[0])

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no timeout
    asking.start()
    asking.join(patience + 1)
    reason = fault[0] if fault else f"no answer in {patience:g} s"
    return f"{constants.ENDPOINT} cannot be reached ({reason})" if reason else None
