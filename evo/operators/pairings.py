"""Varying pairings (N,B): every row stays a permutation of 0..B-1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def pmx(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Partially matched crossover of pairings (N,B).

    Between two random cuts the child has the first parent's partners; elsewhere the second's, and where
    that partner is already taken, the chain first -> second is followed until a free one is found.
    Goldberg and Lingle, Alleles, loci, and the traveling salesman problem, ICGA 1985.
    """
    genomes, rows = first.shape
    cuts = np.sort(rng.integers(0, rows + 1, size=(genomes, 2)), axis=1)
    inside = (np.arange(rows) >= cuts[:, :1]) & (np.arange(rows) < cuts[:, 1:])
    child = np.where(inside, first, second)

    taken = np.zeros((genomes, rows), bool)  # taken[n, v]: partner v lies in the copied segment
    np.put_along_axis(taken, first, inside, axis=1)
    row_of = np.argsort(first, axis=1)  # row_of[n, v]: the row at which the first parent has partner v

    n, b = np.nonzero(~inside & np.take_along_axis(taken, child, axis=1))
    while n.size:
        child[n, b] = second[n, row_of[n, child[n, b]]]
        clash = taken[n, child[n, b]]
        n, b = n[clash], b[clash]
    return child


def swap(pairings: Array, rng: np.random.Generator, *, rate: float = 0.02) -> Array:
    """Let disjoint pairs of rows trade partners; a share `rate` of all rows is expected to trade."""
    genomes, rows = pairings.shape
    half = rows // 2
    child = pairings.copy()
    order = np.argsort(rng.random((genomes, rows)), axis=1)
    left, right = order[:, :half], order[:, half : 2 * half]
    trade = rng.random((genomes, half)) < rate
    a, b = np.take_along_axis(child, left, axis=1), np.take_along_axis(child, right, axis=1)
    np.put_along_axis(child, left, np.where(trade, b, a), axis=1)
    np.put_along_axis(child, right, np.where(trade, a, b), axis=1)
    return child
