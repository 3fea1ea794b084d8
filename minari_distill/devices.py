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
    """The numbers of a setting: "auto" is "bfloat16" on a CPU that multiplies it in hardware, else "float32".

    That is AMX (Xeons from Sapphire Rapids on) or AVX-512 BF16 (EPYC and Ryzen from Zen 4 on); how much each
    gains stands in docs/performance.md.
    """
    if name != "auto":
        return name
    in_hardware = any(
        getattr(torch.cpu, asked, lambda: False)()
        for asked in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return "bfloat16" if device.type == "cpu" and in_hardware else "float32"
