"""What a search proposes and what it hands out: rows to evaluate, and elites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo.archive import first_of_each
from evo.genome import Population
from evo.packed import Masks

Array = NDArray[Any]


class Rows(NamedTuple):
    """R rows to evaluate: image[r] is mixed with image partner[r] through masks[r]."""

    image: Array  # (R,) int32
    masks: Array  # (R,G,G) bool, True = the cell keeps the row's own image
    partner: Array  # (R,) int32


@dataclass(frozen=True)
class Proposal:
    """The genomes one generation chooses from, and which of their rows are to be evaluated."""

    packed: Masks  # (P,B)
    pairings: Array  # (P,B) int32
    new: Array  # (P,B) bool; of rows that are equal the first stands for all

    @property
    def masks(self) -> Array:
        """(P,B,G,G) bool, True = the cell keeps the row's own image."""
        return self.packed.cells

    @property
    def rows(self) -> Rows:
        """The rows to evaluate, genome by genome: what `tell` wants losses for, in this order."""
        genome, row = np.nonzero(self.new)
        return Rows(row.astype(np.int32), self.packed[genome, row].cells, self.pairings[genome, row])


class Elites(NamedTuple):
    """The best E genomes, the fittest first."""

    masks: Array  # (E,B,G,G) bool, True = the cell keeps the row's own image
    pairings: Array  # (E,B) int32
    fitness: Array  # (E,) float64, by the first objective
    cell_losses: Array  # (E,B,G,G) float32, nats
    scores: Array  # (E,B) float32
    ids: Array  # (E,) int32, numbers in the lineage
    age: Array  # (E,) int32: changes of weights since its oldest loss was measured


@dataclass
class Open:
    """What an ask has proposed and a tell is to answer."""

    pool: Population
    kept: int  # genomes of the pool that were alive before
    new: Array  # (P,B) bool, the rows asked for
    unknown: tuple[Array, Array]  # (U,) genome and row of all rows that wait for losses
    source: Array  # (U,) which of the rows asked for each is equal to
    fresh: tuple[Array, Array]  # genome and row of those never forwarded before, each kind once
    made_by: Array  # (children,3), empty for a first generation
    parents: Array  # (children,2) indices into the genomes kept
    before: dict[str, Any]  # random states before the ask, which a checkpoint goes back to


def opened(pool: Population, kept: int, made_by: Array, parents: Array, before: dict[str, Any], *, full: bool) -> Open:
    """Find the rows to ask for: those not known, each kind once; in full evaluation all of genomes without value."""
    genome, row = np.nonzero(~pool.known)
    first, source = first_of_each(row, pool.pairings[genome, row], pool.packed.words[genome, row])
    fresh = genome[first], row[first]  # in either evaluation, so that both take the same course
    new = np.zeros(pool.pairings.shape, bool)
    if full:
        new[~pool.valid | ~pool.known.all(axis=1)] = True
        genome, row = np.nonzero(new)
        source = np.arange(len(genome))
    else:
        new[fresh] = True
    return Open(pool, kept, new, (genome, row), source, fresh, made_by, parents, before)
