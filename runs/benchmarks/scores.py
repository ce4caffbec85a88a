"""`./run bench scores`: how near estimated scores come to exact ones, at every depth at which maps can be composed.

Each network is trained by random PatchMix on 1,000 images of CIFAR-10, in float32. Early, in the middle and late in the
training, random box compositions of batches of its images are scored exactly, each forwarded (`pixels`), and by composing
the images' own maps: behind each stage that the network can be cut at, and at its last map (`features`). Of transformers,
where each block is a stage, four depths are taken. Figures, of each objective:

- rank correlation: Spearman's, between estimates and exact scores of an image's compositions, the mean over images.
- bias: how much larger the estimates are, in nats.
- gain: each image's best composition is picked by its estimates; how much its exact score lies above the mean, in percent of
  the gain where exact scores pick.

`features, weights one step old` compares maps of the weights before the last step with exact scores of the present ones:
what a search that runs beside a step would work with. Beside these, time and image forwards: of the live model and the
average of its weights, in a search of so many compositions.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evo.arrays import Array
from evo.objectives import OBJECTIVES, RowLosses
from evo.operators import MASK_SAMPLERS
from evo.packed import Masks
from evo.search import Rows
from runs.benchmarks import package_version, row
from runs.benchmarks.images import recipe_at_hand
from training.average import WeightAverage
from training.config import Config, load_config
from training.feature_probe import FeatureProbe
from training.mixes.estimates import correlate_ranks
from training.mixes.grouping import group_batches, mix_group
from training.models.stages import count_stages
from training.probe import CPU_CHUNK, Losses, probe
from training.progress import Progress
from training.run import Run, set_up
from training.run_events import begin_epoch, begin_run, end_epoch
from training.stage_probe import StageProbe
from training.train import epoch_batches, training_step

Probe = Callable[[Rows], Losses]
Models = tuple[nn.Module, nn.Module]  # the live one, the average of its weights

OBJECTIVE_NAMES = ("image_reducible", "image_hard", "hard")
OLD = "features, weights one step old"
MOST_DEPTHS = 4  # of transformers, whose every block is one
TRANSFORMER = "evomix_bench_vit"  # patch 4, so that it has a map of 8x8 at 32 px


@dataclass(frozen=True)
class Case:
    """A network and its training: epochs after which scores are compared, the last being the length of it."""

    name: str
    model: str
    epochs: tuple[int, ...]
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    cases: tuple[Case, ...]
    images: int = 32  # in a batch
    batches: int = 2
    compositions: int = 24
    subset: int = 100  # images per class that are trained on


ADAMW = ("train.optimizer=adamw", "train.lr=1e-3", "train.weight_decay=0.05")
FULL = Scale(
    (
        Case("resnet-mini", "resnet-mini", (4, 12, 24), ("model.width=32",)),
        Case("resnet-small, width 16", "resnet-small", (3, 8, 16), ("model.width=16",)),
        Case("ViT, patch 4, 6 blocks", f"timm:{TRANSFORMER}", (4, 12, 20), (*ADAMW, "model.grid=4")),
        Case("ConvNeXt, timm:test_convnext", "timm:test_convnext", (4, 12, 24), ADAMW),
        Case("resnet18, width 16", "resnet18", (2, 6, 12), ("model.width=16",)),
        Case("wrn-16-8, width 16", "wrn-16-8", (2, 6, 12), ("model.width=16", "model.grid=4")),
    )
)
QUICK = Scale((Case("resnet-mini", "resnet-mini", (1, 2), ("model.width=16",)),), 16, 1, 8, 10)


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    scale = QUICK if quick else FULL
    progress = Progress()
    rows = []
    for case in scale.cases:
        if case.model.startswith("timm:") and package_version("timm") is None:
            rows.append(row(case.name, "scores", None, "rho", "timm"))
            continue
        if case.model.endswith(TRANSFORMER):
            _register_transformer()
        with tempfile.TemporaryDirectory() as scratch:
            for epoch, run, models, before in snapshots(case, scale, Path(scratch), progress):
                named = f"{case.name}, epoch {epoch} of {case.epochs[-1]}"
                progress.update(f"{named}: scores")
                found = compare(run, models, before, scale)
                rows += found_rows(named, found)
                told = ", ".join(f"{name} {values[0]:.2f}" for name, _, values in found if "correlation" in name)
                progress.update(f"{named}: {told}", final=True)
    return rows, []


def snapshots(case: Case, scale: Scale, folder: Path, progress: Progress) -> Iterator[tuple[int, Run, Models, Models]]:
    """Train, and stop at each of the case's epochs: epoch, the run, its models, and the same before the last step."""
    run = set_up(_config(case, scale, progress), folder / "run")
    begin_run(run)
    average = WeightAverage(run.model, run.config.search.reference_decay)
    models = before = run.model, average.model
    for epoch in range(1, case.epochs[-1] + 1):
        progress.update(f"{case.name}: epoch {epoch}/{case.epochs[-1]}")
        begin_epoch(run)
        groups = list(group_batches(epoch_batches(run), run.config.mix.probability, run.mix.span, run.state.choice))
        for number, group in enumerate(groups):
            if epoch in case.epochs and number == len(groups) - 1:
                before = copy.deepcopy(models)
            for item in mix_group(group, run.mix, epoch, len(run.class_names), run.cell_grid):
                run.count(training_step(run, item))
                average.update(run.model)
        end_epoch(run)
        if epoch in case.epochs:
            yield epoch, run, models, before
    run.log.close()


