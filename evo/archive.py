"""Every row forwarded so far, with its losses: what the search need not ask for again."""

from __future__ import annotations

import numpy as np

from evo.array_checks import check_range, take_array
from evo.arrays import Array
from evo.errors import UserError
from evo.genome import Population
from evo.packed import Masks, word_format


class RowArchive:
    """Rows (image, mask, partner) of one search batch, with the losses they had and how good they are.

    `find` answers exactly: a row is found only where image, partner and mask are all equal. At most
    `capacity` rows are kept: where more come, the older half goes, or as many as it takes. Memory is linear in the rows
    kept.

    objective_scores: (N,M) float32, each objective's score of a row in the generation that it came in. scores: (N,)
    float32, how good a row is, -inf where its losses are not finite. Of several objectives, or relative ones, they
    compare only where they were all given at once, by `rate`.
    """

    FACTS = (*Population.LOSSES, "measured")

    def __init__(self, batch_size: int, grid: int, capacity: int = 2**18, *, objectives: int = 1) -> None:
        self.batch_size = batch_size
        self.grid = grid
        self.objectives = objectives
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget every row."""
        dtype, count = word_format(self.grid)
        self.image: Array = np.zeros(0, np.int32)
        self.partner: Array = np.zeros(0, np.int32)
        self.words: Array = np.zeros((0, count), dtype)
        self.objective_scores: Array = np.zeros((0, self.objectives), np.float32)
        self.scores: Array = np.zeros(0, np.float32)
        self.facts: dict[str, Array] = {}
        self._sorted: Array = np.zeros(0, np.uint64)  # the rows' hashes, ascending
        self._order: Array = np.zeros(0, np.int64)  # which row each belongs to

    def __len__(self) -> int:
        return len(self.image)

    def add(self, population: Population, genome: Array, row: Array, scores: Array | None = None) -> None:
        """Keep rows of genomes whose losses are known.

        Args:
            population: P genomes over the batch.
            genome: (R,) which genome each row is of.
            row: (R,) which row of it.
            scores: (M,P,B) float32, the population's row scores; else its `scores`, of a single objective.
        """
        genome, row = genome[-self.capacity :], row[-self.capacity :]
        if not len(genome):
            return
        if len(self) + len(genome) > self.capacity:
            self._drop(min(len(self), max(len(self) // 2, len(self) + len(genome) - self.capacity)))
        before = len(self)
        facts = {
            name: population._rows[name][genome, row]
            for name in self.FACTS
            if name in population._rows  # what nobody asked for takes no memory
        }
        each = population.scores[None] if scores is None else scores
        rated = each[:, genome, row].T
        partner, words = population.pairings[genome, row], population.packed.words[genome, row]
        self.image = np.concatenate([self.image, row.astype(np.int32)])
        self.partner = np.concatenate([self.partner, partner])
        self.words = np.concatenate([self.words, words])
        self.objective_scores = np.concatenate([self.objective_scores, rated])
        self.scores = np.concatenate([self.scores, rated[:, 0]])
        for name, array in facts.items():
            unknown = np.full((before, *array.shape[1:]), np.nan if array.dtype.kind == "f" else 0, array.dtype)
            self.facts[name] = np.concatenate([self.facts.get(name, unknown), array])
        hashes = _hash(row, partner, words)
        place = np.searchsorted(self._sorted, hashes)
        order = np.argsort(hashes, kind="stable")
        self._sorted = np.insert(self._sorted, place[order], hashes[order])
        self._order = np.insert(self._order, place[order], before + order)

    def rate(self, scores: Array) -> None:
        """Say how good every row is.

        Args:
            scores: (N,) float32, all on one scale.
        """
        self.scores = scores

    def recall(self, population: Population) -> int:
        """Fill in losses of a population's rows that are not known but lie here.

        Args:
            population: P genomes over the batch, which are changed.

        Returns:
            How many rows were filled in.
        """
        genome, row = np.nonzero(~population.known)
        found = self.find(row, population.pairings[genome, row], population.packed.words[genome, row])
        hit = found >= 0
        genome, row, found = genome[hit], row[hit], found[hit]
        for name, array in self.facts.items():
            getattr(population, name)[genome, row] = array[found]
        population.known[genome, row] = True
        return len(found)

    def find(self, image: Array, partner: Array, words: Array) -> Array:
        """Find rows.

        Args:
            image: (R,) int.
            partner: (R,) int.
            words: (R,W) words of their masks.

        Returns:
            (R,) int64: where each lies, -1 where nowhere.
        """
        if not len(self) or not len(image):
            return np.full(len(image), -1)
        hashes = _hash(image, partner, words)
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self) - 1)
        found = self._order[place]
        equal = (self.image[found] == image) & (self.partner[found] == partner)
        equal &= (self.words[found] == words).all(axis=1)
        return np.where(equal, found, -1)

    def find_unseen(self, population: Population, rows: Array) -> tuple[Array, Array]:
        """Find rows of a population that are not here yet.

        Args:
            population: P genomes.
            rows: (P,B) bool, which rows to look at.

        Returns:
            (U,) genome and (U,) row of each kind once.
        """
        genome, row = np.nonzero(rows)
        partner = population.pairings[genome, row]
        words = population.packed.words[genome, row]
        unseen = np.flatnonzero(self.find(row, partner, words) < 0)
        unseen = unseen[group_equal_rows(row[unseen], partner[unseen], words[unseen])[0]]
        return genome[unseen], row[unseen]

    def best_pairs(self) -> tuple[Array, Masks]:
        """Find the best that is known of each pair.

        Returns:
            For image b with partner j the best score, (B,B) float32 with -inf where there is none, and the mask that had it,
            Masks (B,B).
        """
        scores = np.full((self.batch_size, self.batch_size), -np.inf, np.float32)
        words = np.zeros((self.batch_size, self.batch_size, self.words.shape[1]), self.words.dtype)
        if len(self):
            ascending = np.argsort(self.scores, kind="stable")  # later writes win
            image, partner = self.image[ascending], self.partner[ascending]
            scores[image, partner] = self.scores[ascending]
            words[image, partner] = self.words[ascending]
        return scores, Masks(words, self.grid)

    def arrays(self) -> dict[str, Array]:
        """Return what a checkpoint keeps.

        Returns:
            Named arrays, not copied.
        """
        rows = {"image": self.image, "partner": self.partner, "words": self.words}
        return {**rows, "objective_scores": self.objective_scores, "scores": self.scores, **self.facts}

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, Array], batch_size: int, grid: int, capacity: int = 2**18, *, objectives: int = 1
    ) -> RowArchive:
        """Undo `arrays`.

        Args:
            arrays: What it returned. They are copied.
            batch_size: B.
            grid: G.
            capacity: Rows kept at most.
            objectives: M.

        Returns:
            The archive.

        Raises:
            UserError: They are not an archive's.
        """
        dtype, width = word_format(grid)
        archive = cls(batch_size, grid, capacity, objectives=objectives)
        archive.image = take_array(arrays, "image", np.int32, (None,))
        count = len(archive.image)
        archive.partner = take_array(arrays, "partner", np.int32, (count,))
        archive.words = Masks.from_words(take_array(arrays, "words", dtype, (count, width)), grid).words
        archive.objective_scores = take_array(arrays, "objective_scores", np.float32, (count, objectives))
        archive.scores = take_array(arrays, "scores", np.float32, (count,))
        for name in ("image", "partner"):
            check_range(name, getattr(archive, name), 0, batch_size - 1)
        if np.isnan(archive.scores).any():
            raise UserError("scores must be numbers or -inf, got NaN")
        for name in cls.FACTS:
            if name in arrays:
                kind = np.int32 if name == "measured" else np.float32
                shape = (count, grid, grid) if name.endswith("cell_losses") else (count,)
                archive.facts[name] = take_array(arrays, name, kind, shape)
        archive._index()
        return archive

    def become(self, other: RowArchive) -> None:
        """Take over another archive's rows; operators that refer to this one go on with them.

        Args:
            other: The archive, which is not to be used any more.
        """
        self.__dict__.update(other.__dict__)

    def _drop(self, count: int) -> None:
        self.image = self.image[count:]
        self.partner = self.partner[count:]
        self.words = self.words[count:]
        self.objective_scores = self.objective_scores[count:]
        self.scores = self.scores[count:]
        self.facts = {name: array[count:] for name, array in self.facts.items()}
        self._index()

    def _index(self) -> None:
        hashes = _hash(self.image, self.partner, self.words)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]


def group_equal_rows(image: Array, partner: Array, words: Array) -> tuple[Array, Array]:
    """Group rows that are equal, exactly compared.

    Args:
        image: (R,) int.
        partner: (R,) int.
        words: (R,W) words of their masks.

    Returns:
        The index (U,) of the first row of each kind, ascending, and for every row which of them it equals (R,).
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
