"""How long a run that goes on will still take."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.run_folder import RunFolder
from analysis.states import State


def seconds_left(run: RunFolder) -> float | None:
    """An estimate for a running run as of `run.read_at`, at the pace since it was started or last gone on with.

    None where it does not run, or has not come to the end of an epoch or generation since. A search's time limit counts
    where it comes first.
    """
    if run.state != State.RUNNING:
        return None
    begun = next((event for event in reversed(run.events) if event["event"] in ("start", "resume")), None)
    if begun is None:
        return None
    times = [found for found in (_pace(run, begun), _minutes(run, begun)) if found is not None]
    return round(max(0.0, min(times)), 1) if times else None


def _minutes(run: RunFolder, begun: Mapping[str, Any]) -> float | None:
    """Seconds until the time limit of a search experiment; None where it has none."""
    minutes = run.config["search"].get("minutes")
    if "model" not in run.start or minutes is None:
        return None
    since = (run.read_at - datetime.fromisoformat(begun["time"])).total_seconds()
    return float(60 * minutes - float(begun.get("seconds", 0)) - since)


def _pace(run: RunFolder, begun: Mapping[str, Any]) -> float | None:
    """Seconds that the epochs or generations to come take at the pace since `begun`; None where that is not known."""
    done, todo, last = _generations(run, begun) if "model" in run.start else _epochs(run, begun)
    if done <= 0:
        return None
    since = datetime.fromisoformat(begun["time"])
    return todo * (last - since).total_seconds() / done - (run.read_at - last).total_seconds()


def _epochs(run: RunFolder, begun: Mapping[str, Any]) -> tuple[int, int, datetime]:
    """Epochs ended since `begun`, those to come, and when the last one ended."""
    ended = [event for event in run.events[run.events.index(dict(begun)) :] if event["event"] == "epoch"]
    if not ended:
        return 0, 0, run.read_at
    todo = int(run.config["train"]["epochs"]) - int(ended[-1]["epoch"])
    return len(ended), todo, datetime.fromisoformat(ended[-1]["time"])


def _generations(run: RunFolder, begun: Mapping[str, Any]) -> tuple[int, int, datetime]:
    """Generations since `begun`, those to come, and when the last one was written: its line does not say."""
    planned = run.config["search"]["generations"]
    if not run.generation_lines or planned is None:
        return 0, 0, run.read_at
    generation = int(run.generation_lines[-1]["generation"])
    written = datetime.fromtimestamp((run.path / "generations.jsonl").stat().st_mtime, UTC)
    before = int(begun.get("generation", 0))
    return generation - before, int(planned) - generation, min(written, run.read_at)
