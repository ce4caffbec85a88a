"""Ablations: variants x seeds of a recipe, one after another; what is done is skipped.

    recipe: cifar10-small
    seeds: [0, 1, 2]
    common: {train.epochs: 30}          # optional, for all variants
    variants:
      plain: {mix.name: plain}
      patchmix: {mix.name: patchmix}

Trial VARIANT of seed S is the run folder runs/out/ABLATION/VARIANT-sS. One that was cut off goes on from
its checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, out_root
from runs.folders import recorded_config, with_run_paths
from training.config import Config, UserError, make_config, read_yaml, recipe_path

KEYS = {"recipe", "seeds", "common", "variants"}


@dataclass(frozen=True)
class Trial:
    variant: str
    seed: int
    config: Config
    folder: Path

    def state(self) -> str:
        """done, started or new. Raises UserError where the folder is of other settings."""
        if not ((self.folder / "config.json").is_file() and (self.folder / "log.jsonl").is_file()):
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
    """Run what is not done yet; return a line for each trial that failed."""
    states = [trial.state() for trial in trials]  # all settings are checked before the first minute is spent
    failed = []
    for number, (trial, state) in enumerate(zip(trials, states, strict=True), 1):
        head = f"[{number}/{len(trials)}] {trial.variant}, seed {trial.seed}"
        if state == "done":
            print(f"{head}: done already", file=sys.stderr)
            continue
        print(f"{head}{': going on from its checkpoint' if state == 'started' else ''}", file=sys.stderr)
        from training.train import train

        if state == "new" and trial.folder.exists():
            shutil.rmtree(trial.folder)  # cut off before its first checkpoint: nothing to go on from
        try:
            train(trial.config, trial.folder, resume=state == "started")
        except UserError as error:
            failed.append(f"{trial.variant}, seed {trial.seed}: {error}")
            print(f"{head}: failed: {error}", file=sys.stderr)
    return failed
