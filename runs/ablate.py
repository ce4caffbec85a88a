"""Ablations: variants x seeds of a recipe, one after another; what is done is skipped, or run by another process.

    recipe: cifar10-small
    seeds: [0, 1, 2]
    common: {train.epochs: 30}          # optional, for all variants
    variants:
      plain: {mix.name: plain}
      patchmix: {mix.name: patchmix}

Trial VARIANT of seed S is the run folder runs/out/ABLATION/VARIANT-sS. One that was cut off goes on from
its checkpoint. Several processes may run one ablation at once: each takes what is left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, out_root
from runs.folders import recorded_config, with_run_paths
from training.config import Config, UserError, make_config, read_yaml, recipe_path
from training.locks import LOCK, take_lock

KEYS = {"recipe", "seeds", "common", "variants"}
SKIPPED = {"done": "done already", "busy": "is being run by another process"}
LEFT = {LOCK, ".config.json.tmp"}  # in a run folder before its config.json


@dataclass(frozen=True)
class Trial:
    variant: str
    seed: int
    config: Config
    folder: Path

    def state(self) -> str:
        """done, started or new. Raises UserError where the folder is of other settings."""
        if not (self.folder / "config.json").is_file():
            return "new"
        run = RunFolder(self.folder)
        # Options that a run of an older version does not name have their defaults; those of a search count where
        # there is one.
        made, wanted = recorded_config(run).model_dump(), self.config.model_dump()
        ignored = {"run"} if self.config.mix.name == "evolved" else {"run", "search"}
        for section in [name for name in wanted if name not in ignored]:
            for key, value in wanted[section].items():
                if made[section][key] != value:
                    raise UserError(
                        f"{self.folder} was made with {section}.{key}={made[section][key]}, the file now says {value}; "
                        "remove that folder, or rename the ablation's file"
                    )
        if not (self.folder / "log.jsonl").is_file():
            return "new"
        if run.result is not None:
            return "done"
        return "started" if (self.folder / "checkpoint" / "latest.json").is_file() else "new"


def read_ablation(file: Path) -> list[Trial]:
    """The trials of an ablation's file, seed by seed. Raises UserError, one line per mistake."""
    data = read_yaml(file)
    unknown = set(data) - KEYS
    if unknown or not {"recipe", "seeds", "variants"} <= set(data):
        raise UserError(
            f"{file}: expected the keys recipe, seeds, variants and perhaps common, got {', '.join(map(str, data))}"
        )
    seeds, variants, common = data["seeds"], data["variants"], data.get("common") or {}
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{file}: seeds: expected a list of integers such as [0, 1, 2], got {seeds!r:.60}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{file}: seeds: each seed once, got {seeds}")
    if not isinstance(variants, dict) or not variants:
        raise UserError(f"{file}: variants: expected names with settings below them, got {variants!r:.60}")
    sections = read_yaml(recipe_path(str(data["recipe"])))
    return [
        _trial(
            file,
            sections,
            str(variant),
            seed,
            {**_settings(file, "common", common), **_settings(file, variant, settings)},
        )
        for seed in seeds
        for variant, settings in variants.items()
    ]


def _settings(file: Path, name: str, settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"{file}: {name}: expected settings such as {{mix.name: plain}}, got {settings!r:.60}")
    return {str(key): value for key, value in settings.items()}


def _trial(file: Path, sections: dict[str, Any], variant: str, seed: int, settings: dict[str, Any]) -> Trial:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", variant):
        raise UserError(f"{file}: variant {variant!r}: expected a name of letters, digits and . _ + -")
    name = f"{file.stem}/{variant}-s{seed}"
    settings = {**settings, "run.seed": seed, "run.name": name}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    config = with_run_paths(make_config(sections, overrides, f"{file.name}: {variant}"))
    return Trial(variant, seed, config, out_root() / name)


def run_trials(trials: list[Trial]) -> list[str]:
    """Run what is not done yet, nor being run by another process; return a line for each trial that failed."""
    for trial in trials:  # all settings are checked before the first minute is spent
        trial.state()
    failed = []
    for number, trial in enumerate(trials, 1):
        head = f"[{number}/{len(trials)}] {trial.variant}, seed {trial.seed}"
        try:
            _run_trial(trial, head)
        except UserError as error:
            failed.append(f"{trial.variant}, seed {trial.seed}: {error}")
            print(f"{head}: failed: {error}", file=sys.stderr)
    return failed


def _run_trial(trial: Trial, head: str) -> None:
    """Run, or go on with, a trial that nobody else has done or is at."""
    state = _claimed_state(trial, clear=True)
    if state in SKIPPED:
        print(f"{head}: {SKIPPED[state]}", file=sys.stderr)
        return
    print(f"{head}{': going on from its checkpoint' if state == 'started' else ''}", file=sys.stderr)
    from training.train import train

    try:
        train(trial.config, trial.folder, resume=state == "started")
    except UserError:
        taken = _claimed_state(trial)  # perhaps another process was a moment faster
        if taken not in SKIPPED:
            raise
        print(f"{head}: {SKIPPED[taken]}", file=sys.stderr)


def _claimed_state(trial: Trial, *, clear: bool = False) -> str:
    """The trial's state, or busy where another process runs it. With clear, remove what a new one finds."""
    state = trial.state()
    if state == "done" or not trial.folder.is_dir():
        return state
    if state == "new" and not _is_ours(trial.folder):
        if not clear:
            return state
        raise UserError(f"{trial.folder} is in the way and is not a run's; move it, or rename the ablation's file")
    with _held(trial.folder) as mine:
        if not mine:
            return "busy"
        state = trial.state()  # it may have changed since
        if clear and state == "new":
            shutil.rmtree(trial.folder)  # cut off before its first checkpoint: nothing to go on from
        return state


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a run's, or what is left of one that was cut off before its config.json."""
    if (folder / "config.json").is_file():
        return True  # Trial.state has read it
    return all(path.name in LEFT or (path.name == "elites" and not any(path.iterdir())) for path in folder.iterdir())


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run folder, see RunLog.claim; False where another process holds it, or has replaced it."""
    try:
        lock = take_lock(folder)
    except FileNotFoundError:
        lock = None
    if lock is None:
        yield False
        return
    with lock:
        try:
            mine = os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
        except FileNotFoundError:
            mine = False
        yield mine
