"""Varying masks and pairings together: the unit is a row, (image, mask, partner). Contracts: evo/operators/__init__.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np

from evo.arrays import Array
from evo.genome import Population
from evo.operators.masks import flip_cells, uniform_cells
from evo.operators.pairings import pmx
from evo.packed import Masks

DENSE = 128  # rows up to which all pairs are looked at: half a millisecond
BLOCK = 16  # rows that deal their partners anew at once: ten microseconds
UNIFORM = (
    12**0.5
)  # standard deviations from end to end of a uniform distribution, which is drawn faster than a normal one


class BestPairs(Protocol):
    """The archive that an archive crossover reads."""

    def best_pairs(self) -> tuple[Array, Masks]:
        """Find the best that is known of each pair: see RowArchive.best_pairs.

        Returns:
            Scores (B,B) float32 with -inf where there is none, and Masks (B,B).
        """


class Dealer(Protocol):
    """The table that a table crossover reads."""

    def deal_anew(
        self, masks: Masks, pairings: Array, share: float, temperature: float, rng: np.random.Generator
    ) -> tuple[Masks, Array]:
        """Let some rows deal their partners and masks anew: see PairTable.deal_anew.

        Args:
            masks: (N,B).
            pairings: (N,B) int32 permutations.
            share: Of the rows.
            temperature: What is left to chance.
            rng: The generator.

        Returns:
            Masks (N,B) and pairings (N,B) int32, copies.
        """


def uniform_pmx(first: Population, second: Population, rng: np.random.Generator) -> tuple[Masks, Array]:
    """The textbook pair: uniform crossover of the masks, PMX of the pairings.

    Syswerda, ICGA 1989; Goldberg and Lingle, ICGA 1985.
    """
    return uniform_cells(first.packed, second.packed, rng), pmx(first.pairings, second.pairings, rng)


def cross_apart(
    first: Population,
    second: Population,
    rng: np.random.Generator,
    *,
    masks: Callable[[Masks, Masks, np.random.Generator], Masks],
    pairings: Callable[[Array, Array, np.random.Generator], Array],
) -> tuple[Masks, Array]:
    """Cross masks and pairings by an operator each, one of MASK_CROSSOVERS and one of PAIRING_CROSSOVERS."""
    return masks(first.packed, second.packed, rng), pairings(first.pairings, second.pairings, rng)


def row_crossover(first: Population, second: Population, rng: np.random.Generator) -> tuple[Masks, Array]:
    """Each row comes whole from the parent that scores better on it; the pairing stays a permutation.

    Rows are scored apart, so a child may collect the better row of its parents everywhere. Where two rows
    want the same partner, the better row keeps it; the rest get the unused partners at random. Rows that
    kept mask and partner keep their losses too: such a child costs few image forwards. Rows whose scores
    are equal or not known yet come from either parent with equal chance. Our own operator.
    """
    tie = rng.random(first.pairings.shape, dtype=np.float32) < 0.5
    score_first, score_second = _known_scores(first), _known_scores(second)
    from_first = np.where(score_first == score_second, tie, score_first > score_second)

    words = np.where(from_first[:, :, None], first.packed.words, second.packed.words)
    wanted = np.where(from_first, first.pairings, second.pairings)
    priority = np.maximum(score_first, score_second)
    return Masks(words, first.packed.grid), repair(wanted, priority, rng)


def local_search(
    first: Population, second: Population, rng: np.random.Generator, *, share: float = 0.1, cells: float = 1.5
) -> tuple[Masks, Array]:
    """The first parent, of which the worst rows are tried anew; the second is not used.

    A `share` of the rows, at least two, those of the lowest scores: each gets the partner of another of them,
    and about `cells` of its cells are flipped. Rows whose scores are not known count as worst. Mutation aimed
    at the worst component: Boettcher and Percus, Extremal optimization, GECCO 1999.
    """
    genomes, rows = first.pairings.shape
    count = min(rows, max(2, round(share * rows)))
    unknown = -1e30 * (1 + rng.random((genomes, rows), dtype=np.float32))  # below all scores, in random order
    scores = np.where(np.isfinite(first.scores), first.scores, unknown)
    worst = rng.permuted(np.argpartition(scores, count - 1, axis=1)[:, :count], axis=1)

    genome = np.arange(genomes)[:, None]
    masks, pairings = first.packed.copy(), first.pairings.copy()
    masks[genome, worst] = flip_cells(masks[genome, worst], rng, row_rate=1, cells=cells)
    pairings[genome, worst] = first.pairings[genome, np.roll(worst, 1, axis=1)]
    return masks, pairings


def assignment(
    first: Population,
    second: Population,
    rng: np.random.Generator,
    *,
    archive: BestPairs,
    share: float = 0.25,
    noise: float = 0.2,
) -> tuple[Masks, Array]:
    """The best pairing there is for the row scores in the archive, each row with the best mask known for it.

    The first child solves the linear assignment problem (Kuhn, Naval Research Logistics Quarterly 2, 1955) of all rows.
    The others begin from its pairing, so that they differ: random rows, from a `share` of them in the second child to all
    in the last, and at least BLOCK, deal their partners anew, in blocks of BLOCK rows, each the best deal under scores
    perturbed by noise of `noise` standard deviations of all scores. That is a random neighbourhood search (Shaw,
    Principles and Practice of Constraint Programming, 1998), which takes a fraction of the time of a problem of all rows
    for each child.

    In batches of more than DENSE rows the first child may use only pairs that were scored, or its parent's, so that the
    cost grows with the pairs scored and not with the cube of B. Pairs never scored count less than any that was; a row
    that gets one keeps the first parent's mask. Where nothing was scored children are their first parents. The second
    parent is not used. Our own operator.
    """
    scores, best = archive.best_pairs()
    known = np.isfinite(scores)
    if not known.any():
        return first.packed.copy(), first.pairings.copy()
    scores = scores.astype(np.float64)  # a model that diverges has losses whose squares float32 cannot hold
    found = scores[known]
    scores[~known] = found.min() - 1 - np.ptp(found)
    width = noise * UNIFORM * float(found.std())

    held = first.pairings[0]
    top = _best_of_all(scores, held, rng) if len(held) <= DENSE else _best_of_scored(scores, known, held, rng)
    pairings = np.repeat(top[None], len(first), axis=0)
    for child, part in zip(range(1, len(first)), np.linspace(share, 1, max(len(first) - 1, 1)), strict=False):
        count = max(BLOCK, round(part * len(held)))
        _deal_anew(pairings[child], rng.permutation(len(held))[:count], scores, width, rng)
    masks = first.packed.copy()
    row = np.arange(len(held))
    children, rows = np.nonzero(known[row, pairings])
    masks[children, rows] = best[rows, pairings[children, rows]]
    return masks, pairings


def deal(
    first: Population,
    second: Population,
    rng: np.random.Generator,
    *,
    table: Dealer,
    temperature: float = 0.0,
    share: float = 0.5,
) -> tuple[Masks, Array]:
    """The first parent, of which a `share` of the rows deal their partners and masks anew by what a table knows of all pairs.

    The second parent is not used. A memetic operator (Moscato, Caltech Concurrent Computation Program, report 826, 1989) and
    a large neighbourhood search (Shaw, Principles and Practice of Constraint Programming, 1998): see PairTable.
    """
    return table.deal_anew(first.packed, first.pairings, share, temperature, rng)


def _best_of_all(scores: Array, held: Array, rng: np.random.Generator) -> Array:
    """The permutation (B,) of largest sum of scores (B,B) (scipy's solver: Crouse, IEEE Transactions on Aerospace and
    Electronic Systems 52, 2016). `held` (B,) is another; solutions as good are equally likely.
    """
    rows = rng.permutation(len(held))
    partners = held[rows]
    gain = scores.take(rows, 0).take(partners, 1)  # three times faster than one index of both
    pairing = np.empty_like(held)
    pairing[rows] = partners[assign(gain)]
    return pairing


def assign(gain: Array) -> Array:
    """Solve a linear assignment problem.

    Args:
        gain: (N,N) float, finite.

    Returns:
        (N,) the column of each row, each once, that together have the largest sum of gain.
    """
    columns: Array = _solver()(gain, maximize=True)[1]
    return columns


@cache
def _solver() -> Callable[..., Any]:
    from scipy.optimize import linear_sum_assignment  # half a second

    return linear_sum_assignment


def _best_of_scored(scores: Array, known: Array, held: Array, rng: np.random.Generator) -> Array:
    """The same among the pairs `known` (B,B) and those of `held` (scipy's solver: Jonker and Volgenant, Computing 38,
    1987).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    offered = known.copy()
    offered[np.arange(len(held)), held] = True
    pairs = np.nonzero(offered)
    gain = scores[pairs]
    cost = 1 + (gain.max() - gain) / (np.ptp(gain) or 1)  # no pair may cost 0; cost in float64 holds any scores' order
    partners: Array = min_weight_full_bipartite_matching(csr_array((cost, pairs)))[1]
    return partners.astype(held.dtype)


