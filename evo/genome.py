"""Genomes as stacked arrays, and individuals that are views of their rows.

A genome is a composition of one batch: masks (B,G,G) and a pairing (B,). A population holds P of
them as arrays, so that variation and scoring run over all genomes at once; `population[i]` is what
DEAP's tools see: an object with a `fitness`, an equality that answers one bool, and a `deepcopy` that
detaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from deap import base
from numpy.typing import NDArray

Array = NDArray[Any]


def check_genomes(masks: Array, pairings: Array) -> None:
    """Refuse genomes that are not compositions.

    masks: (P,B,G,G) bool, True = the cell keeps the row's own image. pairings: (P,B) integer, each
    row a permutation of 0..B-1. Raises ValueError that names what was expected and what came.
    """
    if masks.dtype != np.bool_ or masks.ndim != 4 or masks.shape[2] != masks.shape[3]:
        raise ValueError(f"masks must be bool (P,B,G,G), got {masks.dtype} {masks.shape}")
    if not np.issubdtype(pairings.dtype, np.integer) or pairings.shape != masks.shape[:2]:
        raise ValueError(
            f"pairings must be integers {masks.shape[:2]} to go with masks {masks.shape}, "
            f"got {pairings.dtype} {pairings.shape}"
        )
    rows = np.arange(masks.shape[1])
    broken = np.flatnonzero((np.sort(pairings, axis=1) != rows).any(axis=1))
    if broken.size:
        raise ValueError(
            f"each pairing must be a permutation of 0..{masks.shape[1] - 1}; genome {broken[0]} is not: "
            f"{pairings[broken[0]].tolist()}"
        )


class Population:
    """P genomes over one search batch, as arrays.

    masks        (P,B,G,G) bool     True = the cell keeps the row's own image
    pairings     (P,B) int32        row b's partner is image pairings[p, b]
    cell_losses  (P,B,G,G) float32  nats; meaningful where `known`
    image_losses (P,B) float32      nats; meaningful where `known`
    known        (P,B) bool         the row's losses are true for the model's present weights
    scores       (P,B) float32      the objective's row scores, larger is fitter; NaN before the first
    values       (P,M) float64      fitness values; meaningful where `valid`
    valid        (P,) bool
    """

    FIELDS = ("masks", "pairings", "cell_losses", "image_losses", "known", "scores", "values", "valid")

    masks: Array
    pairings: Array
    cell_losses: Array
    image_losses: Array
    known: Array
    scores: Array
    values: Array
    valid: Array

    def __init__(self, masks: Array, pairings: Array, objectives: int = 1) -> None:
        check_genomes(masks, pairings)
        genomes, rows = pairings.shape
        self.masks = masks
        self.pairings = pairings.astype(np.int32, copy=False)
        self.cell_losses = np.full(masks.shape, np.nan, np.float32)
        self.image_losses = np.full((genomes, rows), np.nan, np.float32)
        self.known = np.zeros((genomes, rows), bool)
        self.scores = np.full((genomes, rows), np.nan, np.float32)
        self.values = np.full((genomes, objectives), np.nan)
        self.valid = np.zeros(genomes, bool)

    @classmethod
    def _of(cls, fields: dict[str, Array]) -> Population:
        """Build without checks from arrays that came out of populations."""
        population = cls.__new__(cls)
        for name in cls.FIELDS:
            setattr(population, name, fields[name])
        return population

    def take(self, indices: Sequence[int] | Array) -> Population:
        """A copy of the genomes at `indices`."""
        chosen = np.asarray(indices, dtype=np.intp)
        return self._of({name: getattr(self, name)[chosen] for name in self.FIELDS})

    def join(self, other: Population) -> Population:
        """A copy of both populations, one after the other."""
        return self._of({name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.FIELDS})

    def forget(self) -> None:
        """The model's weights have changed: no loss and no fitness holds any more."""
        self.known[:] = False
        self.valid[:] = False

    def __len__(self) -> int:
        return len(self.pairings)

    def __getitem__(self, index: int) -> Individual:
        if not -len(self) <= index < len(self):
            raise IndexError(f"genome {index} of a population of {len(self)}")
        return Individual(self, index % len(self))

    def __iter__(self) -> Iterator[Individual]:
        return (Individual(self, index) for index in range(len(self)))


class RowFitness(base.Fitness):
    """A DEAP fitness that lives in row `index` of a population; all objectives are maximised."""

    def __init__(self, population: Population, index: int) -> None:
        self._population = population
        self._index = index

    @property
    def weights(self) -> tuple[float, ...]:
        return (1.0,) * self._population.values.shape[1]

    @property
    def wvalues(self) -> tuple[float, ...]:
        if not self._population.valid[self._index]:
            return ()
        return tuple(self._population.values[self._index].tolist())

    @wvalues.setter
    def wvalues(self, values: Sequence[float]) -> None:
        self._population.valid[self._index] = len(values) > 0
        if len(values):
            self._population.values[self._index] = values

    def __deepcopy__(self, memo: dict[int, Any]) -> RowFitness:
        return self._population.take([self._index])[0].fitness


class Individual:
    """One genome: a view of a row of a population, as DEAP's tools expect it."""

    __hash__ = None  # type: ignore[assignment]  # mutable, like every DEAP individual

    def __init__(self, population: Population, index: int) -> None:
        self.population = population
        self.index = index
        self.fitness = RowFitness(population, index)

    @property
    def masks(self) -> Array:
        """(B,G,G) bool, a view: writing to it changes the population."""
        return self.population.masks[self.index]

    @property
    def pairing(self) -> Array:
        """(B,) int32, a view: writing to it changes the population."""
        return self.population.pairings[self.index]

    def __len__(self) -> int:
        return len(self.pairing)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Individual):
            return NotImplemented
        return np.array_equal(self.pairing, other.pairing) and np.array_equal(self.masks, other.masks)

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        return self.population.take([self.index])[0]

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this a pickled individual would carry its whole population.
        return _only_individual, (self.population.take([self.index]),)

    def __repr__(self) -> str:
        grid = self.masks.shape[-1]
        return f"Individual(B={len(self)}, G={grid}, fitness={self.fitness.values if self.fitness.valid else None})"


def _only_individual(population: Population) -> Individual:
    return population[0]
