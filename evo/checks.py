"""Arrays from outside: what was expected of them, and a copy that nobody else can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from evo.errors import UserError

Array = NDArray[Any]


def take_array(arrays: Mapping[str, Array], name: str, dtype: DTypeLike, shape: tuple[int | None, ...]) -> Array:
    """A copy of an array among saved ones.

    Args:
        arrays: Arrays by name.
        name: Which one.
        dtype: The type it must have.
        shape: The shape it must have; None stands for any length.

    Raises:
        UserError: It is missing, or has another type or shape.
    """
    if name not in arrays:
        raise UserError(f"{name} is missing")
    array = np.asarray(arrays[name])
    fits = len(shape) == array.ndim and all(
        expected in (None, got) for expected, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise UserError(f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array.copy()


def check_range(name: str, array: Array, low: int, high: int) -> None:
    """Raises UserError where an integer array has values outside low..high."""
    if array.size and (array.min() < low or array.max() > high):
        raise UserError(f"{name} must be {low}..{high}, got {array.min()}..{array.max()}")
