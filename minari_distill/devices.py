"""Where tensors live."""

from __future__ import annotations

import os

import torch

from minari_distill.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device of a setting: "auto" is a GPU where there is one.

    Raises:
        ConfigError: The device does not exist here.
    """
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={name!r} is no device. Give 'auto', 'cpu' or 'cuda'.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(
            f"device={name!r} is a device that this package does not run on. Give 'auto', 'cpu' or 'cuda'."
        )
    if not gpus:
        raise ConfigError(f"device={name!r} is not available here: PyTorch sees no GPU. Give device='auto'.")
    if (device.index or 0) >= gpus:
        raise ConfigError(
            f"device={name!r} is not available here: PyTorch sees {gpus} GPUs, the first of them 'cuda:0'."
        )
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun's processes, on this machine
    if beside > gpus:
        raise ConfigError(
            f"{beside} processes were started on a machine with {gpus} GPUs. Give torchrun --nproc-per-node={gpus}, or --device cpu."
        )
    if beside > 1 and device.index is not None:
        raise ConfigError(
            f"device={name!r} would put {beside} processes on one GPU. Give device='cuda': each takes its own."
        )
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
