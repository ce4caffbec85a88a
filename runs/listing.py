"""`./run list`: what lies under runs/out, a line for each run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, out_root
from analysis.states import State, state_named
from analysis.tested import KNOWN_BY, Tested, of_options, unlike
from evo.errors import UserError
from runs.folders import shown
from runs.standing import Row, row_of, run_folders, start_event

WIDTH = 100  # characters of a line


# What rows are sorted by; those with the larger value first where `largest`. Rows that lack it come last.
SORTS: dict[str, tuple[Callable[[Row], Any], bool]] = {
    "age": (lambda row: row["age_seconds"], False),
    "name": (lambda row: row["name"], False),
    "state": (lambda row: list(State).index(row["state"]), False),
    "data": (lambda row: row["data"], False),
    "model": (lambda row: row["model"], False),
    "mix": (lambda row: row["mix"], False),
    "epoch": (lambda row: row["epoch"] if row["generation"] is None else row["generation"], True),
    "accuracy": (lambda row: row["accuracy"], True),
}


def run_list(
    *, states: list[str], data: str | None, model: str | None, mix: str | None, sort: str, reverse: bool, as_json: bool
) -> None:
    """Print every run folder under runs/out as a line of a table, or all as one JSON array.

    states, data, model, mix: which runs; [] and None stand for all. sort: a key of SORTS; the youngest, and the
    largest epoch and accuracy, come first. An element of the array has the keys, null where they do not apply:
        name, path; kind: training or search; state: a State; reason: of a failed or damaged one
        data, model, mix, seed; epoch, epochs: done and planned; generation, generations: of a search experiment,
        of which the second may be without limit, null
        accuracy: percent, of the last test so far; started, last_event: ISO 8601; age_seconds: since the last event
    Raises UserError on an unknown state or sort.
    """
    try:
        wanted = [state_named(word) for given in states for word in given.split(",") if word.strip()]
    except ValueError as error:
        raise UserError(f"--state: {error}") from None
    _known("--sort", [sort], tuple(SORTS))
    found = [row_of(path) for path in run_folders(out_root())]
    filters = {"data": data, "model": model, "mix": mix}
    rows = [
        row
        for row in found
        if (not wanted or row["state"] in wanted)
        and all(value is None or row[key] == value for key, value in filters.items())
    ]
    rows = in_order(rows, sort, reverse)
    if sort == "accuracy" and (what := unlike([_tested(row) for row in rows if row["accuracy"] is not None])):
        print(f"run: {what}; accuracies rank those alone that were tested on the same", file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print(as_table(rows))
    else:
        print(_nothing(found, {"state": ",".join(wanted) or None, **filters}))


def _tested(row: Row) -> Tested:
    """What a run's config and its first event tell of the images it was tested on."""
    path = Path(row["path"])
    options = RunFolder(path).config["data"]
    start = start_event(path / "log.jsonl")
    known = {meaning: start[key] for key, meaning in KNOWN_BY.items() if key in start}
    return Tested(f"run {row['name']}", row["seed"], {**of_options(options), **known})


def in_order(rows: list[Row], sort: str, reverse: bool) -> list[Row]:
    """Rows by a key of SORTS, then by name; those that lack it last, also in reverse."""
    key, largest = SORTS[sort]
    rows = sorted(rows, key=lambda row: _natural(row["name"]))
    having = sorted((row for row in rows if key(row) is not None), key=key, reverse=largest != reverse)
    if sort == "name":
        having = rows[::-1] if reverse else rows
    return having + [row for row in rows if key(row) is None]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that s10 comes after s9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def as_table(rows: list[Row], now: datetime | None = None) -> str:
    """Aligned columns within 100 characters; a damaged folder says what is wrong with it."""
    head = ["name", "state", "data", "model", "mix", "epoch", "accuracy", "age"]
    table = [head, *(_cells(row) for row in rows)]
    whole = [
        line for line, row in zip(table, [None, *rows], strict=True) if row is None or row["state"] != State.DAMAGED
    ]
    widths = [max(len(line[column]) for line in whole) for column in range(len(head))]
    widths[0] = max(len(line[0]) for line in table)
    widths[1] = max(len(line[1]) for line in table)
    for column, least in ((0, 24), (3, 12), (2, 10), (4, 8), (0, 12)):  # the name gives way first
        spare = sum(widths) + 2 * (len(widths) - 1) - WIDTH
        widths[column] = max(min(least, widths[column]), widths[column] - max(0, spare))
    lines = []
    for cells, row in zip(table, [None, *rows], strict=True):
        start = [shortened(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)]
        if row is not None and row["state"] == State.DAMAGED:
            room = WIDTH - widths[0] - widths[1] - 4
            start = [*start[:2], shortened(str(row["reason"]), room)]
        else:
            start[5:] = [shortened(cell, width).rjust(width) for cell, width in zip(cells[5:], widths[5:], strict=True)]
        lines.append("  ".join(start).rstrip())
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    if row["generation"] is not None:
        planned = "" if row["generations"] is None else f"/{row['generations']}"  # a search may have no such end
        progress = f"gen. {row['generation']}{planned}"
    else:
        progress = f"{row['epoch']}/{row['epochs']}"
    accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.2f} %"
    words = [row["name"], row["state"], row["data"], row["model"], row["mix"], progress, accuracy]
    return [printable(str(word)) for word in words] + [human(row["age_seconds"])]


def shortened(text: str, width: int) -> str:
    """A text of at most `width` characters; a longer one loses its middle."""
    if len(text) <= width:
        return text
    left = max(1, (width - 1) // 3)  # the end tells seeds apart
    return text[:left] + "…" + text[len(text) - (width - 1 - left) :]


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def human(seconds: float | None) -> str:
    """A span as a person says it: 40 s, 3 min, 2 h, 5 d."""
    if seconds is None:
        return "-"
    for unit, length, end in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86400)):
        if seconds < end:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86400):,} d"


def _known(option: str, given: list[str], known: tuple[str, ...]) -> None:
    unknown = [word for word in given if word not in known]
    if unknown:
        raise UserError(f"{option} {unknown[0]}: expected one of {', '.join(known)}")


def _nothing(found: list[Row], filters: dict[str, str | None]) -> str:
    """What to say where there is no line to show."""
    if not found:
        return f"no runs in {shown(out_root())} yet; begin one with ./run train digits"
    asked = {key: value for key, value in filters.items() if value is not None}
    there = (
        f"{key}: {', '.join(sorted({str(row[key]) for row in found if row[key] is not None})) or 'none'}"
        for key in asked
    )
    wanted = " ".join(f"--{key} {value}" for key, value in asked.items())
    return f"none of {len(found):,} runs has {wanted}; there are {'; '.join(there)}"
