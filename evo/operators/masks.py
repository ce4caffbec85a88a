"""Drawing and varying masks. True = the cell keeps the row's own image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sample_bernoulli(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Draw masks (count,G,G): each draws a share q ~ U(0,1), and its cells are Bernoulli(q)."""
    share = rng.random((count, 1, 1), dtype=np.float32)
    return rng.random((count, grid, grid), dtype=np.float32) < share


def sample_box(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Draw masks (count,G,G) whose dropped cells form one box, as CutMix does on pixels.

    The box covers a share 1-q of the image, q ~ U(0,1), has the image's aspect ratio and lies wholly
    inside; its sides are rounded to cells. After Yun et al., CutMix, ICCV 2019, section 3.
    """
    side = np.rint(grid * np.sqrt(rng.random(count))).astype(np.int64)
    top, left = (np.floor(rng.random((2, count)) * (grid - side + 1))).astype(np.int64)
    cells = np.arange(grid)
    rows = (cells >= top[:, None]) & (cells < (top + side)[:, None])
    columns = (cells >= left[:, None]) & (cells < (left + side)[:, None])
    return ~(rows[:, :, None] & columns[:, None, :])


def uniform_cells(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Cross masks (N,B,G,G): each cell comes from either parent with equal chance.

    Uniform crossover: Syswerda, ICGA 1989.
    """
    return np.where(rng.integers(0, 2, size=first.shape, dtype=np.uint8).view(bool), first, second)


def flip_cells(masks: Array, rng: np.random.Generator, *, row_rate: float = 0.15, cells: float = 1.5) -> Array:
    """Flip about `cells` cells in a share `row_rate` of the rows of masks (N,B,G,G).

    Touching few rows keeps most carried losses true, so a child costs few image forwards. With
    row_rate = 1 this is the textbook bit flip of rate cells / G^2.
    """
    touched = rng.random(masks.shape[:2]) < row_rate
    rate = min(1.0, cells / (masks.shape[2] * masks.shape[3]))
    child = masks.copy()
    rows = child[touched]
    child[touched] = rows ^ (rng.random(rows.shape) < rate)
    return child
