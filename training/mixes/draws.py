"""What decides the draws of a PatchMix: torch's generator or one's own, the DataLoader's worker, the process's rank."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import get_worker_info

from training.compose import is_mapped

RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # what launchers call a process's number
HIGH = 2**63 - 1  # of a drawn seed, exclusive


class Draws:
    """Random numbers for one process, the same wherever torch's default dtype and device are set to.

    generator: a CPU torch.Generator, None for torch's global one, or "rank" for that and the process's rank.
    """

    def __init__(self, generator: torch.Generator | Literal["rank"] | None) -> None:
        text = isinstance(generator, str)
        sound = generator == "rank" if text else generator is None or isinstance(generator, torch.Generator)
        if not sound or (isinstance(generator, torch.Generator) and generator.device.type != "cpu"):
            raise ValueError(f'generator must be a torch.Generator on the CPU, got {generator!r}; or "rank", or None')
        self.by_rank = text
        self.generator = generator if isinstance(generator, torch.Generator) else None
        self._worker: tuple[int, torch.Generator] | None = None  # a worker's seed and the generator made of it
        self._rank: int | None = None  # told to a worker that is spawned, which knows of no process group

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rank": self._told_rank() if self.by_rank else None}

    def rng(self) -> np.random.Generator:
        """A generator for one composition."""
        seed = int(_one(torch.randint(HIGH, (), generator=self._source(), device="cpu")))
        return np.random.default_rng([seed, self.rank()] if self.by_rank else seed)

    def happens(self, probability: float) -> bool:
        """Whether what has this probability does."""
        if self.by_rank:
            return bool(self.rng().random() < probability)
        drawn = torch.rand((), generator=self._source(), dtype=torch.float32, device="cpu")
        return bool(_one(drawn) < probability)

    def rank(self) -> int:
        """The number of this process among those that train together; 0 for one alone.

        That is torch.distributed's rank where it is started, else what a launcher has put into RANK, SLURM_PROCID,
        OMPI_COMM_WORLD_RANK or PMI_RANK. Raises ValueError where several processes run and none of these says.
        """
        rank = self._told_rank()
        if rank is None and os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                f'generator="rank": WORLD_SIZE is {os.environ["WORLD_SIZE"]}, and neither RANK nor torch.distributed '
                "says which process this is; call torch.distributed.init_process_group first, or set RANK"
            )
        return rank or 0

    def _told_rank(self) -> int | None:
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank()
        for name in RANKS:
            if (told := os.environ.get(name)) is not None:
                if not (told.isascii() and told.isdigit()):
                    raise ValueError(f'generator="rank": {name} must be a process\'s number, got {told!r}')
                return int(told)
        return self._rank

    def _source(self) -> torch.Generator | None:
        """The one to draw from: workers begin with equal copies of ours, each epoch anew."""
        worker = get_worker_info()
        if worker is None or self.generator is None:
            return self.generator
        if self._worker is None or self._worker[0] != worker.seed:
            seed = np.random.SeedSequence([self.generator.initial_seed(), worker.seed]).generate_state(1, np.uint64)
            self._worker = worker.seed, torch.Generator("cpu").manual_seed(int(seed[0]) >> 1)
        return self._worker[1]


def _one(drawn: Tensor) -> Tensor:
    if is_mapped(drawn):
        raise ValueError(MAPPED)
    return drawn


MAPPED = (
    "PatchMix draws one composition for a whole batch, which torch.vmap cannot map; call it outside, or draw with "
    "PatchMix.draw outside and map training.compose.compose"
)
