"""What the generations of runs tell, as arrays: within a search, over the training, of several seeds.

numpy only: pandas takes longer to import than 50,000 generations take to read.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.estimate_checks import checks_of
from analysis.files import replace_text
from analysis.run_folder import RunFolder, places_of
from analysis.run_format import RunFolderError
from analysis.run_settings import by_setting, seed_of
from analysis.statistics import t_interval
from analysis.words import shortened
from evo.arrays import Array

NEEDED = ("epoch", "step", "search", "images", "generation", "forwards", "best", "mean")
OPTIONAL = (
    "new_rows",
    "full_rows",
    "median",
    "std",
    "min",
    "diversity",
    "hypervolume",
    "scored",
)  # some versions' lines lack some
MOST_ROWS = 10_000  # of a run in a table
LONGEST_NAME = 44  # characters of a setting's, in a legend
COLUMNS = {  # of curves.csv, one row per run, objective, search and generation
    "run": "its name",
    "setting": "runs of one setting differ in their seed only",
    "seed": "run.seed",
    "objective": "what the fitness of this row is; the first one of a run decides which genome is the fittest",
    "search": "number of the search; empty in means over searches",
    "searches": "how many searches the row is a mean over: 1, those of an epoch, or all of a run",
    "epoch": "when the search began; empty in means over all searches",
    "generation": "from 1",
    "forwards_per_image": "image forwards of the search so far, per image of its batch",
    "scored_per_image": "image forwards that the rows scored so far would have taken, per image; empty where they took them",
    "best": "fitness of the fittest genome",
    "median": "of the population's fitness",
    "mean": "of the population's fitness",
    "std": "standard deviation of the population's fitness",
    "min": "fitness of the least fit genome",
    "diversity": "mean share of rows in which the other genomes differ from the fittest, 0 to 1",
    "new_rows": "rows scored in this generation; each was forwarded where scores are exact",
    "full_rows": "rows of the genomes newly proposed in this generation",
    "hypervolume": "of the front of all compositions evaluated, above the worst values of the first generation; of several "
    "objectives",
}


class Series(NamedTuple):
    """y by x, (N,) each; x rises."""

    x: Array
    y: Array


class Band(NamedTuple):
    """Mean over seeds with its 95 % t-interval (NaN of one seed), (N,) each."""

    x: Array
    mean: Array
    low: Array
    high: Array


class Front(NamedTuple):
    """Non-dominated genomes' values (n,M) of a generation; larger is fitter."""

    generation: int
    values: Array


class History(NamedTuple):
    """A run's generations, in the order of their searches. columns: (N,) float64, NaN where a line has no value."""

    run: RunFolder
    columns: dict[str, Array]
    objectives: tuple[str, ...]
    fronts: tuple[Front, ...]  # the first and the last generation's of the last search; () of one objective

    @property
    def estimated(self) -> bool:
        """Whether its scores are estimates, which forward fewer images than they score rows."""
        return bool(np.isfinite(self.columns["scored"]).any())

    @property
    def searches(self) -> int:
        return len(np.unique(self.columns["search"]))

    @property
    def generations(self) -> int:
        """Of the longest search."""
        return int(self.columns["generation"].max())

    def column(self, objective: str, statistic: str) -> Array | None:
        """(N,) of an objective's best, mean, ...; None where the run did not write it."""
        if objective not in self.objectives:
            return None
        found = self.columns.get(statistic if objective == self.objectives[0] else f"{objective} {statistic}")
        return None if found is None or np.isnan(found).all() else found


class Setting(NamedTuple):
    """Runs of one setting, one of a seed, under the name that a legend has for them; it looks as the first of them does.

    number: the first run's place among those shown together, see style.look.
    """

    label: str
    histories: list[History]
    number: int = 0


# Reading


def read_history(run: RunFolder) -> History | None:
    """A run's generations; None where it has none. Raises RunFolderError where a line lacks what all have."""
    path, lines = run.path / "generations.jsonl", run.generation_lines
    if not lines:
        return None
    objectives = _objectives(lines[-1], run)
    others = [f"{name} {statistic}" for name in objectives[1:] for statistic in ("best", "mean")]
    columns = {key: _numbers(lines, key) for key in (*NEEDED, *OPTIONAL, *others)}
    for key in ("epoch", "step", "search", "images", "generation", "forwards"):
        bad = np.flatnonzero(~np.isfinite(columns[key]))
        if len(bad):
            raise RunFolderError(f"{path}: generation {bad[0] + 1} of the file has no number {key!r}")
    order = np.lexsort((columns["generation"], columns["search"]))
    return History(run, {k: v[order] for k, v in columns.items()}, objectives, _fronts(lines, order, len(objectives)))


def _numbers(lines: list[dict[str, Any]], key: str) -> Array:
    """A column; NaN where a line's value is none, or no number."""
    try:
        return np.array([line[key] for line in lines], np.float64)
    except (KeyError, TypeError, ValueError):
        found = (line.get(key) for line in lines)
        return np.array([value if isinstance(value, int | float) else np.nan for value in found], np.float64)


