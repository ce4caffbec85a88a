"""What a search proposes and what it hands out: rows to evaluate, and elites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evo.archive import group_equal_rows
from evo.arrays import Array
from evo.genome import Population
from evo.packed import Masks


class Rows(NamedTuple):
    """R rows to evaluate: image[r] is mixed with image partner[r] through masks[r]."""

    image: Array  # (R,) int32
    masks: Array  # (R,G,G) bool, True = the cell keeps the row's own image
    partner: Array  # (R,) int32


@dataclass(frozen=True)
class Proposal:
    """The genomes one generation chooses from, and which of their rows are to be evaluated. Read-only.

    Attributes:
        packed: Masks (P,B).
        pairings: (P,B) int32.
        new: (P,B) bool; of rows that are equal the first stands for all.
    """

    packed: Masks
    pairings: Array
    new: Array

    @property
    def masks(self) -> Array:
        """(P,B,G,G) bool, True = the cell keeps the row's own image."""
        return as_read_only(self.packed.cells)

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
class Question:
    """The rows of a pool that wait for losses.

    Attributes:
        new: (P,B) bool, the rows asked for.
        unknown: (U,) genome and (U,) row of all rows that wait for losses.
        source: (U,) which of the rows asked for each of them is equal to.
        fresh: Genome and row of those never forwarded before, each kind once.
    """

    new: Array
    unknown: tuple[Array, Array]
    source: Array
    fresh: tuple[Array, Array]

    @classmethod
    def about(cls, pool: Population, *, full: bool) -> Question:
        """Find the rows to ask for.

        Args:
            pool: P genomes.
            full: Ask for all rows of genomes without a value, and not only for rows that are not known, each kind once.

        Returns:
            The question.
        """
        genome, row = np.nonzero(~pool.known)
        first, source = group_equal_rows(row, pool.pairings[genome, row], pool.packed.words[genome, row])
        fresh = genome[first], row[first]  # in either evaluation, so that both take the same course
        new = np.zeros(pool.pairings.shape, bool)
        if not full:
            new[fresh] = True
            return cls(new, (genome, row), source, fresh)
        new[~pool.valid | ~pool.known.all(axis=1)] = True
        genome, row = np.nonzero(new)
        return cls(new, (genome, row), np.arange(len(genome)), fresh)

    def proposal(self, pool: Population) -> Proposal:
        """Show the pool and the question.

        Args:
            pool: The genomes that it is about.

        Returns:
            Both, to be looked at.
        """
        return Proposal(
            Masks(as_read_only(pool.packed.words), pool.packed.grid),
            as_read_only(pool.pairings),
            as_read_only(self.new),
        )


def as_read_only(array: Array) -> Array:
    """Make a view that cannot be written to.

    Args:
        array: Any array.

    Returns:
        The view.
    """
    view = array.view()
    view.flags.writeable = False
    return view
