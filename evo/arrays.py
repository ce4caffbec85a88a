"""The type of an array whose shape and kind a docstring gives."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
