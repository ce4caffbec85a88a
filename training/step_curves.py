"""Every step's losses and learning rates for TensorBoard, told many steps at once, since that waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from training.clock import Clock, Mark
from training.distributed import World
from training.run_log import RunLog
from training.run_state import RunState
from training.sums import Sums

STEPS_TOLD = 100  # at once


class StepCurves:
    """Keeps the steps that TensorBoard has not been told of yet.

    cell_weight: of the cell loss in the loss; None where no cells are trained. batch: images per step.
    learning_rates: of the step after so many others, by name.
    """

    def __init__(
        self,
        log: RunLog,
        world: World,
        state: RunState,
        clock: Clock,
        cell_weight: float | None,
        batch: int,
        learning_rates: Callable[[int], dict[str, float]],
    ) -> None:
        self.log, self.world, self.state, self.clock = log, world, state, clock
        self.cell_weight = cell_weight
        self.batch = batch
        self.learning_rates = learning_rates
        self.told = Mark(0, 0.0)
        self._untold: list[tuple[int, float, Sums]] = []  # step, seconds since 1970, its sums in this process

    def add(self, sums: Sums) -> None:
        """Take note of the step that has just been counted."""
        self._untold.append((self.state.step, time.time(), sums))
        if len(self._untold) == STEPS_TOLD:
            self.tell()

    def tell(self) -> None:
        """Tell TensorBoard the losses and learning rates of the steps since it was last told, and images/s.

        It waits for the device, and all processes call it after the same step.
        """
        if not self._untold:
            return
        untold = self._untold
        self._untold = []
        values = self.world.sum(torch.stack([sums.values for *_, sums in untold]))
        means = [Sums(row).means for row in values.cpu()]
        self.clock.tick()
        step = self.state.step
        if self.log.board is not None:
            for (number, when, _), mean in zip(untold, means, strict=True):
                losses = {"image_loss": mean.image_loss, "loss": mean.image_loss}
                if self.cell_weight is not None:
                    losses["cell_loss"] = mean.cell_loss
                    losses["loss"] += self.cell_weight * mean.cell_loss
                points = {**losses, **self.learning_rates(number - 1)}
                self.log.board.add(number, {f"step/{name}": value for name, value in points.items()}, when)
            rate = self.batch * self.clock.steps_per_second(step, self.told)
            self.log.board.add(step, {"step/images_per_second": rate})
        self.told = Mark(step, self.clock.seconds)
