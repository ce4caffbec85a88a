"""Packed masks: unpacking gives back what was packed, and bits beyond the grid stay 0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.packed import Masks, full_words, word_format


@settings(max_examples=60)
@given(grid=st.integers(1, 20), rows=st.integers(0, 7), seed=st.integers(0, 2**32))
def test_packing_is_exact(grid, rows, seed):
    rng = np.random.default_rng(seed)
    cells = rng.random((3, rows, grid, grid)) < 0.5
    masks = Masks.pack(cells)
    assert np.array_equal(masks.cells, cells) and masks.cells.dtype == bool
    assert masks.shape == (3, rows) and masks.words.dtype == word_format(grid)[0]
    assert np.array_equal(masks.kept(), cells.sum((2, 3)))
    assert ((masks.words & ~full_words(grid)) == 0).all()
    other = cells.copy()
    other[rng.random((3, rows)) < 0.5] ^= rng.random((grid, grid)) < 0.3
    assert np.array_equal(masks.same(Masks.pack(other)), (cells == other).all((2, 3)))


def test_a_mask_is_one_small_word_up_to_eight_cells_a_side():
    assert [word_format(grid)[0].itemsize for grid in (1, 2, 3, 4, 5, 7, 8)] == [1, 1, 2, 2, 4, 8, 8]
    assert word_format(9) == (np.dtype("<u8"), 2)


def test_bit_i_is_cell_i():
    cells = np.zeros((1, 4, 4), bool)
    cells[0, 1, 2] = True
    assert Masks.pack(cells).words.tolist() == [[1 << 6]]


@pytest.mark.parametrize(
    "cells", [np.zeros((2, 3, 3)), np.zeros((3, 4), bool), np.zeros(4, bool), np.zeros((0, 0), bool)]
)
def test_other_arrays_are_refused(cells):
    with pytest.raises(ValueError, match=r"masks must be bool \(...,G,G\)"):
        Masks.pack(cells)
