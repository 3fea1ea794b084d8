"""Environment specs of datasets that come from anywhere, read without running what they ask for.

`gymnasium.make` calls whatever a spec's entry point names, `os:system` with arguments too. Here an entry point is
accepted if Gymnasium has registered it under that id, or if it is a class of environments (or wrappers).
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry

from minari_distill.errors import EnvironmentUnavailable


def read_env_spec(text: str) -> EnvSpec:
    """The spec in `text` (JSON, as Minari's metadata holds it), fit for `gymnasium.make`.

    Raises:
        EnvironmentUnavailable: It names something to call that is no environment.
        Exception: It cannot be read, or names a package that is not installed.
    """
    spec = EnvSpec.from_json(text)
    known = registry.get(spec.id)
    if not (known and known.entry_point == spec.entry_point):
        _refuse_unless(spec.entry_point, gymnasium.Env, spec.id)
    for wrapper in spec.additional_wrappers:
        _refuse_unless(wrapper.entry_point, gymnasium.Wrapper, spec.id)
    return spec


def _refuse_unless(entry_point: Any, kind: type, env_id: str) -> None:
    module, _, name = str(entry_point).partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise EnvironmentUnavailable(
            f"The environment {env_id!r} would be made by calling {str(entry_point)!r}, which is no "
            f"gymnasium.{kind.__name__}: refused. If you trust it, register it first: gymnasium.register(id={env_id!r}, "
            f"entry_point={str(entry_point)!r})"
        )
