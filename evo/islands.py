"""Several searches over one batch that breed apart and now and then send each other their best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from deap import tools

from evo import storage
from evo.array_checks import take_array
from evo.arrays import Array
from evo.ask_tell import AskTell
from evo.errors import UserError
from evo.genome import Population
from evo.hall import enter, find_front, hypervolume
from evo.lineage import Lineage, interleave
from evo.proposal import Elites, Rows
from evo.records import FAME, make_logbook
from evo.row_scores import compute_fitness
from evo.search import Rescore, Search
from evo.selection import choose_elites
from evo.state import read_state


class IslandRows:
    """What all islands propose, to be evaluated in one call.

    Args:
        parts: The rows of each island.

    Attributes:
        rows: All of them, island by island.
    """

    def __init__(self, parts: list[Rows]) -> None:
        self.rows = Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Islands(AskTell):
    """Searches in a ring, with a Search's ask, tell, elites, run, forget, save and restore.

    After every `every` generations each island sends its fittest to the next. Migration is DEAP's `migRing`: migrants
    take the places of the receiver's least fit, with their losses. Patience and target are each island's own.

    Args:
        searches: Over the same batch and grid, with seeds of their own.
        every: Generations between migrations.
        migrants: Genomes that each island sends.

    Attributes:
        forwards, generation, hall_of_fame, lineage, logbook, records: Of all islands together. Genome n of island i of
            I has number n I + i.
        migrations: (island, number, home, number at home) of each migrant, see evo.lineage.interleave.
        stopped: Why all islands have ended, or `callback`.

    Raises:
        UserError: The searches do not go together.
    """

    def __init__(self, searches: Sequence[Search], *, every: int = 5, migrants: int = 1) -> None:
        _check_islands(searches, every, migrants)
        self.searches = list(searches)
        self.every = every
        self.migrants = migrants
        self.grid = searches[0].grid
        self.generation = 0
        self.migrations: list[tuple[int, int, int, int]] = []
        self.records: list[dict[str, Any]] = []
        self.logbook = make_logbook()
        self._stopped: str | None = None
        self._asked: list[tuple[Search, int]] = []

    @property
    def forwards(self) -> int:
        """Image forwards of all islands, the reference's included."""
        return sum(search.forwards for search in self.searches)

    @property
    def lineage(self) -> Lineage:
        """The lineages of all islands as one: see evo.lineage.interleave."""
        return interleave([search.lineage for search in self.searches], np.array(self.migrations).reshape(-1, 4))

    @property
    def hall_of_fame(self) -> tools.HallOfFame:
        """The best of all genomes that any island evaluated, made anew each time."""
        hall = tools.ParetoFront() if self._several else tools.HallOfFame(FAME)
        members = [search.record.best for search in self.searches if search.record.best is not None]
        if members:
            enter(hall, self._join_scored(members))
        return hall

    @property
    def stopped(self) -> str | None:
        """Why all islands have ended, or `callback`; None while one goes on."""
        if self._stopped is not None:
            return self._stopped
        reasons = [search.stopped for search in self.searches]
        return ", ".join(dict.fromkeys(map(str, reasons))) if all(reasons) else None

    @stopped.setter
    def stopped(self, reason: str | None) -> None:
        self._stopped = reason

    @property
    def has_end(self) -> bool:
        """Whether every island ends by itself."""
        return all(search.has_end for search in self.searches)

    def __len__(self) -> int:
        return sum(len(search) for search in self.searches)

    def ask(self) -> IslandRows | None:
        """Propose the rows of all islands that go on.

        Returns:
            Their rows as one; None where all islands have come to their end.
        """
        self._stopped = None
        asked = [(search, search.ask()) for search in self.searches]
        parts = [(search, proposal.rows) for search, proposal in asked if proposal is not None]
        self._asked = [(search, len(rows.image)) for search, rows in parts]
        return IslandRows([rows for _, rows in parts]) if parts else None

    def tell(self, *losses: Array | None) -> dict[str, Any]:
        """Hand every island its part of the losses, and migrate.

        Args:
            *losses: As Search.tell takes them, of all rows asked for.

        Returns:
            The log's new line: that of the island with the fittest genome, and sums over all.

        Raises:
            RuntimeError, UserError, FloatingPointError: As Search.tell; no island has taken anything then.
        """
        if not self._asked:
            raise RuntimeError("tell() answers an ask(), and none is open; call ask() first")
        expected = sum(count for _, count in self._asked)
        arrays = [None if array is None else np.asarray(array) for array in losses]
        for array in arrays:
            if array is not None and (not array.ndim or len(array) != expected):
                raise UserError(
                    f"losses must be of the {expected} rows asked for, got {len(array) if array.ndim else array}"
                )
        start = 0
        scored = []
        for search, count in self._asked:
            part = tuple(None if array is None else array[start : start + count] for array in arrays)
            scored.append((search, search.score(part)))
            start += count
        lines = [search.accept(scores) for search, scores in scored]
        self._asked = []
        self.generation += 1
        if self.generation % self.every == 0:
            self.migrate()
        return self._log(expected, sum(line["full_rows"] for line in lines))

    def migrate(self) -> None:
        """Send each island's fittest to the next in the ring."""
        homes = [search.population for search in self.searches]
        alive = [home for home in homes if home is not None]
        migrants = min(self.migrants, min(map(len, alive), default=1) - 1)  # a budget may have left few
        if len(alive) < len(homes) or migrants < 1:
            return
        lists = [list(home) for home in alive]  # migRing changes lists in place
        tools.migRing(lists, migrants, tools.selBest, replacement=tools.selWorst)
        for island, (search, home, individuals) in enumerate(zip(self.searches, alive, lists, strict=True)):
            newcomers = np.array([individual.population is not home for individual in individuals])
            arrived = Population.gather(individuals)
            origins = arrived.ids[newcomers]
            numbers = search.immigrate(arrived, newcomers)
            before = (island - 1) % len(self.searches)
            self.migrations += [(island, int(n), before, int(o)) for n, o in zip(numbers, origins, strict=True)]

    def forget(self, rescore: Rescore = "survivors") -> None:
        """Say that the model's weights have changed.

        Args:
            rescore: As in Search.forget, for every island.
        """
        for search in self.searches:
            search.forget(rescore)
        self._asked = []

    def state(self) -> dict[str, Array]:
        """Return all that changes.

        Returns:
            Named arrays; those of island i begin with `i:`.
        """
        named = {
            f"{i}:{name}": array for i, search in enumerate(self.searches) for name, array in search.state().items()
        }
        counts = np.array([self.generation, len(self.searches)])
        lines = storage.flatten({"records": storage.plain(self.records)}, {})["meta"]
        return {
            "counts": counts,
            "migrations": np.array(self.migrations, np.int64).reshape(-1, 4),
            "records": lines,
            **named,
        }

    def set_state(self, state: dict[str, Array]) -> None:
        """Undo `state`.

        Args:
            state: What it returned, in islands made with the same arguments. It is copied.

        Raises:
            UserError: It does not fit; no island has changed then.
        """
        generation, count = (int(number) for number in take_array(state, "counts", np.int64, (2,)))
        if count != len(self.searches):
            raise UserError(f"this state is of {count} islands, these are {len(self.searches)}")
        migrations = take_array(state, "migrations", np.int64, (None, 4))
        records = storage.unflatten({"meta": state["records"]})[0]["records"] if "records" in state else []
        found = []
        for i, search in enumerate(self.searches):
            prefix = f"{i}:"
            own = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            found.append(read_state(search, own))
        for search, part in zip(self.searches, found, strict=True):
            part.give_to(search)
        self.generation = generation
        self.migrations = [tuple(int(n) for n in line) for line in migrations]  # type: ignore[misc]
        self._asked = []
        self._stopped = None
        self.records = []
        self.logbook = make_logbook()
        for line in records:
            self._add(line)

    def _choose_elites(self, count: int) -> Elites:
        alive = []
        for island, search in enumerate(self.searches):
            if search.population is not None:
                own = search.population.copy()
                own.ids = own.ids * len(self.searches) + island
                alive.append(own)
        everybody = self._join_scored(alive)
        return choose_elites(everybody, count, weights_version=self.searches[0].weights_version)

    @property
    def _several(self) -> bool:
        return len(self.searches[0].objectives) > 1

    def _join_scored(self, parts: Sequence[Population]) -> Population:
        """Genomes of several islands as one population, with fitness on one scale."""
        genomes = reduce(Population.join, parts[1:], parts[0].copy())
        scoring = self.searches[0].scoring
        if scoring.relative:
            genomes.values = compute_fitness(scoring.score(scoring.gather_rows(genomes)))
        return genomes

    def _log(self, new_rows: int, full_rows: int) -> dict[str, Any]:
        last = [search.records[-1] for search in self.searches if search.records]  # of islands that have ended as well
        line = {
            **max(last, key=lambda record: record["best"]),
            "generation": self.generation,
            "new_rows": new_rows,
            "full_rows": full_rows,
            "forwards": self.forwards,
            "islands": [round(float(record["best"]), 5) for record in last],
        }
        references = [search.record.reference for search in self.searches if search.record.reference is not None]
        if self._several and references:
            front = find_front(np.concatenate([search.record.front for search in self.searches]))
            line["hypervolume"] = hypervolume(front, np.min(references, axis=0))
        self._add(line)
        return line

    def _add(self, line: dict[str, Any]) -> None:
        self.records.append(storage.plain(line))
        columns = {name: line[name] for name in self.logbook.header if name in line}
        self.logbook.record(**columns)


def _check_islands(searches: Sequence[Search], every: int, migrants: int) -> None:
    kinds = {(search.batch_size, search.grid, ",".join(search.objectives)) for search in searches}
    if len(searches) < 2 or len(kinds) != 1:
        raise UserError(f"islands need two or more searches of one batch, grid and objectives, got {sorted(kinds)}")
    if any(search.settings.hold for search in searches):
        raise UserError(
            "islands draw shares and class relations of their own, which migration would mix; set hold=False"
        )
    states = [search.rng.bit_generator.state for search in {id(search.rng): search for search in searches}.values()]
    if any(a == b for a, b in combinations(states, 2)):
        raise UserError("islands of equal seeds are copies of each other; give each a seed of its own")
    smallest = min(search.settings.population for search in searches)
    if every < 1 or not 1 <= migrants < smallest:
        raise UserError(f"islands need every >= 1 and migrants below the population, got {every} and {migrants}")
