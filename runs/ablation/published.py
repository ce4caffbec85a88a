"""The results of an ablation that are kept with the code: runs/results/NAME/trials.jsonl, one line per finished trial.

A line is written as soon as its trial is done, so that what stops costs one trial at most, also on a machine whose run
folders are lost. `./run ablate NAME --publish` counts a trial as done whose line was made with the same settings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.log_lines import read_lines
from analysis.run_format import REMOVED, as_today
from evo.errors import UserError
from runs.ablation.trials import Trial, told_apart_by
from training.places import PROJECT

SCHEMA = 1
RESULT = (
    "last_accuracy", "median10_accuracy", "last_test_loss",
    "image_forwards", "search_forwards", "seconds", "search_seconds",
)  # fmt: skip
ENVIRONMENT = ("date", "commit", "device", "device_name", "threads")


def results_folder(file: Path) -> Path:
    """Where an ablation's results are kept."""
    return PROJECT / "runs" / "results" / file.stem


def publish_trial(file: Path, trial: Trial) -> None:
    """Add the line of a trial that is done."""
    result, environment = trial.run.result, trial.run.environment
    assert result is not None
    line = {
        "schema": SCHEMA,
        "variant": trial.variant,
        "seed": trial.seed,
        **{key: environment.get(key) for key in ENVIRONMENT},
        "packages": {name: environment.get("packages", {}).get(name) for name in ("torch", "numpy", "deap")},
        "result": {key: result[key] for key in RESULT if key in result},
        "config": settings(trial),
    }
    path = results_folder(file) / "trials.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as lines:  # one write, so that two ablations of one file do not mix their lines
        lines.seek(0)
        whole = lines.read()
        lines.truncate(whole.rfind(b"\n") + 1)  # what a killed process left of a line
        lines.write(json.dumps(line).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def publish_done(file: Path, trials: Sequence[Trial]) -> None:
    """Add the lines of those trials that are done and have none."""
    lines = {(line["variant"], line["seed"]) for line in published_lines(file)}
    for trial in trials:
        if (trial.variant, trial.seed) not in lines and trial.state() == "done":
            publish_trial(file, trial)


def with_published(file: Path, trials: Sequence[Trial]) -> list[Trial]:
    """The trials, those with a line as done. Raises UserError where a line was made with other settings."""
    lines = {(line["variant"], line["seed"]): line for line in published_lines(file)}
    found = []
    for trial in trials:
        line = lines.get((trial.variant, trial.seed))
        if line is not None:
            _check(file, trial, line)
        result = None if line is None else {**line["result"], "device_name": line.get("device_name")}
        found.append(replace(trial, published=result))
    return found


def with_needed(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, of which those count by their run folders alone whose patterns or model a trial needs that is not
    done: a line is not enough for it.
    """
    needed = {name for trial in trials if trial.state() != "done" for name in trial.needs}
    return [replace(trial, published=None) if trial.name in needed else trial for trial in trials]


def published_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of an ablation's trials, oldest first; none where nothing is published."""
    path = results_folder(file) / "trials.jsonl"
    if not path.is_file():
        return []
    lines = read_lines(path)
    for line in lines:
        if line.get("schema") != SCHEMA:
            raise UserError(f"{path}: expected lines of schema {SCHEMA}, got {line.get('schema')!r:.60}; update Evomix")
    return lines


def settings(trial: Trial) -> dict[str, Any]:
    """What a trial's result depends on: its config without the run's section, and the search's only where one is.

    Paths into the ablation's own folder, or the project's, are given from there, so that they are alike on every machine.
    """
    sections = told_apart_by(trial.config)
    if not trial.config.searches:
        sections.pop("search")
    for option, value in trial.gone.items():
        section, _, name = option.partition(".")
        sections.get(section, {})[name] = value
    places = [str(place) + os.sep for place in (trial.folder.parent, PROJECT)]

    def within(value: Any) -> Any:
        place = next((place for place in places if isinstance(value, str) and value.startswith(place)), "")
        return value.removeprefix(place) if place else value

    return {section: {key: within(value) for key, value in options.items()} for section, options in sections.items()}


def _check(file: Path, trial: Trial, line: dict[str, Any]) -> None:
    made = as_today(line["config"])
    for section, wanted in settings(trial).items():
        before = made.get(section, {})
        gone = [key for key in before if f"{section}.{key}" in REMOVED]
        for key in dict.fromkeys((*wanted, *gone)):
            otherwise = REMOVED.get(f"{section}.{key}")
            had, has = before.get(key, otherwise), wanted.get(key, otherwise)
            if had != has:
                raise UserError(
                    f"{results_folder(file) / 'trials.jsonl'}: {trial.title} was made with {section}.{key}={had}, the "
                    f"file now says {has}; remove its line, or rename the ablation's file"
                )