def _objectives(line: dict[str, Any], run: RunFolder) -> tuple[str, ...]:
    names = line.get("objectives")
    if isinstance(names, list) and names:
        return tuple(map(str, names))
    return tuple("".join(part.split()) for part in str(run.config["search"]["objective"]).split(","))


def _fronts(lines: list[dict[str, Any]], order: Array, count: int) -> tuple[Front, ...]:
    last = lines[order[-1]]
    ends = [lines[i] for i in order if lines[i]["search"] == last["search"]] if "front" in last else []
    try:
        fronts = [
            Front(int(line["generation"]), np.array(line["front"], np.float64).reshape(-1, count))
            for line in ends[:1] + ends[1:][-1:]
        ]
    except (KeyError, TypeError, ValueError):
        return ()  # not as this version writes them
    return tuple(fronts) if count > 1 else ()


# One run


def by_generation_of(history: History, values: Array) -> Series:
    """Means over the searches that came to a generation."""
    return _means(history.columns["generation"], values)


def by_forwards(history: History, values: Array) -> Series:
    """Means over searches against image forwards per image of the search batch; of estimated scores, against those that
    the rows scored would have taken.
    """
    generation, columns = history.columns["generation"], history.columns
    counted = np.where(np.isnan(columns["scored"]), columns["forwards"], columns["scored"])
    forwards = _means(generation, counted / columns["images"])
    # Where few searches reach the last generations, their mean could fall behind that of all.
    return Series(np.maximum.accumulate(forwards.y), _means(generation, values).y)


def over_training(history: History, values: Array, which: str, scale: str = "epoch") -> Series:
    """Values of each search's `first` or `last` generation, by the epoch (or step) in which it began."""
    first, last = _ends(history.columns["search"])
    return _means(history.columns[scale][first], values[first if which == "first" else last])


def turnover(history: History) -> Series | None:
    """New rows as percent of those of the genomes proposed, by generation; None where the run did not count."""
    new, full = (history.columns[key] for key in ("new_rows", "full_rows"))
    if np.isnan(full).all():
        return None
    generation = history.columns["generation"]
    counted = _means(generation, full)
    return Series(counted.x, 100 * _means(generation, new).y / np.maximum(counted.y, 1))


def forwards_saved(history: History) -> float | None:
    """Percent of the proposed genomes' rows that were not scored, as their losses were known: forwards saved, where
    scores are exact.
    """
    new, full = (np.nansum(history.columns[key]) for key in ("new_rows", "full_rows"))
    return 100 * (1 - float(new / full)) if full else None


def checks_over(history: History, name: str, scale: str) -> Series | None:
    """What the checks of estimated scores found, by `epoch`, `step` or `generation`; None where they tell nothing.

    name: rank_correlation, bias, gain_estimated or gain_true.
    """
    checks = checks_of(history.run)
    keys, values = (_numbers(checks, key) for key in (scale, name))
    known = np.isfinite(keys) & np.isfinite(values)
    return _means(keys[known], values[known]) if known.any() else None


def _means(keys: Array, values: Array) -> Series:
    """Means of the finite values by key; NaN where there are none."""
    found, places = np.unique(keys, return_inverse=True)
    finite = np.isfinite(values)
    count = np.bincount(places[finite], minlength=len(found))
    total = np.bincount(places[finite], values[finite], minlength=len(found))
    return Series(found, np.divide(total, count, out=np.full(len(found), np.nan), where=count > 0))


def _ends(search: Array) -> tuple[Array, Array]:
    """Indices of the first and the last of equal neighbours."""
    first = np.flatnonzero(np.diff(search, prepend=search[0] - 1))
    return first, np.append(first[1:], len(search)) - 1


# Several runs


def settings_of(runs: Sequence[RunFolder]) -> tuple[list[Setting], list[str]]:
    """Runs grouped by setting, in the order given, and sentences about runs that are left out.

    Raises RunFolderError where none of them has generations.
    """
    unlike = list({run.path.resolve(): run for run in runs}.values())
    number_of = {run.path: place for run, place in zip(unlike, places_of(unlike), strict=True)}
    histories = {run.path: read_history(run) for run in unlike}
    without = [run for run in unlike if histories[run.path] is None]
    if len(without) == len(unlike):
        raise RunFolderError(_no_generations(without))
    notes = [f"Left out, as without a search: {', '.join(run.name for run in without)}."] if without else []
    kinds = {str(run.config["data"]["name"]) for run in unlike if histories[run.path] is not None}
    if len(kinds) > 1:
        notes.insert(0, f"Of different data ({', '.join(sorted(kinds))}): their fitness cannot be compared.")
    notes += _estimated([history for run in unlike if (history := histories[run.path]) is not None])
    found: list[list[History]] = []
    for group in by_setting([run for run in unlike if histories[run.path] is not None], repeats=True):
        by_seed: dict[int, History] = {}
        for run in group:
            history = histories[run.path]
            if history is None:
                continue
            first = by_seed.setdefault(seed_of(run), history)
            if first is not history:
                notes.append(f"Left out, as of the same setting and seed as {first.run.name}: {run.name}.")
        found.append(list(by_seed.values()))
    numbers = [min(number_of[history.run.path] for history in group) for group in found]
    return [Setting(*three) for three in zip(_labels(found), found, numbers, strict=True)], notes


