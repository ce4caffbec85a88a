"""`./run list` and `./run show`: what lies under runs/out, and how each run stands."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from analysis.divergence import divergence, search_divergence
from analysis.endings import ending, reasons
from analysis.estimates import doubt, told_of_estimates
from analysis.rounding import decimal_text
from analysis.run_folder import (
    RunFolder,
    RunFolderError,
    check_schema,
    find_run,
    first_to_last,
    is_head,
    out_root,
    state_of,
)
from analysis.states import State, state_named
from analysis.tested import KNOWN_BY, Tested, of_options, unlike
from analysis.time_left import seconds_left
from evo.errors import UserError
from runs.folders import shown
from training.places import spoken

PARTS = {"checkpoint", "elites", "patterns", "figures", "transfer"}  # of a run folder: no runs lie in them
WIDTH = 100  # characters of a line
TAIL = 64 * 1024  # bytes of a log that are looked at: more than a hundred epochs
LONGEST_LINE = 1 << 20  # bytes: a start event names every class, and 1,000 of them take 20 kB

Row = dict[str, Any]

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
        "accuracy": _number(accuracy),
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


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _without(message: str, path: Path) -> str:
    """An error's text without the folder, which the row names already."""
    return message.replace(f"{path}{os.sep}", "")


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
    return [_printable(str(word)) for word in words] + [human(row["age_seconds"])]