def compare(run: Run, models: Models, before: Models, scale: Scale) -> list[tuple[str, str, list[float]]]:
    """Name, unit and values, one a batch, of every figure of a model at one moment."""
    found: dict[tuple[str, str], list[float]] = {}
    model, average = models
    for batch in range(scale.batches):
        images, labels, rows = _draw(run, scale, batch)
        options: dict[str, Any] = {"prepare": run.prepare, "chunk": CPU_CHUNK}

        forwarded: Any = partial(probe, model, images, labels, reference=average, **options)
        forwarded(Rows(*(array[:CPU_CHUNK] for array in rows)))  # what only the first forward takes is not measured
        exact, seconds = _timed(forwarded, rows)
        scores = {name: _score(exact, rows, labels, name, scale) for name in OBJECTIVE_NAMES}
        figures = [("pixels: time", "s / 1,000 rows", 1000 * seconds / len(rows.image)),
                   ("pixels: image forwards an image", "forwards", 2.0 * scale.compositions)]  # fmt: skip
        figures += [(f"pixels: {name}, gain", "nats", _gain(exactly, exactly)) for name, exactly in scores.items()]
        probes: dict[str, Any] = {
            f"stage {depth}": StageProbe(model, images, labels, depth, reference=average, **options)
            for depth in _depths(run)
        }
        probes["features"] = FeatureProbe(model, images, labels, reference=average, **options)
        probes[OLD] = FeatureProbe(before[0], images, labels, reference=before[1], **options)
        for name, asked in probes.items():
            losses, seconds = _timed(asked, rows)
            if name != OLD:
                figures += [
                    (f"{name}: time", "s / 1,000 rows", 1000 * seconds / len(rows.image)),
                    (f"{name}: image forwards an image", "forwards", asked.forwards / len(labels)),
                ]
            for objective, exactly in scores.items():
                estimate = _score(losses, rows, labels, objective, scale)
                figures += [
                    (f"{name}: {objective}, rank correlation", "rho", _rank_correlation(exactly, estimate)),
                    (f"{name}: {objective}, bias", "nats", float((estimate - exactly).mean())),
                    (f"{name}: {objective}, gain", "%", 100 * _gain(exactly, estimate) / _gain(exactly, exactly)),
                ]
        for label, unit, value in figures:
            found.setdefault((label, unit), []).append(value)
    return [(label, unit, values) for (label, unit), values in found.items()]