def _estimated(histories: Sequence[History]) -> list[str]:
    """A sentence where some runs' scores are estimates and others' are not."""
    names = [history.run.name for history in histories if history.estimated]
    if len(names) in (0, len(histories)):
        return []
    return [f"Fitness is an estimate for {', '.join(names)} and exact for the others: the two cannot be compared."]


def _no_generations(runs: Sequence[RunFolder]) -> str:
    damage = [line for run in runs if run.forgiving for line in run.damaged() if "generations.jsonl" in line]
    if damage:
        return damage[0]
    if len(runs) == 1:
        who = f"run {runs[0].name} has no generations: its mix is {runs[0].mix!r}"
    else:
        who = f"none of the runs {', '.join(run.name for run in runs)} has generations"
    return f"{who}; only runs with mix=evolved and ./run search have some, from their first search on"


def _labels(groups: list[list[History]]) -> list[str]:
    """A name for each setting: what its runs' names share, less the folder that all share."""
    names = [[history.run.name for history in group] for group in groups]
    stems = [group[0] if len(group) == 1 else _stem(group) for group in names]
    if len(set(stems)) < len(stems):
        stems = [group[0] for group in names]
    folders = {stem.rpartition("/")[0] for stem in stems}
    cut = len(folders.pop()) + 1 if len(stems) > 1 and len(folders) == 1 and "/" in stems[0] else 0
    return [
        shortened(stem[cut:], LONGEST_NAME) + (f" (n = {len(group)})" if len(group) > 1 else "")
        for stem, group in zip(stems, names, strict=True)
    ]


def _stem(names: list[str]) -> str:
    """evolved of evolved-s0 and evolved-s1; the first name and a number where they share nothing."""
    length = next((i for i, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    shared = re.sub(r"([-_.]?(s|seed)?[-_.]?\d*)$", "", names[0][:length])
    return shared if shared.strip("/") else f"{names[0]} and {len(names) - 1} more"


def band(series: Sequence[Series]) -> Band:
    """The mean over seeds at every x of theirs that lies within all seeds' reach, each seed straight between its own."""
    low, high = max(one.x[0] for one in series), min(one.x[-1] for one in series)
    x = np.unique(np.concatenate([one.x for one in series]))
    x = x[(x >= low) & (x <= high)]
    values = np.array([np.interp(x, one.x, one.y) for one in series])
    ends = np.array([t_interval(column) for column in values.T]).reshape(-1, 2)
    return Band(x, values.mean(axis=0), ends[:, 0], ends[:, 1])


# The table


def write_table(settings: Sequence[Setting], path: Path) -> Path:
    """Write curves.csv, with COLUMNS. Of a run with more than MOST_ROWS rows each row is the mean over the searches
    that began in one epoch; where these are too many as well, over all searches.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for setting in settings:
        for history in setting.histories:
            for objective in history.objectives:
                writer.writerows(_rows(setting.label, history, objective))
    return replace_text(path, text.getvalue())


def _rows(label: str, history: History, objective: str) -> list[list[str]]:
    columns = history.columns
    by, key = _grouped(columns)
    searches = np.unique(key, return_counts=True)[1]
    who = [history.run.name, label, str(history.run.config["run"]["seed"]), objective]
    numbers: list[Array | None] = [
        columns["search"] if by == "search" else None,
        None,
        columns["epoch"] if by else None,
        columns["generation"],
        columns["forwards"] / columns["images"],
        columns["scored"] / columns["images"],
        *(history.column(objective, name) for name in ("best", "median", "mean", "std", "min")),
        *(columns[name] for name in ("diversity", "new_rows", "full_rows", "hypervolume")),
    ]
    written = [[""] * len(searches) if one is None else _written(_means(key, one).y) for one in numbers]
    written[1] = [str(count) for count in searches]
    return [[*who, *cells] for cells in zip(*written, strict=True)]


def _grouped(columns: dict[str, Array]) -> tuple[str, Array]:
    """What a table's rows are of besides their generation, search, epoch or nothing, and a key (N,) of each row."""
    generation = columns["generation"]
    for by in ("search", "epoch"):
        key = columns[by] * (generation.max() + 1) + generation
        if len(np.unique(key)) <= MOST_ROWS:
            return by, key
    return "", generation


def _written(values: Array) -> list[str]:
    return ["" if value != value else f"{value:.8g}" for value in values.tolist()]
