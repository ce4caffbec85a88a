"""`./run transfer RUN... --dataset NAME`: how good trained backbones are on other data, as a table.

A run's outcomes are kept in its folder, transfer/*.json, and used again by a call that asks for the same.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.files import replace_text
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, find_run
from analysis.run_settings import by_setting
from analysis.statistics import t_interval
from evo.errors import UserError, did_you_mean
from runs.folders import file_to_write, known_config
from training.config import Config, make_config
from training.recipe import option_of

if TYPE_CHECKING:
    import torch

    from training.transfer import Outcome, Source, Target

METHODS = ("linear", "knn", "finetune")
WEIGHTS = ("model", "ema")
SEED = re.compile(r"(.+)-s\d+")  # how ablations name the seeds of a variant
DEFAULTS = {"epochs": 5, "batch_size": 64}  # of fine-tuning, which is short
TAKEN = {
    "data": None,  # None: all of its options
    "train": {
        "epochs",
        "batch_size",
        "lr",
        "momentum",
        "weight_decay",
        "label_smoothing",
        "precision",
        "eval_batch_size",
    },
    "run": {"seed", "device", "threads"},
}
COLUMNS = (
    "dataset",
    "method",
    "backbone",
    "weights",
    "accuracy",
    "low",
    "high",
    "interval_over",
    "accuracies",
    "chosen",
    "training_images",
    "test_images",
)


@dataclass(frozen=True)
class Subject:
    """A backbone of the table. about: what identifies it. folders: of the runs that keep its outcomes."""

    source: Source
    about: dict[str, Any]
    folders: list[Path]


class Job(NamedTuple):
    """One outcome to be had, identified by `wanted`, and the files that keep it."""

    subject: Subject
    target: Target
    method: str
    seed: int
    wanted: dict[str, Any]
    files: list[Path]


@dataclass(frozen=True)
class Row:
    """A line of the table. interval: 95 %, in percent. over: what it is taken over."""

    dataset: str
    method: str
    backbone: str
    weights: str
    accuracies: list[float]
    interval: tuple[float, float]
    over: str
    chosen: str
    training_images: int
    test_images: int

    @property
    def accuracy(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


def run_transfer(
    names: list[str],
    datasets: list[str],
    overrides: list[str],
    *,
    methods: str = "linear",
    seeds: int = 1,
    csv: Path | None = None,
    weights: str | None = None,
    group: bool = True,
    fresh: bool = False,
) -> None:
    """Print the table of data sets x methods x runs; everything is checked before the first minute is spent.

    seeds: fine-tunings of each backbone, with run.seed, run.seed + 1, ... Raises UserError.
    """
    wanted = chosen_methods(methods)
    if seeds > 1 and "finetune" not in wanted:
        raise UserError(f"--seeds={seeds} repeats fine-tuning, the other methods have little to repeat; leave it out")
    csv = file_to_write(csv, "--csv")
    if csv is not None and not csv.absolute().parent.is_dir():  # a slip, found before minutes are spent
        raise UserError(f"--csv {csv}: expected a file in a folder that exists")
    runs = list({run.path.resolve(): run for run in map(find_run, names)}.values())
    chosen = [chosen_weights(run, weights) for run in runs]
    configs = {name: target_config(name, overrides) for name in dict.fromkeys(datasets)}

    from training.devices import pick_device  # imports torch: 5 s
    from training.transfer import Source, open_target

    config = next(iter(configs.values()))  # but for the data they are the same
    device = pick_device(config.run.device, config.run.threads)
    sources = [Source(known_config(run), run.path, kind) for run, kind in zip(runs, chosen, strict=True)]
    subjects = open_subjects(sources, config, device)
    targets = [open_target(name, of.data) for name, of in configs.items()]
    jobs = [job for target in targets for subject in subjects for job in plan(subject, target, wanted, seeds, config)]
    try:
        outcomes = get_outcomes(jobs, config, device, fresh)
    except KeyboardInterrupt:
        print("\nrun: stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    rows = [
        row(target, method, members, outcomes)
        for target in targets
        for method in wanted
        for members in groups(subjects, group)
    ]
    print(as_text(rows))
    if csv is not None:
        replace_text(csv, as_csv(rows))


# What is asked for


def chosen_methods(text: str) -> list[str]:
    """The methods of `linear,knn,finetune`. Raises UserError for others."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS)
            raise UserError(f"--method: there is no {name!r}{hint} (choose from {', '.join(METHODS)})")
    return names


