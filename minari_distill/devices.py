"""Where tensors live."""

from __future__ import annotations

import torch

from minari_distill.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device of a setting: "auto" is a GPU where there is one.

    Raises:
        ConfigError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r} is no device. Give 'auto', 'cpu' or 'cuda'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name!r} is not available here: PyTorch sees no GPU. Give device='auto'.")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The numbers of a setting: "auto" is "bfloat16" on a CPU that multiplies it in hardware (AMX), else "float32"."""
    if name != "auto":
        return name
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bfloat16" if device.type == "cpu" and has_amx() else "float32"