def found_rows(case: str, found: Sequence[tuple[str, str, list[float]]]) -> list[dict[str, Any]]:
    return [row(case, name, values, unit) for name, unit, values in found]


def _draw(run: Run, scale: Scale, seed: int) -> tuple[Tensor, Tensor, Rows]:
    """A batch of training images as they are, labels, and `compositions` random compositions of them, one by one."""
    order = torch.randperm(len(run.training_set), generator=torch.Generator().manual_seed(seed))
    images, labels = run.training_set.batch(order[: scale.images])
    rng = np.random.default_rng(seed)
    count = scale.compositions
    masks = MASK_SAMPLERS["box"](count * len(labels), run.model.grid, rng)
    cells = masks.cells if isinstance(masks, Masks) else masks
    pairings = np.concatenate([rng.permutation(len(labels)) for _ in range(count)])
    own = np.tile(np.arange(len(labels), dtype=np.int32), count)
    return images, labels, Rows(own, cells, pairings.astype(np.int32))


def _depths(run: Run) -> list[int]:
    """Stages that the network can be cut at, or so many of them, evenly spread."""
    stages = count_stages(run.model.backbone, run.training_set.shape)
    if stages <= MOST_DEPTHS:
        return list(range(1, stages + 1))
    return sorted({round(depth) for depth in np.linspace(1, stages, MOST_DEPTHS)})


def _timed(asked: Probe, rows: Rows) -> tuple[Losses, float]:
    """Losses, and the processor's seconds, which other programs do not add to; on a GPU the seconds that pass."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    losses = asked(rows)
    return losses, clock() - began


def _score(losses: Losses, rows: Rows, labels: Tensor, objective: str, scale: Scale) -> Array:
    """(compositions, images): the score of each row."""
    known = labels.cpu().numpy()
    count = scale.compositions

    def by_composition(array: Array | None) -> Any:
        return None if array is None else array.reshape(count, len(known), *array.shape[1:])

    partner = by_composition(rows.partner)
    return np.asarray(
        OBJECTIVES[objective](
            RowLosses(
                by_composition(losses.cells),
                by_composition(losses.images),
                Masks.pack(by_composition(rows.masks)),
                known,
                known[partner],
                partner,
                by_composition(losses.reference_cells),
                by_composition(losses.reference_images),
            )
        )
    )


def _rank_correlation(exact: Array, estimate: Array) -> float:
    """Spearman's between the two of an image's compositions, the mean over images."""
    return float(np.nanmean([correlate_ranks(*pair) for pair in zip(exact.T, estimate.T, strict=True)]))


def _gain(exact: Array, by: Array) -> float:
    """How much the exact score of each image's best composition, as `by` has it, lies above the mean."""
    return float(exact[by.argmax(0), np.arange(exact.shape[1])].mean() - exact.mean())


def _config(case: Case, scale: Scale, progress: Progress) -> Config:
    """Of CIFAR-10, or of digits where it is absent."""
    options = [
        "mix.name=patchmix", "mix.sampler=box", "mix.probability=1", "train.precision=float32", "train.compile=no",
        f"train.epochs={case.epochs[-1]}", "train.warmup=1", "run.device=auto", "data.download=false",
        f"data.subset={scale.subset}", f"model.name={case.model}", "model.width=null", "model.grid=null", *case.overrides,
    ]  # fmt: skip
    recipe = recipe_at_hand(["cifar10-1000"], progress)
    if recipe == "digits":
        options = [
            option for option in options if not option.startswith("data.subset") and "model.grid=4" not in option
        ]
    return load_config(recipe, options)


def _register_transformer() -> None:
    """timm has no transformer of patches this small by name."""
    import timm

    def evomix_bench_vit(pretrained: bool = False, **options: Any) -> nn.Module:
        sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
        asked: dict[str, Any] = {name: options[name] for name in ("num_classes", "in_chans") if name in options}
        network: nn.Module = timm.models.VisionTransformer(**sizes, **asked)
        return network

    timm.models.register_model(evomix_bench_vit)
