"""`./run show`: how one run stands, what came of it, what it took and what to type next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.diverged import divergence, search_divergence
from analysis.endings import ending, reasons
from analysis.estimate_checks import doubt, told_of_estimates
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, find_run, first_to_last
from analysis.run_format import RunFolderError
from analysis.states import State
from analysis.time_left import seconds_left
from runs.folders import shown
from runs.listing import human, printable
from runs.standing import Row, finite, row_of
from training.places import spoken


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
    found: Row = {"accuracy": finite(tested[-1]) if tested else None, "age_seconds": row["age_seconds"]}
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
    return "\n".join([printable(head), *(f"{what.ljust(width)}  {printable(text)}" for what, text in lines)])


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
