"""A training run: all that it works with. `set_up` makes it; train.py is the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import UserError
from training.average import WeightAverage
from training.clock import Clock, Mark
from training.config import Config
from training.data.image_set import AnyImageSet, ImageSet
from training.data.load import load_data, place
from training.devices import autocast_type, compiles, memory_explained, memory_format_of, pick_device
from training.distributed import World, share_batch_norm, start
from training.mixes.batch import Mix, MixContext
from training.mixes.evolved import SearchRecord
from training.models.patch_model import PatchModel, build_model
from training.models.reference import load_reference, needs_average
from training.models.scaling import Prepare
from training.models.trained import TrainedModel, without_fetching
from training.optimizers import Optimizer, learning_rate_factor
from training.options import DataOptions, TrainOptions
from training.origin import describe_origin
from training.randomness import Streams
from training.registry import MIXES, load_entry
from training.run_log import RunLog
from training.run_state import RunState
from training.step_curves import StepCurves
from training.sums import Sums
from training.tensorboard import check_tensorboard

SNAPSHOTS = 10  # searches written whole, over a run
ALWAYS_TESTED = 10  # last epochs, whose median is reported

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Run:
    """What a run works with. Epochs count from 1.

    Attributes:
        forward: Images (B,C,H,W) of 0..255 -> logits, the way training steps take: in precision, over processes, compiled.
        state: How far it has come: what a checkpoint holds besides the model, its averages, the optimizer and the mix.
        origin: What it is of, and must be of again when it goes on: taken once, as the data and the reference are now.
        average: What the search's objective compares with.
        ema: What tests use in the model's place.
        compiled: Forwards of tests through torch.compile, by the model's id.
    """

    config: Config
    training_set: AnyImageSet
    test_set: AnyImageSet
    model: PatchModel
    parallel: nn.Module
    forward: Forward
    optimizer: Optimizer
    prepare: Prepare
    autocast: torch.dtype | None
    mix: Mix
    log: RunLog
    streams: Streams
    world: World
    state: RunState
    origin: dict[str, Any]
    average: WeightAverage | None = None
    ema: WeightAverage | None = None
    clock: Clock = field(default_factory=Clock)
    compiled: dict[int, Forward] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.config.mix
        cell_weight = options.patch_weight if options.kind.trains_cells else None
        self.fill = (255 * self.prepare.mean).round().to(self.device, torch.uint8)  # of what cutout erases
        self.curves = StepCurves(
            self.log, self.world, self.state, self.clock, cell_weight, self.config.train.batch_size, self.learning_rates
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def class_names(self) -> list[str]:
        return self.training_set.class_names

    @property
    def cell_grid(self) -> int | None:
        """G where batches have labels of cells, else None."""
        return self.model.grid if self.config.mix.kind.trains_cells else None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.training_set) // self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    @property
    def learning_rate_factor(self) -> float:
        """Of the next step."""
        return self._factor_of(self.state.step)

    def learning_rates(self, step: int) -> dict[str, float]:
        """Of the step after `step` others, as Optimizer.learning_rates names them."""
        return self.optimizer.learning_rates(self._factor_of(step))

    def _factor_of(self, step: int) -> float:
        return learning_rate_factor(step, self.total_steps, self.steps_per_epoch, self.config.train)

    def count(self, sums: Sums) -> None:
        """Take note of a step that has been taken."""
        self.state.count(sums)
        self.log.step = self.state.step
        if self.config.run.tensorboard:
            self.curves.add(sums)

    @property
    def mark(self) -> Mark:
        return Mark(self.state.step, self.clock.seconds)

    @property
    def images_per_second(self) -> float:
        """Since this process began; tests are left out."""
        return self.config.train.batch_size * self.clock.steps_per_second(self.state.step)

    def cost(self) -> dict[str, Any]:
        """Images forwarded and seconds spent so far; tests are left out."""
        return {
            "image_forwards": self.state.step * self.config.train.batch_size + self.mix.forwards,
            "search_forwards": self.mix.forwards,
            "seconds": round(self.clock.seconds, 3),
            "search_seconds": round(self.mix.seconds, 3),
        }


def set_up(config: Config, folder: Path, *, resume: bool = False) -> Run:
    """Load the data and build everything else; nothing is written yet.

    resume: the weights will come from a checkpoint. Raises UserError for what the user can mend.
    """
    device = pick_device(config.run.device, config.run.threads)
    if config.run.tensorboard:
        check_tensorboard()
    world = start(device)
    streams = Streams(config.run.seed)
    with memory_explained(f"set data.resident=host, now {config.data.resident}"):
        training_set, test_set = (_placed(part, device, config.data, world) for part in load_data(config.data))
    _check_batch(config.train, len(training_set), world)
    names = training_set.class_names
    torch.manual_seed(streams.number("weights"))
    model = _build(config, training_set, device, world, resume)
    prepare = Prepare(*training_set.statistics(), device)
    autocast = autocast_type(config.train.precision, device)
    optimizer = Optimizer(model, config.train)
    log = RunLog(folder, writes=world.main)
    log.snapshots = snapshot_epochs(config.train.epochs)

    def on_search(record: SearchRecord) -> None:
        log.search_ended(record)
        if log.epoch in log.snapshots:
            log.search(record, names)

    average = reference = None
    if config.searches:
        if needs_average(config):
            average = WeightAverage(model, config.search.reference_decay)
        live = TrainedModel(model, prepare, training_set.shape, names)
        reference = load_reference(config, live, None if average is None else average.model)
    context = MixContext(
        config, model, names, prepare, autocast, streams, world, log.generation, on_search, reference, log.check,
        training_set.shape,
    )  # fmt: skip
    mix: Mix = load_entry(MIXES, config.mix.name, "mix")(context)
    ema = None if config.train.ema is None else WeightAverage(model, config.train.ema)
    parallel = world.wrap(model)
    forward = _forward(parallel, prepare, autocast, device)
    if compiles(config.train.compile, device):
        forward = torch.compile(forward, dynamic=False)
    torch.manual_seed(streams.number("global") + world.rank)  # for what draws inside a model, each on its own rows
    origin = describe_origin(training_set, test_set, config.search.reference)
    return Run(
        config, training_set, test_set, model, parallel, forward, optimizer, prepare, autocast, mix, log, streams,
        world, RunState(streams, device), origin, average, ema,
    )  # fmt: skip


def _build(config: Config, images: AnyImageSet, device: torch.device, world: World, resume: bool) -> PatchModel:
    """The model, before its first step."""
    options = without_fetching(config) if resume else config.model
    model = build_model(options, images.shape, len(images.class_names)).to(device)
    model.to(memory_format=memory_format_of(model, device))
    if model.cell_head is not None and not config.trains_cells:
        model.cell_head.requires_grad_(False)  # no loss reaches it
    if world.size > 1 and config.train.sync_norm:
        model = cast(PatchModel, share_batch_norm(model, device))
    return model


def _forward(model: nn.Module, prepare: Prepare, autocast: torch.dtype | None, device: torch.device) -> Forward:
    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            logits: tuple[Tensor, Tensor] = model(prepare(images))
        return logits

    return forward


def _placed(images: AnyImageSet, device: torch.device, options: DataOptions, world: World) -> AnyImageSet:
    """The set where data.resident wants it, and all processes alike: one that has no room decides for all."""
    placed = place(images, device, options)
    waits = not isinstance(placed, ImageSet) or placed.device is not None
    return images.to(device, "host") if world.any(waits)[0] and not waits else placed


def _check_batch(options: TrainOptions, images: int, world: World) -> None:
    if options.batch_size > images:
        raise UserError(
            f"train.batch_size={options.batch_size} is larger than the training set of {images} images; "
            f"set -s train.batch_size={images} or less"
        )
    parts = world.size * options.accumulate
    if parts > 1 and options.batch_size < 2 * parts:  # batch norm needs two rows
        raise UserError(
            f"train.batch_size={options.batch_size} leaves fewer than 2 images for each of {world.size} processes x "
            f"train.accumulate={options.accumulate} parts; raise train.batch_size to {2 * parts} or more"
        )


def snapshot_epochs(epochs: int) -> set[int]:
    """The epochs whose first search is written whole: about SNAPSHOTS, the first and the last among them."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(SNAPSHOTS, epochs)).round()}
