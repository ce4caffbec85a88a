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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from evo.errors import LostProcessError, UserError
from training.launched import NEEDED, check_launched, launched

# What gloo, NCCL and torch's store say when a process they wait for is gone.
GONE = (
    "closed by peer", "connection reset", "connection refused", "broken pipe", "timed out", "failed to recv",
    "ncclremoteerror", "remote process exited", "remote process exiting", "connection closed", "peer closed connection",
    "communicator was aborted", "collective operation timeout",
)  # fmt: skip
SHARED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        keep: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False
        }
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **keep)

    def average_statistics(self, model: nn.Module) -> None:
        """Average running means and variances that are not shared, so that all ranks keep one model."""
        buffers = _own_statistics(model) if self.size > 1 else []
        if not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        for buffer, mean in zip(buffers, (flat / self.size).split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.view(buffer.shape))


_joined = False  # whether `start` made the process group


def start(device: torch.device) -> World:
    """Join the processes that were started together; a process alone gets World(0, 1).

    Raises UserError where the environment does not say what each of several processes has to know.
    """
    global _joined  # noqa: PLW0603 (a process has one group)
    check_launched(NEEDED)
    size = launched("WORLD_SIZE", 1)
    if size == 1:
        return World()
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            place = f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}"
            raise UserError(
                f"the {size} processes do not meet at {place} ({' '.join(str(error).split()):.200}); give all of them the "
                "address of the first one's machine, and a port that is free there"
            ) from None
        _joined = True
    return World(dist.get_rank(), size, dist.new_group(backend="gloo"))


def stop() -> None:
    """Leave the processes that `start` joined, once all have done their work; a process alone does nothing."""
    global _joined  # noqa: PLW0603 (a process has one group)
    if _joined and dist.is_initialized():
        dist.destroy_process_group()
    _joined = False


@contextmanager
def lost_processes_explained() -> Iterator[None]:
    """Turn what a collective raises when another process has died into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not any(sign in str(error).lower() for sign in GONE):
            raise
        raise LostProcessError(
            f"rank {dist.get_rank()}: another process of this run has ended ({' '.join(str(error).split()):.80})"
        ) from None


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of a model on `device` see the rows of all processes. Parameters, buffers and names stay.

    torch's own and timm's BatchNormAct2d; others keep their rows to themselves, see has_own_statistics.
    """
    for module in model.modules():
        kind: Any = type(module)
        if kind in SHARED or (kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")):
            module.__class__ = _sharing(kind)
    return model.to(device)


def has_own_statistics(model: nn.Module) -> bool:
    """Whether some layer keeps statistics of its own process's rows: World.average_statistics is then to be called."""
    return bool(_own_statistics(model))


def _own_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances that share_batch_norm has not made equal on all ranks."""
    buffers = (
        getattr(module, name, None)
        for module in model.modules()
        if not isinstance(module, SharedBatchNorm)
        for name in ("running_mean", "running_var")
    )
    return [buffer for buffer in buffers if isinstance(buffer, Tensor)]


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the rows of all processes, without a wait for the device: torch's SyncBatchNorm
    waits for a GPU in every layer, and refuses CPUs. timm's has a dropout and an activation behind it.
    """

    normalise: ClassVar[Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]]

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        output, mean, variance, count = self.normalise(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._track(mean, variance * (count / (count - 1)))
        for name in ("drop", "act"):
            if isinstance(after := getattr(self, name, None), nn.Module):
                output = after(output)
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else self.num_batches_tracked.to(mean.dtype).reciprocal()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


@cache
def _sharing(kind: Any) -> type[SharedBatchNorm]:
    """The class of a batch norm that shares its rows."""
    # Compiled code breaks off here: DDP's splitting of graphs takes no autograd functions.
    normalise = staticmethod(torch.compiler.disable(_Normalised.apply))
    return type(f"Shared{kind.__name__}", (SharedBatchNorm, kind), {"normalise": normalise})


class _Normalised(torch.autograd.Function):
    """(B,C,...) normalised over B of all ranks and all but C, scaled and shifted; with the mean (C,), the biased
    variance (C,) and the count () over ranks, in float32 or wider. Only the input is kept for backward.
    """

    @staticmethod
    def forward(
        context: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, shape = _all_but_channels(input)
        wide = torch.promote_types(input.dtype, torch.float32)
        rows = torch.full((1,), input.numel() // input.shape[1], dtype=wide, device=input.device)
        sums = torch.cat([input.sum(dims, dtype=wide), rows])
        dist.all_reduce(sums)
        mean = sums[:-1] / sums[-1]
        count = sums[-1]
        centred = input.to(wide) - mean.view(shape)
        variance = centred.square().sum(dims)  # of what is centred: a sum of squares would lose digits
        dist.all_reduce(variance)
        variance = variance / count
        inverse = (variance + eps).rsqrt()
        context.save_for_backward(input, weight, mean, inverse, count)
        output = centred * (inverse if weight is None else inverse * weight).view(shape)
        if bias is not None:
            output = output + bias.view(shape)
        context.mark_non_differentiable(mean, variance, count)
        return output.to(input.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        input, weight, mean, inverse, count = context.saved_tensors
        dims, shape = _all_but_channels(input)
        normal = (input.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)
        gradient = gradient.to(mean.dtype)
        own = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])  # (2,C)
        sums = own.clone()
        dist.all_reduce(sums)
        shift, slope = (sums / count).unbind()
        inner = gradient - shift.view(shape) - normal * slope.view(shape)
        inner = inner * (inverse if weight is None else inverse * weight).view(shape)
        needed = context.needs_input_grad
        return inner.to(input.dtype), own[1] if needed[1] else None, own[0] if needed[2] else None, None


def _all_but_channels(input: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions to sum over, and the shape of one number a channel."""
    return [dim for dim in range(input.ndim) if dim != 1], [1, -1, *[1] * (input.ndim - 2)]
