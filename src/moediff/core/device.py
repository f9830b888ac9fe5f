"""Devices and precision: the names that users give, and whether a processor is fast in bfloat16."""

from __future__ import annotations

import math
import os
import re

import torch

from moediff.core.errors import ConfigError
from moediff.core.volume import Grid, Volume

BYTES_A_VOXEL = 64  # of the target grid: sixteen volumes of float32, more than are ever alive together
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SLOW_BFLOAT16 = (
    "this processor has no instructions for bfloat16, so it is slower here than float32 and less exact: "
    "leave --dtype out"
)


def parse_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:N" means here.

    Raises:
        ConfigError: an unknown name, or a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not (known := re.fullmatch(r"cuda(?::([0-9]+))?", name)):
        raise ConfigError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available() or int(known[1] or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return torch.device(name)


def visible_gpus(name: str) -> tuple[str, ...]:
    """The GPUs that a device's name leaves open, as CUDA_VISIBLE_DEVICES names them; empty where it means the CPU.

    A GPU of a number ("cuda:1") is named by an empty text: it is found by its number among those that are visible now.

    Raises:
        ConfigError: see `parse_device`.
    """
    device = parse_device(name)
    if device.type != "cuda":
        return ()
    if ":" in name:
        return ("",)
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(word.strip() for word in named.split(","))[:count] if named else tuple(map(str, range(count)))


def move_if_it_fits(scan: Volume, target: Grid, device: torch.device, memory_mb: int) -> Volume:
    """The scan on the device, if a result on the target grid fits there, else where it is.

    Args:
        memory_mb: what the network's tiles need in addition.
    """
    if device.type == "cuda":
        needed = BYTES_A_VOXEL * math.prod(target.shape) + memory_mb * 2**20
        if torch.cuda.mem_get_info(device)[0] < needed:
            return scan
    return scan.to(device)


def parse_dtype(name: str) -> torch.dtype:
    """The precision that layers compute in.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is unknown; choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own; True where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        known = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # an older torch
        return True
    return any(bool(known[name]) for name in known if name.endswith("bf16"))


def precision_warnings(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """A warning where the requested precision is slower than float32."""
    return (SLOW_BFLOAT16,) if dtype == torch.bfloat16 and not has_fast_bfloat16(device) else ()
