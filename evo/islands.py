"""Several searches over one batch that breed apart and now and then send each other their best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from deap import tools
from numpy.typing import NDArray

from evo.genome import Population
from evo.lineage import Lineage, interleaved
from evo.search import Elites, Evaluate, Rows, Search

Array = NDArray[Any]


class IslandRows:
    """What all islands propose, to be evaluated in one call."""

    def __init__(self, parts: list[Rows]) -> None:
        self.sizes = [len(part.image) for part in parts]
        self.rows = Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Islands:
    """Searches in a ring: after every `every` generations each sends its `migrants` fittest to the next.

    searches: over the same batch and grid, with seeds of their own. Migration is DEAP's `migRing`: migrants
    take the places of the receiver's least fit, with their losses. It has a Search's ask, tell, elites, run
    and forget; `forwards` and `generation` are of all islands together.
    """

    def __init__(self, searches: Sequence[Search], *, every: int = 5, migrants: int = 1) -> None:
        kinds = {(search.batch, search.grid, ",".join(search.objectives)) for search in searches}
        if len(searches) < 2 or len(kinds) != 1:
            raise ValueError(
                f"islands need two or more searches of one batch, grid and objectives, got {sorted(kinds)}"
            )
        if any(search.rules.hold for search in searches):
            raise ValueError(
                "islands draw shares and class relations of their own, which migration would mix; set hold=False"
            )
        generators = {id(search.rng): search.rng.bit_generator.state for search in searches}
        if any(a == b for a, b in combinations(generators.values(), 2)):
            raise ValueError("islands of equal seeds are copies of each other; give each a seed of its own")
        if every < 1 or not 1 <= migrants < min(search.size for search in searches):
            raise ValueError(f"islands need every >= 1 and migrants below the population, got {every} and {migrants}")
        self.searches, self.every, self.migrants = list(searches), every, migrants
        self.generation = 0
        self.migrations: list[tuple[int, int, int, int]] = []  # see evo.lineage.interleaved
        self._asked: list[tuple[Search, int]] = []

    @property
    def forwards(self) -> int:
        return sum(search.forwards for search in self.searches)

    @property
    def lineage(self) -> Lineage:
        """All islands' lineages as one: genome n of island i of I has number n I + i, as in `elites`."""
        return interleaved([search.lineage for search in self.searches], np.array(self.migrations).reshape(-1, 4))

    @property
    def stopped(self) -> str | None:
        reasons = [search.stopped for search in self.searches]
        return ", ".join(dict.fromkeys(map(str, reasons))) if all(reasons) else None

    def __len__(self) -> int:
        return sum(len(search) for search in self.searches)

    def ask(self) -> IslandRows | None:
        """Every island's proposal as one; None where all have come to their end."""
        asked = [(search, search.ask()) for search in self.searches]
        parts = [(search, proposal.rows) for search, proposal in asked if proposal is not None]
        if not parts:
            return None
        self._asked = [(search, len(rows.image)) for search, rows in parts]
        return IslandRows([rows for _, rows in parts])

    def tell(self, *losses: Array | None) -> dict[str, Any]:
        """Hand every island its part of the losses (see Search.tell); migrate; return the fittest island's line."""
        if not self._asked:
            raise RuntimeError("tell() answers an ask(), and none is open; call ask() first")
        expected, start, full_rows = sum(count for _, count in self._asked), 0, 0
        for array in losses:
            if array is not None and len(array) != expected:
                raise ValueError(f"losses must be of the {expected} rows asked for, got {len(array)}")
        for search, count in self._asked:
            part = [None if array is None else np.asarray(array)[start : start + count] for array in losses]
            full_rows += search.tell(*part)["full_rows"]  # type: ignore[arg-type]
            start += count
        self._asked = []
        self.generation += 1
        if self.generation % self.every == 0:
            self.migrate()
        last = [search.records[-1] for search in self.searches if search.records]  # of islands that have ended as well
        fittest = max(last, key=lambda record: record["best"])
        return {
            **fittest,
            "generation": self.generation,
            "new_rows": expected,
            "full_rows": full_rows,
            "forwards": self.forwards,
            "islands": [round(float(record["best"]), 5) for record in last],
        }

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
            numbers = search.settle(arrived, newcomers)
            before = (island - 1) % len(self.searches)
            self.migrations += [(island, int(n), before, int(o)) for n, o in zip(numbers, origins, strict=True)]

    def elites(self, count: int) -> Elites:
        """The best `count` genomes of all islands, each kind once, the fittest first."""
        if not len(self):
            raise RuntimeError("there are no elites before the first generation; ask() and tell() first")
        if not 1 <= count <= len(self):
            raise ValueError(f"elites must be 1..{len(self)}, got {count}")
        each = []
        for island, search in enumerate(self.searches):
            if len(search):
                found = search.elites(min(count, len(search)))
                each.append(found._replace(ids=found.ids * len(self.searches) + island))
        joined = Elites(*(np.concatenate(arrays) for arrays in zip(*each, strict=True)))
        order = np.argsort(-joined.fitness, kind="stable")
        seen: set[bytes] = set()
        chosen = [
            i
            for i in order
            if (gene := joined.masks[i].tobytes() + joined.pairings[i].tobytes()) not in seen and not seen.add(gene)  # type: ignore[func-returns-value]
        ]
        if len(chosen) < count:  # too few kinds: copies after all
            chosen = list(order)
        return Elites(*(array[chosen[:count]] for array in joined))

    def run(self, evaluate: Evaluate, callbacks: Sequence[Callable[[Islands, dict[str, Any]], Any]] = ()) -> Islands:
        """As Search.run, for all islands at once."""
        ends = ("generations", "budget", "patience", "target")
        if not callbacks and any(all(getattr(search, end) is None for end in ends) for search in self.searches):
            raise ValueError("an island has no end; give it generations, budget, patience, target, or add a callback")
        while (proposal := self.ask()) is not None:
            record = self.tell(*evaluate(proposal.rows))
            answers = [callback(self, record) for callback in callbacks]  # all are called
            if any(answer is True for answer in answers):
                for search in self.searches:
                    search.stopped = "callback"
        return self

    def forget(self) -> None:
        """The model's weights have changed: see Search.forget."""
        for search in self.searches:
            search.forget()
        self._asked = []

    def state(self) -> dict[str, Array]:
        """All that changes, as named arrays."""
        named = {
            f"{i}:{name}": array for i, search in enumerate(self.searches) for name, array in search.state().items()
        }
        counts = np.array([self.generation, len(self.searches)])
        return {"counts": counts, "migrations": np.array(self.migrations).reshape(-1, 4), **named}

    def set_state(self, state: dict[str, Array]) -> None:
        """Undo `state`. Raises ValueError where it is of other islands."""
        generation, count = (int(number) for number in state["counts"])
        if count != len(self.searches):
            raise ValueError(f"this state is of {count} islands, these are {len(self.searches)}")
        self.generation, self._asked = generation, []
        self.migrations = [tuple(int(n) for n in line) for line in state["migrations"]]  # type: ignore[misc]
        for i, search in enumerate(self.searches):
            prefix = f"{i}:"
            search.set_state(
                {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            )
