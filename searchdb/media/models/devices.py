"""Chooses the device that a model runs on, and the type of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from searchdb.errors import ModelUnavailableError

if TYPE_CHECKING:
    import torch


def choose_device(name: str, wanted: str) -> torch.device:
    """Return the wanted device, or the fastest one for `auto`.

    Raises:
        ModelUnavailableError: this machine does not have it.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ModelUnavailableError(name, f"this machine has no device {wanted} (SEARCHDB_DEVICE)")
    return device


def choose_dtype(device: torch.device, wanted: str) -> torch.dtype:
    """Return the wanted type, or for `auto` the shortest one that the hardware computes with."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        cpu: Any = torch.cpu  # torch has no public check for these instructions
        if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported():
            return torch.bfloat16
    return torch.float32
