"""Genomes as stacked arrays.

A genome is a composition of one batch: masks (B,G,G) and a pairing (B,). A population has P of them as
arrays, so that variation and scoring run over all genomes at once. To DEAP's tools it is a list of
individuals, which are views of its rows: see individual.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from evo.array_checks import take_array
from evo.arrays import Array
from evo.errors import UserError
from evo.individual import CaseFitness, Individual, check_pairings
from evo.packed import Masks
from evo.storage import read_arrays, write_arrays

SCHEMA = 1


def check_genomes(masks: Array, pairings: Array) -> None:
    """Refuse genomes that are not compositions.

    Args:
        masks: (P,B,G,G) bool, True = the cell keeps the row's own image.
        pairings: (P,B) integer, each row a permutation of 0..B-1.

    Raises:
        ValueError: They are something else; the line says what was expected and what came.
    """
    if masks.dtype != np.bool_ or masks.ndim != 4 or masks.shape[2] != masks.shape[3] or not masks.shape[2]:
        raise ValueError(f"masks must be bool (P,B,G,G), got {masks.dtype} {masks.shape}")
    check_pairings(pairings, masks.shape[:2])


class _RowField:
    """An array (P,B) or (P,B,G,G) of a population that takes memory only once it is used."""

    def __init__(self, dtype: type, empty: Any, cells: bool = False) -> None:
        self.dtype = dtype
        self.empty = empty
        self.cells = cells

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, population: Population, owner: type) -> Array:
        found = population._rows.get(self.name)
        if found is None:
            grid = population.packed.grid
            shape = (*population.pairings.shape, grid, grid) if self.cells else population.pairings.shape
            found = population._rows[self.name] = np.full(shape, self.empty, self.dtype)
        return found

    def __set__(self, population: Population, array: Array) -> None:
        population._rows[self.name] = array


class Population(MutableSequence["Individual"]):
    """P genomes over one search batch, as arrays.

    Args:
        masks: (P,B,G,G) bool, or Masks (P,B).
        pairings: (P,B) integer, permutations of 0..B-1.
        objectives: M.

    Attributes:
        packed: Masks (P,B), True = the cell keeps the row's own image; `masks` unpacks them.
        pairings: (P,B) int32, row b's partner is image pairings[p, b].
        values: (P,M) float64, fitness values, larger is fitter; meaningful where `valid`.
        valid: (P,) bool.
        ids: (P,) int32, a genome's number in its search's lineage; -1 outside a search.
        cell_losses, reference_cell_losses: (P,B,G,G) float32, nats; meaningful where `known`. This and the following
            arrays are made when they are first used.
        image_losses, reference_image_losses: (P,B) float32, nats; meaningful where `known`.
        known: (P,B) bool, losses are carried for the row.
        measured: (P,B) int32, under which weights: see Search.forget.
        scores: (P,B) float32, the objective's row scores, larger is fitter; NaN before the first.

    Raises:
        ValueError: They are not compositions.

    Example:
        >>> population = Population(np.ones((2, 3, 2, 2), bool), np.array([[0, 1, 2], [2, 0, 1]]))
        >>> population[1].fitness.values = (0.5,)
        >>> len(population), population[1], population.valid
        (2, Individual(B=3, G=2, fitness=(0.5,)), array([False,  True]))
    """

    cell_losses = _RowField(np.float32, np.nan, cells=True)
    image_losses = _RowField(np.float32, np.nan)
    reference_cell_losses = _RowField(np.float32, np.nan, cells=True)
    reference_image_losses = _RowField(np.float32, np.nan)
    known = _RowField(np.bool_, False)
    measured = _RowField(np.int32, 0)
    scores = _RowField(np.float32, np.nan)

    LOSSES = ("cell_losses", "image_losses", "reference_cell_losses", "reference_image_losses")
    ROW_FIELDS = (*LOSSES, "known", "measured", "scores")

    def __init__(self, masks: Array | Masks, pairings: Array, objectives: int = 1) -> None:
        if isinstance(masks, Masks):
            check_pairings(pairings, masks.shape)
            self.packed = masks.copy()
        else:
            check_genomes(masks, pairings)
            self.packed = Masks.pack(masks)
        self.pairings: Array = pairings.astype(np.int32)
        self.values: Array = np.full((len(pairings), objectives), np.nan)
        self.valid: Array = np.zeros(len(pairings), bool)
        self.ids: Array = np.full(len(pairings), -1, np.int32)
        self._rows: dict[str, Array] = {}
        self._crowding: Array | None = None  # (P,) what tools.selNSGA2 hands out
        self._views: weakref.WeakValueDictionary[int, Individual] = weakref.WeakValueDictionary()

    @classmethod
    def _of(cls, packed: Masks, pairings: Array, values: Array, valid: Array, ids: Array) -> Population:
        """Build without checks, from arrays that came out of populations."""
        population = cls.__new__(cls)
        population.packed = packed
        population.pairings = pairings
        population.values = values
        population.valid = valid
        population.ids = ids
        population._rows = {}
        population._crowding = None
        population._views = weakref.WeakValueDictionary()
        return population

    @classmethod
    def gather(cls, individuals: Sequence[Individual]) -> Population:
        """Copy individuals of any populations over the same batch and grid.

        Args:
            individuals: One or more.

        Returns:
            A population of them, in their order.

        Raises:
            ValueError: There are none, or they do not go together.
        """
        if not individuals:
            raise ValueError("a population needs at least one individual, got none")
        home = individuals[0].population
        if all(individual.population is home for individual in individuals):
            return home.take([individual.index for individual in individuals])
        return cls._concatenated([individual.population.take([individual.index]) for individual in individuals])

    @classmethod
    def _concatenated(cls, parts: Sequence[Population]) -> Population:
        shapes = {(*part.pairings.shape[1:], part.packed.grid, part.values.shape[1]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"genomes to join must agree in B, G and number of objectives, got {sorted(shapes)}")
        joined = cls._of(
            Masks(np.concatenate([part.packed.words for part in parts]), parts[0].packed.grid),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("pairings", "values", "valid", "ids")
            ),
        )
        for name in {name for part in parts for name in part._rows}:
            joined._rows[name] = np.concatenate([getattr(part, name) for part in parts])
        crowding = [part._crowding for part in parts if part._crowding is not None]
        joined._crowding = np.concatenate(crowding) if len(crowding) == len(parts) else None
        return joined

    def take(self, indices: Sequence[int] | Array, fields: Sequence[str] = ROW_FIELDS) -> Population:
        """Copy genomes.

        Args:
            indices: Theirs, or bool (P,).
            fields: The row fields that are copied as well.

        Returns:
            A population of these genomes.
        """
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.intp)
        taken = self._of(
            self.packed[chosen], self.pairings[chosen], self.values[chosen], self.valid[chosen], self.ids[chosen]
        )
        taken._rows = {name: array[chosen] for name, array in self._rows.items() if name in fields}
        taken._crowding = None if self._crowding is None else self._crowding[chosen]
        return taken

    def join(self, other: Population) -> Population:
        """Copy both populations, one after the other.

        Args:
            other: Over the same batch and grid.

        Returns:
            A population of all.

        Raises:
            ValueError: They do not go together.
        """
        return self._concatenated([self, other])

    def inherit(self, parents: Population, which: Array) -> None:
        """Carry known losses over to rows that a parent has too.

        Args:
            parents: Genomes of the same batch.
            which: (P,) int, the parent of each genome.
        """
        same = (self.pairings == parents.pairings[which]) & parents.known[which] & ~self.known
        same &= self.packed.same(parents.packed[which])
        child, row = np.nonzero(same)
        for name in (*self.LOSSES, "measured"):
            if name in parents._rows:
                getattr(self, name)[child, row] = parents._rows[name][which[child], row]
        self.known |= same

    def place(self, index: int, source: Population, genome: int) -> None:
        """Overwrite a genome with another population's, with all that is known of it.

        Args:
            index: Which one.
            source: The other population.
            genome: Which one of it.
        """
        self.packed[index] = source.packed[genome]
        for name in ("pairings", "values", "valid", "ids"):
            getattr(self, name)[index] = getattr(source, name)[genome]
        for name in {*self._rows, *source._rows}:
            getattr(self, name)[index] = getattr(source, name)[genome]

    def copy(self) -> Population:
        """Return a population with arrays of its own."""
        return self.take(np.arange(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Population:
        return self.copy()

    __copy__ = copy  # arrays shared by two populations would be a trap

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_arrays, (self.arrays(),)

    @property
    def masks(self) -> Array:
        """(P,B,G,G) bool, True = the cell keeps the row's own image: unpacked, read-only.

        To change a genome assign to `population[i].masks`; to change many, to `population.packed`.
        """
        cells = self.packed.cells
        cells.flags.writeable = False
        return cells

    @property
    def cases(self) -> list[Individual]:
        """The individuals with their rows as fitness cases: what tools.selLexicase and its kin select from."""
        return [Individual(self, index, CaseFitness(self, index)) for index in range(len(self))]

    def arrays(self) -> dict[str, Array]:
        """Return all there is: what `save` writes and `from_arrays` reads.

        Returns:
            Named arrays, not copied.
        """
        fixed = {name: getattr(self, name) for name in ("pairings", "values", "valid", "ids")}
        return {"grid": np.array(self.packed.grid), "words": self.packed.words, **fixed, **self._rows}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Population:
        """Undo `arrays`.

        Args:
            arrays: What it returned. They are copied.

        Returns:
            The population.

        Raises:
            ValueError: They are not a population's.
        """
        try:
            packed = Masks.from_words(np.asarray(arrays["words"]), int(arrays["grid"]))
            population = cls(packed, arrays["pairings"])
            count = len(population)
            population.values = take_array(arrays, "values", np.float64, (count, None))
            population.valid = take_array(arrays, "valid", np.bool_, (count,))
            population.ids = take_array(arrays, "ids", np.int32, (count,))
            for name in cls.ROW_FIELDS:
                if name in arrays:
                    expected = getattr(population, name)
                    population._rows[name] = take_array(arrays, name, expected.dtype, expected.shape)
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise UserError(f"these arrays are not a population: {type(error).__name__}: {error}") from None
        return population

    def save(self, path: Path | str) -> None:
        """Write everything to an .npz file, without pickle, atomically.

        Args:
            path: The file.
        """
        write_arrays(path, {"schema": np.array(SCHEMA), **self.arrays()})

    @classmethod
    def load(cls, path: Path | str) -> Population:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The population.

        Raises:
            ValueError: In one line: the file is not sound.
        """
        arrays = read_arrays(path, "population")
        try:
            schema = int(arrays.pop("schema"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a saved population: {type(error).__name__}: {error}") from None
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}; update Evomix")
        return cls.from_arrays(arrays)

    # What makes it a list of individuals, as DEAP's tools and algorithms expect one.

    def __len__(self) -> int:
        return len(self.pairings)

    @overload
    def __getitem__(self, index: int) -> Individual: ...
    @overload
    def __getitem__(self, index: slice) -> list[Individual]: ...

    def __getitem__(self, index: int | slice) -> Individual | list[Individual]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"genome {index} of a population of {len(self)}")
        index = int(index) % len(self)
        individual = self._views.get(index)
        if individual is None:
            individual = self._views[index] = Individual(self, index)
        return individual

    def __iter__(self) -> Iterator[Individual]:
        return (self[index] for index in range(len(self)))

    def __setitem__(self, index: int | slice, value: Individual | Iterable[Individual]) -> None:
        """Put copies of individuals in place. Whoever has an individual that is replaced keeps it, detached."""
        everybody: list[Individual] = list(self)
        everybody[index] = value  # type: ignore[assignment, index]
        self._replace(everybody)

    def __delitem__(self, index: int | slice) -> None:
        everybody = list(self)
        del everybody[index]
        self._replace(everybody)

    def insert(self, index: int, value: Individual) -> None:
        """Put a copy of an individual into the list.

        Args:
            index: The place.
            value: The individual.
        """
        everybody = list(self)
        everybody.insert(index, value)
        self._replace(everybody)

    def __add__(self, other: Iterable[Individual]) -> list[Individual]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Individual]) -> list[Individual]:
        return [*other, *self]

    def _replace(self, individuals: list[Individual]) -> None:
        new = self.gather(individuals)
        placed = {id(individual): index for index, individual in enumerate(individuals)}
        views = list(self._views.values())
        for view in views:
            if id(view) not in placed:
                view.detach()
        self.packed = new.packed
        self.pairings = new.pairings
        self.values = new.values
        self.valid = new.valid
        self.ids = new.ids
        self._rows = new._rows
        self._crowding = new._crowding
        self._views.clear()
        for view in views:
            if id(view) in placed:
                view.index = view.fitness._index = placed[id(view)]
                self._views[view.index] = view


def _from_arrays(arrays: dict[str, Array]) -> Population:
    return Population.from_arrays(arrays)
