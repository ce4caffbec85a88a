"""Augmentation of whole batches on their device: reflect-pad crop and mirror, as one gather per axis."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(images: Tensor, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `crop` pixels, reflecting at the border, and mirror half of them.

    images: (B,C,H,W), any dtype, not changed. generator: on the CPU.
    """
    count, _, height, width = images.shape
    if not crop and not flip:
        return images
    shift = torch.randint(-crop, crop + 1, (2, count, 1), generator=generator)
    mirror = torch.rand(count, 1, generator=generator) < (0.5 if flip else 0.0)
    rows = _reflected(torch.arange(height) + shift[0], height)
    columns = _reflected(torch.arange(width) + shift[1], width)
    columns = torch.where(mirror, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    shifted = images.gather(2, rows[:, None, :, None].expand_as(images))
    return shifted.gather(3, columns[:, None, None, :].expand_as(images))


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions left or right of 0..size-1 mirrored at the border pixel, which is not repeated."""
    positions = positions.long().abs()
    return (size - 1 - (size - 1 - positions).abs()).clamp(min=0)
