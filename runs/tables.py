"""`./run ablate`: run the trials, then print and write their table."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from analysis.run_folder import RunFolder, out_root
from runs.ablate import read_ablation, run_trials
from runs.folders import shown
from training.config import PROJECT, UserError, read_yaml, recipe_path


def run_ablation(name: str, publish: bool) -> None:
    file = ablation_path(name)
    trials = read_ablation(file)
    try:
        failed = run_trials(trials)
    except KeyboardInterrupt:
        print(f"\nrun: stopped; the same command goes on where it was: ./run ablate {name}", file=sys.stderr)
        raise SystemExit(130) from None
    folder = out_root() / file.stem
    done = [(trial.variant, trial.seed, RunFolder(trial.folder)) for trial in trials if trial.state() == "done"]
    if done:
        from analysis.ablation import as_text, per_seed, write_tables

        print(as_text(write_tables(per_seed(done), folder, [trial.variant for trial in trials])))
        print(f"tables in {shown(folder)}: table.md, table.csv, per_seed.csv, figure.png")
        if publish:
            print(f"and in {shown(publish_tables(file, done[0][2], folder))}")
    if failed:
        raise UserError("\n".join([f"{len(failed)} of {len(trials)} trials failed", *failed]))


def ablation_path(name: str) -> Path:
    """The file an ablation's name or path stands for."""
    shelf = PROJECT / "runs" / "ablations"
    for path in (shelf / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise UserError(
        f"no ablation {name!r}; expected a YAML file, or one of "
        f"{', '.join(sorted(p.stem for p in shelf.glob('*.yaml')))}"
    )


def publish_tables(file: Path, made: RunFolder, folder: Path) -> Path:
    """Copy the tables, the ablation's file, its recipe and the environment into runs/results/NAME."""
    results = PROJECT / "runs" / "results" / file.stem
    results.mkdir(parents=True, exist_ok=True)
    for name in ("per_seed.csv", "table.csv", "table.md", "figure.png"):
        shutil.copy(folder / name, results / name)
    shutil.copy(file, results / "ablation.yaml")
    shutil.copy(recipe_path(str(read_yaml(file)["recipe"])), results / "recipe.yaml")
    environment = made.environment
    environment["command"] = f"./run ablate {file.stem} --publish"
    (results / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
    return results
