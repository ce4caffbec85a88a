"""The genetic search over compositions of one batch: ask, evaluate outside, tell.

    search = Search(batch=64, grid=4, labels=labels, generations=20, seed=0)
    while (proposal := search.ask()) is not None:
        search.tell(*probe(model, images, labels, proposal.rows))
    elites = search.elites(4)

This is the one place that wires DEAP: its Toolbox names the operators (register another to swap it), its
Statistics, Logbook and HallOfFame keep the record, and its selections take the population as it is.

In evaluation mode a row's losses do not depend on the rest of its batch, so they stay true while the
model's weights hold still. They travel with the row through variation, and only rows never forwarded
before are asked for, each once. That is exact, not an approximation. After the weights have changed, call
`forget()`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from evo import storage
from evo.archive import RowArchive, first_of_each
from evo.bank import PatternBank
from evo.genome import Population
from evo.lineage import Lineage
from evo.operators import ALL_CROSSOVERS, ARCHIVE_CROSSOVERS, MASK_MUTATIONS, MASK_SAMPLERS, PAIRING_MUTATIONS
from evo.packed import Masks
from evo.proposal import Elites, Open, Proposal, Rows, opened
from evo.rules import Rules
from evo.scoring import Function, objectives_by_name, row_scores, set_fitness
from evo.selection import SELECTIONS, best, indices
from evo.variation import Slot, Variation, as_masks, parse_shares

__all__ = ["Elites", "Evaluate", "Proposal", "Rows", "Search"]

Array = NDArray[Any]
Evaluate = Callable[[Rows], Sequence[Any]]
Evaluation = Literal["incremental", "full"]
Rescore = Literal["all", "survivors", "none"]
Duplicates = Literal["remove", "redraw", "keep"]
CROSSOVER, MASK_MUTATION, PAIRING_MUTATION = "assignment", "flip", "swap"  # fittest at equal image forwards in trials
FIGURES: dict[str, Callable[[Array], Any]] = {
    "best": np.max, "mean": np.mean, "median": np.median, "std": np.std, "min": np.min,
}  # fmt: skip
WIDE = ("rates", "objectives", "front")  # of a record, what has no place in a Logbook's table
FRONT = 64  # non-dominated genomes, at most, whose values a generation's record holds
IDLE = 100  # generations without a new row, after which a search has seen what there is for it


class Search:
    """Evolves P genomes over a batch of B images.

    batch: B. grid: G. labels: (B,) int class labels, handed to objectives and rules. population: P.
    objective: a name or weighted sum as evo/objectives.py reads it (`hard`, `hard+0.5*contrast`), a function
    with its contract, or several of them: then NSGA-II keeps the population. sampler: a name in MASK_SAMPLERS.
    select: a name in SELECTIONS. crossover, mask_mutation, pairing_mutation: names on their shelves, several
    as `0.9*rows+0.1*assignment`. adaptive: let their shares follow what their children earn.

    evaluation: `incremental` asks only for rows never forwarded; `full` asks for every row of every new genome,
    the reference and the way for models whose samples influence each other. rescore: what `forget` does.
    duplicates: genomes that are copies of another are removed when survivors are chosen, redrawn before they
    are evaluated, or kept.

    generations, budget (image forwards, the reference's counted as well), patience (generations without a better
    genome), target (fitness): where `ask` answers None; `stopped` says why. Without generations a search also
    ends as `exhausted` where IDLE generations in a row had no new row. max_nonfinite: the share of rows without
    finite losses beyond which the search stops with FloatingPointError.

    min_cells, self_pairing, same_class, hold: the rules of evo/rules.py. start: a PatternBank, an earlier search's
    elites, or masks (N,B,G,G) with pairings (N,B), that half of the first generation comes from. rng: a numpy
    Generator; without one, `seed` makes it.

    `toolbox` holds sample, select, mate, mutate_masks, mutate_pairings and survive; register another function
    under a name to replace it. `logbook`, `hall_of_fame`, `population`, `generation`, `lineage`, `variation`
    (operator shares) and `forwards` (image forwards asked for so far) are there to read.
    """

    def __init__(
        self,
        batch: int,
        grid: int,
        labels: Array | None = None,
        *,
        population: int = 16,
        objective: str | Function | Sequence[str | Function] = "hard",
        sampler: str = "bernoulli",
        select: str = "tournament",
        crossover: str = CROSSOVER,
        mask_mutation: str = MASK_MUTATION,
        pairing_mutation: str = PAIRING_MUTATION,
        adaptive: bool = False,
        evaluation: Evaluation = "incremental",
        rescore: Rescore = "survivors",
        duplicates: Duplicates = "remove",
        generations: int | None = None,
        budget: int | None = None,
        patience: int | None = None,
        target: float | None = None,
        max_nonfinite: float = 0.5,
        min_cells: int = 0,
        self_pairing: bool = True,
        same_class: bool = True,
        hold: bool = False,
        start: PatternBank | Elites | tuple[Array, Array] | None = None,
        seed: int = 0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if batch < 1 or grid < 1 or population < 1:
            raise ValueError(
                f"a search needs batch >= 1, grid >= 1 and population >= 1, got {batch}, {grid}, {population}"
            )
        for name, limit in (("generations", generations), ("patience", patience)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit, got {limit}")
        if not 0 <= max_nonfinite <= 1:
            raise ValueError(f"max_nonfinite is a share, 0..1, got {max_nonfinite}")
        for name, value, choices in (
            ("evaluation", evaluation, get_args(Evaluation)),
            ("rescore", rescore, get_args(Rescore)),
            ("duplicates", duplicates, get_args(Duplicates)),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; there are {', '.join(choices)}")
        self.batch, self.grid, self.size = batch, grid, population
        self.labels = np.full(batch, -1) if labels is None else np.asarray(labels)
        if self.labels.shape != (batch,) or not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(
                f"labels must be ({batch},) integers to go with the batch, got {self.labels.dtype} {self.labels.shape}"
            )
        self.objectives = objectives_by_name(objective)
        if budget is not None and budget < batch * self.row_cost:
            raise ValueError(
                f"a budget of {budget} image forwards does not cover one genome, which takes {batch * self.row_cost}; "
                "give at least that, or None for no limit"
            )
        self.evaluation, self.rescore, self.duplicates = evaluation, rescore, duplicates
        self.generations, self.budget, self.patience, self.target = generations, budget, patience, target
        self.max_nonfinite = max_nonfinite
        self.rules = Rules(
            self.labels, grid, min_cells=min_cells, self_pairing=self_pairing, same_class=same_class, hold=hold
        )
        self.start = _checked_start(start, batch, grid)
        self.rng = np.random.default_rng(seed) if rng is None else rng
        # DEAP's selections draw from Python's `random`; this state is swapped in only while they do.
        self.random_state = random.Random(int(self.rng.integers(2**63))).getstate()
        self.archive = RowArchive(batch, grid)

        self.toolbox = base.Toolbox()
        self.toolbox.register("sample", _named(MASK_SAMPLERS, sampler, "mask sampler"))
        self.toolbox.register("select", _named(SELECTIONS, select, "selection"), rng=self.rng)
        self.toolbox.register("survive", best)
        self.variation = self._wire(crossover, mask_mutation, pairing_mutation, adaptive)

        self.population: Population | None = None
        self.generation = 0
        self.forwards = 0
        self.nonfinite = 0
        self.weights_version = 0
        self.stopped: str | None = None
        self.hall_of_fame = tools.HallOfFame(10) if len(self.objectives) == 1 else tools.ParetoFront()
        self.lineage = Lineage(self.variation.names)
        self.records: list[dict[str, Any]] = []
        self.logbook = _empty_logbook()
        self.statistics = tools.Statistics(key=lambda genome: genome.fitness.values[0])
        for name, function in FIGURES.items():
            self.statistics.register(name, _over_finite, function)
        self._open: Open | None = None
        self._stale = False  # the weights have changed since the population was scored
        self._idle = 0  # generations in a row without a new row
        self._best, self._best_at = -np.inf, 0

    @property
    def row_cost(self) -> int:
        """Image forwards that a row takes: one, or two where an objective compares with the reference."""
        return 2 if self.needs_reference else 1

    @property
    def needs_reference(self) -> bool:
        """Whether an objective compares with the reference's losses."""
        return any(getattr(objective, "needs_reference", False) for objective in self.objectives.values())

    def __len__(self) -> int:
        """Genomes alive: P, or fewer where the budget did not reach for all."""
        return 0 if self.population is None else len(self.population)

    def ask(self) -> Proposal | None:
        """Propose the next generation's genomes: the present ones and their children.

        Until `tell` or `forget` the answer is the same. Returns None where the search has come to its end;
        `stopped` says why.
        """
        if self.stopped or self._at_an_end():
            return None
        if self._open is not None:
            return Proposal(self._open.pool.packed, self._open.pool.pairings, self._open.new)
        before = self._snapshot()
        pool, kept, made_by, parents = self._first() if self.population is None else self._next(self.population)
        open_ = opened(pool, kept, made_by, parents, before, full=self.evaluation == "full")
        affordable = self._affordable(open_.new)
        if affordable <= kept and affordable < len(pool):
            self._roll_back(before)
            self.stopped = "budget"
            return None
        if affordable < len(pool):
            children = affordable - kept
            self.lineage.forget_after(before["born"] + children)
            pool = pool.take(np.arange(affordable))
            full = self.evaluation == "full"
            open_ = opened(pool, kept, made_by[:children], parents[:children], before, full=full)
        self._open = open_
        return Proposal(pool.packed, pool.pairings, open_.new)

    def tell(
        self,
        cell_losses: Array,
        image_losses: Array | None = None,
        reference_cell_losses: Array | None = None,
        reference_image_losses: Array | None = None,
    ) -> dict[str, Any]:
        """Take the losses of the rows last asked for; select the survivors; return the log's new line.

        cell_losses: (R,G,G) nats, in the order of `Proposal.rows`; image_losses: (R,) nats; the same of the
        reference. Only what the objectives use is needed. A row whose losses are not finite makes its genome the
        worst there is, and is counted. Raises ValueError where shapes do not fit, FloatingPointError where too
        many rows are not finite.
        """
        if self._open is None:
            raise RuntimeError("tell() answers an ask(), and none is open; call ask() first")
        pool, open_ = self._open.pool, self._open
        given = dict(
            zip(
                Population.LOSSES,
                (cell_losses, image_losses, reference_cell_losses, reference_image_losses),
                strict=True,
            )
        )
        self._store(open_, {name: np.asarray(array) for name, array in given.items() if array is not None})
        scores = row_scores(pool, self.labels, self.objectives)
        self._count_nonfinite(np.asarray(~np.isfinite(scores).all(axis=0)), open_.new)
        set_fitness(pool, scores)
        self._open = None

        asked = int(open_.new.sum())
        whole = open_.new.any(axis=1) | (np.arange(len(pool)) >= open_.kept)
        self.forwards += asked * self.row_cost
        self.generation += 1
        genome, row = open_.fresh
        self._idle = 0 if len(genome) else self._idle + 1
        self.archive.add(pool, genome, row)
        chosen = self._survivors(pool)
        self._reward(open_, chosen, np.bincount(genome, minlength=len(pool)))
        self.population = pool.take(chosen)
        self.lineage.survivors.append(self.population.ids.copy())
        self._stale = False
        # Only the fittest can enter; a Pareto front has to see everybody.
        self.hall_of_fame.update(self.population[: getattr(self.hall_of_fame, "maxsize", self.size)])
        return self._record(asked, int(whole.sum()) * self.batch)

    def run(self, evaluate: Evaluate, callbacks: Sequence[Callable[[Search, dict[str, Any]], Any]] = ()) -> Search:
        """Ask, evaluate and tell until the search ends.

        evaluate: Rows -> what `tell` takes, e.g. (cell losses, image losses). callbacks: called in order after
        every generation with the search and the log's new line; one that returns True ends the search.
        """
        if (self.generations, self.budget, self.patience, self.target) == (None,) * 4 and not callbacks:
            raise ValueError("this search has no end; give it generations, budget, patience, target or a callback")
        while (proposal := self.ask()) is not None:
            rows = proposal.rows
            nothing = (np.zeros((0, self.grid, self.grid), np.float32),)
            record = self.tell(*(evaluate(rows) if len(rows.image) else nothing))
            answers = [callback(self, record) for callback in callbacks]  # all are called
            if any(answer is True for answer in answers):
                self.stopped = "callback"
        return self

    def elites(self, count: int) -> Elites:
        """The best `count` genomes of the present generation, the fittest first."""
        if self.population is None:
            raise RuntimeError("there are no elites before the first generation; ask() and tell() first")
        if not 1 <= count <= len(self.population):
            raise ValueError(f"elites must be 1..{len(self.population)}, got {count}")
        kept = self.population.take(indices(best(self.population, count)))
        age = self.weights_version - kept.measured.min(axis=1)
        return Elites(kept.masks, kept.pairings, kept.values[:, 0], kept.cell_losses, kept.scores, kept.ids, age)

    def settle(self, population: Population, newcomers: Array) -> Array:
        """Let another population of the same batch live on in place of the present one, as migration does.

        newcomers: (P,) bool, genomes from elsewhere; they bring their losses and get numbers of their own,
        which are returned.
        """
        numbers = self.lineage.draw(int(newcomers.sum()), self.generation)
        population.ids[newcomers] = numbers
        self.archive.add(population, *self._unseen(population, newcomers[:, None] & population.known))
        self.population = population.take(indices(best(population, len(population))))
        self.hall_of_fame.update(self.population[: getattr(self.hall_of_fame, "maxsize", self.size)])
        return numbers

    def forget(self) -> None:
        """The model's weights have changed.

        rescore `all`: no loss holds any more; nobody is preferred until everybody is scored anew. `survivors`: no
        loss holds, but the old fitness still picks the parents, and who is not picked dies unscored. `none`: old
        losses stand, each with its age, and only rows never forwarded are asked for. Old row scores guide the
        next crossover in any case.
        """
        self.weights_version += 1
        if self._open is not None:
            self._roll_back(self._open.before)
            self._open = None
        if self.rescore == "none":
            return
        self.archive.clear()
        self.hall_of_fame.clear()
        self._best, self._best_at = -np.inf, self.generation
        if self.population is not None:
            self.population.known[:] = False
            self._stale = True

    def save(self, path: Path | str, extra: dict[str, Array] | None = None) -> None:
        """Write the whole state to an .npz file, without pickle, atomically. extra: arrays to keep beside it.

        An open proposal is not part of it: the restored search proposes the same again.
        """
        storage.write(path, self.state(), extra or {})

    def restore(self, path: Path | str) -> dict[str, Array]:
        """Go on from what `save` wrote, in a search made with the same arguments; return the extra arrays.

        Raises ValueError in one line where the file is not sound or is of another search.
        """
        state, extra = storage.read(path)
        self.set_state(state)
        return extra

    def state(self) -> dict[str, Array]:
        """All that changes, as named arrays: what a checkpoint keeps."""
        before = self._snapshot() if self._open is None else self._open.before
        low, _, allowed = before["rules"]
        lineage = Lineage(self.lineage.names)
        lineage.restore(self.lineage.arrays())
        lineage.forget_after(before["born"])
        meta = {
            "made_with": self._made_with(),
            "generation": self.generation,
            "forwards": self.forwards,
            "nonfinite": self.nonfinite,
            "weights_version": self.weights_version,
            "stale": self._stale,
            "best": [self._best, self._best_at],
            "idle": self._idle,
            "records": storage.plain(self.records),
            "random": storage.plain({name: before[name] for name in ("numpy", "python")}),
            "held": isinstance(low, np.ndarray),
        }
        groups: dict[str, dict[str, Array]] = {
            "archive": self.archive.arrays(),
            "variation": self.variation.arrays(),
            "lineage": lineage.arrays(),
        }
        if self.population is not None:
            groups["population"] = self.population.arrays()
        if len(self.hall_of_fame):
            groups["hall"] = Population.gather(list(self.hall_of_fame)).arrays()
        if meta["held"]:
            groups["rules"] = {"kept": np.asarray(low), "allowed": allowed}
        return storage.flatten(meta, groups)

    def set_state(self, state: dict[str, Array]) -> None:
        """Undo `state`. Raises ValueError where it is of a search made otherwise."""
        meta, groups = storage.unflatten(state)
        differing = [
            f"{name}: {meta['made_with'].get(name)} there, {value} here"
            for name, value in self._made_with().items()
            if meta["made_with"].get(name) != value
        ]
        if differing:
            raise ValueError(f"this state is of another search ({'; '.join(differing)})")
        for name in ("generation", "forwards", "nonfinite", "weights_version"):
            setattr(self, name, meta[name])
        self.stopped = None  # where it still holds, the next ask finds out
        self._stale, self._idle, (self._best, self._best_at) = meta["stale"], meta["idle"], meta["best"]
        self._set_random_states(meta["random"])
        self.archive.restore(groups["archive"])
        self.variation.restore(groups["variation"])
        self.lineage.restore(groups["lineage"])
        self.population = Population.from_arrays(groups["population"]) if "population" in groups else None
        if meta["held"]:
            self.rules.low = self.rules.high = groups["rules"]["kept"]
            self.rules.allowed = groups["rules"]["allowed"]
        self.hall_of_fame.clear()
        if "hall" in groups:
            for genome in reversed(Population.from_arrays(groups["hall"])):  # equals go before those that are there
                self.hall_of_fame.insert(genome)
        self.records, self._open = [], None
        self.logbook = _empty_logbook()
        for record in meta["records"]:
            self._log(record)

    def _wire(self, crossover: str, mask_mutation: str, pairing_mutation: str, adaptive: bool) -> Variation:
        """Register the operators, with the rates found best, and set their shares."""
        of_crossovers: dict[str, Any] = {name: {"archive": self.archive} for name in ARCHIVE_CROSSOVERS}
        of_masks: dict[str, Any] = {name: {"row_rate": 0.05} for name in MASK_MUTATIONS}
        of_pairings: dict[str, Any] = {"swap": {"rate": 1 / self.batch}}
        slots = []
        for name, text, shelf, kind, options in (
            ("mate", crossover, ALL_CROSSOVERS, "crossover", of_crossovers),
            ("mutate_masks", mask_mutation, MASK_MUTATIONS, "mask mutation", of_masks),
            ("mutate_pairings", pairing_mutation, PAIRING_MUTATIONS, "pairing mutation", of_pairings),
        ):
            shares = parse_shares(text, shelf, kind)
            slot = Slot(name, list(shares), np.array(list(shares.values())))
            for operator in slot.names:
                self.toolbox.register(slot.tool(operator), shelf[operator], **options.get(operator, {}))
            slots.append(slot)
        return Variation(self.toolbox, slots, adaptive)

    def _at_an_end(self) -> bool:
        if self.generations is not None and self.generation >= self.generations:
            self.stopped = "generations"
        elif self.target is not None and self._best >= self.target:
            self.stopped = "target"
        elif self.patience is not None and self.generation - self._best_at >= self.patience:
            self.stopped = "patience"
        elif self.generations is None and self._idle >= IDLE:
            self.stopped = "exhausted"
        return self.stopped is not None

    def _first(self) -> tuple[Population, int, Array, Array]:
        masks, pairings = self._drawn(self.size)
        if self.start is not None:
            self._warm(masks, pairings, self.start)
        pool = Population(*self.rules.first(masks, pairings, self.rng), objectives=len(self.objectives))
        pool.ids = self.lineage.draw(self.size, self.generation + 1)
        return pool, 0, np.zeros((0, 3), np.int32), np.zeros((0, 2), np.int64)

    def _drawn(self, count: int) -> tuple[Masks, Array]:
        masks = as_masks(self.toolbox.sample(count * self.batch, self.grid, self.rng), "sample")
        pairings = np.argsort(self.rng.random((count, self.batch)), axis=1).astype(np.int32)
        return Masks(masks.words.reshape(count, self.batch, -1), self.grid), pairings

    def _warm(self, masks: Masks, pairings: Array, start: PatternBank | tuple[Array, Array]) -> None:
        """Overwrite the first half of drawn genomes with what is known from before."""
        half = max(1, self.size // 2)
        if isinstance(start, PatternBank):
            labelled = bool((self.labels >= 0).all() and self.labels.max() < start.num_classes)
            for genome in range(half):
                cells, pairing = start.draw(self.labels if labelled else np.zeros(self.batch, np.int64), self.rng)
                masks[genome] = Masks.pack(cells)
                if labelled:
                    pairings[genome] = pairing
            return
        count = min(half, len(start[0]))
        masks[np.arange(count)] = Masks.pack(start[0][:count])
        pairings[:count] = start[1][:count]

    def _next(self, alive: Population) -> tuple[Population, int, Array, Array]:
        """The pool of a later generation: those alive and P children."""
        if self._stale and self.rescore == "all":  # nobody can be preferred, so everybody has a child
            chosen = self.rng.permutation(np.arange(2 * self.size) % len(alive))
        else:
            with self._python_random():
                chosen = indices(self.toolbox.select(alive, 2 * self.size))
        if self._stale and self.rescore == "survivors":
            picked, chosen = np.unique(chosen, return_inverse=True)
            alive = alive.take(picked)
        pair = chosen[: self.size], chosen[self.size :]
        first, second = (alive.take(parents, rows=("scores",)) for parents in pair)
        masks, pairings, made_by = self.variation.children(first, second, self.rng)
        masks, pairings = self.rules.repair(masks, pairings, self.rng)
        children = Population(masks, pairings, objectives=len(self.objectives))
        parents = np.stack(pair, axis=1)
        if self.duplicates == "redraw":
            made_by, parents = self._redraw(alive, children, made_by, parents)
        children.ids = self.lineage.breed(np.where(parents >= 0, alive.ids[parents], -1), made_by, self.generation + 1)
        for chosen_parents in pair:
            children.inherit(alive, chosen_parents)
        self.archive.recall(children)
        return alive.join(children), len(alive), made_by, parents

    def _redraw(self, alive: Population, children: Population, made_by: Array, parents: Array) -> tuple[Array, Array]:
        """Replace children that are copies by drawn genomes."""
        fresh = np.zeros(len(alive) + len(children), bool)
        fresh[_distinct(alive.join(children))] = True
        copies = np.flatnonzero(~fresh[len(alive) :])
        if len(copies):
            masks, pairings = self.rules.repair(*self._drawn(len(copies)), self.rng)
            children.packed[copies], children.pairings[copies] = masks, pairings
            made_by, parents = made_by.copy(), parents.copy()
            made_by[copies], parents[copies] = -1, -1
            self.rules.unmet = self.rules.broken(children.pairings)
        return made_by, parents

    def _affordable(self, new: Array) -> int:
        """How many genomes, from the front of the pool, the rest of the budget pays for."""
        if self.budget is None:
            return len(new)
        cost = self.row_cost * np.cumsum(new.sum(axis=1))
        return int(np.searchsorted(cost, self.budget - self.forwards, side="right"))

    def _store(self, open_: Open, given: dict[str, Array]) -> None:
        asked = int(open_.new.sum())
        for name, array in given.items():
            expected = (asked, self.grid, self.grid) if name.endswith("cell_losses") else (asked,)
            if array.shape != expected:
                words = name.replace("_", " ")
                raise ValueError(f"{words} must be {expected}, one per row asked for, got {array.shape}")
        genome, row = open_.unknown
        for name, array in given.items():
            getattr(open_.pool, name)[genome, row] = array[open_.source]
        open_.pool.measured[genome, row] = self.weights_version
        open_.pool.known[:] = True

    def _count_nonfinite(self, bad: Array, new: Array) -> None:
        """Count the rows asked for, of `new` (P,B), that have no finite score; raise FloatingPointError where such
        rows, bad (P,B), are too many.
        """
        share = float(bad.mean())
        if share > self.max_nonfinite or share == 1:
            images = np.flatnonzero(bad.any(axis=0))
            listed = ", ".join(map(str, images[:8])) + (", ..." if len(images) > 8 else "")
            raise FloatingPointError(
                f"generation {self.generation + 1}: {100 * share:.0f} % of the rows have losses that are NaN or infinite, "
                f"in {int(bad.any(axis=1).sum())} of {len(bad)} genomes (rows of images {listed}), beyond "
                f"max_nonfinite={self.max_nonfinite:g}; lower the learning rate, or use float32"
            )
        self.nonfinite += int((bad & new).sum())

    def _unseen(self, population: Population, rows: Array) -> tuple[Array, Array]:
        """Genome and row of those of `rows` (P,B) bool that the archive does not hold yet, each kind once."""
        genome, row = np.nonzero(rows)
        partner, words = population.pairings[genome, row], population.packed.words[genome, row]
        unseen = np.flatnonzero(self.archive.find(row, partner, words) < 0)
        unseen = unseen[first_of_each(row[unseen], partner[unseen], words[unseen])[0]]
        return genome[unseen], row[unseen]

    def _survivors(self, pool: Population) -> Array:
        """Indices of the genomes that live on, the fittest first."""
        distinct = np.arange(len(pool)) if self.duplicates == "keep" else _distinct(pool)
        if len(distinct) < min(self.size, len(pool)):  # too few kinds: copies fill the population after all
            distinct = np.arange(len(pool))
        candidates = pool.take(distinct, rows=("scores",))
        with self._python_random():
            chosen = distinct[indices(self.toolbox.survive(candidates, min(self.size, len(candidates))))]
        if len(self.objectives) > 1:
            return np.asarray(chosen)
        return np.asarray(chosen[np.argsort(-pool.values[chosen, 0], kind="stable")])

    def _reward(self, open_: Open, survivors: Array, cost: Array) -> None:
        """Credit operators with what their children gained over the better parent, per image of cost (P,)."""
        if not self.variation.adaptive or not len(open_.made_by):
            return
        children = np.arange(open_.kept, len(open_.pool))
        bred = open_.parents[:, 0] >= 0
        if len(self.objectives) > 1:
            gain = np.isin(children, survivors).astype(float)
        else:
            values = open_.pool.values[:, 0]
            gain = values[children] - values[np.maximum(open_.parents, 0)].max(axis=1)
            gain = np.where(np.isfinite(gain), np.maximum(gain, 0.0), 0.0) / (1 + cost[children])
        self.variation.reward(open_.made_by[bred], gain[bred])

    def _record(self, asked: int, full_rows: int) -> dict[str, Any]:
        """The log's line. full_rows: those of whole genomes that new_rows are of. diversity: the share
        of rows in which the others differ from the fittest, 0..1. front: values (N,M) of those not dominated.
        """
        assert self.population is not None
        values = self.population.values
        if values[:, 0].max() > self._best:
            self._best, self._best_at = float(values[:, 0].max()), self.generation
        record = {
            "generation": self.generation,
            "new_rows": asked,
            "full_rows": full_rows,
            "forwards": self.forwards,
            "nonfinite": self.nonfinite,
            **self.statistics.compile(self.population),
        }
        record["diversity"] = round(_diversity(self.population), 4)
        record.setdefault("best", float(values[:, 0].max()))  # where the user's statistics have no such entry
        for number, name in list(enumerate(self.objectives))[1:]:
            record |= {f"{name} best": float(values[:, number].max()), f"{name} mean": float(values[:, number].mean())}
        if len(self.objectives) > 1:
            record["objectives"] = list(self.objectives)
            front = _front(values)
            record["front"] = front[spread(len(front), FRONT)].tolist()
        if self.weights_version:
            record["age"] = round(float((self.weights_version - self.population.measured).mean()), 4)
        if self.variation.adaptive:
            record["rates"] = self.variation.rates()
        if self.rules.unmet:
            record["unmet"] = self.rules.unmet
        self._log(record)
        return dict(record)

    def _log(self, record: dict[str, Any]) -> None:
        self.records.append(dict(record))
        # A Logbook would take the operators' shares, a dict, for a chapter of a MultiStatistics.
        self.logbook.record(**{key: value for key, value in record.items() if key not in WIDE})

    def _snapshot(self) -> dict[str, Any]:
        """What an ask changes, and what becomes void where it is taken back."""
        return {
            "numpy": self.rng.bit_generator.state,
            "python": self.random_state,
            "born": self.lineage.count,
            "rules": (self.rules.low, self.rules.high, self.rules.allowed),
        }

    def _roll_back(self, before: dict[str, Any]) -> None:
        self.lineage.forget_after(before["born"])
        self._set_random_states(before)
        self.rules.low, self.rules.high, self.rules.allowed = before["rules"]

    def _set_random_states(self, states: dict[str, Any]) -> None:
        self.rng.bit_generator.state = states["numpy"]
        version, internal, gauss = states["python"]
        self.random_state = (version, tuple(internal), gauss)

    def _made_with(self) -> dict[str, Any]:
        """What a saved state must agree on."""
        return {
            "batch": self.batch,
            "grid": self.grid,
            "population": self.size,
            "labels": self.labels.tolist(),
            "objectives": list(self.objectives),
            "operators": self.variation.names,
            "adaptive": self.variation.adaptive,
            "evaluation": self.evaluation,
            "rescore": self.rescore,
            "duplicates": self.duplicates,
            "rules": self.rules.options,
        }

    @contextmanager
    def _python_random(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self.random_state)
        try:
            yield
        finally:
            self.random_state = random.getstate()
            random.setstate(outside)


def _diversity(population: Population) -> float:
    """The mean share of rows (0..1) in which the others differ from the fittest."""
    if len(population) < 2:
        return 0.0
    words, pairings, first = population.packed.words, population.pairings, int(population.values[:, 0].argmax())
    differs = (words != words[first]).any(axis=2) | (pairings != pairings[first])
    return float(differs.sum() / (len(population) - 1) / differs.shape[1])


def spread(count: int, most: int) -> Array:
    """Indices of up to `most` of `count` things in a row, evenly spread, both ends among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _front(values: Array) -> Array:
    """The finite rows of values (P,M) that no other dominates, each kind once, by the first objective."""
    distinct = np.unique(values[np.isfinite(values).all(axis=1)], axis=0)[::-1]
    least = (distinct[:, None] >= distinct[None]).all(axis=2).sum(axis=0)
    return distinct[least == 1]  # itself alone is nowhere less


def _distinct(pool: Population) -> Array:
    """Indices of genomes that are not copies of an earlier one: copies would fill a population."""
    words = np.ascontiguousarray(pool.packed.words).view(np.uint8).reshape(len(pool), -1)
    partners = np.ascontiguousarray(pool.pairings).view(np.uint8).reshape(len(pool), -1)
    genes = np.concatenate([words, partners], axis=1)
    whole = genes.view(np.dtype((np.void, genes.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])


def _checked_start(
    start: PatternBank | Elites | tuple[Array, Array] | None, batch: int, grid: int
) -> PatternBank | tuple[Array, Array] | None:
    """What a search may start from: a bank of its grid, or compositions of its batch."""
    if start is None:
        return None
    if isinstance(start, PatternBank):
        if start.grid != grid or not len(start):
            raise ValueError(
                f"a search of grid {grid} starts from a bank of patterns of that grid, got {len(start)} patterns of "
                f"{start.grid}x{start.grid}"
            )
        return start
    masks, pairings = np.asarray(start[0]), np.asarray(start[1])
    Population(masks, pairings)  # are they compositions?
    if masks.shape[1:] != (batch, grid, grid):
        raise ValueError(f"this search starts from masks (N,{batch},{grid},{grid}) with pairings, got {masks.shape}")
    return masks, pairings


def _empty_logbook() -> tools.Logbook:
    logbook = tools.Logbook()
    logbook.header = ["generation", "new_rows", "forwards", "best", "mean", "std", "min", "nonfinite"]
    return logbook


def _over_finite(function: Callable[[Array], Any], values: Any) -> float:
    numbers = np.asarray(values)
    return float(function(numbers[np.isfinite(numbers)]))


def _named(shelf: dict[str, Any], name: str, kind: str) -> Any:
    if name not in shelf:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(shelf)}")
    return shelf[name]
