"""How long a run that goes on will still take."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.run_folder import RunFolder
from analysis.states import State


def seconds_left(run: RunFolder) -> float | None:
    """An estimate for a running run as of `run.read_at`, at the pace since it was started or last gone on with.

    None where it does not run, or has not come to the end of an epoch or generation since.
    """
    if run.state != State.RUNNING:
        return None
    begun = next((event for event in reversed(run.events) if event["event"] in ("start", "resume")), None)
    if begun is None:
        return None
    done, todo, last = _generations(run, begun) if "model" in run.start else _epochs(run, begun)
    if done <= 0:
        return None
    since = datetime.fromisoformat(begun["time"])
    left = todo * (last - since).total_seconds() / done - (run.read_at - last).total_seconds()
    return round(max(0.0, left), 1)


def _epochs(run: RunFolder, begun: Mapping[str, Any]) -> tuple[int, int, datetime]:
    """Epochs ended since `begun`, those to come, and when the last one ended."""
    ended = [event for event in run.events[run.events.index(dict(begun)) :] if event["event"] == "epoch"]
    if not ended:
        return 0, 0, run.read_at
    todo = int(run.config["train"]["epochs"]) - int(ended[-1]["epoch"])
    return len(ended), todo, datetime.fromisoformat(ended[-1]["time"])


def _generations(run: RunFolder, begun: Mapping[str, Any]) -> tuple[int, int, datetime]:
    """Generations since `begun`, those to come, and when the last one was written: its line does not say."""
    if not run.generation_lines:
        return 0, 0, run.read_at
    generation = int(run.generation_lines[-1]["generation"])
    written = datetime.fromtimestamp((run.path / "generations.jsonl").stat().st_mtime, UTC)
    before = int(begun.get("generation", 0))
    return generation - before, int(run.config["search"]["generations"]) - generation, min(written, run.read_at)
