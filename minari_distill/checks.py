"""What settings may be: the checks that `StudentRecipe` and `DistillConfig` share, and their messages."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from minari_distill.errors import ConfigError, did_you_mean


def check_one_of(name: str, value: str, known: Any) -> None:
    """Refuse a value that is not among `known`, with the nearest that is."""
    if value not in known:
        raise ConfigError(
            f"{name}={value!r} is unknown.{did_you_mean(str(value), known)} "
            f"Choose one of: {', '.join(known)}."
        )


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number below `least`."""
    if value < least:
        raise ConfigError(f"{name}={value} must be at least {least}.")


def check_seed(seed: int) -> int:
    """The seed as Python's own number; refuses what no generator takes.

    Raises:
        ConfigError: It is no whole number from 0 to 2⁶³ − 1.
    """
    if not (isinstance(seed, Integral) and 0 <= seed < 2**63):
        raise ConfigError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1, for example seed=0.")
    return int(seed)


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """The number as Python's own; refuses halves, texts and what is below `least`.

    Raises:
        ConfigError: It is no whole number from `least` on.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{name}={value!r} must be a whole number, at least {least}: for example {name}=10."
        )
    return int(value)


def _right_kind(name: str, value: Any, default: Any) -> None:
    """Refuse a text where a number belongs, half a step, or a number where a name belongs."""
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits, kind = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        fits, kind = isinstance(value, Real) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), "a name"
    else:
        fits, kind = isinstance(value, list | tuple), "a list"
    if not fits:
        raise ConfigError(f"{name}={value!r} must be {kind}, for example {name}={default!r}.")


def check_kinds(config: Any) -> None:
    """Refuse a field of another kind than its default: text for a number, half a step. Arrays become lists first."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        # NumPy's and torch's, which this layer does not import
        if type(value).__name__ in ("ndarray", "device"):
            value = value.tolist() if hasattr(value, "tolist") else str(value)
            object.__setattr__(config, field.name, value)
        _right_kind(field.name, value, field.default)


def check_positive(name: str, value: float) -> None:
    """Refuse what is not above 0 and finite."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name}={value} must be positive and finite.")


def check_betas(name: str, value: Any) -> None:
    """Refuse what is not two numbers from 0 to below 1."""
    if not (len(value) == 2 and all(isinstance(b, Real) and 0 <= float(b) < 1 for b in value)):
        raise ConfigError(
            f"{name}={value!r} must be two numbers from 0 to below 1, for example {name}=(0.9, 0.999)."
        )


def make_python(config: Any) -> None:
    """NumPy's numbers as Python's own, lists as tuples: what JSON writes and reads back."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple):
            value = tuple(map(float, value))
        elif isinstance(value, Integral) and not isinstance(value, bool):
            value = int(value)
        elif isinstance(value, Real) and not isinstance(value, bool):
            value = float(value)
        object.__setattr__(config, field.name, value)


def replace_fields(config: Any, changes: dict[str, Any]) -> Any:
    """`config` with `changes`; an unknown name is answered with the nearest one."""
    known = [f.name for f in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            raise ConfigError(
                f"Unknown setting {name!r}.{did_you_mean(name, known)} Known settings: {', '.join(known)}."
            )
    return dataclasses.replace(config, **changes)
