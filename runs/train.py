"""`./run train`: one run, from a recipe or onward from its checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, find_run, first_to_last, out_root
from runs.folders import new_run_folder, recorded_config, shown, with_run_paths
from runs.launch import launch
from training.config import UserError, load_config, recipe_path
from training.progress import speaks


def run_train(recipe: str | None, overrides: list[str], resume: str | None, devices: int = 1) -> int:
    """Train a recipe, or go on with a run; return the exit status."""
    if (recipe is None) == (resume is None):
        raise UserError("expected a RECIPE, or --resume RUN, and not both; recipes are in runs/recipes, e.g. digits")
    if resume is not None:
        run = resumable(resume, overrides)
        config, folder = recorded_config(run), run.path
        again = ["--resume", str(folder)]
    else:
        assert recipe is not None
        config = with_run_paths(load_config(recipe, overrides))
        folder = new_run_folder(config, recipe_path(recipe).stem)
        again = [recipe, *(word for override in overrides for word in ("-s", override))]
        again += ["-s", f"run.name={folder.relative_to(out_root())}"]
    if devices > 1:
        return launch(["train", *again], devices, folder)
    result = train_in(folder, lambda: call_train(config, folder, resume=resume is not None))
    if speaks():
        print_result(RunFolder(folder), result)
    return 0


def resumable(name: str, overrides: list[str]) -> RunFolder:
    """A run to go on with. Raises UserError where it has ended, or options are given."""
    run = find_run(name)
    if overrides:
        raise UserError(f"--resume goes on with the run's own config and takes no -s, got -s {overrides[0]}")
    if run.result is not None:
        raise UserError(
            f"run {run.name} has ended at epoch {run.config['train']['epochs']}; there is nothing to resume"
        )
    return run


def call_train(*arguments: Any, **options: Any) -> dict[str, Any]:
    """training.train.train, imported only now."""
    from training.train import train  # torch: 5 s

    return train(*arguments, **options)


def train_in(folder: Path, work: Any, command: str = "train") -> dict[str, Any]:
    """Call `work`; on Ctrl-C say how `./run COMMAND` goes on."""
    kept = {"train": "latest.json", "search": "search.npz"}[command]
    try:
        result: dict[str, Any] = work()
    except KeyboardInterrupt:
        if (folder / "config.json").is_file() and RunFolder(folder).result is not None:
            hint = f"the run had just ended; see ./run report {RunFolder(folder).name}"
        elif (folder / "checkpoint" / kept).is_file():
            hint = f"its state is saved; go on with: ./run {command} --resume {RunFolder(folder).name}"
        else:
            hint = "before it had a checkpoint, so there is nothing to resume"
        if speaks():
            print(f"\nrun: stopped; {hint}", file=sys.stderr)
        raise SystemExit(130) from None
    return result


def print_result(run: RunFolder, result: dict[str, Any]) -> None:
    """What a person wants to know at the end."""
    print(
        f"accuracy {result['last_accuracy']:.2f} % at the last epoch (median of the last ten tests "
        f"{result['median10_accuracy']:.2f} %) on {result['test_images']:,} test images, after {result['steps']:,} "
        f"steps in {result['seconds']:.0f} s"
    )
    spent = f"{result['search_forwards']:,} image forwards and {result['search_seconds']:.0f} s of it"
    searched = result["search_forwards"] and run.mix == "evolved"
    if searched:
        first, last = (decimal_text(fitness, ".3f") for fitness in first_to_last(run))
        print(
            f"fitness {first} in the first generation, {last} in the last (means over searches); {spent} for the search"
        )
    elif result["search_forwards"]:
        print(f"{spent} to select compositions")
    print(f"run folder {shown(run.path)}")
    print(
        f"see ./run report {run.name}" + (f", ./run curves {run.name}, ./run patterns {run.name}" if searched else "")
    )
