"""The genetic search over compositions of one batch: ask, evaluate outside, tell.

    search = Search(batch_size=64, grid=4, labels=labels, objective="hard", generations=20, seed=0)
    while (proposal := search.ask()) is not None:
        search.tell(*probe(model, images, labels, proposal.rows))
    elites = search.elites(4)

This is the protocol alone. What it does is said in evo/settings.py, how genomes are bred in evo/breeding.py, how they
are scored in evo/row_scores.py, what is recorded in evo/records.py, where it ends in evo/ends.py, and what is saved in
evo/state.py.

In evaluation mode a row's losses do not depend on the rest of its batch, so they stay true while the
model's weights do not change. They travel with the row through variation, and only rows never forwarded
before are asked for, each once. That is exact, not an approximation. After the weights have changed, call
`forget()`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from evo.archive import RowArchive
from evo.array_checks import check_count
from evo.arrays import Array
from evo.ask_tell import AskTell, Evaluate, store_losses
from evo.breeding import Bred, Breeder, Start, fit_budget, prepare_start
from evo.ends import Stopwatch, check_budget, has_end
from evo.errors import UserError, did_you_mean
from evo.genome import Population
from evo.lineage import Lineage
from evo.pair_table import PairTable
from evo.proposal import Elites, Proposal, Question, Rows
from evo.records import Record
from evo.row_scores import (
    Scoring,
    Wanted,
    check_finite,
    check_labels,
    combine_scores,
    compute_fitness,
    resolve_objectives,
)
from evo.selection import best, choose_elites
from evo.settings import SearchSettings, make_settings
from evo.state import collect_state, read_state

__all__ = ["Elites", "Evaluate", "Proposal", "Rows", "Search", "SearchSettings"]

Rescore = Literal["all", "survivors", "none"]


class _End:
    """An end of a search, which may be moved while it lives: its setting of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, search: Search, owner: type) -> Any:
        return getattr(search.settings, self.name)

    def __set__(self, search: Search, value: Any) -> None:
        search.settings = make_settings(search.settings, {self.name: value})


