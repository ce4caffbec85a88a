"""What of a search is saved, and how it is taken up again: checked as a whole before anything changes."""

from __future__ import annotations

import random
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from evo import storage
from evo.archive import RowArchive
from evo.array_checks import check_range, take_array
from evo.arrays import Array
from evo.breeding import Bred
from evo.ends import ENDS, Progress, Stopwatch
from evo.errors import UserError
from evo.genome import Population
from evo.lineage import Lineage
from evo.records import make_logbook

if TYPE_CHECKING:  # a search imports this
    from evo.search import Search

FREE = (*ENDS, "max_nonfinite", "start_share")  # settings that may be others when a search goes on
SHOWN = ("objective", "crossover", "mask_mutation", "pairing_mutation")  # checked by what was made of them
COUNTS = ("forwards", "nonfinite", "weights_version")


def collect_state(search: Search) -> dict[str, Array]:
    """Collect all that changes in a search.

    Args:
        search: The search, with or without an open proposal.

    Returns:
        Named arrays, copies.
    """
    rules = search.rules
    meta = {
        "made_with": _describe_origin(search),
        **{name: getattr(search, name) for name in COUNTS},
        "stale": search.stale,
        "kinds": list(search.kinds),
        "progress": asdict(search.record.progress),
        # A time limit goes on; else nothing that is saved hangs on the clock.
        "seconds": 0.0 if search.minutes is None else search.stopwatch.seconds(),
        "records": storage.plain(search.records),
        "random": storage.plain({"numpy": search.rng.bit_generator.state, "python": search.breeder.random_state}),
        "held": rules.held,
        "unmet": rules.unmet,
        "kept": None if search.bred is None else search.bred.kept,
    }
    groups: dict[str, dict[str, Array]] = {
        "archive": search.archive.arrays(),
        "variation": search.variation.arrays(),
        "lineage": search.lineage.arrays(),
    }
    if search.record.worst is not None:
        groups["worst"] = search.record.worst.arrays()
    if search.population is not None:
        groups["population"] = search.population.arrays()
    if search.record.best is not None:
        groups["best"] = search.record.best.arrays()
    if rules.held:
        groups["rules"] = {"kept": np.asarray(rules.low), "allowed": rules.allowed}
    if search.bred is not None:
        groups["pool"] = search.bred.pool.arrays()
        groups["bred"] = {"made_by": search.bred.made_by, "parents": search.bred.parents}
    return storage.flatten(meta, groups)


def read_state(search: Search, state: dict[str, Array]) -> FoundState:
    """Undo `collect_state`, and change nothing yet.

    Args:
        search: What the state is for.
        state: What `collect_state` returned, or what was read from a file.

    Returns:
        The state, taken apart and checked.

    Raises:
        UserError: It is unsound, or of another search.
    """
    try:
        return FoundState(search, *storage.unflatten(state))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise UserError(f"this state of a search is not sound: {type(error).__name__}: {error}") from None


