"""The tables and figures of an ablation's finished trials, and their copies in runs/results."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.run_folder import out_root
from analysis.run_settings import IMAGES
from analysis.tested import Tested, of_options, unlike
from runs.ablation.file import titles_of
from runs.ablation.published import results_folder
from runs.ablation.trials import Trial
from runs.folders import shown
from training.recipe import read_yaml, recipe_path

FORMS = ("per_seed.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.svg", "cost.png", "cost.svg")


def write_tables_of(file: Path, trials: Sequence[Trial], done: Sequence[Trial], publish: bool) -> None:
    """Print and write the tables of what is done, if anything is; variants without it have a row of their own."""
    if not done:
        return
    from analysis.comparison_forms import as_text, write_tables
    from analysis.per_seed import per_seed_of

    folder = out_root() / file.stem
    variants = list(dict.fromkeys(trial.variant for trial in trials))
    results = [(trial.variant, trial.seed, result) for trial in done if (result := with_device(trial)) is not None]
    tests = [Tested(trial.title, trial.seed, of_options(trial.config.data.model_dump())) for trial in done]
    if what := unlike(tests):
        print(f"run: {what}: the differences between such variants mean nothing", file=sys.stderr)
    found = write_tables(per_seed_of(results), folder, variants, steps_alike=steps_alike(done), titles=titles_of(file))
    print(as_text(found))
    print(f"tables in {shown(folder)}: {', '.join(name for name in FORMS if (folder / name).is_file())}")
    if publish:
        print(f"and in {shown(publish_tables(file, done, folder))}")


def with_device(trial: Trial) -> dict[str, Any] | None:
    """The result of a trial that is done, with the device_name it ran on where that is known."""
    result = trial.result
    if result is None or "device_name" in result:  # published ones have it
        return result
    return {**result, "device_name": trial.run.environment.get("device_name")}


def steps_alike(trials: Sequence[Trial]) -> bool:
    """Whether the trials of one seed differ in nothing that costs time but their mix and its search."""
    found: dict[int, str] = {}
    for trial in trials:
        config = trial.config.model_dump(
            include={"data": True, "model": True, "train": True, "run": {"threads", "device"}}
        )
        for option in IMAGES:  # other images, as many of them
            del config["data"][option.removeprefix("data.")]
        steps = json.dumps(config, sort_keys=True)
        if found.setdefault(trial.seed, steps) != steps:
            return False
    return True


def publish_tables(file: Path, done: Sequence[Trial], folder: Path) -> Path:
    """Copy the tables, the ablation's file, its recipe and the environment into runs/results/NAME."""
    results = results_folder(file)
    for name in FORMS:
        if (folder / name).is_file():
            shutil.copy(folder / name, results / name)
    shutil.copy(file, results / "ablation.yaml")
    shutil.copy(recipe_path(str(read_yaml(file)["recipe"])), results / "recipe.yaml")
    there = [trial for trial in done if (trial.folder / "environment.json").is_file()]  # not all that are published
    new = [trial for trial in there if trial.published is None]
    if new or (there and not (results / "environment.json").is_file()):
        made = (new or there)[0].run.environment
        text = json.dumps({**made, "command": f"./run ablate {file.stem} --publish"}, indent=1)
        (results / "environment.json").write_text(text + "\n", encoding="utf-8")
    return results
