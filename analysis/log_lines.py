"""The lines of a run's logs, log.jsonl and generations.jsonl: read, and checked to be what we write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.run_format import RunFolderError, check_schema


def read_lines(path: Path, head: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, but for the first line, of schema and the run's id, which goes into `head`. A torn
    last line, as a crash leaves it, is left out.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    records = parsed(path, lines)
    if records and is_head(records[0]):
        check_schema(path, records[0]["schema"])
        (head if head is not None else {}).update(records.pop(0))
    return records


def is_head(record: Mapping[str, Any]) -> bool:
    """Whether it is the first line of a log."""
    return "schema" in record and record.keys() <= {"schema", "id"}


def parsed(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """The objects that lines of JSON stand for, all at once, which takes half the time of one by one."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
        if len(found) == len(lines) and all(type(record) is dict for record in found):
            return list(found)
    except (ValueError, RecursionError):
        pass
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if type(record) is not dict:
            if number == len(lines):
                break
            raise RunFolderError(f"{path}: line {number} is damaged: {line.decode(errors='replace')!r:.60}")
        found.append(record)
    return found


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file whose lines are partly damaged, but for its schema."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if type(record) is dict and record.keys() != {"schema"}:
                found.append(record)
    return found


# What lines of the logs hold, where they hold it
TEXTS = ("event", "reason")
COUNTS = (
    "epoch", "step", "steps", "training_images", "test_images", "image_forwards", "search_forwards", "processes", "search",
    "generation", "generations", "forwards", "scored", "verified", "verified_rank",
    "verified_forwards", "checked_rows",
)  # fmt: skip
NUMBERS = (
    "accuracy", "live_accuracy", "test_loss", "image_loss", "training_accuracy", "last_accuracy", "median10_accuracy",
    "best_accuracy", "seconds", "search_seconds", "best", "mean", "first", "last", "verified_fitness", "verified_first",
    "verified_last", "rank_correlation", "bias", "gain_estimated", "gain_true",
)  # fmt: skip
LARGEST = 2**53  # of a count; a larger one, or a number of 400 digits, is none that we wrote


def checked_events(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records. Raises RunFolderError where one is no event, or a value is of another kind than we write."""
    for number, record in enumerate(records, 1):
        if what := wrong_in_event(record):
            raise RunFolderError(f"{path}: event {number} is damaged: it has {what}")
    return records


def wrong_in_event(record: Mapping[str, Any]) -> str | None:
    """What is wrong with an event; None where nothing is."""
    if "event" not in record:
        return "no name"
    try:
        if "time" in record:
            datetime.fromisoformat(record["time"])
    except (TypeError, ValueError):
        return f"no time, but {record['time']!r:.40}"
    return wrong_in(record)


def checked_generations(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records. Raises RunFolderError where a value is of another kind than we write."""
    for number, record in enumerate(records, 1):
        if what := wrong_in(record, (*COUNTS, "images")):  # a start event has its images' digest by that name
            raise RunFolderError(f"{path}: generation {number} of the file has {what}")
    return records


def wrong_in(record: Mapping[str, Any], counts: Sequence[str] = COUNTS) -> str | None:
    """The first value of a record that is not of its kind; None where all are."""
    for name in TEXTS:
        if name in record and type(record[name]) is not str:
            return f"no text {name!r}, but {record[name]!r:.40}"
    for name in counts:
        if name in record and not (type(record[name]) in (int, float) and abs(record[name]) <= LARGEST):
            return f"no number {name!r}, but {record[name]!r:.40}"
    for name in NUMBERS:
        value = record.get(name)  # null where it was no finite number
        if value is not None and type(value) is not float and not (type(value) is int and abs(value) <= LARGEST):
            return f"no number {name!r}, but {value!r:.40}"
    return None