def _deal_anew(pairing: Array, rows: Array, scores: Array, noise: float, rng: np.random.Generator) -> None:
    """Let `rows` (N,) of a pairing (B,) deal their partners anew, block by block, in place; see `assignment`."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        partners = pairing[block]
        gain = scores.take(block, 0).take(partners, 1)
        gain += noise * rng.random(gain.shape)
        pairing[block] = partners[assign(gain)]


def repair(wanted: Array, priority: Array, rng: np.random.Generator) -> Array:
    """Make permutations of wanted partners with the fewest changes.

    Of the rows that want the same partner one of the highest priority keeps it; the others get the partners nobody
    wants, at random.

    Args:
        wanted: (N,B) int.
        priority: (N,B) float, the larger the more.
        rng: The generator.

    Returns:
        (N,B) int32 permutations.
    """
    genomes, rows = wanted.shape
    partner = (wanted + np.arange(0, genomes * rows, rows)[:, None]).reshape(-1)  # numbered over all genomes
    rank = priority.reshape(-1)
    row = np.arange(genomes * rows)
    owner = np.full(genomes * rows, -1)
    claims = row
    while claims.size:  # as often as rows want the same partner: twice where two parents meet
        owner[partner[claims]] = claims
        claims = row[rank > rank[owner[partner]]]

    child = wanted.astype(np.int32)
    losers = np.flatnonzero(owner[partner] != row)
    unused = np.flatnonzero(owner < 0)
    order = np.argsort(unused // rows + rng.random(len(unused)))  # at random within each genome
    child.reshape(-1)[losers] = unused[order] % rows  # genome by genome, as many in both
    return child


def _known_scores(population: Population) -> Array:
    return np.where(np.isnan(population.scores), -np.inf, population.scores).astype(np.float32, copy=False)
