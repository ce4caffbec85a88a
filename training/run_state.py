"""How far a run has come: what a checkpoint holds besides its model, optimizer, averages and mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from training.randomness import Streams
from training.sums import Sums

GENERATORS = ("order", "crops", "choice")  # of shuffling, of augmentation, of which batches are mixed
COUNTERS = ("epoch", "position", "step", "accuracies")


class RunState:
    """The counters, random generators and sums of a run.

    Attributes:
        epoch: Whole epochs.
        step: Optimizer steps.
        accuracies: Percent, of every test so far.
        position: Batches trained on in the epoch that is under way.
        order_before: The state of `order` before that epoch was shuffled.
        sums: Of that epoch's steps in this process. They are read seldom, since that waits for the device.
        checked: The last step whose loss is known to be finite; not in a checkpoint, which is written after a check.
        has_checkpoint: Whether the run folder has one; not in it either.
    """

    def __init__(self, streams: Streams, device: torch.device) -> None:
        self.order, self.crops, self.choice = (streams.torch(name) for name in GENERATORS)
        self.epoch = 0
        self.step = 0
        self.accuracies: list[float] = []
        self.position = 0
        self.order_before = self.order.get_state()
        self.sums = Sums.zeros(device)
        self.checked = 0
        self.has_checkpoint = False

    def count(self, sums: Sums) -> None:
        """Take note of an optimizer step."""
        self.sums += sums
        self.step += 1
        self.position += 1

    def close_epoch(self) -> None:
        self.epoch += 1
        self.position = 0
        self.order_before = self.order.get_state()
        self.sums = Sums.zeros(self.sums.values.device)

    def counters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COUNTERS}

    def restore(self, counters: Mapping[str, Any], generators: Mapping[str, torch.Tensor]) -> None:
        """Take over what a checkpoint holds: counters, and states of the generators, by name."""
        for name in COUNTERS:
            setattr(self, name, counters[name])
        for name in GENERATORS:
            getattr(self, name).set_state(generators[name])
        self.order_before = self.order.get_state()
        self.checked = self.step
        self.has_checkpoint = True
