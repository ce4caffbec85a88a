"""`./run train`: one run, from a recipe or onward from its checkpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.endings import ending
from analysis.estimate_checks import doubt, told_of_estimates
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, find_run, first_to_last
from analysis.run_format import RunFolderError
from evo.errors import UserError
from runs.folders import (
    TAKEN,
    config_to_go_on_with,
    known_config,
    new_run_folder,
    shown,
    why_epochs_stay,
    with_run_paths,
)
from runs.launch import launch
from training.config import Config, load_config
from training.launched import check_launched
from training.places import spoken
from training.progress import speaks
from training.recipe import recipe_path


def run_train(recipe: str | None, overrides: list[str], resume: str | None, devices: int = 1) -> int:
    """Train a recipe, or go on with a run; return the exit status."""
    if (recipe is None) == (resume is None):
        raise UserError("expected a RECIPE, or --resume RUN, and not both; recipes are in runs/recipes, e.g. digits")
    check_launched()
    if resume is not None:
        run = resumable(resume, overrides)
        words = ["--resume", resume, *(word for override in overrides for word in ("-s", override))]
        config = config_to_go_on_with(run, overrides, ("train", *words))
        return train_or_launch(config, run.path, words, devices, resume=True)
    assert recipe is not None
    config = with_run_paths(load_config(recipe, overrides))
    words = [word for override in overrides for word in ("-s", override)]
    words += ["--", recipe] if recipe.startswith("-") else [recipe]
    with new_run_folder(config, recipe_path(recipe).stem) as folder:
        return train_or_launch(config, folder, words, devices, resume=False)


def train_or_launch(config: Config, folder: Path, words: list[str], devices: int, *, resume: bool) -> int:
    """Train in this process, or in `devices` ones, which get the same words. Returns the exit status."""
    if devices > 1 and TAKEN not in os.environ:
        return launch(["train", "--devices", str(devices), *words], devices, folder)
    result = train_in(folder, lambda: call_train(config, folder, resume=resume))
    if speaks():
        print_result(RunFolder(folder), result)
    return 0


def resumable(name: str, overrides: Sequence[str]) -> RunFolder:
    """A run to go on with. Raises UserError where it has ended, with the reason why it can have no more epochs."""
    run = find_run(name)
    if run.result is not None:
        longer = any(override.partition("=")[0].strip() == "train.epochs" for override in overrides)
        raise UserError(
            f"run {run.name} has ended at epoch {run.config['train']['epochs']}; there is nothing to resume"
            + (f": {why_epochs_stay(known_config(run))}" if longer else "")
        )
    return run


def call_train(*arguments: Any, **options: Any) -> dict[str, Any]:
    """training.train.train, imported only now."""
    from training.train import train  # torch: 5 s

    return train(*arguments, **options)


def train_in(folder: Path, work: Any, command: str = "train") -> dict[str, Any]:
    """Call `work`; on Ctrl-C, or where the machine refuses something, say how `./run COMMAND` goes on."""
    try:
        result: dict[str, Any] = work()
    except KeyboardInterrupt:
        if speaks():
            print(f"\nrun: stopped; {onward(folder, command)}", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        error.add_note(f"once that is mended: {onward(folder, command)}")
        raise
    return result


def onward(folder: Path, command: str) -> str:
    """What is kept of a run that has not ended, and how `./run COMMAND` goes on with it. Never raises."""
    index = folder / "checkpoint" / {"train": "latest.json", "search": "search.npz"}[command]
    try:
        run = RunFolder(folder)
        if (folder / "config.json").is_file() and run.result is not None:
            return f"the run had just ended; see {spoken('report', run.name)}"
        if index.is_file():
            return f"its state is saved{reached(index)}; go on with: {spoken(command, options=('--resume', run.name))}"
        if folder.is_dir():
            return (
                f"before it had a checkpoint, so there is nothing to resume; remove {shown(folder)}, and start it anew"
            )
    except (OSError, RunFolderError):
        return f"what it has saved is in {folder}"
    return "before it had a checkpoint, so there is nothing to resume; start it anew"


def reached(index: Path) -> str:
    """How far a training's checkpoint goes, for a person; "" of a search, or where it cannot be read."""
    try:
        meta = json.loads(index.read_text(encoding="utf-8"))["meta"]
        return f" after epoch {meta['epoch']}, step {meta['step']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


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
        if why := ending(run):
            print(why)
    elif result["search_forwards"]:
        print(f"{spent} to select compositions")
    for text in filter(None, (told_of_estimates(run), doubt(run))):
        print(text)
    print(f"run folder {shown(run.path)}")
    commands = ("report", "curves", "patterns") if searched else ("report",)
    print("see " + ", ".join(spoken(command, run.name) for command in commands))