def target_config(name: str, overrides: Sequence[str]) -> Config:
    """The transfer's config for a data set, or folder:PATH. Raises UserError, also for options it has no use for."""
    for override in overrides:
        section, _, option = option_of(override).partition(".")
        known = TAKEN.get(section, set())
        if section in Config.model_fields and option and known is not None and option not in known:
            raise UserError(
                f"-s {override}: transfer has no use for {section}.{option}; it takes data.*, "
                + ", ".join(f"{part}.{{{','.join(sorted(names))}}}" for part, names in TAKEN.items() if names)
            )
        if (section, option) == ("data", "name"):
            raise UserError(f"-s {override}: name the data set with --dataset")
    kind, colon, path = name.partition(":")
    data = {"name": kind, "root": path} if colon else {"name": kind}
    return make_config({"data": data, "train": DEFAULTS}, overrides, "transfer", trains=False)


def chosen_weights(run: RunFolder, asked: str | None) -> str:
    """The weights of a run to transfer: those asked for, else the average that the run was tested with.

    Raises UserError where the run has none, or no place for outcomes.
    """
    if not (run.path / "checkpoint" / "latest.json").is_file():
        raise UserError(f"run {run.name} has no checkpoint to transfer; expected a run of ./run train")
    if not os.access(run.path, os.W_OK):
        raise UserError(f"{run.path} is read-only, and outcomes are kept in it; copy the run folder first")
    if asked not in (None, *WEIGHTS):
        raise UserError(f"--weights: expected model or ema, got {asked!r:.60}")
    averaged = known_config(run).train.ema is not None
    if asked == "ema" and not averaged:
        raise UserError(f"--weights ema: run {run.name} was trained without train.ema; leave --weights out")
    return asked or ("ema" if averaged else "model")


# What there is to do


def open_subjects(sources: list[Source], config: Config, device: torch.device) -> list[Subject]:
    """The backbones, then their networks untrained, each once; opens every checkpoint, and so checks it."""
    from training.transfer_results import about_backbone

    trained = [Subject(source, about_backbone(source, config, device), [source.folder]) for source in sources]
    untrained: list[Subject] = []
    for source in sources:
        floor = replace(source, weights="untrained")
        about = about_backbone(floor, config, device)
        same = next((subject for subject in untrained if subject.about == about), None)
        if same is None:
            untrained.append(Subject(floor, about, [source.folder]))
        else:
            same.folders.append(source.folder)
    return trained + untrained


def plan(subject: Subject, target: Target, methods: list[str], seeds: int, config: Config) -> Iterator[Job]:
    """A backbone's outcomes on a data set that the table needs."""
    from training.transfer_results import identity, kept_file

    for method in methods:
        for seed in range(config.run.seed, config.run.seed + (seeds if method == "finetune" else 1)):
            wanted = identity(subject.about, target, method, seed, config)
            files = [kept_file(folder, target.options.name, wanted) for folder in subject.folders]
            yield Job(subject, target, method, seed, wanted, files)


def get_outcomes(jobs: list[Job], config: Config, device: torch.device, fresh: bool) -> list[tuple[Job, Outcome]]:
    """The outcome of every job: kept ones, unless `fresh`, and new ones, which are then kept."""
    from training.progress import Progress
    from training.transfer import measure, open_source
    from training.transfer_results import check_same_weights, keep, kept

    outcomes: list[tuple[Job, Outcome]] = []
    missing: list[Job] = []
    for job in jobs:
        found = None if fresh else next((held for file in job.files if (held := kept(file, job.wanted))), None)
        if found is None:
            missing.append(job)
        else:
            outcomes.append((job, found))
    if outcomes:
        print(
            f"{len(outcomes)} of {len(jobs)} outcomes are of earlier calls, kept in the run folders' transfer/; "
            "--fresh computes them anew",
            file=sys.stderr,
        )
    progress = Progress()
    reused = len(outcomes)
    for _, same in itertools.groupby(missing, key=lambda job: (id(job.subject), id(job.target))):
        todo = list(same)  # of one backbone and data set: they share its features
        subject = todo[0].subject
        target = todo[0].target.to(device)
        backbone = open_source(subject.source, config, device)
        check_same_weights(subject.source, subject.about)

        def say(line: str, subject: Subject = subject, target: Target = target) -> None:
            number = len(outcomes) - reused + 1
            progress.update(f"[{number}/{len(missing)}] {backbone_name([subject])} on {target.name}: {line}")

        measured = measure(backbone, target, [(job.method, job.seed) for job in todo], config, say)
        for job, outcome in zip(todo, measured, strict=True):
            for file in job.files:
                keep(file, job.wanted, outcome)
            what = f"{backbone_name([subject])} on {target.name}: {job.method} {outcome.accuracy:.2f} %"
            progress.update(f"[{len(outcomes) - reused + 1}/{len(missing)}] {what}", final=True)
            outcomes.append((job, outcome))
    return outcomes


