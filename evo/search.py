"""The genetic search over compositions of one batch: ask, evaluate outside, tell.

    search = Search(batch=64, grid=4, labels=labels, seed=0)
    for _ in range(20):
        proposal = search.ask()
        search.tell(*probe(model, images, labels, proposal.rows))
    elites = search.elites(4)

This is the one place that wires DEAP: its Toolbox names the operators (register another to swap it), its
selection picks parents and survivors, its Statistics, Logbook and HallOfFame keep the record.

In evaluation mode a row's losses do not depend on the rest of its batch, so they stay true while the
model's weights hold still. They travel with the row through variation, and only rows whose mask or
partner is new are asked for. That is exact, not an approximation. After the weights have changed, call
`forget()`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from evo.genome import Individual, Population
from evo.objectives import OBJECTIVES, RowLosses
from evo.operators import CROSSOVERS, MASK_MUTATIONS, MASK_SAMPLERS, PAIRING_MUTATIONS

Array = NDArray[Any]


class Rows(NamedTuple):
    """R rows to evaluate: image[r] is mixed with image partner[r] through masks[r]."""

    image: Array  # (R,) int32
    masks: Array  # (R,G,G) bool, True = the cell keeps the row's own image
    partner: Array  # (R,) int32


@dataclass(frozen=True)
class Proposal:
    """The genomes one generation chooses from, and which of their rows have no true losses yet."""

    masks: Array  # (P,B,G,G) bool
    pairings: Array  # (P,B) int32
    new: Array  # (P,B) bool

    @property
    def rows(self) -> Rows:
        """The new rows, genome by genome: what `tell` wants losses for, in this order."""
        genome, row = np.nonzero(self.new)
        return Rows(row.astype(np.int32), self.masks[genome, row], self.pairings[genome, row])


class Elites(NamedTuple):
    """The best E genomes, the fittest first."""

    masks: Array  # (E,B,G,G) bool, True = the cell keeps the row's own image
    pairings: Array  # (E,B) int32
    fitness: Array  # (E,) float64
    cell_losses: Array  # (E,B,G,G) float32, nats
    scores: Array  # (E,B) float32


class Search:
    """Evolves P genomes over a batch of B images.

    batch: B. grid: G. labels: (B,) int class labels, handed to the objective. objective: a name in
    OBJECTIVES or a function with its contract. sampler, crossover: names in MASK_SAMPLERS, CROSSOVERS.
    budget: image forwards this search may spend, None for no limit; at least B. rng: a numpy Generator;
    without one, `seed` makes it.

    `toolbox` holds sample, select, mate, mutate_masks, mutate_pairings and survive; register another
    function under a name to replace it. `logbook`, `hall_of_fame`, `population`, `generation` and
    `forwards` (image forwards asked for so far) are there to read.
    """

    def __init__(
        self,
        batch: int,
        grid: int,
        labels: Array | None = None,
        *,
        population: int = 16,
        objective: str | Callable[[RowLosses], Array] = "hard",
        sampler: str = "bernoulli",
        crossover: str = "rows",
        budget: int | None = None,
        seed: int = 0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if batch < 1 or grid < 1 or population < 2:
            raise ValueError(
                f"a search needs batch >= 1, grid >= 1 and population >= 2, got {batch}, {grid}, {population}"
            )
        if budget is not None and budget < batch:
            raise ValueError(
                f"a budget of {budget} image forwards does not cover one genome of {batch} rows; "
                f"give at least {batch}, or None for no limit"
            )
        self.batch, self.grid, self.size, self.budget = batch, grid, population, budget
        self.labels = np.full(batch, -1) if labels is None else np.asarray(labels)
        if self.labels.shape != (batch,):
            raise ValueError(f"labels must be ({batch},) to go with the batch, got {self.labels.shape}")
        self.objective = _named(OBJECTIVES, objective, "objective") if isinstance(objective, str) else objective
        self.rng = np.random.default_rng(seed) if rng is None else rng
        # DEAP's selection draws from Python's `random`; this state is swapped in only while it does.
        self.random_state = random.Random(int(self.rng.integers(2**63))).getstate()

        self.toolbox = base.Toolbox()
        self.toolbox.register("sample", _named(MASK_SAMPLERS, sampler, "mask sampler"))
        self.toolbox.register("select", tools.selTournament, tournsize=3)
        self.toolbox.register("mate", _named(CROSSOVERS, crossover, "crossover"))
        self.toolbox.register("mutate_masks", MASK_MUTATIONS["flip"], row_rate=0.15, cells=1.5)
        self.toolbox.register("mutate_pairings", PAIRING_MUTATIONS["swap"], rate=min(1.0, 2 / batch))
        self.toolbox.register("survive", tools.selBest)

        self.population: Population | None = None
        self.generation = 0
        self.forwards = 0
        self.nonfinite = 0
        self.hall_of_fame = tools.HallOfFame(10)
        self.logbook = tools.Logbook()
        self.logbook.header = ["generation", "new_rows", "forwards", "best", "mean", "std", "min", "nonfinite"]
        self.statistics = tools.Statistics(key=lambda genome: genome.fitness.values[0])
        for name, function in (("best", np.max), ("mean", np.mean), ("std", np.std), ("min", np.min)):
            self.statistics.register(name, _over_finite, function)
        self._pool: Population | None = None

    def __len__(self) -> int:
        """Genomes alive: P, or fewer where the budget did not reach for all."""
        return 0 if self.population is None else len(self.population)

    def ask(self) -> Proposal | None:
        """Propose the next generation's genomes: the present ones and their children.

        Returns None where the budget does not reach for another genome.
        """
        if self.population is None:
            masks = self.toolbox.sample(self.size * self.batch, self.grid, self.rng)
            pairings = np.argsort(self.rng.random((self.size, self.batch)), axis=1)
            pool = Population(masks.reshape(self.size, self.batch, self.grid, self.grid), pairings)
            kept = 0
        else:
            pool = self.population.join(self._children(self.population))
            kept = len(self.population)
        affordable = self._affordable(pool)
        if affordable <= kept:
            return None
        self._pool = pool if affordable == len(pool) else pool.take(np.arange(affordable))
        return Proposal(self._pool.masks, self._pool.pairings, ~self._pool.known)

    def tell(self, cell_losses: Array, image_losses: Array | None = None) -> dict[str, Any]:
        """Take the losses of the rows last asked for; select the survivors; return the log's new line.

        cell_losses: (R,G,G) nats, in the order of `Proposal.rows`; image_losses: (R,) nats, optional.
        A row whose losses are not finite makes its genome the worst there is, and is counted.
        """
        pool = self._pool
        if pool is None:
            raise RuntimeError("tell() answers an ask(), and none is open; call ask() first")
        self._store(pool, np.asarray(cell_losses), image_losses)
        self._score(pool)

        new_rows = len(cell_losses)
        self.forwards += new_rows
        self.generation += 1
        distinct = _first_of_each(pool)
        candidates = [pool[i] for i in (distinct if len(distinct) >= self.size else range(len(pool)))]
        survivors = self.toolbox.survive(candidates, min(self.size, len(candidates)))
        self.population = pool.take([genome.index for genome in survivors])
        self._pool = None

        self.hall_of_fame.update(list(self.population))
        record = self.statistics.compile(self.population)
        self.logbook.record(
            generation=self.generation,
            new_rows=new_rows,
            forwards=self.forwards,
            nonfinite=self.nonfinite,
            **record,
        )
        return dict(self.logbook[-1])

    def elites(self, count: int) -> Elites:
        """The best `count` genomes of the present generation, the fittest first."""
        if self.population is None:
            raise RuntimeError("there are no elites before the first generation; ask() and tell() first")
        if not 1 <= count <= len(self.population):
            raise ValueError(f"elites must be 1..{len(self.population)}, got {count}")
        best = tools.selBest(list(self.population), count)
        kept = self.population.take([genome.index for genome in best])
        return Elites(kept.masks, kept.pairings, kept.values[:, 0], kept.cell_losses, kept.scores)

    def forget(self) -> None:
        """The model has changed: every row is new again. Old scores still guide the next crossover."""
        if self.population is not None:
            self.population.forget()

    def _children(self, parents: Population) -> Population:
        """P children of the present genomes; rows that a parent has too bring its losses along."""
        if not parents.valid.all():  # forgotten: nobody can be preferred, so everybody has a child
            chosen = self.rng.permutation(np.arange(2 * self.size) % len(parents))
        else:
            with self._python_random():
                picked: list[Individual] = self.toolbox.select(list(parents), 2 * self.size)
            chosen = np.array([genome.index for genome in picked])
        first, second = parents.take(chosen[: self.size]), parents.take(chosen[self.size :])
        masks, pairings = self.toolbox.mate(first, second, self.rng)
        masks = self.toolbox.mutate_masks(masks, self.rng)
        pairings = self.toolbox.mutate_pairings(pairings, self.rng)
        children = Population(masks, pairings)
        for parent in (second, first):
            _inherit(children, parent)
        return children

    def _affordable(self, pool: Population) -> int:
        """How many genomes, from the front of the pool, the rest of the budget pays for."""
        if self.budget is None:
            return len(pool)
        cost = np.cumsum((~pool.known).sum(axis=1))
        return int(np.searchsorted(cost, self.budget - self.forwards, side="right"))

    def _store(self, pool: Population, cell_losses: Array, image_losses: Array | None) -> None:
        expected = (int((~pool.known).sum()), self.grid, self.grid)
        if cell_losses.shape != expected:
            raise ValueError(f"cell losses must be {expected}, one per row asked for, got {cell_losses.shape}")
        if image_losses is not None and np.shape(image_losses) != expected[:1]:
            raise ValueError(f"image losses must be {expected[:1]}, got {np.shape(image_losses)}")
        new = ~pool.known
        pool.cell_losses[new] = cell_losses
        pool.image_losses[new] = np.nan if image_losses is None else image_losses
        self.nonfinite += int((~np.isfinite(cell_losses)).any(axis=(1, 2)).sum())
        pool.known[:] = True

    def _score(self, pool: Population) -> None:
        rows = RowLosses(pool.cell_losses, pool.image_losses, pool.masks, self.labels, self.labels[pool.pairings])
        scores = np.asarray(self.objective(rows))
        if scores.shape != pool.pairings.shape:
            raise ValueError(f"the objective must return scores {pool.pairings.shape}, got {scores.shape}")
        # NaN compares greater both ways in DEAP, so a row without a finite score is made the worst.
        pool.scores = np.where(np.isfinite(scores), scores, -np.inf).astype(np.float32)
        pool.values = pool.scores.mean(axis=1, keepdims=True, dtype=np.float64)
        pool.valid[:] = True
        if not np.isfinite(pool.values).any():
            raise FloatingPointError(
                f"generation {self.generation + 1}: no genome has a finite fitness; "
                "the model's losses are NaN or infinite (lower the learning rate, or use float32)"
            )

    @contextmanager
    def _python_random(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self.random_state)
        try:
            yield
        finally:
            self.random_state = random.getstate()
            random.setstate(outside)


def _inherit(children: Population, parents: Population) -> None:
    """Carry the known losses of rows whose mask and partner a child has unchanged from its parent."""
    same = (children.pairings == parents.pairings) & parents.known
    same &= (children.masks == parents.masks).all(axis=(2, 3))
    for name in ("cell_losses", "image_losses"):
        getattr(children, name)[same] = getattr(parents, name)[same]
    children.known |= same


def _first_of_each(pool: Population) -> Array:
    """Indices of genomes that are not copies of an earlier one: copies would fill a population."""
    packed = np.packbits(pool.masks.reshape(len(pool), -1), axis=1)
    genes = np.concatenate([packed, pool.pairings.view(np.uint8).reshape(len(pool), -1)], axis=1)
    return np.sort(np.unique(genes, axis=0, return_index=True)[1])


def _over_finite(function: Callable[[Array], Any], values: Any) -> float:
    numbers = np.asarray(values)
    return float(function(numbers[np.isfinite(numbers)]))


def _named(shelf: dict[str, Any], name: str, kind: str) -> Any:
    if name not in shelf:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(shelf)}")
    return shelf[name]