class FoundState:
    """A state taken apart and checked: everything in it is a copy.

    Args:
        search: What it is for.
        meta: What was saved as JSON.
        groups: Arrays by name, by the name of their group.

    Raises:
        UserError, ValueError, LookupError, TypeError: The state does not fit; `read_state` makes one error of them.
    """

    def __init__(self, search: Search, meta: dict[str, Any], groups: dict[str, dict[str, Array]]) -> None:
        _check_origin(search, meta["made_with"])
        self.counts = {name: int(meta[name]) for name in COUNTS}
        self.stale = meta["stale"] if meta["stale"] is None else str(meta["stale"])
        self.kinds = tuple(str(kind) for kind in meta["kinds"])
        self.progress = Progress(**meta["progress"])
        self.stopwatch = Stopwatch(float(meta["seconds"]))
        self.records: list[dict[str, Any]] = [dict(line) for line in meta["records"]]
        self.numpy_state = meta["random"]["numpy"]
        type(search.rng.bit_generator)().state = self.numpy_state  # raises where it is none
        version, internal, gauss = meta["random"]["python"]
        self.python_state = (version, tuple(internal), gauss)
        random.Random().setstate(self.python_state)
        objectives = len(search.objectives)
        self.archive = RowArchive.from_arrays(
            groups["archive"], search.batch_size, search.grid, search.archive.capacity, objectives=objectives
        )
        self.rates = search.variation.read_rates(groups["variation"])
        self.lineage = Lineage.from_arrays(groups["lineage"])
        self.population = _read_genomes(search, groups.get("population"))
        self.best = _read_genomes(search, groups.get("best"))
        self.worst = _read_genomes(search, groups.get("worst"))
        self.unmet = int(meta["unmet"])
        self.held: tuple[Array, Array] | None = None
        if meta["held"]:
            size = search.batch_size
            kept = take_array(groups["rules"], "kept", np.int64, (size,))
            self.held = kept, take_array(groups["rules"], "allowed", np.bool_, (size, size))
        self.bred = None if meta["kept"] is None else _read_bred(search, int(meta["kept"]), groups)

    def give_to(self, search: Search) -> None:
        """Make a search what was found.

        Args:
            search: The search that the state was read for.
        """
        for name, count in self.counts.items():
            setattr(search, name, count)
        search.stale = self.stale  # type: ignore[assignment]
        search.kinds = self.kinds
        search.stopwatch = self.stopwatch
        search.stopped = None  # where the reason is still valid, the next ask finds out
        search.rng.bit_generator.state = self.numpy_state
        search.breeder.random_state = self.python_state
        search.archive.become(self.archive)
        search.variation.set_rates(self.rates)
        search.lineage = self.lineage
        search.population = self.population
        search.rules.restore(self.held, self.unmet)
        search.bred = self.bred
        search.withdraw()
        record = search.record
        record.progress = self.progress
        record.worst = self.worst
        record.best = self.best
        record.records = []
        record.logbook = make_logbook()
        for line in self.records:
            record.add(line)


def _describe_origin(search: Search) -> dict[str, Any]:
    """What a saved state must agree on."""
    settings = {
        one.name: getattr(search.settings, one.name)
        for one in fields(search.settings)
        if one.name not in (*FREE, *SHOWN)
    }
    return {
        "batch_size": search.batch_size,
        "grid": search.grid,
        "labels": search.labels.tolist(),
        "objectives": list(search.objectives),
        "operators": search.variation.names,
        **settings,
    }


def _check_origin(search: Search, there: dict[str, Any]) -> None:
    differing = [
        f"{name}: {str(there.get(name))[:200]} there, {str(value)[:200]} here"
        for name, value in _describe_origin(search).items()
        if there.get(name) != value
    ]
    if differing:
        raise UserError(f"this state is of another search ({'; '.join(differing)})")


def _read_genomes(search: Search, arrays: dict[str, Array] | None) -> Population | None:
    """Genomes of the search's batch."""
    if arrays is None:
        return None
    population = Population.from_arrays(arrays)
    shape = (population.pairings.shape[1], population.packed.grid, population.values.shape[1])
    expected = (search.batch_size, search.grid, len(search.objectives))
    if shape != expected or not len(population):
        raise UserError(f"genomes must be of B, G and M = {expected}, got {len(population)} of {shape}")
    return population


def _read_bred(search: Search, kept: int, groups: dict[str, dict[str, Array]]) -> Bred:
    pool = _read_genomes(search, groups["pool"])
    if pool is None or not 0 <= kept <= len(pool):
        raise UserError(f"of the genomes proposed {kept} were alive before, which cannot be")
    children = len(pool) - kept if kept else 0
    made_by = take_array(groups["bred"], "made_by", np.int32, (children, 3))
    parents = take_array(groups["bred"], "parents", np.int64, (children, 2))
    check_range("parents", parents, -1, kept - 1)
    return Bred(pool, kept, made_by, parents)