# The table


def groups(subjects: list[Subject], together: bool) -> list[list[Subject]]:
    """The rows' backbones: seeds of one variant (run folders NAME-sN that differ in nothing else) together.

    Untrained networks of one kind are together whatever images they are scaled for, each seed once.
    """
    found: dict[Any, list[Subject]] = {}
    floors: Counter[str] = Counter()
    for subject in subjects:
        source = subject.source
        key: Any = id(subject)
        if together and source.weights == "untrained":
            of_seed = json.dumps({**subject.about, "input": None})
            floors[of_seed] += 1
            key = json.dumps({**subject.about, "input": None, "seed": None}), floors[of_seed]
        elif together and (match := SEED.fullmatch(run_name(subject))):
            key = (match[1], source.weights)
        found.setdefault(key, []).append(subject)
    parts = [part for members in found.values() for part in _by_setting(members)]
    return sorted(parts, key=lambda part: subjects.index(part[0]))


def _by_setting(members: list[Subject]) -> list[list[Subject]]:
    if len(members) == 1 or members[0].source.weights == "untrained":
        return [members]
    of_folder = {subject.source.folder: subject for subject in members}
    parts = by_setting([RunFolder(folder) for folder in of_folder], repeats=True)
    return [[of_folder[run.path] for run in part] for part in parts]


def run_name(subject: Subject) -> str:
    return RunFolder(subject.source.folder).name


def backbone_name(members: list[Subject]) -> str:
    """A row's name, e.g. `cifar10-small/plain-s{0,1}` or `untrained resnet-small-s0`."""
    source = members[0].source
    names = [run_name(subject) for subject in members]
    if source.weights == "untrained":
        names = [f"untrained {source.config.model.name}-s{subject.source.config.run.seed}" for subject in members]
    if len(names) == 1:
        return names[0]
    stem = names[0].rpartition("-s")[0]
    return f"{stem}-s{{{','.join(name.rpartition('-s')[2] for name in names)}}}"


def row(target: Target, method: str, members: list[Subject], outcomes: list[tuple[Job, Outcome]]) -> Row:
    """A group's outcomes by one method on one data set, as a line."""
    by_subject = [
        [
            outcome
            for job, outcome in outcomes
            if job.subject is subject and job.target is target and job.method == method
        ]
        for subject in members
    ]
    accuracies = [sum(outcome.accuracy for outcome in own) / len(own) for own in by_subject]
    repeats = [outcome.accuracy for outcome in by_subject[0]]
    if len(members) > 1:
        interval = within_percent(t_interval(accuracies))
        over = f"{len(members)} runs"
    elif len(repeats) > 1:
        interval = within_percent(t_interval(repeats))
        over = f"{len(repeats)} fine-tunings"
    else:
        interval = wilson_interval(repeats[0], len(target.test))
        over = f"{len(target.test):,} test images"
    chosen = dict.fromkeys(
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in outcome.chosen.items())
        for own in by_subject
        for outcome in own
    )
    return Row(
        target.name,
        method,
        backbone_name(members),
        members[0].source.weights,
        accuracies,
        interval,
        over,
        " | ".join(chosen),
        len(target.training),
        len(target.test),
    )


def within_percent(interval: tuple[float, float]) -> tuple[float, float]:
    return max(0.0, interval[0]), min(100.0, interval[1])


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a percentage of `count` images (J. Am. Stat. Assoc. 1927)."""
    z = 1.959964
    share = percent / 100
    scale = 1 / (1 + z * z / count)
    middle = scale * (share + z * z / (2 * count))
    half = scale * z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return 100 * (middle - half), 100 * (middle + half)


def as_text(rows: list[Row]) -> str:
    """The table for a terminal."""
    head = ("data set", "method", "backbone", "accuracy", "95 % interval", "over", "chosen")
    lines = [
        (
            row.dataset,
            row.method,
            row.backbone + (", ema" if row.weights == "ema" else ""),
            f"{decimal_text(row.accuracy, '.2f')} %",
            f"{decimal_text(row.interval[0], '.2f')} to {decimal_text(row.interval[1], '.2f')}",
            row.over,
            row.chosen,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    right = {3, 4}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *lines]
    )


def as_csv(rows: list[Row]) -> str:
    """The table as CSV; accuracies are percent, those of a group's runs joined by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        low, high = row.interval
        each = " ".join(f"{value:.4f}" for value in row.accuracies)
        names = row.dataset, row.method, row.backbone, row.weights
        numbers = [decimal_text(value, ".4f") for value in (row.accuracy, low, high)]
        writer.writerow([*names, *numbers, row.over, each, row.chosen, row.training_images, row.test_images])
    return text.getvalue()
