"""Masks packed into machine words: one cell is one bit, and a row's whole mask is one integer up to 8x8.

Variation moves eight to sixty-four times fewer bytes than on bool arrays, and two masks are equal where two
integers are. Bit i of a mask is cell (i // G, i % G); bits beyond G^2 are always 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evo.arrays import Array


class Masks:
    """Packed masks (...,G,G). True (a 1) = the cell keeps the row's own image, False takes the partner's.

    Args:
        words: (...,W) unsigned integers, little-endian: the smallest type of G^2 bits or more, W = 1; for G above 8 it
            is uint64 and W = ceil(G^2 / 64). They are not copied.
        grid: G.

    Example:
        >>> masks = Masks.pack(np.array([[[True, False], [True, True]]]))
        >>> masks, masks.kept(), masks.words.ravel()
        (Masks(shape=(1,), G=2), array([3]), array([13], dtype=uint8))
    """

    __slots__ = ("grid", "words")

    def __init__(self, words: Array, grid: int) -> None:
        self.words = words
        self.grid = grid

    @classmethod
    def pack(cls, cells: Array) -> Masks:
        """Pack masks.

        Args:
            cells: (...,G,G) bool, True = the cell keeps the row's own image.

        Returns:
            Masks (...).

        Raises:
            ValueError: The cells are something else.
        """
        if cells.dtype != np.bool_ or cells.ndim < 2 or cells.shape[-1] != cells.shape[-2] or not cells.shape[-1]:
            raise ValueError(f"masks must be bool (...,G,G), got {cells.dtype} {cells.shape}")
        grid = cells.shape[-1]
        dtype, count = word_format(grid)
        packed = np.packbits(cells.reshape(*cells.shape[:-2], grid * grid), axis=-1, bitorder="little")
        octets = np.zeros((*cells.shape[:-2], count * dtype.itemsize), np.uint8)
        octets[..., : packed.shape[-1]] = packed
        return cls(octets.view(dtype), grid)

    @classmethod
    def from_words(cls, words: Array, grid: int) -> Masks:
        """Take words as they were saved.

        Args:
            words: (...,W), which are copied.
            grid: G.

        Returns:
            Masks (...).

        Raises:
            ValueError: They are not packed masks of this grid.
        """
        dtype, width = word_format(grid)
        if words.dtype != dtype or words.ndim < 1 or words.shape[-1] != width:
            raise ValueError(
                f"words of masks of G={grid} must be {dtype} (...,{width}), got {words.dtype} {words.shape}"
            )
        masks = cls.pack(cls(words, grid).cells)
        if not np.array_equal(masks.words, words):
            raise ValueError(f"the words are not packed masks of G={grid}: they have bits beyond its cells")
        return masks

    @property
    def cells(self) -> Array:
        """bool (...,G,G), unpacked: a fresh copy, so that writing to it changes nothing here.

        Raises ValueError where a file said that the words are of a larger grid than they have bits for.
        """
        octets = np.ascontiguousarray(self.words).view(np.uint8)
        if self.grid < 1 or self.grid**2 > 8 * octets.shape[-1]:
            raise ValueError(f"words of {8 * octets.shape[-1]} bits are too few for masks of G={self.grid}")
        bits = np.unpackbits(octets, axis=-1, count=self.grid * self.grid, bitorder="little")
        return bits.view(np.bool_).reshape(*self.shape, self.grid, self.grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.words.shape[:-1]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: Any) -> Masks:
        """Masks at an index over the leading axes (not `...`)."""
        return Masks(self.words[index], self.grid)

    def __setitem__(self, index: Any, masks: Masks) -> None:
        self.words[index] = masks.words

    @property
    def history_index(self) -> int:
        """Not there: DEAP's tools.History follows individuals, and a search's operators vary whole populations."""
        raise AttributeError("masks have no history_index")

    @history_index.setter
    def history_index(self, number: int) -> None:
        raise TypeError(
            "tools.History follows individuals, but a Search's operators vary whole populations; read search.lineage, or "
            "run DEAP's own algorithms on a Population with evo.deap_compat"
        )

    def same(self, other: Masks) -> Array:
        """Compare with other masks.

        Args:
            other: Masks of the same grid, of a shape that goes with this one.

        Returns:
            (...) bool, where both masks are equal.
        """
        if self.words.shape[-1] == 1:
            return np.asarray(self.words[..., 0] == other.words[..., 0])
        return np.asarray((self.words == other.words).all(axis=-1))

    def kept(self) -> Array:
        """Count cells.

        Returns:
            (...) int64, how many cells each mask keeps.
        """
        if self.words.shape[-1] == 1:
            return np.bitwise_count(self.words[..., 0]).astype(np.int64)
        return np.bitwise_count(self.words).sum(axis=-1, dtype=np.int64)

    def copy(self) -> Masks:
        """Return masks with words of their own."""
        return Masks(self.words.copy(), self.grid)

    def __repr__(self) -> str:
        return f"Masks(shape={self.shape}, G={self.grid})"


def word_format(grid: int) -> tuple[np.dtype[Any], int]:
    """Tell which words a mask is packed into.

    Args:
        grid: G.

    Returns:
        Their type, and how many, W.

    Example:
        >>> word_format(4), word_format(9)
        ((dtype('uint16'), 1), (dtype('uint64'), 2))
    """
    bits = grid * grid
    for octets in (1, 2, 4, 8):
        if bits <= 8 * octets:
            return np.dtype(f"<u{octets}"), 1
    return np.dtype("<u8"), -(-bits // 64)


def full_words(grid: int) -> Array:
    """Return the words of the mask that keeps every cell.

    Args:
        grid: G.

    Returns:
        (W,) words.
    """
    return Masks.pack(np.ones((grid, grid), bool)).words
