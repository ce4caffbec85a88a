"""Who came from whom, by which operators, and how long each genome lived: int32 arrays."""

from __future__ import annotations

import numpy as np

from evo.array_checks import check_range, take_array
from evo.arrays import Array


class Lineage:
    """Genomes by number, in the order they were made.

    A genome that migrated has its number there for both parents, and no operators.

    Args:
        names: The operators'.

    Attributes:
        names: The operators'.
        survivors: One (P,) int32 a generation: who was alive after it, the fittest first (of several islands, island by
            island).
        count: How many genomes there are, N.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._parts: dict[str, list[Array]] = {"parents": [], "operators": [], "born": []}
        self.survivors: list[Array] = []
        self.count = 0

    def draw(self, count: int, generation: int) -> Array:
        """Record genomes that were drawn.

        Args:
            count: How many.
            generation: The one that proposes them, from 1.

        Returns:
            (count,) int32, their numbers.
        """
        nobody = np.full((count, 3), -1, np.int32)
        return self.breed(nobody[:, :2], nobody, generation)

    def breed(self, parents: Array, operators: Array, generation: int) -> Array:
        """Record children.

        Args:
            parents: (N,2) int, numbers of both parents; -1 where drawn.
            operators: (N,3) int, crossover, mask mutation and pairing mutation as indices into `names`; -1 where drawn.
            generation: The one that proposes them, from 1.

        Returns:
            (N,) int32, their numbers.

        Example:
            >>> lineage = Lineage(["assignment", "flip", "swap"])
            >>> parents = lineage.draw(2, generation=1)
            >>> lineage.breed(np.array([parents]), np.array([[0, 1, 2]]), generation=2)
            array([2], dtype=int32)
        """
        self._parts["parents"].append(parents.astype(np.int32))
        self._parts["operators"].append(operators.astype(np.int32))
        self._parts["born"].append(np.full(len(parents), generation, np.int32))
        numbers = np.arange(self.count, self.count + len(parents), dtype=np.int32)
        self.count += len(parents)
        return numbers

    def arrays(self) -> dict[str, Array]:
        """Return all of it.

        Returns:
            parents: (N,2) int32, operators: (N,3) int32, born: (N,) int32 (the generation that proposed it, from 1), names,
            and survivors: (T,P) int32 with -1 where fewer were alive.
        """
        width = max((len(alive) for alive in self.survivors), default=0)
        survivors = np.full((len(self.survivors), width), -1, np.int32)
        for line, alive in zip(survivors, self.survivors, strict=True):
            line[: len(alive)] = alive
        found = {name: self._join(name) for name in self._parts}
        return {**found, "survivors": survivors, "names": np.array(self.names, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Lineage:
        """Undo `arrays`.

        Args:
            arrays: What it returned. They are copied.

        Returns:
            The lineage.

        Raises:
            UserError: They are not a lineage's.
        """
        lineage = cls([str(name) for name in arrays.get("names", ())])
        born = take_array(arrays, "born", np.int32, (None,))
        parents = take_array(arrays, "parents", np.int32, (len(born), 2))
        operators = take_array(arrays, "operators", np.int32, (len(born), 3))
        survivors = take_array(arrays, "survivors", np.int32, (None, None))
        check_range("operators", operators, -1, len(lineage.names) - 1)
        for name, numbers in (("parents", parents), ("survivors", survivors)):
            check_range(name, numbers, -1, len(born) - 1)
        lineage._parts = {"parents": [parents], "operators": [operators], "born": [born]}
        lineage.survivors = [line[line >= 0] for line in survivors]
        lineage.count = len(born)
        return lineage

    def _join(self, name: str) -> Array:
        shape = {"parents": (0, 2), "operators": (0, 3), "born": (0,)}[name]
        return np.concatenate([np.zeros(shape, np.int32), *self._parts[name]])


def interleave(lineages: list[Lineage], migrations: Array) -> Lineage:
    """Make several lineages one: genome n of lineage i of I gets number n I + i.

    Where a lineage has fewer genomes, the numbers left over are drawn genomes of generation 0, which nobody lived in.

    Args:
        lineages: I of them.
        migrations: (N,4) int: lineage and number of each migrant, and lineage and number that it had at home.

    Returns:
        The lineage of all.
    """
    count = len(lineages)
    every = [lineage.arrays() for lineage in lineages]
    names = list(dict.fromkeys(name for lineage in lineages for name in lineage.names))
    size = count * max(lineage.count for lineage in lineages)
    parents, operators = np.full((size, 2), -1, np.int32), np.full((size, 3), -1, np.int32)
    born = np.zeros(size, np.int32)
    for island, (lineage, found) in enumerate(zip(lineages, every, strict=True)):
        own = slice(island, island + count * lineage.count, count)
        parents[own] = np.where(found["parents"] >= 0, found["parents"] * count + island, -1)
        place = np.array([names.index(name) for name in lineage.names], np.int32)
        operators[own] = np.where(found["operators"] >= 0, place[found["operators"]], -1)
        born[own] = found["born"]
    for island, number, home, origin in migrations:
        parents[number * count + island] = origin * count + home
    merged = Lineage(names)
    merged._parts = {"parents": [parents], "operators": [operators], "born": [born]}
    merged.count = size
    for generation in range(max(len(lineage.survivors) for lineage in lineages)):
        alive = [
            lineage.survivors[generation] * count + island
            for island, lineage in enumerate(lineages)
            if generation < len(lineage.survivors)
        ]
        merged.survivors.append(np.concatenate(alive))
    return merged
