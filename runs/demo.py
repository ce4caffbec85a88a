"""`./run demo`: the main job on real digits.

Three runs of the same number of optimizer steps, without mixing, with random and with evolved compositions; then a
search experiment on the model that the evolved run trained.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder
from runs.folders import numbered, python_path, recorded_config, shown
from runs.search_experiment import forwards_text, search_config, search_in
from runs.train_command import call_train, train_in
from training.config import load_config

MIXES = ("evolved", "plain", "patchmix")  # the first has a report, which another process writes while the others train
# Half the recipe's width, and fewer epochs: the same accuracy within two images or so, in a third of the time, so that
# the demo ends within 90 seconds also where other programs want the cores.
SMALLER = ("model.width=16", "train.epochs=8")
POINTS = 7  # of the fitness curve that are printed


def run_demo() -> None:
    print("Evomix on scikit-learn's handwritten digits: no mixing, random PatchMix, evolved PatchMix", file=sys.stderr)
    runs = {}
    with numbered("demo") as root:
        for mix in MIXES:
            config = load_config("digits", [f"mix.name={mix}", *SMALLER])
            folder = root / mix
            train_in(folder, lambda config=config, folder=folder: call_train(config, folder))
            runs[mix] = RunFolder(folder)
            if mix == "evolved":
                report = started_report(folder)
        print("A search experiment on the model that the evolved run trained", file=sys.stderr)
        found = search_on(runs["evolved"], root / "search")
    files = files_text(runs["evolved"], found, report)
    print("\n".join(["", *trainings_text(runs), "", *search_text(found), *files]))


def started_report(folder: Path) -> subprocess.Popen[str]:
    """A process that writes the report of a run."""
    command = [sys.executable, "-P", "-m", "runs", "report", str(folder)]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def finished_report(run: RunFolder, writing: subprocess.Popen[str]) -> Path:
    """The report that a process writes; written here where it could not, so that its error is seen."""
    from analysis.report import default_path, write_report

    path = default_path([run])
    return path if writing.wait() == 0 and path.is_file() else write_report([run])


def search_on(run: RunFolder, folder: Path) -> RunFolder:
    """A search experiment against a run's model, with the defaults of `./run search`."""
    trained = recorded_config(run)
    config = search_config(trained)
    train_in(folder, lambda: search_in(folder, config, run, trained), "search")
    return RunFolder(folder)


def trainings_text(runs: Mapping[str, RunFolder]) -> list[str]:
    """A table of the three trainings, and what it is worth."""
    lines = [f"{'mix':<10}{'accuracy':>10}{'median of last 10':>19}{'steps':>7}{'image forwards':>16}{'seconds':>9}"]
    for mix in ("plain", "patchmix", "evolved"):
        result = ended(runs[mix])
        lines.append(
            f"{mix:<10}{result['last_accuracy']:>8.2f} %{result['median10_accuracy']:>17.2f} %{result['steps']:>7,}"
            f"{result['image_forwards']:>16,}{result['seconds']:>9.1f}"
        )
    images = ended(runs["evolved"])["test_images"]
    return [
        *lines,
        f"on {images} test images (one image is {100 / images:.2f} points) and one seed: too few to rank the three",
    ]


def search_text(run: RunFolder) -> list[str]:
    """The search experiment's fitness curve at a few generations, and its cost."""
    from analysis.curves import by_generation
    from evo.records import spread

    options = run.config["search"]
    best = by_generation(run)["best"]
    points = best.iloc[spread(len(best), POINTS)]
    return [
        f"search experiment on the evolved run's model: {options['batch_size']} images, {options['population']} genomes, "
        f"{len(best)} generations",
        f"{'generation':<24}" + "".join(f"{generation:>9}" for generation in points.index),
        f"{'fitness (' + options['objective'] + '), nats':<24}"
        + "".join(f"{decimal_text(value, '.3f'):>9}" for value in points),
        forwards_text(ended(run)),
        "",
    ]


def files_text(evolved: RunFolder, search: RunFolder, report: subprocess.Popen[str]) -> list[str]:
    """Where everything lies; draws and writes what it names."""
    from analysis.curves import draw_curves
    from analysis.pattern_export import draw_patterns, export_bank
    from evo.bank_files import load_bank

    bank = load_bank(evolved.bank_file())
    files = {
        "fitness curve": draw_curves([search], search.figures() / "curves.png"),
        "patterns": draw_patterns(evolved, bank),
        "patterns (json)": export_bank(evolved, bank)[0],
        "report": finished_report(evolved, report),
        "run folders": evolved.path.parent,
    }
    return [f"{label:<17}{shown(path)}" for label, path in files.items()]


def ended(run: RunFolder) -> dict[str, Any]:
    """The `end` event of a run that has ended."""
    result = run.result
    assert result is not None
    return result
