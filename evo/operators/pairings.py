"""Crossing and mutating pairings (N,B) int32: every row stays a permutation of 0..B-1. Contracts: evo/operators/__init__.py.

Inside, partner v of genome n is the number n*B + v, so that all genomes together are one permutation and a
partner's row is found by one scatter.
"""

from __future__ import annotations

import numpy as np

from evo.arrays import Array
from evo.operators.masks import draw_hits


def pmx(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Partially matched crossover.

    Between two random cuts the child has the first parent's partners; elsewhere the second's, and where
    that partner is already taken, the chain first -> second is followed until a free one is found.
    Goldberg and Lingle, Alleles, loci, and the traveling salesman problem, ICGA 1985.
    """
    genomes, rows = first.shape
    offset = _make_offsets(genomes, rows)
    start, stop = draw_cuts(genomes, rows, rng)
    row = np.arange(rows, dtype=np.int32)
    inside = (row >= start) & (row < stop)

    instead = np.arange(genomes * rows)  # instead[v]: what takes the place of v if v is taken; else v itself
    copied = (first + offset)[inside]
    wanted = second + offset
    link = copied
    end = wanted[inside]
    instead[link] = end
    for _ in range(rows.bit_length()):  # each round the chains are followed twice as far
        further = instead.take(end)
        moved = (further != end).nonzero()[0]
        if not len(moved):  # else there may be cycles within the segment; no row outside it leads into one
            break
        link, end = link.take(moved), further.take(moved)
        instead[link] = end

    child = instead.take(wanted)
    child[inside] = copied
    child -= offset
    return child.astype(np.int32)


def ox(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Order crossover.

    Between two random cuts the child has the first parent's partners; the others follow from the second cut
    on, around the end, in the order in which the second parent has them from there on.
    Davis, Applying adaptive algorithms to epistatic domains, IJCAI 1985.
    """
    genomes, rows = first.shape
    offset = _make_offsets(genomes, rows)
    start, stop = draw_cuts(genomes, rows, rng)
    row = np.arange(rows)
    inside = (row >= start) & (row < stop)
    taken = np.zeros(genomes * rows, bool)
    taken[(first + offset)[inside]] = True

    onward = (row + stop) % rows + offset  # the rows from the second cut on
    order = second.reshape(-1)[onward]
    child = first.astype(np.int32)
    free = row < rows - (stop - start)
    child.reshape(-1)[onward[free]] = order[~taken[order + offset]]  # genome by genome, as many in both
    return child


def cx(first: Array, second: Array, rng: np.random.Generator) -> Array:
    """Cycle crossover: every partner stays at a row at which a parent has it.

    The cycle of rows, second -> first, through a random row comes from the first parent, the rest from
    the second. Oliver, Smith and Holland, A study of permutation crossover operators on the traveling
    salesman problem, ICGA 1987.
    """
    genomes, rows = first.shape
    offset = _make_offsets(genomes, rows)
    number = np.arange(genomes * rows).reshape(genomes, rows)
    row_of = np.empty(genomes * rows, np.int64)
    row_of[first + offset] = number
    onward = row_of[second + offset]  # the next row of the cycle

    cycle = number  # the least row of each row's cycle: seen 1, 2, 4, ... rows ahead
    for _ in range((rows - 1).bit_length()):
        cycle = np.minimum(cycle, cycle.reshape(-1)[onward])
        onward = onward.reshape(-1)[onward]
    start = rng.integers(0, rows, size=(genomes, 1))
    return np.where(cycle == np.take_along_axis(cycle, start, axis=1), first, second).astype(np.int32)


def swap(pairings: Array, rng: np.random.Generator, *, rate: float = 0.02) -> Array:
    """Let disjoint pairs of rows trade partners; a share `rate` of all rows is expected to trade.

    Where B is odd one row cannot, so the share is at most (B-1) / B. The pairs that may trade are one round
    of a round robin (circle method), drawn for each genome: any two rows meet in one round. Exchange
    mutation: Banzhaf, The molecular traveling salesman, Biological Cybernetics 64, 1990.
    """
    genomes, rows = pairings.shape
    child = pairings.astype(np.int32)
    pairs = rows // 2
    if not pairs:
        return child
    genome, pair = np.divmod(draw_hits(genomes * pairs, min(1.0, rate * rows / (2 * pairs)), rng), pairs)
    circle = rows - 1 + rows % 2  # an odd number of rows stand in a circle, around a random one of them
    centre = rng.integers(0, circle, size=genomes)[genome]
    pair += rows % 2  # B is even: the last row stands in the middle, and meets the centre as pair 0
    left = (centre + pair) % circle
    right = (centre - pair) % circle
    right[pair == 0] = rows - 1
    child[genome, left], child[genome, right] = pairings[genome, right], pairings[genome, left]
    return child


def inversion(pairings: Array, rng: np.random.Generator, *, rate: float = 0.2) -> Array:
    """Reverse the partners of a random segment of two rows or more in a share `rate` of the genomes.

    Holland, Adaptation in natural and artificial systems, 1975.
    """
    chosen, start, stop = _draw_segments(pairings, rate, rng)
    child = pairings.astype(np.int32)
    row = np.arange(pairings.shape[1])
    mirrored = np.where((row >= start) & (row < stop), start + stop - 1 - row, row)
    child[chosen] = child.take(mirrored + chosen[:, None] * len(row))
    return child


def scramble(pairings: Array, rng: np.random.Generator, *, rate: float = 0.2) -> Array:
    """Shuffle the partners of a random segment of two rows or more in a share `rate` of the genomes.

    Syswerda, Schedule optimization using genetic algorithms, in Davis, Handbook of genetic algorithms, 1991.
    """
    chosen, start, stop = _draw_segments(pairings, rate, rng)
    child = pairings.astype(np.int32)
    row = np.arange(pairings.shape[1])
    place = start + (stop - start) * rng.random((len(chosen), len(row)))  # inside: anywhere in the segment
    order = np.argsort(np.where((row >= start) & (row < stop), place, row), axis=1)
    child[chosen] = pairings[chosen[:, None], order]
    return child


def draw_cuts(count: int, rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw two cuts of 0..B for each of N genomes.

    Args:
        count: N.
        rows: B.
        rng: The generator.

    Returns:
        Start and stop, in order, (N,1) int32 each: a segment of 0 to B rows is [start, stop).
    """
    one, other = rng.integers(0, rows + 1, size=(2, count, 1), dtype=np.int32)
    return np.minimum(one, other), np.maximum(one, other)


def _draw_segments(pairings: Array, rate: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Choose a share of the genomes, and in each a segment [start, stop) of two rows or more."""
    genomes, rows = pairings.shape
    chosen = draw_hits(genomes if rows > 1 else 0, rate, rng)
    # Any two different rows are as likely to be the ends: one is drawn together with the way to the other.
    end, way = np.divmod(rng.integers(0, max(1, rows * (rows - 1)), size=(len(chosen), 1)), max(1, rows - 1))
    other = (end + way + 1) % rows
    return chosen, np.minimum(end, other), np.maximum(end, other) + 1


def _make_offsets(genomes: int, rows: int) -> Array:
    """(N,1) int64: what to add to a partner of each genome to number it among all."""
    return np.arange(0, genomes * rows, rows)[:, None]
