"""The running average of a model's weights: what an objective may compare the live model with.

torch.optim.swa_utils.AveragedModel is nearly this. It keeps one decay from its second update on and takes the weights as they
are at its first, so that a slow average would hold the first weights for long; and it averages counters, which are copied here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential average of a model's weights over optimizer steps. `model` is it, in evaluation mode.

    decay: the share kept at each update, 0 <= decay < 1. Update t = 0, 1, ... uses min(decay, (1+t)/(10+t)),
    so that the average leaves the initial weights behind soon (0.1, 0.18, 0.25, ...; 0.99 is reached at
    t = 890), as in TensorFlow's ExponentialMovingAverage. Parameters and floating-point buffers (batch
    norm's statistics) are averaged, others copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`, after an optimizer step."""
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged: list[Tensor] = []
        live: list[Tensor] = []
        for mine, given in zip(_tensors(self.model), _tensors(model), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                live.append(given)
            else:
                mine.copy_(given)
        torch._foreach_lerp_(averaged, live, 1 - kept)

    def state(self) -> dict[str, Tensor]:
        """The average's tensors, for a checkpoint."""
        return self.model.state_dict()

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take over the tensors of `state`, after so many updates."""
        self.model.load_state_dict(tensors)
        self.updates = updates


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
