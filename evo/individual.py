"""Individuals: views of a population's rows, as DEAP's tools expect them.

An individual has a `fitness`, an equality that answers one bool, and a `deepcopy` that detaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from deap import base

from evo.arrays import Array
from evo.packed import Masks

if TYPE_CHECKING:
    from evo.genome import Population


def check_pairings(pairings: Array, shape: tuple[int, ...]) -> None:
    """Refuse pairings that are not permutations of a batch.

    Args:
        pairings: What should be (P,B) integers, each row a permutation of 0..B-1.
        shape: (P,B), those of the masks.

    Raises:
        ValueError: They are something else; the line says what was expected and what came.
    """
    if not np.issubdtype(pairings.dtype, np.integer) or pairings.shape != shape:
        raise ValueError(
            f"pairings must be integers (P,B) = {shape} to go with the masks, got {pairings.dtype} {pairings.shape}"
        )
    wrong = np.sort(pairings, axis=1) != np.arange(shape[1])
    if wrong.any():
        broken = np.flatnonzero(wrong.any(axis=1))
        raise ValueError(
            f"each pairing must be a permutation of 0..{shape[1] - 1}; genome {broken[0]} is not: "
            f"{pairings[broken[0]].tolist()}"
        )


class RowFitness(base.Fitness):
    """A DEAP fitness that lives in row `index` of a population; all objectives are maximised."""

    def __init__(self, population: Population, index: int) -> None:
        self._population = population
        self._index = index

    @property
    def weights(self) -> tuple[float, ...]:
        """One for each objective, all 1: DEAP's."""
        return (1.0,) * self._population.values.shape[1]

    @property
    def wvalues(self) -> tuple[float, ...]:
        """The fitness values; none where they are not valid."""
        if not self._population.valid[self._index]:
            return ()
        return tuple(self._population.values[self._index].tolist())

    @wvalues.setter
    def wvalues(self, values: Sequence[float]) -> None:
        self._population.valid[self._index] = len(values) > 0
        if len(values):
            # NaN would compare greater both ways: it is the worst there is, whatever the other objectives say.
            self._population.values[self._index] = -np.inf if np.isnan(values).any() else values

    @property
    def crowding_dist(self) -> float:
        """Kept in the population, as an individual lives only while somebody refers to it."""
        if self._population._crowding is None:
            raise AttributeError("no crowding distance yet; tools.selNSGA2 or tools.emo.assignCrowdingDist sets it")
        return float(self._population._crowding[self._index])

    @crowding_dist.setter
    def crowding_dist(self, distance: float) -> None:
        if self._population._crowding is None:
            self._population._crowding = np.zeros(len(self._population))
        self._population._crowding[self._index] = distance

    def __deepcopy__(self, memo: dict[int, Any]) -> RowFitness:
        return self._population.take([self._index])[0].fitness

    def __reduce__(self) -> tuple[Any, ...]:
        return _only_fitness, (self._population.take([self._index]),)


class CaseFitness(RowFitness):
    """The row scores of a genome as its fitness values: one case a row. For reading."""

    @property
    def weights(self) -> tuple[float, ...]:
        """One for each row, all 1: DEAP's."""
        return (1.0,) * self._population.scores.shape[1]

    @property  # type: ignore[misc]
    def wvalues(self) -> tuple[float, ...]:
        """The row scores."""
        return tuple(self._population.scores[self._index].tolist())


class Individual:
    """One genome: a view of a row of a population, as DEAP's tools expect it.

    `masks` and `pairing` are read-only arrays; assign a whole new one to change the genome. Then the losses
    of rows that changed are no longer known, and the fitness is no longer valid.
    """

    __slots__ = ("__weakref__", "fitness", "index", "population")
    __hash__ = None  # type: ignore[assignment]  # mutable, like every DEAP individual

    def __init__(self, population: Population, index: int, fitness: RowFitness | None = None) -> None:
        self.population = population
        self.index = index
        self.fitness = RowFitness(population, index) if fitness is None else fitness

    @property
    def packed(self) -> Masks:
        """Masks (B,), a view."""
        return self.population.packed[self.index]

    @property
    def masks(self) -> Array:
        """(B,G,G) bool, True = the cell keeps the row's own image. Read-only; assign to change."""
        cells = self.packed.cells
        cells.flags.writeable = False
        return cells

    @masks.setter
    def masks(self, cells: Array | Masks) -> None:
        new = cells if isinstance(cells, Masks) else Masks.pack(np.asarray(cells))
        old = self.packed
        if new.words.shape != old.words.shape or new.grid != old.grid:
            raise ValueError(f"masks must be {(len(self), old.grid, old.grid)}, got {(*new.shape, new.grid, new.grid)}")
        self._changed(~old.same(new))
        self.population.packed.words[self.index] = new.words

    @property
    def pairing(self) -> Array:
        """(B,) int32. Read-only; assign to change."""
        view = self.population.pairings[self.index]
        view.flags.writeable = False
        return view

    @pairing.setter
    def pairing(self, pairing: Array) -> None:
        new = np.asarray(pairing)
        check_pairings(new[None], (1, len(self)))
        self._changed(self.pairing != new)
        self.population.pairings[self.index] = new

    @property
    def history_index(self) -> int:
        """What DEAP's tools.History numbers an individual with: kept as the genome's `id`, from 1."""
        number = int(self.population.ids[self.index])
        if number < 0:
            raise AttributeError("no history_index yet; tools.History.update sets it")
        return number

    @history_index.setter
    def history_index(self, number: int) -> None:
        self.population.ids[self.index] = number

    def detach(self) -> None:
        """Move into a population of its own, as it is now."""
        self.population = self.population.take([self.index])
        self.index = 0
        self.fitness._population = self.population
        self.fitness._index = 0
        self.population._views[0] = self

    def __len__(self) -> int:
        return self.population.pairings.shape[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Individual):
            return NotImplemented
        mine, theirs = self.packed, other.packed
        return (  # compared as bytes, which is faster than as arrays: a hall of fame compares a lot
            self.pairing.tobytes() == other.pairing.tobytes()
            and mine.grid == theirs.grid
            and mine.words.tobytes() == theirs.words.tobytes()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        return self.population.take([self.index])[0]

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this a pickled individual would carry its whole population.
        return _only_individual, (self.population.take([self.index]),)

    def __repr__(self) -> str:
        values = self.fitness.values if self.fitness.valid else None
        return f"Individual(B={len(self)}, G={self.population.packed.grid}, fitness={values})"

    def _changed(self, rows: Array) -> None:
        """Rows (B,) bool get new content: what was known of them is no longer valid."""
        if rows.any():
            if "known" in self.population._rows:
                self.population.known[self.index, rows] = False
            self.population.valid[self.index] = False


def _only_individual(population: Population) -> Individual:
    return population[0]


def _only_fitness(population: Population) -> RowFitness:
    return RowFitness(population, 0)
