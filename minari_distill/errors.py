"""The errors a user can meet, each a sentence that says what was given, what was expected and what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MinariDistillError(ValueError):
    """Base of every error that a user can repair; the command line prints it as one line."""


class ConfigError(MinariDistillError):
    """A setting is misspelt or out of range."""


class DatasetError(MinariDistillError):
    """A dataset cannot be found, read or used."""


class TeacherError(MinariDistillError):
    """A teacher file cannot be read, or does not fit the dataset."""


class RunError(MinariDistillError):
    """A run's folder can no longer be written."""


class SynsetError(MinariDistillError):
    """A synset cannot be built, saved or loaded."""


class HubError(MinariDistillError):
    """The Hugging Face Hub cannot be reached, refuses a request, or does not hold what was asked for."""


class ExportError(MinariDistillError):
    """A synset cannot be given to another codebase, or the codebase is not installed."""


class EnvironmentUnavailable(MinariDistillError):
    """The dataset's environment cannot be made here, so nothing can be evaluated."""


class Diverged(MinariDistillError):
    """The optimisation left the range of finite numbers and did not come back."""


class TeamError(MinariDistillError):
    """A process of a distributed run is gone."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the nearest known word, or nothing where none is near.

    >>> did_you_mean("n_sin", ["n_syn", "seed"])
    " Did you mean 'n_syn'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def missing_package(what: str, package: str, extra: str) -> str:
    """The sentence for an optional library that is not installed.

    >>> missing_package("Reading an ONNX policy", "onnxruntime", "onnx")
    "Reading an ONNX policy needs onnxruntime. Install it with: pip install 'minari-distill[onnx]'"
    """
    return f"{what} needs {package}. Install it with: pip install 'minari-distill[{extra}]'"
