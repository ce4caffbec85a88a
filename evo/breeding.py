"""How a generation comes from the one before: a start, parents, children by the operators, and the rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from deap import base

from evo.archive import RowArchive
from evo.arrays import Array
from evo.bank import PatternBank
from evo.errors import UserError
from evo.genome import Population
from evo.lineage import Lineage
from evo.operators import (
    ALL_CROSSOVERS,
    ARCHIVE_CROSSOVERS,
    MASK_MUTATIONS,
    MASK_SAMPLERS,
    PAIRING_MUTATIONS,
    TABLE_CROSSOVERS,
)
from evo.packed import Masks
from evo.pair_table import PairTable
from evo.proposal import Elites, Question
from evo.row_scores import Scoring
from evo.rules import Rules
from evo.selection import SELECTIONS, as_indices, best, find_distinct, tournament
from evo.settings import SearchSettings
from evo.variation import Slot, Variation, as_masks, parse_shares

Start = PatternBank | Population | Elites | tuple[Array, Array]
OF_ARRAYS = (tournament, best)  # selections that leave Python's `random` alone
ROW_RATE = 0.05  # of mask mutations: share of rows that change; few, so that children cost few forwards


@dataclass
class Bred:
    """Genomes that one generation chooses from.

    Attributes:
        pool: Those that were alive, and their children.
        kept: How many were alive.
        made_by: (N,3) int32, which operators made each child; -1 for a child that was drawn instead.
        parents: (N,2) int64, indices of its parents among those alive; -1 for a child that was drawn instead.
    """

    pool: Population
    kept: int
    made_by: Array
    parents: Array

    def take_first(self, count: int) -> Bred:
        """Take genomes from the front.

        Args:
            count: How many; all that were alive are part of them.

        Returns:
            These alone.
        """
        children = count - self.kept
        return Bred(self.pool.take(np.arange(count)), self.kept, self.made_by[:children], self.parents[:children])

    def enter(self, lineage: Lineage, generation: int) -> None:
        """Give the genomes that are new their numbers.

        Args:
            lineage: What records who came from whom.
            generation: Theirs.
        """
        if not self.kept:
            self.pool.ids[:] = lineage.draw(len(self.pool), generation)
            return
        parents = np.where(self.parents >= 0, self.pool.ids[self.parents], -1)
        self.pool.ids[self.kept :] = lineage.breed(parents, self.made_by, generation)


def fit_budget(bred: Bred, left: int | None, row_cost: int, *, full: bool) -> tuple[Bred, Question] | None:
    """Find the genomes that the rest of a budget pays for, and the rows to ask for.

    Args:
        bred: Genomes to choose from.
        left: Image forwards that are left; None: no limit.
        row_cost: Image forwards that a row takes.
        full: Whether every row of new genomes is asked for.

    Returns:
        Genomes from the front of the pool, and their question; None where no child is among them.
    """
    question = Question.about(bred.pool, full=full)
    if left is None:
        return bred, question
    cost = row_cost * np.cumsum(question.new.sum(axis=1))
    count = int(np.searchsorted(cost, left, side="right"))
    if count == len(cost):
        return bred, question
    if count <= bred.kept:
        return None
    part = bred.take_first(count)
    return part, Question.about(part.pool, full=full)


class Breeder:
    """Draws first generations and breeds later ones, with DEAP's toolbox.

    Args:
        settings: The search's.
        scoring: Its M objectives, and the labels (B,) of its batch.
        grid: G.
        archive: What archive crossovers read.
        rng: Every draw comes from it, or from a state of Python's `random` that it seeds.
        start: What part of the first generation comes from; see `prepare_start`.
        table: What the rest of it is dealt from; else it is drawn at random.
    """

    def __init__(
        self,
        settings: SearchSettings,
        scoring: Scoring,
        grid: int,
        archive: RowArchive,
        rng: np.random.Generator,
        start: PatternBank | Population | None,
        table: PairTable | None = None,
    ) -> None:
        self.settings = settings
        self.labels = scoring.labels
        self.grid = grid
        self.archive = archive
        self.objectives = len(scoring.objectives)
        self.rng = rng
        self.start = start
        self.table = table
        self.rules = Rules(
            self.labels,
            grid,
            min_cells=settings.min_cells,
            self_pairing=settings.self_pairing,
            same_class=settings.same_class,
            hold=settings.hold,
        )
        # DEAP's selections draw from Python's `random`; this state is swapped in only while they do.
        self.random_state = random.Random(int(rng.integers(2**63))).getstate()
        self.toolbox = base.Toolbox()
        self.toolbox.register("sample", MASK_SAMPLERS[settings.sampler])
        self.toolbox.register("select", SELECTIONS[settings.selection], rng=rng)
        self.toolbox.register("survive", best)
        self.variation = self._register_operators()

    def draw_first(self) -> Bred:
        """Draw the first generation, or take it in part from what is known from before.

        Returns:
            P genomes, of which none was alive.
        """
        if self.table is None:
            masks, pairings = self._draw(self.settings.population)
        else:
            masks, pairings = self.table.deal(self.settings.population, self.settings.temperature, self.rng)
        source = self._put_start(masks, pairings)
        pool = Population(*self.rules.repair_first(masks, pairings, self.rng), objectives=self.objectives)
        if source is not None:
            pool.inherit(source, np.arange(len(pool)) % len(source))
        return Bred(pool, 0, np.zeros((0, 3), np.int32), np.zeros((0, 2), np.int64))

    def breed(self, alive: Population, stale: str | None) -> Bred:
        """Breed the pool of a later generation: those alive and P children.

        Args:
            alive: The present generation, scored.
            stale: What became of its losses since, as Search.forget says: `all`, `survivors`, or None.

        Returns:
            The pool.
        """
        size = self.settings.population
        if stale == "all":  # nobody can be preferred, so everybody has a child
            chosen = self.rng.permutation(np.arange(2 * size) % len(alive))
        else:
            chosen = self.select(self.toolbox.select, alive, 2 * size)
        if stale == "survivors":
            picked, chosen = np.unique(chosen, return_inverse=True)
            alive = alive.take(picked)
        first, second = chosen[:size], chosen[size:]
        masks, pairings, made_by = self.variation.make_children(
            alive.take(first, fields=("scores",)), alive.take(second, fields=("scores",)), self.rng
        )
        children = Population(*self.rules.repair(masks, pairings, self.rng), objectives=self.objectives)
        parents = np.stack([first, second], axis=1)
        if self.settings.duplicates == "redraw":
            made_by, parents = self._redraw(alive, children, made_by, parents)
        children.inherit(alive, first)
        children.inherit(alive, second)
        self.archive.recall(children)
        return Bred(alive.join(children), len(alive), made_by, parents)

    def select_survivors(self, pool: Population) -> Array:
        """Choose the P genomes that live on.

        Args:
            pool: All that were evaluated.

        Returns:
            Their indices, the fittest first; copies only where kinds are too few.
        """
        size = min(self.settings.population, len(pool))
        if self.settings.duplicates == "keep":
            return self._sort_fittest(pool, self._pick_best(pool, np.arange(len(pool)), size))
        kinds = find_distinct(pool)
        chosen = self._pick_best(pool, kinds, min(size, len(kinds)))
        if len(chosen) < size:
            copies = np.setdiff1d(np.arange(len(pool)), chosen)
            chosen = np.concatenate([chosen, self._pick_best(pool, copies, size - len(chosen))])
        return self._sort_fittest(pool, chosen)

    def reward(self, bred: Bred, survivors: Array, cost: Array) -> None:
        """Credit operators with what their children gained over the better parent, where their shares follow it.

        Args:
            bred: A generation, scored.
            survivors: Indices of those that live on.
            cost: (P,) new rows of each genome, over which its gain is shared out.
        """
        if not self.variation.adaptive or not len(bred.made_by):
            return
        children = np.arange(bred.kept, len(bred.pool))
        with_parents = bred.parents[:, 0] >= 0
        if self.objectives > 1:
            gain = np.isin(children, survivors).astype(float)
        else:
            values = bred.pool.values[:, 0]
            gain = values[children] - values[np.maximum(bred.parents, 0)].max(axis=1)
            gain = np.where(np.isfinite(gain), np.maximum(gain, 0.0), 0.0) / (1 + cost[children])
        self.variation.reward(bred.made_by[with_parents], gain[with_parents])

    def select(self, tool: Callable[..., Any], population: Population, count: int) -> Array:
        """Ask a selection of the toolbox. Python's `random` outside is left alone.

        Args:
            tool: The selection, ours or DEAP's.
            population: What it selects from.
            count: How many.

        Returns:
            (count,) int64 indices.
        """
        if getattr(tool, "func", None) in OF_ARRAYS:  # to change Python's state back and forth takes as long as they do
            return as_indices(tool(population, count))
        with self._python_random():
            return as_indices(tool(population, count))

    def _pick_best(self, pool: Population, among: Array, count: int) -> Array:
        tool = self.toolbox.survive
        candidates = pool.take(among, fields=() if getattr(tool, "func", None) is best else ("scores",))
        return np.asarray(among[self.select(tool, candidates, count)])

    def _sort_fittest(self, pool: Population, chosen: Array) -> Array:
        if self.objectives > 1:
            return chosen
        return np.asarray(chosen[np.argsort(-pool.values[chosen, 0], kind="stable")])

    def _draw(self, count: int) -> tuple[Masks, Array]:
        size = len(self.labels)
        masks = as_masks(self.toolbox.sample(count * size, self.grid, self.rng), "sample")
        pairings = np.argsort(self.rng.random((count, size)), axis=1).astype(np.int32)
        return Masks(masks.words.reshape(count, size, -1), self.grid), pairings

    def _put_start(self, masks: Masks, pairings: Array) -> Population | None:
        """Overwrite drawn genomes with those of the start, in place; return those that bring losses."""
        if self.start is None:
            return None
        most = max(1, int(self.settings.start_share * len(pairings)))
        if isinstance(self.start, PatternBank):
            cells = self.start.draw_masks(most * pairings.shape[1], self.rng)
            masks[np.arange(most)] = Masks.pack(cells.reshape(most, -1, self.grid, self.grid))
            return None
        count = min(most, len(self.start))
        masks[np.arange(count)] = self.start.packed[:count]
        pairings[:count] = self.start.pairings[:count]
        return self.start

    def _redraw(self, alive: Population, children: Population, made_by: Array, parents: Array) -> tuple[Array, Array]:
        """Replace children that are copies by drawn genomes."""
        fresh = np.zeros(len(alive) + len(children), bool)
        fresh[find_distinct(alive.join(children))] = True
        copies = np.flatnonzero(~fresh[len(alive) :])
        if not len(copies):
            return made_by, parents
        masks, pairings = self.rules.repair(*self._draw(len(copies)), self.rng)
        children.packed[copies] = masks
        children.pairings[copies] = pairings
        made_by = made_by.copy()
        made_by[copies] = -1
        parents = parents.copy()
        parents[copies] = -1
        self.rules.unmet = self.rules.count_broken(children.pairings)
        return made_by, parents

    def _register_operators(self) -> Variation:
        """Register the operators, with the rates found best, and set their shares."""
        of_crossovers: dict[str, Any] = {name: {"archive": self.archive} for name in ARCHIVE_CROSSOVERS}
        of_table = {"table": self.table, "temperature": self.settings.temperature}
        of_crossovers |= dict.fromkeys(TABLE_CROSSOVERS, of_table)
        of_masks: dict[str, Any] = {name: {"row_rate": ROW_RATE} for name in MASK_MUTATIONS}
        of_pairings: dict[str, Any] = {"swap": {"rate": 1 / len(self.labels)}}
        slots = [
            self._make_slot("mate", self.settings.crossover, ALL_CROSSOVERS, "crossover", of_crossovers),
            self._make_slot("mutate_masks", self.settings.mask_mutation, MASK_MUTATIONS, "mask mutation", of_masks),
            self._make_slot(
                "mutate_pairings", self.settings.pairing_mutation, PAIRING_MUTATIONS, "pairing mutation", of_pairings
            ),
        ]
        return Variation(self.toolbox, slots, self.settings.adaptive)

    def _make_slot(self, name: str, text: str, registry: Mapping[str, Any], kind: str, options: dict[str, Any]) -> Slot:
        shares = parse_shares(text, registry, kind)
        if self.table is None and (lost := sorted(TABLE_CROSSOVERS.keys() & shares)):
            raise UserError(
                f"the {kind} {lost[0]} deals from scores of all pairs, and none are given; give Search a table, or take another, "
                "such as assignment"
            )
        slot = Slot(name, list(shares), np.array(list(shares.values())))
        for operator in slot.names:
            self.toolbox.register(slot.tool(operator), registry[operator], **options.get(operator, {}))
        return slot

    @contextmanager
    def _python_random(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self.random_state)
        try:
            yield
        finally:
            self.random_state = random.getstate()
            random.setstate(outside)


def prepare_start(
    start: Start | None, carry_losses: bool, batch_size: int, grid: int
) -> PatternBank | Population | None:
    """Check what a search is to start from.

    Args:
        start: A bank, genomes with or without losses, or None; it is copied.
        carry_losses: Whether the losses that a Population brings are those of the present weights.
        batch_size: B.
        grid: G.

    Returns:
        A bank of that grid, or genomes of that batch, whose losses are known only where they are to be carried.

    Raises:
        UserError: It does not fit.
    """
    if carry_losses and not isinstance(start, Population):
        raise UserError(
            "carry_losses needs a start that is a Population with its losses, such as another search's population, got "
            f"{type(start).__name__}"
        )
    if start is None:
        return None
    if isinstance(start, PatternBank):
        if start.grid != grid or not len(start):
            raise UserError(
                f"a search of grid {grid} starts from a bank of patterns of that grid, got {len(start)} patterns of "
                f"{start.grid}x{start.grid}"
            )
        return start.top(len(start))
    genomes = start.copy() if isinstance(start, Population) else Population(np.asarray(start[0]), np.asarray(start[1]))
    shape = (*genomes.pairings.shape, genomes.packed.grid, genomes.packed.grid)
    if not len(genomes) or shape[1:] != (batch_size, grid, grid):
        raise UserError(f"this search starts from masks (N,{batch_size},{grid},{grid}) with pairings, got {shape}")
    genomes.known &= carry_losses
    genomes.measured[:] = 0
    return genomes
