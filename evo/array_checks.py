"""Arrays from outside: what was expected of them, and a copy that nobody else can change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from evo.arrays import Array
from evo.errors import UserError


def take_array(arrays: Mapping[str, Array], name: str, dtype: DTypeLike, shape: tuple[int | None, ...]) -> Array:
    """Copy one of the arrays that were saved.

    Args:
        arrays: Arrays by name.
        name: Which one.
        dtype: The type it must have.
        shape: The shape it must have; None stands for any length.

    Returns:
        A copy of it.

    Raises:
        UserError: It is missing, or has another type or shape.

    Example:
        >>> take_array({"ids": np.arange(3)}, "ids", np.int64, (None,))
        array([0, 1, 2])
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
    """Refuse an integer array with values outside low..high.

    Args:
        name: What to call it in the error.
        array: Integers of any shape.
        low: The least value allowed.
        high: The greatest value allowed.

    Raises:
        UserError: A value is outside.
    """
    if array.size and (array.min() < low or array.max() > high):
        raise UserError(f"{name} must be {low}..{high}, got {array.min()}..{array.max()}")


def check_count(name: str, number: object) -> int:
    """Refuse what is no whole number from 1.

    Args:
        name: What it counts, for the error.
        number: The number.

    Returns:
        It, as Python's.

    Raises:
        UserError: It is something else.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise UserError(f"{name} must be a whole number from 1, got {number!r:.60}")
    return int(number)
