"""Where a run computes, in which precision, and how small tensors get there without waiting."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from evo.errors import UserError
from training.cores import EMULATED, emulates_bfloat16, usable_cores
from training.launched import launched
from training.progress import speaks

OLDEST_COMPILED = (7, 0)  # CUDA capability that Triton needs
COMPILERS = ("torch._dynamo.", "torch._inductor.", "torch._functorch.", "triton.")  # where their exceptions are defined


def pick_device(name: str = "auto", threads: int | None = None) -> torch.device:
    """The device that run.device names, made the process's own, with run.threads; auto takes CUDA where there is one.

    Of several processes on a machine each takes the GPU of its number. Raises UserError where it is absent.
    """
    use_threads(threads)
    local = launched("LOCAL_RANK", 0)
    several = launched("WORLD_SIZE", 1) > 1
    asked = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if several and device.index is not None:
        raise UserError(f"run.device={name} is one GPU, but several processes run; use -s run.device=cuda, or auto")
    index = local if device.index is None else device.index
    if device.type == "cuda" and index >= torch.cuda.device_count():
        what = f"GPU {local}, for process {local} of this machine," if several else f"run.device={asked}"
        raise UserError(
            f"{what} is not there ({torch.cuda.device_count()} GPUs found); use -s run.device=cpu or auto, or fewer "
            "processes"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"run.device={asked} is not there; use -s run.device=cpu or auto")
    if device.type == "cuda":
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # one input shape: the fastest kernel is found once
        torch.set_float32_matmul_precision("high")
    return device


def use_threads(count: int | None) -> None:
    """Compute with `count` CPU threads; None: as OMP_NUM_THREADS says, else as many as the process has cores.

    PyTorch counts the machine's cores also in a container that may use a part of their time.
    """
    if count is None and "OMP_NUM_THREADS" not in os.environ:
        count = min(torch.get_num_threads(), usable_cores())
    if count is not None:
        torch.set_num_threads(count)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype that train.precision asks for, None for float32; auto: bfloat16 on a GPU that has it in hardware."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    return dtype_of(precision, device, "train.precision")


def dtype_of(precision: str, device: torch.device, option: str) -> torch.dtype | None:
    """The dtype of `bfloat16`, None for `float32`; a line says where a CPU emulates what `option` asks for."""
    if precision != "bfloat16":
        return None
    if device.type == "cpu":
        _tell_of_emulation(option)
    return torch.bfloat16


@cache  # once for an option
def _tell_of_emulation(option: str) -> None:
    if emulates_bfloat16() and speaks():
        print(f"run: {EMULATED}; set -s {option}=float32", file=sys.stderr)


def compiles(wanted: str, device: torch.device) -> bool:
    """Whether to train through torch.compile. wanted: yes, no, or auto: on CUDA with what its compiler needs."""
    if wanted != "auto":
        return wanted == "yes"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OLDEST_COMPILED:
        return False
    compiler = os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang", "cc"))
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return bool(compiler) and headers.is_file() and find_spec("triton") is not None


@contextmanager
def compile_explained() -> Iterator[None]:
    """Turn what torch.compile raises, at a first step, into a UserError that says how to do without it.

    Running out of memory meanwhile stays what it is, for memory_explained around this.
    """
    try:
        yield
    except Exception as error:
        if not any(kind.__module__.startswith(COMPILERS) for kind in type(error).__mro__):
            raise
        cause = getattr(error, "inner_exception", None)
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        what = " ".join(next(iter(str(error if cause is None else cause).strip().splitlines()), "").split())
        name = type(error if cause is None else cause).__name__
        raise UserError(f"torch.compile failed ({name}: {what:.200}); set -s train.compile=no") from error


@contextmanager
def memory_explained(hint: str) -> Iterator[None]:
    """Turn running out of memory into a UserError that says which option to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of device memory ({' '.join(str(error).split()):.100}...); {hint}") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise UserError(f"out of memory; {hint}") from None


def clock(device: torch.device) -> float:
    """Seconds, read once the device has done all that is queued: for measuring."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; the copy to a GPU is queued there, so that nobody waits for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def memory_format_of(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format in which a model trains fastest, without harm.

    On CPUs the gradients of convolutions of fewer than 8 channels damage memory in channels-last format (torch 2.15, float32,
    1x1 with stride 2: the process ends with "corrupted double-linked list").
    """
    narrow = any(isinstance(module, nn.Conv2d) and module.out_channels < 8 for module in model.modules())
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last
