"""How each run under runs/out stands, told from its config and the ends of its logs alone."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from analysis.log_lines import is_head
from analysis.run_folder import RunFolder, state_of
from analysis.run_format import RunFolderError, check_schema
from analysis.states import State

PARTS = {"checkpoint", "elites", "patterns", "figures", "transfer"}  # of a run folder: no runs lie in them
TAIL = 64 * 1024  # bytes of a log that are looked at: more than a hundred epochs
LONGEST_LINE = 1 << 20  # bytes: a start event names every class, and 1,000 of them take 20 kB
Row = dict[str, Any]


def run_folders(root: Path) -> Iterator[Path]:
    """Every folder below `root` that is a run's, or was to be one; links are followed, each place once."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            place = os.stat(folder)
            entries = list(os.scandir(folder))
        except OSError:
            continue
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        names = {entry.name for entry in entries}
        is_run = folder != root and bool(names & {"config.json", "log.jsonl", "generations.jsonl"})
        if is_run:
            yield folder
        waiting += [Path(entry.path) for entry in entries if not (is_run and entry.name in PARTS) and _is_folder(entry)]


def row_of(path: Path) -> Row:
    """How the run in a folder stands, from the ends of its logs alone; keys as run_list says. Never raises."""
    row: Row = dict.fromkeys(
        ("name", "path", "kind", "state", "reason", "data", "model", "mix", "seed", "epoch", "epochs", "generation",
         "generations", "accuracy", "started", "last_event", "age_seconds")
    )  # fmt: skip
    row.update(name=RunFolder(path).name, path=str(path))
    try:
        row.update(_configured(RunFolder(path).config))
        row.update(_progress(path, row))
    except RunFolderError as error:
        row.update(state=State.DAMAGED, reason=_without(str(error), path))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        row.update(state=State.DAMAGED, reason=f"{type(error).__name__}: {error}")
    return row


def _configured(config: dict[str, Any]) -> Row:
    return {
        "data": str(config["data"]["name"]),
        "model": str(config["model"]["name"]),
        "mix": str(config["mix"]["name"]),
        "seed": config["run"]["seed"],
        "epochs": int(config["train"]["epochs"]),
        "generations": None if (planned := config["search"]["generations"]) is None else int(planned),
    }


def _progress(path: Path, row: Row) -> Row:
    """The keys that the logs tell: kind, state, reason, epoch, generation, accuracy, started, last_event, age_seconds."""
    log = path / "log.jsonl"
    start = start_event(log)
    is_search = "model" in start
    last: dict[str, Any] = {}
    epoch = 0
    accuracy = None
    for event in last_records(log):
        last = last or event
        if accuracy is None:
            accuracy = event.get("last_accuracy" if event["event"] == "end" else "accuracy")
        if event["event"] == "epoch":
            epoch = max(epoch, int(event["epoch"]))
        if is_search or (epoch and accuracy is not None):
            break
    state = state_of(path, last)
    result: Row = {
        "kind": "search" if is_search else "training",
        "state": state,
        "reason": str(last.get("reason") or "no reason is recorded") if state == State.FAILED else None,
        "accuracy": finite(accuracy),
        "started": start.get("time"),
        "last_event": last.get("time"),
    }
    if is_search:
        newest = next(last_records(path / "generations.jsonl"), {})
        result.update(epoch=None, epochs=None, generation=int(newest.get("generation", 0)))
    else:
        result.update(epoch=epoch, generation=None, generations=None)
    result["age_seconds"] = _age(path, last, is_search)
    return result


def start_event(path: Path) -> dict[str, Any]:
    """The `start` event of a log, which stands first or follows the schema; {} where there is none."""
    with _opened(path) as file:
        lines = [file.readline(LONGEST_LINE) for _ in range(2)]
    for line in lines:
        record = _parsed(line)
        if record is not None and record.get("event") == "start":
            return record
    return {}


def last_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file's last 64 kB, the last one first; a torn last line and the schema are left out.

    Raises RunFolderError on a damaged line, when it comes to it.
    """
    with _opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")
    if size > TAIL:
        del lines[0]  # cut through
    for distance, line in enumerate(reversed(lines)):
        record = _parsed(line)
        if record is None:
            if distance == 0:  # what follows the last line's end: nothing, or what a crash has left
                continue
            raise RunFolderError(f"{path}: a line is damaged: {line.decode(errors='replace')!r:.60}")
        if is_head(record):
            check_schema(path, record["schema"])
        else:
            yield record


def _opened(path: Path) -> BinaryIO:
    """A file to read bytes from; an empty one where it is not there yet."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return io.BytesIO()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object a line stands for; None where it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _age(path: Path, last: dict[str, Any], is_search: bool) -> float | None:
    """Seconds since a run last said something. A search that has not ended has no event but its start."""
    times = [datetime.fromisoformat(last["time"]).timestamp()] if "time" in last else []
    silent = [name for name in ("generations.jsonl", "config.json") if (path / name).exists()]
    if silent and (not times or (is_search and last.get("event") != "end")):
        times.append((path / silent[0]).stat().st_mtime)
    return round(max(0.0, datetime.now(UTC).timestamp() - max(times)), 1) if times else None


def finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _without(message: str, path: Path) -> str:
    """An error's text without the folder, which the row names already."""
    return message.replace(f"{path}{os.sep}", "")
