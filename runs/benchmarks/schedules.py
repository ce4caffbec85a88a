"""`python -m runs.benchmarks.schedules`: schedules of the live search at equal optimizer steps.

Every variant trains the same model with the same weights, batches and mixed steps. At every mixed step,
before it is taken, the true fitness of its composition (mean cell loss in nats, evaluation mode, present weights)
is compared with that of a random composition of the same batch. Writes runs/results/schedules/.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from training.checkpoint import write_atomically
from training.config import load_config
from training.evaluation import evaluate
from training.losses import cell_losses
from training.mixes.batch import Batch, Mixed, compose_batch
from training.mixes.evolved import Evolved
from training.mixes.grouping import group_batches, mix_group
from training.mixes.patchmix import PatchMix
from training.places import PROJECT
from training.run import Run, set_up
from training.run_events import begin_epoch, begin_run, end_epoch
from training.run_log import environment, now
from training.train import epoch_batches, training_step

FOLDER = PROJECT / "runs" / "results" / "schedules"
RECIPE = "cifar10-small"
TESTED = 2000  # test images, the first
BASE = {"population": 4, "generations": 4, "elites": 1, "every": 1, "objective": "hard", "consume": "each"}
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {},
    "every batch": {},
    "every 2nd": {"every": 2},
    "every 2nd, P 3": {"every": 2, "population": 3},
    "every 4th, P 8": {"every": 4, "population": 8},
    "every 2nd, last elites": {"every": 2, "batch_size": 128},
    "every 2nd, P 3, last elites": {"every": 2, "population": 3, "batch_size": 128},
    "P 2, last elites": {"population": 2, "batch_size": 128},
    "budget 2, last elites": {"budget": 2.0, "batch_size": 128, "population": 1, "generations": 8},
}
COLUMNS = ("variant", "gain", "gain_searched", "gain_drawn", "forwards_per_mixed_image", "accuracy", "steps", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only:
        rows.append(trial(name, {**BASE, **VARIANTS[name]}, arguments.epochs))
        print({key: rows[-1][key] for key in COLUMNS}, flush=True)
        write(
            rows,
            arguments.epochs,
            arguments.folder,
            shlex.join(["python", "-m", "runs.benchmarks.schedules", *sys.argv[1:]]),
        )


def trial(name: str, options: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Train one variant; return its line."""
    overrides = [f"search.{key}={str(value).lower()}" for key, value in options.items()]
    mix = "patchmix" if name == "random" else "evolved"
    config = load_config(RECIPE, [*overrides, f"train.epochs={epochs}", "train.warmup=2", f"mix.name={mix}"])
    scratch = Path(tempfile.mkdtemp())
    try:
        run = set_up(config, scratch / "run")
        begin_run(run)
        began = time.perf_counter()
        gains = list[tuple[bool, float]]()
        mixed_steps = 0
        control = PatchMix(grid=run.model.grid, generator=torch.Generator().manual_seed(1))
        for epoch in range(1, epochs + 1):
            begin_epoch(run)
            probability = config.mix.probability_in(epoch)
            for group in group_batches(epoch_batches(run), probability, run.mix.span, run.state.choice):
                before = searches(run)
                mixed = mix_group(group, run.mix, epoch, len(run.class_names), run.cell_grid)
                for (batch, mixes), item in zip(group, mixed, strict=True):
                    if mixes:
                        mixed_steps += 1
                        gains.append((searches(run) > before, gain(run, item, batch, control)))
                    run.count(training_step(run, item))
            end_epoch(run)
        seconds = time.perf_counter() - began
        tested = run.test_set.select(torch.arange(TESTED))
        accuracy, _ = evaluate(run.model, tested, run.prepare, run.autocast, 128)
        return {
            "variant": name,
            "options": " ".join(overrides),
            "gain": mean(found for _, found in gains),
            "gain_searched": mean_or_none([found for searched, found in gains if searched]),
            "gain_drawn": mean_or_none([found for searched, found in gains if not searched]),
            "forwards_per_mixed_image": run.cost()["search_forwards"] / (mixed_steps * config.train.batch_size),
            "accuracy": accuracy,
            "steps": run.state.step,
            "seconds": round(seconds, 1),
        }
    finally:
        shutil.rmtree(scratch)


def searches(run: Run) -> int:
    return run.mix.searches if isinstance(run.mix, Evolved) else 0


@torch.no_grad()
def gain(run: Run, item: Mixed, batch: Batch, control: PatchMix) -> float:
    """Nats by which a mixed batch's mean cell loss is above that of a random composition."""
    drawn = compose_batch(batch, *control.draw(batch[1]), len(run.class_names))
    run.model.eval()
    both = [
        float(cell_losses(run.forward(mixed.images)[1], mixed.cell_targets).mean())
        for mixed in (item, drawn)
        if mixed.cell_targets is not None
    ]
    run.model.train()
    return both[0] - both[1]


def mean_or_none(values: list[float]) -> float | None:
    return mean(values) if values else None


def write(rows: list[dict[str, Any]], epochs: int, folder: Path, command: str) -> None:
    """per_run.csv, table.md and environment.json, after every trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "per_run.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "options"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(folder / "table.md", table(rows, epochs, command))
    described = json.dumps(environment(torch.device("cpu"), command), indent=1)
    write_atomically(folder / "environment.json", described + "\n")


def table(rows: list[dict[str, Any]], epochs: int, command: str) -> str:
    lines = [
        "| schedule | gain, nats | of searched batches | of drawn batches | forwards per mixed image | accuracy, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [figure(row[key], 3) for key in ("gain", "gain_searched", "gain_drawn")]
        cells += [figure(row["forwards_per_mixed_image"], 2), figure(row["accuracy"], 1)]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{RECIPE}, {epochs} epochs of the same {rows[0]['steps']} steps, half of them mixed; one seed, accuracy on the "
            f"first {TESTED:,} test images: no ranking of accuracies. Gain: the mean cell loss of the compositions trained "
            "on, under the model as it is before the step, less that of random compositions of the same batches. P 4, 4 "
            "generations, 1 elite, objective hard, every generation's elites trained on, a search batch of 512 images where "
            "nothing else is said; last elites: a search batch is one training batch, trained on under the last "
            "generation's elite.",
            f"Command: `{command}`, {now()[:10]}.",
            "",
        ]
    )


def figure(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


if __name__ == "__main__":
    main()
