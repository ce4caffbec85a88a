"""The record of a search: a line a generation, statistics, the hall of fame, and whether it still improves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from deap import tools

from evo.arrays import Array
from evo.ends import Progress
from evo.genome import Population
from evo.hall import enter, find_front, hypervolume, keep_best
from evo.objectives import RowLosses
from evo.row_scores import Scoring, compute_fitness

FIGURES: dict[str, Callable[[Array], Any]] = {
    "best": np.max, "mean": np.mean, "median": np.median, "std": np.std, "min": np.min,
}  # fmt: skip
WIDE = ("rates", "objectives", "front")  # of a record, what has no place in a Logbook's table
FAME = 10  # genomes in a hall of fame of one objective
FRONT = 64  # non-dominated genomes, at most, whose values are in a generation's record
HEADER = ("generation", "new_rows", "forwards", "best", "mean", "std", "min", "nonfinite")


class Record:
    """What is kept of a search's generations.

    Where objectives are relative, the genomes remembered are scored anew with every generation, so that all that is
    compared is on one scale: that of the generation just evaluated.

    Args:
        scoring: The search's.

    Attributes:
        logbook, hall_of_fame, statistics: DEAP's; a statistic that is registered later shows in the next line.
        records: The logbook's lines as dicts, with what a table has no place for.
        best: The best of all genomes evaluated, each kind once.
        progress: What the ends of a search look at.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.several = len(scoring.objectives) > 1
        self.best: Population | None = None  # of all genomes evaluated, each kind once: see hall.keep_best
        self._hall: tools.HallOfFame = tools.ParetoFront() if self.several else tools.HallOfFame(FAME)
        self._filled_with: Population | None = None
        self._users_hall = False
        self.records: list[dict[str, Any]] = []
        self.logbook = make_logbook()
        self.statistics = tools.Statistics(key=first_value)
        for name, function in FIGURES.items():
            self.statistics.register(name, partial(_apply_to_finite, function))
        self.progress = Progress()
        self.worst: Population | None = None  # genomes of the first generation that have its worst values

    @property
    def hall_of_fame(self) -> tools.HallOfFame:
        """DEAP's, of all genomes evaluated: made of what is remembered when somebody looks."""
        if not self._users_hall and self._filled_with is not self.best:
            self._hall.clear()
            for genome in reversed(list(self.best or ())):  # equals go before those that are there
                self._hall.insert(genome)
            self._filled_with = self.best
        return self._hall

    @hall_of_fame.setter
    def hall_of_fame(self, hall: tools.HallOfFame) -> None:
        """Another one is fed with everybody that is evaluated from now on."""
        self._hall = hall
        self._users_hall = True

    @property
    def generation(self) -> int:
        """How many generations there were."""
        return self.progress.generation

    @property
    def reference(self) -> Array | None:
        """(M,) float64, the worst values of the first generation, above which a hypervolume is measured."""
        return None if self.worst is None else np.asarray(self.worst.values.min(axis=0))

    @property
    def front(self) -> Array:
        """(N,M) the values of all genomes evaluated that no other dominates, each once."""
        return np.zeros((0, len(self.scoring.objectives))) if self.best is None else find_front(self.best.values)

    def take(self, pool: Population, fresh: int) -> None:
        """Look at all genomes that a generation has evaluated: the hall of fame, the front, and progress.

        Args:
            pool: These genomes.
            fresh: How many of their rows nobody had seen before.
        """
        self.progress.generation += 1
        self.progress.idle = 0 if fresh else self.progress.idle + 1
        before = self._score_anew(pool)
        self.admit(pool)
        assert self.best is not None
        if self.several:
            merit = hypervolume(self.front, self._find_reference(pool))
        else:
            merit = max(before, float(self.best.values[0, 0]))
        if merit > before + (1e-12 * abs(before) if self.several else 0.0):  # sums of volumes are rounded
            self.progress.improved_at = self.progress.generation
        self.progress.merit = merit

    def admit(self, population: Population) -> None:
        """Remember the best of a population's genomes, beside those remembered.

        Args:
            population: Genomes with valid values.
        """
        self.best = keep_best(self.best, population, FAME)
        if self._users_hall:
            enter(self._hall, population)

    def forget(self) -> None:
        """No fitness is valid any more."""
        self.best = None
        self._hall.clear()
        self.worst = None
        self.progress.merit = -np.inf
        self.progress.improved_at = self.progress.generation

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Keep a line.

        Args:
            line: A generation's.

        Returns:
            The same line, which others may change.
        """
        self.records.append(_copy(line))
        # A Logbook would take the operators' shares, a dict, for a chapter of a MultiStatistics.
        narrow = _copy({key: value for key, value in line.items() if key not in WIDE})
        own = set(getattr(self.statistics, "fields", ())) - set(FIGURES)
        chapters = {key for key, value in narrow.items() if isinstance(value, dict)}
        shown = [key for key in narrow if key in own | chapters | {"hypervolume"} and key not in self.logbook.header]
        self.logbook.header += shown
        self.logbook.record(**narrow)
        return line

    def summarise(self, population: Population) -> dict[str, Any]:
        """Make the part of a line that is about fitness.

        Args:
            population: Those alive.

        Returns:
            The statistics, and diversity: the share of rows in which the others differ from the fittest, 0 to 1. With
            several objectives also front: values (N,M) of those alive that none dominates, and hypervolume: of the front of
            all genomes evaluated, above the worst values of the first generation.
        """
        values = population.values
        line = self._compile(population)
        line["diversity"] = round(_measure_diversity(population), 4)
        line.setdefault("best", float(values[:, 0].max()))  # where the user's statistics have no such entry
        for number, name in list(enumerate(self.scoring.objectives))[1:]:
            line |= {f"{name} best": float(values[:, number].max()), f"{name} mean": float(values[:, number].mean())}
        if self.several:
            front = find_front(values)
            line["objectives"] = list(self.scoring.objectives)
            line["front"] = front[spread(len(front), FRONT)].tolist()
            line["hypervolume"] = self.progress.merit
        return line

    def _compile(self, population: Population) -> dict[str, Any]:
        if getattr(self.statistics, "key", None) is first_value:  # one array instead of many individuals
            first = population.values[:, 0]
            finite = first[np.isfinite(first)]
            return {
                name: float(function.args[0](finite)) if function.func is _apply_to_finite else function(first)
                for name, function in self.statistics.functions.items()
            }
        compiled: dict[str, Any] = self.statistics.compile(population)
        return compiled

    def _score_anew(self, pool: Population) -> float:
        """The merit so far, on the scale of the generation that `pool` (its genomes) sets."""
        if not self.scoring.relative or self.best is None:
            return self.progress.merit
        context = self.scoring.gather_rows(pool)
        self.best = keep_best(None, self._rescore(self.best, context), FAME)
        if not self.several:
            return float(self.best.values[0, 0])
        if self.worst is not None:
            self.worst = self._rescore(self.worst, context)
        return hypervolume(self.front, self._find_reference(pool))

    def _rescore(self, genomes: Population, context: RowLosses) -> Population:
        """A copy of genomes with the fitness that they have beside those of the context."""
        scores = self.scoring.score(self.scoring.gather_rows(genomes), context)
        rescored = genomes.copy()
        rescored.values = compute_fitness(scores)
        return rescored

    def _find_reference(self, pool: Population) -> Array:
        if self.worst is None:
            sound = np.flatnonzero(~np.isinf(pool.scores).any(axis=1))
            among = sound if len(sound) else np.arange(len(pool))
            self.worst = pool.take(among[pool.values[among].argmin(axis=0)])
        assert self.reference is not None
        return self.reference


def first_value(individual: Any) -> float:
    """Read an individual's first fitness value: the key of a search's statistics.

    Args:
        individual: DEAP's or ours.

    Returns:
        The value.
    """
    value: float = individual.fitness.values[0]
    return value


def make_logbook() -> tools.Logbook:
    """Make a Logbook whose table has a search's columns.

    Returns:
        It, without a line.
    """
    logbook = tools.Logbook()
    logbook.header = list(HEADER)
    return logbook


def spread(count: int, most: int) -> Array:
    """Choose things evenly spread in a row, both ends among them.

    Args:
        count: How many there are.
        most: How many are chosen at most.

    Returns:
        Their indices.

    Example:
        >>> spread(10, 4)
        array([0, 3, 6, 9])
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _copy(value: Any) -> Any:
    """Nested dicts and lists anew: several times faster than `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def _measure_diversity(population: Population) -> float:
    if len(population) < 2:
        return 0.0
    words = population.packed.words
    pairings = population.pairings
    first = int(population.values[:, 0].argmax())
    differs = (words != words[first]).any(axis=2) | (pairings != pairings[first])
    return float(differs.sum() / (len(population) - 1) / differs.shape[1])


def _apply_to_finite(function: Callable[[Array], Any], values: Sequence[float]) -> float:
    numbers = np.asarray(values)
    return float(function(numbers[np.isfinite(numbers)]))
