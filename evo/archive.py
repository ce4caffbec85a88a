"""Every row forwarded so far, with its losses: what the search need not ask for again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.genome import Population
from evo.packed import Masks, word_format

Array = NDArray[Any]


class RowArchive:
    """Rows (image, mask, partner) of one search batch, with the losses and the score they had.

    `find` answers exactly: a row is found only where image, partner and mask are all equal. At most
    `capacity` rows are kept: where more come, the older half goes, or as many as it takes. Memory is linear in the rows kept.
    """

    FACTS = (*Population.LOSSES, "measured", "scores")

    def __init__(self, batch: int, grid: int, capacity: int = 2**18) -> None:
        self.batch, self.grid, self.capacity = batch, grid, capacity
        self.clear()

    def clear(self) -> None:
        dtype, count = word_format(self.grid)
        self.image: Array = np.zeros(0, np.int32)
        self.partner: Array = np.zeros(0, np.int32)
        self.words: Array = np.zeros((0, count), dtype)
        self.facts: dict[str, Array] = {}
        self._sorted: Array = np.zeros(0, np.uint64)  # the rows' hashes, ascending
        self._order: Array = np.zeros(0, np.int64)  # which row each belongs to

    def __len__(self) -> int:
        return len(self.image)

    def add(self, population: Population, genome: Array, row: Array) -> None:
        """Keep the rows `row` (R,) of the genomes `genome` (R,); their losses are known and scored."""
        genome, row = genome[-self.capacity :], row[-self.capacity :]
        if not len(genome):
            return
        facts = {
            name: population._rows[name][genome, row]
            for name in self.FACTS
            if name in population._rows  # what nobody asked for takes no memory
        }
        partner, words = population.pairings[genome, row], population.packed.words[genome, row]
        if len(self) + len(genome) > self.capacity:
            self._drop(min(len(self), max(len(self) // 2, len(self) + len(genome) - self.capacity)))
        before = len(self)
        self.image = np.concatenate([self.image, row.astype(np.int32)])
        self.partner = np.concatenate([self.partner, partner])
        self.words = np.concatenate([self.words, words])
        for name, array in facts.items():
            unknown = np.full((before, *array.shape[1:]), np.nan if array.dtype.kind == "f" else 0, array.dtype)
            self.facts[name] = np.concatenate([self.facts.get(name, unknown), array])
        hashes = _hash(row, partner, words)
        place = np.searchsorted(self._sorted, hashes)
        order = np.argsort(hashes, kind="stable")
        self._sorted = np.insert(self._sorted, place[order], hashes[order])
        self._order = np.insert(self._order, place[order], before + order)

    def recall(self, population: Population) -> int:
        """Fill in the losses of the population's rows that are not known but lie here; return how many."""
        genome, row = np.nonzero(~population.known)
        found = self.find(row, population.pairings[genome, row], population.packed.words[genome, row])
        hit = found >= 0
        genome, row, found = genome[hit], row[hit], found[hit]
        for name, array in self.facts.items():
            if name != "scores":
                getattr(population, name)[genome, row] = array[found]
        population.known[genome, row] = True
        return len(found)

    def find(self, image: Array, partner: Array, words: Array) -> Array:
        """(R,) int64: where rows with these images (R,), partners (R,) and words (R,W) lie, -1 where nowhere."""
        if not len(self) or not len(image):
            return np.full(len(image), -1)
        hashes = _hash(image, partner, words)
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self) - 1)
        found = self._order[place]
        equal = (self.image[found] == image) & (self.partner[found] == partner)
        equal &= (self.words[found] == words).all(axis=1)
        return np.where(equal, found, -1)

    def best_pairs(self) -> tuple[Array, Masks]:
        """For image b with partner j the best score known, (B,B) float32 with -inf where there is none, and
        the mask that had it, Masks (B,B).
        """
        scores = np.full((self.batch, self.batch), -np.inf, np.float32)
        words = np.zeros((self.batch, self.batch, self.words.shape[1]), self.words.dtype)
        if len(self):
            ascending = np.argsort(self.facts["scores"], kind="stable")  # later writes win
            image, partner = self.image[ascending], self.partner[ascending]
            scores[image, partner] = self.facts["scores"][ascending]
            words[image, partner] = self.words[ascending]
        return scores, Masks(words, self.grid)

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint keeps."""
        return {"image": self.image, "partner": self.partner, "words": self.words, **self.facts}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Undo `arrays`."""
        self.clear()
        self.image, self.partner, self.words = (arrays[name] for name in ("image", "partner", "words"))
        self.facts = {name: arrays[name] for name in self.FACTS if name in arrays}
        self._index()

    def _drop(self, count: int) -> None:
        self.image, self.partner, self.words = self.image[count:], self.partner[count:], self.words[count:]
        self.facts = {name: array[count:] for name, array in self.facts.items()}
        self._index()

    def _index(self) -> None:
        hashes = _hash(self.image, self.partner, self.words)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]


def first_of_each(image: Array, partner: Array, words: Array) -> tuple[Array, Array]:
    """Rows (R,), exactly compared: the index (U,) of the first of each kind, ascending, and for every row
    which of them it equals (R,).
    """
    order = np.lexsort((*words.T, partner, image))
    fresh = np.ones(len(order), bool)
    fresh[1:] = image[order][1:] != image[order][:-1]
    fresh[1:] |= partner[order][1:] != partner[order][:-1]
    fresh[1:] |= (words[order][1:] != words[order][:-1]).any(axis=1)
    kind = np.empty(len(order), np.int64)
    kind[order] = np.cumsum(fresh) - 1
    first = order[fresh]  # lexsort is stable, so these are first occurrences
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.sort(first), rank[kind]


def _hash(image: Array, partner: Array, words: Array) -> Array:
    """(R,) uint64; equal rows have equal hashes. The finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = image.astype(np.uint64) << np.uint64(32) | partner.astype(np.uint64)
    for column in words.T:
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= column.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))
