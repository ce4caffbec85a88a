"""`./run bench overhead`: what mixing and searching add to the wall time of a training step.

Every mix trains in this process with the same data, model and batch: data, augmentation, mixing, searching, the
step. They take turns, and in each turn all take as many steps as hold whole cycles of search.every, so that
searches are averaged in. The ratios are of times in the same turn. On a CPU batches of 128, on a GPU of 512.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runs.benchmarks import row
from runs.benchmarks.images import recipe_at_hand
from training.config import Config, load_config
from training.cores import emulates_bfloat16
from training.devices import clock
from training.mixes.batch import Batch
from training.mixes.evolved import span
from training.mixes.grouping import Group, mix_group
from training.progress import Progress
from training.run import Run, set_up
from training.run_events import begin_epoch, begin_run
from training.search_options import SearchOptions
from training.train import epoch_batches, training_step

MIXES = ("plain", "mixup", "cutmix", "patchmix", "evolved")
AT_MOST = {("evolved", "patchmix"): 1.35, ("patchmix", "plain"): 1.05}
LEAST_STEPS = 8  # of each mix in a turn
SEARCHED = (  # as by default, whatever a recipe has
    "population", "generations", "elites", "every", "objective", "compose_at", "pair_masks", "temperature",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    recipe: str
    overrides: tuple[str, ...]
    rounds: int


CASES = (
    Case("small ResNet, 32 px", "cifar10-small", (), 8),
    Case("ResNet-18, 32 px", "cifar10", (), 3),
)
QUICK = (Case("small ResNet, 32 px", "cifar10-small", (), 2),)
WITHOUT_DATA = (Case("small ResNet, 8 px", "digits", (), 3),)


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    progress = Progress()
    rows = []
    ratios = []
    for case in _cases(QUICK if quick else CASES, progress):
        with tempfile.TemporaryDirectory() as scratch:
            configs = {mix: _config(case, mix) for mix in MIXES}
            name = f"{case.name}, B{configs[MIXES[0]].train.batch_size}, {configs[MIXES[0]].train.precision}"
            times = step_times(configs, Path(scratch), case.rounds, name, progress)
        for mix in MIXES:
            package = "torchvision" if mix in ("mixup", "cutmix") else "torch"
            rows.append(row(name, mix, [1000 * seconds for seconds in times[mix]], "ms", package))
        for (mix, other), allowed in AT_MOST.items():
            found = [mine / its for mine, its in zip(times[mix], times[other], strict=True)]
            rows.append(row(name, f"{mix} / {other}", found, "x"))
            ratios.append({"case": name, "over": f"{allowed} x {other}", "value": allowed / median(found), "target": 1})
    return rows, ratios


def step_times(
    configs: dict[str, Config], folder: Path, rounds: int, name: str, progress: Progress
) -> dict[str, list[float]]:
    """Seconds per step of each mix, one figure a round."""
    runs = {mix: set_up(config, folder / mix) for mix, config in configs.items()}
    streams = {mix: _endless(run) for mix, run in runs.items()}
    search = configs["evolved"].search
    probability = configs["evolved"].mix.probability
    cycle = search.every * span(search, configs["evolved"].train.batch_size)  # mixed batches
    mixed = cycle * math.ceil(LEAST_STEPS * probability / cycle)
    for mix, run in runs.items():
        progress.update(f"{name}: {mix}, warming up")
        begin_run(run)
        begin_epoch(run)
        take_steps(run, streams[mix], cycle if mix == "evolved" else 1, probability)
    times: dict[str, list[float]] = {mix: [] for mix in runs}
    for turn in range(rounds):
        order = MIXES[turn % len(MIXES) :] + MIXES[: turn % len(MIXES)]
        for mix in order:
            progress.update(f"{name}: round {turn + 1}/{rounds}, {mix}", final=mix == order[-1])
            began = clock(runs[mix].device)
            steps = take_steps(runs[mix], streams[mix], mixed, probability)
            times[mix].append((clock(runs[mix].device) - began) / steps)
    for run in runs.values():
        run.log.close()
    return times


def take_steps(run: Run, batches: Iterator[Batch], mixed: int, probability: float) -> int:
    """Train on `mixed` mixed batches, in groups as mixes/grouping.py makes them, and on the unmixed ones that are
    their due, spread evenly; return the number of steps.
    """
    steps = round(mixed / probability)
    done = 0
    group: Group = []
    for step in range(1, steps + 1):
        mixes = step * mixed // steps > done
        done += mixes
        group.append((next(batches), mixes))
        if step < steps and sum(of_group for _, of_group in group) not in (0, run.mix.span):
            continue
        for item in mix_group(group, run.mix, run.config.search_start, len(run.class_names), run.cell_grid):
            run.state.sums += training_step(run, item)
        group = []
    return steps


def _endless(run: Run) -> Iterator[Batch]:
    while True:
        yield from epoch_batches(run)


def _cases(wanted: tuple[Case, ...], progress: Progress) -> tuple[Case, ...]:
    """Those asked for, or one of digits where the data of theirs are absent."""
    return WITHOUT_DATA if recipe_at_hand([wanted[0].recipe], progress) == "digits" else wanted


def _config(case: Case, mix: str) -> Config:
    gpu = torch.cuda.is_available()
    images = {"digits": ()}.get(case.recipe, (f"data.subset={2000 if gpu else 200}",))
    batch = 128 if case.recipe != "digits" else 64
    search = [
        f"search.{key}={'null' if value is None else value}"
        for key, value in SearchOptions().model_dump(include=set(SEARCHED)).items()
    ]
    precision = "float32" if not gpu and emulates_bfloat16() else "bfloat16"
    return load_config(
        case.recipe,
        [f"mix.name={mix}", "mix.probability=0.5", "data.download=false", f"train.precision={precision}",
         f"train.batch_size={512 if gpu else batch}", *search, *images, *case.overrides],
    )  # fmt: skip
