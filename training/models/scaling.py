"""Input scaling: images of 0..255 as a model takes them, and models whose scaling is another one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.patch_model import PatchModel


class Prepare:
    """Images (B,C,H,W) of 0..255 -> model input: scaled to mean 0 and deviation 1 per channel, channels last.

    mean, std: (C,) float32, as fractions of 255.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.mean = mean
        self.std = std
        self.scale = (1 / (255 * std)).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() * self.scale).add_(self.shift).contiguous(memory_format=torch.channels_last)


class Rescaled(nn.Module):
    """A model whose own input scaling is `own`, for input that was scaled as `given`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: PatchModel, own: Prepare, given: Prepare) -> None:
        super().__init__()
        self.model = model
        device = own.scale.device
        self.register_buffer("scale", (given.std / own.std).view(-1, 1, 1).to(device))
        self.register_buffer("shift", ((given.mean - own.mean) / own.std).view(-1, 1, 1).to(device))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(self.rescale(inputs))

    def rescale(self, inputs: Tensor) -> Tensor:
        """Input that was scaled as `given`, scaled as its own."""
        return inputs * self.scale + self.shift

    def place_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As the model's own, of input that was scaled as `given`."""
        return self.model.place_logits(self.rescale(inputs))
