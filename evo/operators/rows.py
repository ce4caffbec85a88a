"""Varying masks and pairings together: the unit is a row, (image, mask, partner)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.genome import Population
from evo.operators.masks import uniform_cells
from evo.operators.pairings import pmx

Array = NDArray[Any]


def uniform_pmx(first: Population, second: Population, rng: np.random.Generator) -> tuple[Array, Array]:
    """The textbook pair: uniform crossover of the masks, PMX of the pairings."""
    return uniform_cells(first.masks, second.masks, rng), pmx(first.pairings, second.pairings, rng)


def row_crossover(first: Population, second: Population, rng: np.random.Generator) -> tuple[Array, Array]:
    """Each row comes whole from the parent that scores better on it; the pairing stays a permutation.

    Rows are scored apart, so a child may collect the better row of its parents everywhere. Where two rows
    want the same partner, the better row keeps it; the rest get the unused partners at random. Rows that
    kept mask and partner keep their losses too: such a child costs few image forwards. Rows whose scores
    are equal or not known yet come from either parent with equal chance. Our own operator.
    """
    tie = rng.random(first.pairings.shape) < 0.5
    score_first = np.nan_to_num(first.scores, nan=-np.inf)
    score_second = np.nan_to_num(second.scores, nan=-np.inf)
    from_first = np.where(score_first == score_second, tie, score_first > score_second)

    masks = np.where(from_first[:, :, None, None], first.masks, second.masks)
    wanted = np.where(from_first, first.pairings, second.pairings)
    return masks, repair(wanted, np.where(from_first, score_first, score_second), rng)


def repair(wanted: Array, priority: Array, rng: np.random.Generator) -> Array:
    """Make permutations of wanted partners (N,B) with the fewest changes.

    Of the rows that want the same partner the one of highest priority (N,B) keeps it; the others get the
    partners nobody wants, at random.
    """
    genomes, rows = wanted.shape
    ascending = np.argsort(priority, axis=1, kind="stable")
    owner = np.full((genomes, rows), -1, np.int64)  # owner[n, v]: the row that keeps partner v
    for rank in range(rows):  # later writes win, and they are of higher priority
        row = ascending[:, rank]
        owner[np.arange(genomes), wanted[np.arange(genomes), row]] = row

    loses = np.take_along_axis(owner, wanted, axis=1) != np.arange(rows)
    unused_first = np.argsort(rng.random((genomes, rows)) + (owner >= 0), axis=1)
    spare = np.arange(rows) < loses.sum(axis=1, keepdims=True)
    child = wanted.astype(np.int32, copy=True)
    child[loses] = unused_first[spare]  # both run genome by genome and hold the same number in each
    return child
