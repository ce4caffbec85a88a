"""Several processes that train one model: who this one is, its share of rows, sums over all.

`./run train RECIPE --devices N`, or torchrun on several machines, starts N processes. From the same seed each
draws the same batches and compositions and holds the same population; each takes its share of a batch's rows
and of a search's new rows. Gradients are reduced by torch's DistributedDataParallel, batch normalisation sees
the whole batch (train.sync_norm), losses are gathered as tensors. Only rank 0 writes. A process alone pays for
nothing here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.config import LostProcessError

# What gloo and NCCL say when a process they wait for is gone.
GONE = ("closed by peer", "Connection reset", "Connection refused", "Broken pipe", "NCCL", "timed out", "Timed out")


@dataclass(frozen=True)
class World:
    """rank: 0..size-1. control: a group on the CPU for flags, so that asking does not wait for a GPU."""

    rank: int = 0
    size: int = 1
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` rows; parts differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, part: Tensor, count: int) -> Tensor:
        """All `count` rows, (count,...), from each rank's share of them."""
        if self.size == 1:
            return part
        whole = part.new_zeros(count, *part.shape[1:])
        whole[self.share(count)] = part
        return self.sum(whole)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is up on any rank."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, self.control)
        return tuple(bool(flag) for flag in raised)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to forward in training: its backward sums gradients over ranks and divides by their number."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # Buffers are equal already (share_batch_norm), or averaged after the step. torch 2.15 renamed the option.
        names = inspect.signature(DistributedDataParallel.__init__).parameters
        keep: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **keep)

    def average_statistics(self, model: nn.Module) -> None:
        """Average batch norm's running means and variances, so that all ranks keep one model."""
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.size == 1 or not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        for buffer, mean in zip(buffers, (flat / self.size).split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view(buffer.shape))


def start(device: torch.device) -> World:
    """Join the processes that were started together; a process alone gets World(0, 1)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, dist.new_group(backend="gloo"))


@contextmanager
def lost_processes_explained() -> Iterator[None]:
    """Turn what a collective raises when another process has died into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not any(sign in str(error) for sign in GONE):
            raise
        raise LostProcessError(
            f"rank {dist.get_rank()}: another process of this run has ended ({' '.join(str(error).split()):.80})"
        ) from None


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of a model see the rows of all processes. Parameters, buffers and names stay."""
    if device.type == "cuda":
        if any(type(module).__name__ == "BatchNormAct2d" for module in model.modules()):
            from timm.layers import convert_sync_batchnorm  # torch's would drop timm's activations

            return cast(nn.Module, convert_sync_batchnorm(model))
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d  # torch's SyncBatchNorm refuses CPUs
    return model


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the rows of all processes, for the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(input)
        whole = input.float()
        count = torch.tensor(float(whole.numel() // whole.shape[1]))
        dist.all_reduce(count)
        mean = _summed(whole.sum((0, 2, 3))) / count
        centred = whole - mean.view(-1, 1, 1)
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scaled = centred * (variance + self.eps).rsqrt().view(-1, 1, 1)
        if self.affine:
            scaled = scaled * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        return scaled.to(input.dtype)


class _Summed(torch.autograd.Function):
    """The sum over ranks; so is its gradient."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole


def _summed(part: Tensor) -> Tensor:
    whole: Tensor = _Summed.apply(part)
    return whole
