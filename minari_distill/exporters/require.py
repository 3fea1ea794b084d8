"""A codebase that is not installed answers with the command that installs it.

>>> with needs("d3rlpy"):
...     import d3rlpy                                                # doctest: +SKIP
ExportError: d3rlpy is not installed here. Install it with: pip install 'minari-distill[d3rlpy]'
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minari_distill.errors import ExportError

INSTALL = {
    "d3rlpy": "pip install 'minari-distill[d3rlpy]'",
    "torchrl": "pip install 'minari-distill[torchrl]'",
    # imitation 1.0.1 pins gymnasium 0.29, which Minari has left behind; it runs on later ones.
    "imitation": "pip install 'minari-distill[imitation]' && pip install --no-deps imitation==1.0.1",
    "stable_baselines3": "pip install 'minari-distill[stable-baselines3]'",
    "tianshou": "pip install 'minari-distill[tianshou]'",
    "ray": "pip install 'minari-distill[rllib]'",
}
"""The import name of each codebase → what to type."""


@contextmanager
def needs(codebase: str) -> Iterator[None]:
    """Around the imports of a codebase.

    Raises:
        ExportError: It, or something that it needs, is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        what = "is not installed here" if missing == codebase else f"cannot be imported here ({error})"
        raise ExportError(f"{codebase} {what}. Install it with: {INSTALL[codebase]}") from error
