"""What training steps are summed up in, and the means that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.distributed import World


class Means(NamedTuple):
    """Means over the batches of some steps.

    Attributes:
        image_loss: Nats.
        cell_loss: Nats; 0 where no cells are trained.
        accuracy: Percent of the targets that were hit. A mixed image hits its targets by their shares.
    """

    image_loss: float
    cell_loss: float
    accuracy: float


@dataclass(frozen=True)
class Sums:
    """Sums over batches of the means over their rows. A part of a batch counts by its share of the rows.

    All are in one tensor on the device, so that a step adds them, and processes exchange them, at one go.

    Attributes:
        values: (4,) float32: image loss and cell loss in nats, share of the targets hit, and the number of batches.
    """

    values: Tensor

    @classmethod
    def zeros(cls, device: torch.device) -> Sums:
        return cls(torch.zeros(4, device=device))

    @classmethod
    def of_part(cls, share: float, image_loss: Tensor, cell_loss: Tensor, hit: Tensor) -> Sums:
        """Of `share` of a batch, by the means () over its rows."""
        return cls(share * torch.stack([image_loss, cell_loss, hit, torch.ones_like(hit)]))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.values + other.values)

    def over(self, world: World) -> Sums:
        """The sums of all processes together."""
        return Sums(world.sum(self.values.clone()))

    @property
    def batches(self) -> float:
        """Waits for the device."""
        return float(self.values[3])

    @property
    def means(self) -> Means:
        """Waits for the device."""
        image_loss, cell_loss, hit = (self.values[:3] / self.values[3]).tolist()
        return Means(image_loss, cell_loss, 100 * hit)

    @property
    def finite(self) -> Tensor:
        """() bool: whether all are."""
        return self.values.isfinite().all()