def shortened(text: str, width: int) -> str:
    """A text of at most `width` characters; a longer one loses its middle."""
    if len(text) <= width:
        return text
    left = max(1, (width - 1) // 3)  # the end tells seeds apart
    return text[:left] + "…" + text[len(text) - (width - 1 - left) :]


def _printable(text: str) -> str:
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


def run_show(name: str, *, as_json: bool) -> None:
    """Print how one run stands, what came of it, what it took, where its files lie and what to type next.

    --json: one object, the keys of run_list and: left_seconds, steps, median10_accuracy, test_images, fitness
    ([first, last] generation's best, nats), stopped (why searches ended -> how many), ended (the same in a sentence),
    estimates, doubt (sentences on estimated scores beside exact ones),
    diverged (sentences: losses that blew up), seconds, search_seconds, image_forwards, search_forwards, files
    (name -> path), commands (repeat, resume, report -> what to type), damaged (lines on files that cannot be read);
    null where they do not apply.
    Raises RunFolderError where there is no such run, or its config cannot be read.
    """
    run = find_run(name, forgiving=True)
    row = row_of(run.path)
    if row["data"] is None:  # no config: nothing can be told
        raise RunFolderError(f"run {run.name} is damaged: {row['reason']}")
    if row["state"] == State.DAMAGED:
        row |= _what_is_whole(run.checked(), row)
    details = row | _details(run.checked(), row)
    print(json.dumps(details, indent=1) if as_json else as_card(details))


def _what_is_whole(run: RunFolder, row: Row) -> Row:
    """The keys of `_progress` that a damaged log still tells."""
    epochs = [event for event in run.events if event["event"] == "epoch"]
    tested = [event["accuracy"] for event in epochs if "accuracy" in event]
    generations = [line.get("generation", 0) for line in run.generation_lines]
    found: Row = {"accuracy": _number(tested[-1]) if tested else None, "age_seconds": row["age_seconds"]}
    if "model" in run.start:
        return {**found, "kind": "search", "generation": int(max(generations, default=0))}
    return {**found, "kind": "training", "epoch": len(epochs), "generation": None, "generations": None}


def _details(run: RunFolder, row: Row) -> Row:
    events = run.events
    spent: dict[str, Any] = next((event for event in reversed(events) if "image_forwards" in event), {})
    result = run.result or {}
    numbers = ("seconds", "search_seconds", "image_forwards", "search_forwards")
    return {
        "left_seconds": seconds_left(run),
        "steps": next((event["step"] for event in reversed(events) if "step" in event), None),
        "median10_accuracy": result.get("median10_accuracy"),
        "test_images": next((event["test_images"] for event in reversed(events) if "test_images" in event), None),
        "fitness": _fitness(run),
        "stopped": dict(reasons(run)) or None,
        "ended": ending(run) or None,
        "estimates": told_of_estimates(run) or None,
        "doubt": doubt(run) or None,
        "diverged": [text for text in (divergence(run), search_divergence(run)) if text],
        **{key: spent.get(key) for key in numbers},
        "files": _files(run),
        "commands": _commands(run, row),
        "damaged": run.damaged(),
    }


def _fitness(run: RunFolder) -> list[float] | None:
    try:
        return list(first_to_last(run))
    except (RunFolderError, ValueError, KeyError):  # no search, or none that has got anywhere
        return None


def _files(run: RunFolder) -> dict[str, str]:
    known = {
        "folder": ".",
        "report": "report.html",
        "figures": "figures",
        "patterns": "patterns/bank.npz",
        "searches": "elites",
        "checkpoint": "checkpoint",
    }
    return {what: str(run.path / place) for what, place in known.items() if _has_something(run.path / place)}


def _has_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _commands(run: RunFolder, row: Row) -> dict[str, str | None]:
    verb, kept = ("search", "search.npz") if row["kind"] == "search" else ("train", "latest.json")
    goes_on = row["state"] in (State.STOPPED, State.FAILED, State.KILLED) and (run.path / "checkpoint" / kept).is_file()
    command = run.environment.get("command")
    return {
        "repeat": str(command) if command else None,
        "resume": spoken(verb, options=("--resume", run.name)) if goes_on else None,
        "watch": spoken("watch", run.name) if row["state"] == State.RUNNING else None,
        "report": spoken("report", run.name),
    }


def as_card(details: Row) -> str:
    """run_show's object for a person."""
    what = f"{details['model']} on {details['data']}, mix {details['mix']}, seed {details['seed']}"
    kind = "a search experiment with " if details["kind"] == "search" else ""
    head = f"{details['name']}: {kind}{what}"
    lines = [("state", _state_text(details)), ("progress", _progress_text(details))]
    if details["accuracy"] is not None:
        lines.append(("result", _result_text(details)))
    if details["fitness"]:
        first, last = (decimal_text(fitness, ".3f") for fitness in details["fitness"])
        lines.append(("fitness", f"best of the first generation {first}, of the last {last}; means over searches"))
    if details["ended"]:
        lines.append(("ended", details["ended"]))
    if details["estimates"]:
        lines.append(("estimates", details["estimates"]))
    lines += [("warning", text) for text in [*details["diverged"], details["doubt"]] if text]
    if details["image_forwards"] is not None:
        lines.append(("cost", _cost_text(details)))
    lines += [("damaged", line) for line in details["damaged"]]
    lines += [(what, shown(Path(path))) for what, path in details["files"].items()]
    lines += [(what, command) for what, command in details["commands"].items() if command]
    width = max(len(what) for what, _ in lines)
    return "\n".join([_printable(head), *(f"{what.ljust(width)}  {_printable(text)}" for what, text in lines)])


def _state_text(details: Row) -> str:
    age = human(details["age_seconds"])
    state = details["state"]
    when = f"; its last sign was {age} ago" if state in (State.RUNNING, State.KILLED) else f", {age} ago"
    why = f": {details['reason']}" if state in (State.FAILED, State.DAMAGED) else ""
    return f"{state}: {state.meaning}{when}{why}"


def _progress_text(details: Row) -> str:
    if details["kind"] == "search":
        planned = details["generations"]
        text = f"generation {details['generation']:,}" + ("" if planned is None else f" of {planned:,}")
    else:
        text = f"epoch {details['epoch']:,} of {details['epochs']:,}"
        text += f", {details['steps']:,} steps" if details["steps"] is not None else ""
    if details["left_seconds"] is not None:
        text += f"; about {human(details['left_seconds'])} left"
    return text


def _result_text(details: Row) -> str:
    images = f" on {details['test_images']:,} test images" if details["test_images"] else ""
    if details["median10_accuracy"] is None:
        return f"accuracy {details['accuracy']:.2f} % at the last test so far{images}"
    return (
        f"accuracy {details['accuracy']:.2f} % at the last epoch (median of the last ten tests "
        f"{details['median10_accuracy']:.2f} %){images}"
    )


def _cost_text(details: Row) -> str:
    searched = details["search_forwards"] or 0
    text = f"{details['image_forwards']:,} image forwards"
    if details["kind"] == "training" and searched:
        text += f", {searched:,} of them to search"
    if details["seconds"] is not None:
        text += f"; {details['seconds']:,.0f} s without tests"
        if details["kind"] == "training" and searched and details["search_seconds"] is not None:
            text += f", {details['search_seconds']:,.0f} s of it to search"
    return text