class _Of:
    """What a part of a search has under the same name."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, search: Search, owner: type) -> Any:
        return getattr(getattr(search, self.part), self.name)

    def __set__(self, search: Search, value: Any) -> None:
        setattr(getattr(search, self.part), self.name, value)


class Search(AskTell):
    """Evolves P genomes over a batch of B images.

    Args:
        batch_size: B.
        grid: G, cells along a side.
        labels: (B,) int class labels, handed to objectives and rules; None: not given.
        settings: What it does; else the defaults.
        rng: Every draw comes from it; else a generator that `seed` makes.
        objective: In place of the settings' objective, a function with the contract of evo/objectives.py, or
            several functions and names. Several objectives are kept by NSGA-II.
        start: What settings.start_share of the first generation comes from: a PatternBank, a Population, an earlier
            search's elites, or masks (N,B,G,G) with pairings (N,B).
        carry_losses: The losses that `start`, a Population, brings are valid for the present weights: rows that are known
            are not asked for again.
        table: Scores of all pairs of the batch, which the first generation is dealt from, at settings.temperature.
        seed: See rng.
        seconds: Shortcut for settings.minutes.
        **changes: Settings by name, in place of those of `settings`.

    Attributes:
        toolbox: DEAP's: sample, select, mate, mutate_masks, mutate_pairings and survive; register another function
            under a name to replace it.
        population, generation, lineage, archive, variation, rules: The present state.
        objectives: The M objectives by name. needs_reference: Whether one compares with the reference's losses.
        row_cost: Image forwards that a row takes: one, or two where an objective compares with the reference.
        logbook, hall_of_fame, statistics: DEAP's record; the hall of fame has seen every genome evaluated.
        records: The logbook's lines as dicts, with what a table has no place for.
        forwards: Image forwards asked for so far, the reference's included.
        stopped: Why the last `ask` answered None, or `callback`; None while it goes on.
        generations, budget, patience, target, minutes: The ends, which may be moved at any time.

    Raises:
        UserError: An argument or a setting is not what it may be.

    Example:
        >>> search = Search(8, 3, objective="hard", generations=2, seed=0)
        >>> search.run(lambda rows: (rows.masks.astype("float32"),)).stopped
        'generations'
    """

    generations = _End()
    budget = _End()
    patience = _End()
    target = _End()
    minutes = _End()
    toolbox = _Of("breeder")
    variation = _Of("breeder")
    rules = _Of("breeder")
    objectives = _Of("scoring")
    needs_reference = _Of("scoring")
    row_cost = _Of("scoring")
    generation = _Of("record")
    records = _Of("record")
    logbook = _Of("record")
    hall_of_fame = _Of("record")
    statistics = _Of("record")

    def __init__(
        self,
        batch_size: int,
        grid: int,
        labels: Array | None = None,
        settings: SearchSettings | None = None,
        rng: np.random.Generator | None = None,
        *,
        objective: Wanted | None = None,
        start: Start | None = None,
        carry_losses: bool = False,
        table: PairTable | None = None,
        seed: int = 0,
        seconds: float | None = None,
        **changes: Any,
    ) -> None:
        if isinstance(objective, str):
            changes["objective"] = objective
        if seconds is not None:
            changes["minutes"] = seconds / 60
        self.settings = make_settings(settings, changes)
        self.batch_size = check_count("batch_size", batch_size)
        self.grid = check_count("grid", grid)
        self.labels = check_labels(labels, self.batch_size)
        named = self.settings.objective if objective is None else objective
        self.scoring = Scoring(resolve_objectives(named), self.labels)
        check_budget(self.settings.budget, self.row_cost)
        self.rng = np.random.default_rng(seed) if rng is None else rng
        self.archive = RowArchive(self.batch_size, self.grid, objectives=len(self.scoring.objectives))
        origin = prepare_start(start, carry_losses, self.batch_size, self.grid)
        self.breeder = Breeder(self.settings, self.scoring, self.grid, self.archive, self.rng, origin, table)
        self.record = Record(self.scoring)
        self.lineage = Lineage(self.variation.names)
        self.stopwatch = Stopwatch()
        self.population: Population | None = None
        self.forwards = 0
        self.nonfinite = 0
        self.weights_version = 0
        self.stopped: str | None = None
        self.stale: Rescore | None = None  # the weights have changed since the population was scored
        self.kinds: tuple[str, ...] = ()  # of losses, that every generation has to give
        self._told: tuple[str, ...] = ()
        self.bred: Bred | None = None  # what the next tell, or a budget that is raised, goes on with
        self._open: tuple[Bred, Question] | None = None

    @property
    def has_end(self) -> bool:
        """Whether it ends by itself."""
        return has_end(self.settings)

    @property
    def curtailed(self) -> bool:
        """Whether the budget has left genomes out of the open proposal."""
        return self._open is not None and self._open[0] is not self.bred

    def __len__(self) -> int:
        """Genomes alive: P, or fewer where the budget did not reach for all."""
        return 0 if self.population is None else len(self.population)

    def ask(self) -> Proposal | None:
        """Propose the next generation's genomes: the present ones and their children.

        Returns:
            The proposal, until `tell` or `forget` the same one; None where the search has come to an end, of which
            `stopped` tells the reason.
        """
        self.stopwatch.start()
        if self._open is None:
            self.stopped = self.record.progress.reason(self.settings, self.stopwatch.seconds())
            if self.stopped is None:
                self._open = self._fit_budget(self._breed())
            if self._open is None:
                return None
        bred, question = self._open
        return question.proposal(bred.pool)

    def tell(
        self,
        cell_losses: Array,
        image_losses: Array | None = None,
        reference_cell_losses: Array | None = None,
        reference_image_losses: Array | None = None,
    ) -> dict[str, Any]:
        """Take the losses of the rows last asked for, and select the survivors.

        A row whose losses are not finite makes its genome the worst there is, and is counted.

        Args:
            cell_losses: (R,G,G) nats, in the order of `Proposal.rows`.
            image_losses: (R,) nats.
            reference_cell_losses: (R,G,G) nats, of the reference.
            reference_image_losses: (R,) nats, of the reference. Only what the objectives use is needed, and the same
                in every generation.

        Returns:
            The log's new line.

        Raises:
            RuntimeError: Nothing was asked.
            UserError: Shapes do not fit, or losses are missing. The proposal stays open.
            FloatingPointError: More than settings.max_nonfinite of the rows are not finite. The proposal stays open.
        """
        answer = (cell_losses, image_losses, reference_cell_losses, reference_image_losses)
        return self.accept(self.score(answer))

    def forget(self, rescore: Rescore = "survivors") -> None:
        """The model's weights have changed. A proposal that is open is withdrawn.

        Args:
            rescore: `all`: no loss is valid any more; nobody is preferred until everybody is scored anew. `survivors`: no
                loss is valid, but the old fitness still picks the parents, and who is not picked dies unscored. `none`:
                old losses stand, each with its age, and only rows never forwarded are asked for. Old row scores guide
                the next crossover in any case.
        """
        if rescore not in get_args(Rescore):
            hint = did_you_mean(str(rescore), get_args(Rescore))
            raise UserError(f"unknown rescore {rescore!r:.60}{hint}; there are {', '.join(get_args(Rescore))}")
        self.weights_version += 1
        self._open = None
        if self.bred is not None and self.population is None:
            self.bred.pool.known[:] = False  # a drawn generation stays what it is
        else:
            self.bred = None
        if rescore == "none":
            return
        self.archive.clear()
        self.record.forget()
        self.kinds = ()
        if self.population is not None:
            self.population.known[:] = False
            self.stale = rescore

    def withdraw(self) -> None:
        """Close an open proposal; the next ask proposes the same genomes."""
        self._open = None

    def state(self) -> dict[str, Array]:
        """Return all that changes: what a checkpoint keeps. A proposal that is open is part of it.

        Returns:
            Named arrays, copies.
        """
        return collect_state(self)

    def set_state(self, state: dict[str, Array]) -> None:
        """Undo `state`.

        Args:
            state: What it returned, in a search made with the same arguments. It is copied.

        Raises:
            UserError: It is not sound, or of another search; this one is left as it was.
        """
        read_state(self, state).give_to(self)

    def immigrate(self, population: Population, newcomers: Array) -> Array:
        """Let another population of the same batch live on in place of the present one, as migration does.

        Args:
            population: P genomes, with their losses.
            newcomers: (P,) bool, those that come from elsewhere.

        Returns:
            The numbers that newcomers get in this search's lineage.
        """
        numbers = self.lineage.draw(int(newcomers.sum()), self.generation)
        population.ids[newcomers] = numbers
        scores = self.scoring.score(self.scoring.gather_rows(population))
        if self.scoring.relative:  # those of elsewhere are on another scale
            population.values = compute_fitness(scores)
        genome, row = self.archive.find_unseen(population, newcomers[:, None] & population.known)
        self.archive.add(population, genome, row, scores)
        self.population = population.take(best(population, len(population)))
        self.lineage.survivors[-1] = self.population.ids.copy()
        self.record.admit(self.population)
        return numbers

    def score(self, losses: tuple[Any, ...]) -> Array:
        """Do the first half of `tell`, after which nothing has changed for good.

        Args:
            losses: Up to four arrays, as `tell` takes them.

        Returns:
            (M,P,B) float32, the row scores of the proposal.

        Raises:
            RuntimeError: Nothing was asked.
            UserError: Shapes do not fit, or losses are missing.
            FloatingPointError: Too many rows are not finite.
        """
        if self._open is None:
            raise RuntimeError("tell() answers an ask(), and none is open; call ask() first")
        bred, question = self._open
        self._told = store_losses(bred.pool, question, losses, self.kinds)
        scores = self.scoring.score(self.scoring.gather_rows(bred.pool))
        check_finite(np.isinf(scores[0]), self.settings.max_nonfinite, self.generation + 1)
        return scores

    def accept(self, scores: Array) -> dict[str, Any]:
        """Do the second half of `tell`: select the survivors.

        Args:
            scores: (M,P,B) float32, what `score` returned.

        Returns:
            The log's new line.
        """
        assert self._open is not None
        bred, question = self._open
        pool = bred.pool
        asked = int(question.new.sum())
        self.kinds = self._told if asked else self.kinds
        whole = question.new.any(axis=1) | (np.arange(len(pool)) >= bred.kept)
        if self.population is None:  # a start may have brought losses
            genome, row = self.archive.find_unseen(pool, pool.known)
            self.archive.add(pool, genome, row, scores)
        genome, row = question.unknown
        pool.measured[genome, row] = self.weights_version
        pool.known[:] = True
        pool.values = compute_fitness(scores)
        pool.valid[:] = True
        bred.enter(self.lineage, self.generation + 1)
        genome, row = question.fresh
        self.archive.add(pool, genome, row, scores)
        pool.scores = combine_scores(scores, self.scoring.rate(self.archive, pool))
        self.forwards += asked * self.row_cost
        self.nonfinite += int((np.isinf(scores[0]) & question.new).sum())
        chosen = self.breeder.select_survivors(pool)
        self.breeder.reward(bred, chosen, np.bincount(genome, minlength=len(pool)))
        self.population = pool.take(chosen)
        self.lineage.survivors.append(self.population.ids.copy())
        self.stale = None
        self.bred = None
        self._open = None
        self.record.take(pool, fresh=len(genome))
        return self.record.add(self._make_line(asked, int(whole.sum()) * self.batch_size))

    def _choose_elites(self, count: int) -> Elites:
        assert self.population is not None
        copies = self.settings.duplicates == "keep"
        return choose_elites(self.population, count, weights_version=self.weights_version, copies=copies)

    def _breed(self) -> Bred:
        if self.bred is None:
            if self.population is None:
                self.bred = self.breeder.draw_first()
            else:
                self.bred = self.breeder.breed(self.population, self.stale)
        return self.bred

    def _fit_budget(self, bred: Bred) -> tuple[Bred, Question] | None:
        """The genomes, from the front of the pool, that the rest of the budget pays for; None: no child is among them."""
        budget = self.settings.budget
        left = None if budget is None else int(budget * self.batch_size + 1e-9) - self.forwards
        found = fit_budget(bred, left, self.row_cost, full=self.settings.evaluation == "full")
        if found is None:
            self.stopped = "budget"
        return found

    def _make_line(self, asked: int, full_rows: int) -> dict[str, Any]:
        """The log's line. full_rows: those of whole genomes that new_rows are of."""
        assert self.population is not None
        line = {
            "generation": self.generation,
            "new_rows": asked,
            "full_rows": full_rows,
            "forwards": self.forwards,
            "nonfinite": self.nonfinite,
            **self.record.summarise(self.population),
        }
        if self.weights_version:
            line["age"] = round(float((self.weights_version - self.population.measured).mean()), 4)
        if self.variation.adaptive:
            line["rates"] = self.variation.rates()
        if self.rules.unmet:
            line["unmet"] = self.rules.unmet
        return line
