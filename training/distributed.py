"""Several processes that train one model: who this one is, its share of rows, sums over all.

`torchrun --nproc-per-node N -m runs train RECIPE` starts N processes. From the same seed each draws the same
batches and compositions and holds the same population; each takes its share of a batch's rows and of a
search's new rows. Gradients are summed, batch-norm statistics averaged, losses gathered as tensors. Only
rank 0 writes. Started without torchrun, a process is alone and nothing here costs anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """rank: 0..size-1."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` rows; parts differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks."""
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

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum every parameter's gradient over ranks; each rank has scaled its loss by its share of rows."""
        if self.size > 1:
            self._each(dist.ReduceOp.SUM, [p.grad for p in model.parameters() if p.grad is not None])

    def average_statistics(self, model: nn.Module) -> None:
        """Average batch norm's running means and variances, so that all ranks keep one model."""
        if self.size > 1:
            buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
            self._each(dist.ReduceOp.SUM, buffers)
            for buffer in buffers:
                buffer.div_(self.size)

    def _each(self, operation: dist.ReduceOp.RedOpType, tensors: list[Tensor]) -> None:
        """Reduce tensors in place, in one message."""
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, operation)
        for tensor, reduced in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(reduced.view(tensor.shape))


def start(device: torch.device) -> World:
    """Join the processes torchrun started; a process alone gets World(0, 1)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), size)
