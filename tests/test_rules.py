"""Validity by repair: the rules hold afterwards, with few changes, and what cannot be met is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.packed import Masks
from evo.rules import Rules, limit_kept, repair_pairings


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 5),
    rows=st.integers(1, 12),
    classes=st.integers(1, 5),
    self_pairing=st.booleans(),
    same_class=st.booleans(),
)
def test_pairings_obey_as_far_as_a_permutation_can(seed, size, rows, classes, self_pairing, same_class):
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    rules = Rules(rng.integers(0, classes, rows), 2, self_pairing=self_pairing, same_class=same_class)
    pairings = np.argsort(rng.random((size, rows)), axis=1).astype(np.int32)
    child, unmet = repair_pairings(pairings, rules.allowed, rng)
    assert (np.sort(child, axis=1) == np.arange(rows)).all() and child.dtype == np.int32
    broken = ~rules.allowed[np.arange(rows), child]
    best = linear_sum_assignment(~rules.allowed)
    least = int((~rules.allowed)[best].sum())
    assert (broken.sum(axis=1) == least).all() and unmet == size * least
    sound = rules.allowed[np.arange(rows), pairings].all(axis=1)
    assert np.array_equal(child[sound], pairings[sound])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), grid=st.integers(1, 9), data=st.data())
def test_shares_are_mended_with_the_fewest_cells(seed, grid, data):
    rng = np.random.default_rng(seed)
    cells = rng.random((3, 5, grid, grid)) < rng.random((3, 5, 1, 1))
    low = data.draw(st.integers(0, grid * grid // 2))
    masks = Masks.pack(cells)
    mended = limit_kept(masks, low, grid * grid - low, rng).cells
    kept, now = cells.sum((2, 3)), mended.sum((2, 3))
    assert np.array_equal(now, np.clip(kept, low, grid * grid - low))
    assert np.array_equal((mended != cells).sum((2, 3)), np.abs(now - kept))
    assert np.array_equal(masks.cells, cells)


def test_which_cells_are_turned_is_random():
    mended = limit_kept(Masks.pack(np.zeros((1, 3000, 3, 3), bool)), 3, 9, np.random.default_rng(0)).cells
    assert np.abs(mended.mean((0, 1)) - 1 / 3).max() < 0.04


def test_one_bad_row_costs_one_trade():
    pairings = np.array([[0, 2, 3, 1]])
    child, unmet = repair_pairings(pairings, ~np.eye(4, dtype=bool), np.random.default_rng(0))
    assert unmet == 0 and (child != pairings).sum() == 2


def test_held_shares_and_relations_come_from_the_first_genome():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 10)
    rules = Rules(labels, 3, hold=True)
    masks = Masks.pack(rng.random((6, 10, 3, 3)) < rng.random((6, 10, 1, 1)))
    pairings = np.argsort(rng.random((6, 10)), axis=1).astype(np.int32)
    dealt, paired = rules.repair_first(masks, pairings, rng)
    assert (dealt.kept() == masks.kept()[0]).all()
    same = labels[pairings[0]] == labels
    assert ((labels[paired] == labels) == same).all()
    assert np.array_equal(dealt[0].words, masks[0].words) and np.array_equal(paired[0], pairings[0])
    varied, paired = rules.repair(masks, pairings, rng)
    assert (varied.kept() == masks.kept()[0]).all() and ((labels[paired] == labels) == same).all()


def test_without_labels_only_shares_are_held():
    rng = np.random.default_rng(0)
    rules = Rules(np.full(6, -1), 2, hold=True)
    _, paired = rules.repair_first(
        Masks.pack(rng.random((3, 6, 2, 2)) < 0.5), np.tile(np.roll(np.arange(6), 1), (3, 1)), rng
    )
    assert (paired != np.arange(6)).all()  # an image's own partner is of its class; all others are unknown


def test_a_share_that_no_mask_can_have_is_refused():
    with pytest.raises(ValueError, match=r"min_cells must be 0\.\.0, half of the grid's 1 cells, got 1"):
        Rules(np.zeros(3, int), 1, min_cells=1)
