"""Where a run computes, in which precision, and how small tensors get there without waiting."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from training.config import Config, RunOptions, UserError


def pick_device(options: RunOptions) -> torch.device:
    """The device asked for; auto takes CUDA where there is one. Raises UserError where it is absent."""
    if options.device == "auto":
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun numbers the processes of a machine
        return torch.device(own if torch.cuda.is_available() else "cpu")
    device = torch.device(options.device)
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"run.device={options.device} is not there; use -s run.device=cpu or auto")
    return device


def autocast_type(config: Config, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in, None for float32."""
    wanted = config.train.precision
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else None


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; the copy to a GPU is queued there, so that nobody waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
