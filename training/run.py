"""One training run: what it works with, and all that changes while it goes on. run_state.py saves it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from evo.errors import UserError
from training.average import WeightAverage
from training.config import Config, DataOptions, TrainOptions
from training.data.image_set import AnyImageSet, ImageSet
from training.data.load import load_data, place
from training.devices import autocast_type, compiles, memory_explained, pick_device
from training.distributed import World, share_batch_norm, start
from training.mixes.batch import Mix, MixContext
from training.mixes.evolved import SearchRecord
from training.models.patch_model import PatchModel, build_model
from training.models.trained import (
    Prepare,
    TrainedModel,
    evaluate,
    load_reference,
    needs_average,
    reference_digest,
    trains_cells,
    without_fetching,
)
from training.optimisers import Optimiser, learning_rate_factor
from training.randomness import Streams
from training.registry import MIXES, load_entry
from training.run_log import RunLog, command_line
from training.tensorboard import check_tensorboard

SNAPSHOTS = 10  # searches written whole, over a run
ALWAYS_TESTED = 10  # last epochs, whose median is reported
GENERATORS = ("order", "crops", "choice")
STEPS_TOLD = 100  # at once to TensorBoard, which has to wait for the device
RESULTS = ("last_accuracy", "median10_accuracy", "best_accuracy", "image_forwards", "seconds")

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Run:
    """A run's parts, fixed, and its counters. `set_up` builds it; epochs count from 1.

    forward: images (B,C,H,W) of 0..255 -> logits, the way training steps take: in precision, over processes,
    compiled. average: what the search's objective compares with. ema: what tests use in the model's place.
    """

    config: Config
    training_set: AnyImageSet
    test_set: AnyImageSet
    model: PatchModel
    parallel: nn.Module
    forward: Forward
    optimiser: Optimiser
    prepare: Prepare
    autocast: torch.dtype | None
    mix: Mix
    log: RunLog
    streams: Streams
    world: World
    average: WeightAverage | None = None
    ema: WeightAverage | None = None

    def __post_init__(self) -> None:
        self.fill = (255 * self.prepare.mean).round().to(self.device, torch.uint8)  # of what cutout erases
        self.order, self.crops, self.choice = (self.streams.torch(name) for name in GENERATORS)
        # What a run is of, and must be of again when it goes on: taken once, as the data and the reference are now.
        self.origin: dict[str, Any] = {
            "image_shape": list(self.training_set.shape),
            "class_names": self.class_names,
            "training_images": len(self.training_set),
            "labels": hashlib.sha256(self.training_set.labels.cpu().numpy().tobytes()).hexdigest(),
            "images": self.training_set.identity(),
            "test": self.test_set.identity(),
            "reference": reference_digest(self.config.search.reference),
        }
        self.epoch = 0  # whole ones
        self.step = 0
        self.seconds = 0.0  # of training, search included, tests not
        self.accuracies: list[float] = []  # percent, of every test so far
        # Of the epoch that is under way:
        self.position = 0  # batches trained on
        self.order_before = self.order.get_state()  # of its shuffling
        self.sums = torch.zeros(4, device=self.device)  # see train.training_step; read seldom: it waits for a GPU
        self.checked = 0  # the last step whose loss is known to be finite
        self.has_checkpoint = False
        self.saved = time.monotonic()
        self.saving_took = 0.0  # seconds, the last time
        self._tested: dict[int, Forward] = {}  # compiled, by the model's id
        self._ticked = time.perf_counter()
        self._started_at = 0  # the step this process began with
        self._started_seconds = 0.0
        self._untold: list[tuple[int, float, Tensor]] = []  # step, seconds since 1970, (4,): not yet on TensorBoard
        self._told_at = 0
        self._told_seconds = 0.0

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def class_names(self) -> list[str]:
        return self.training_set.class_names

    @property
    def steps_per_epoch(self) -> int:
        return len(self.training_set) // self.config.train.batch

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    @property
    def learning_rate_factor(self) -> float:
        """Of the next step."""
        return self._factor_of(self.step)

    def learning_rates(self, step: int) -> dict[str, float]:
        """Of the step after `step` others, as Optimiser.learning_rates names them."""
        return self.optimiser.learning_rates(self._factor_of(step))

    def _factor_of(self, step: int) -> float:
        return learning_rate_factor(step, self.total_steps, self.steps_per_epoch, self.config.train)

    def begin(self) -> None:
        """Make the run folder. Raises UserError where it is there already."""
        self.log.begin(self.config, self.device, command_line())
        self.log.event(
            "start",
            epochs=self.config.train.epochs,
            steps=self.total_steps,
            training_images=len(self.training_set),
            test_images=len(self.test_set),
            images=self.origin["images"],
            test=self.origin["test"],
            classes=self.training_set.class_names,
            grid=self.model.grid,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            processes=self.world.size,
        )
        self.log.watch(self.config, RESULTS)

    def continued(self, board: int | None) -> None:
        """What follows a resume. board: bytes of TensorBoard's file that the checkpoint knows of."""
        self.log.event("resume", epoch=self.epoch, step=self.step, processes=self.world.size)
        self.log.watch(self.config, RESULTS, board)
        self._told_at = self.step
        self._told_seconds = self.seconds
        self._started_at = self.step
        self._started_seconds = self.seconds

    def begin_epoch(self) -> None:
        """Start an epoch, or go on with the one that a resumed checkpoint was made in."""
        self.log.epoch = self.epoch + 1
        self.log.step = self.step
        self.model.train()
        self.tick(counts=False)

    def count(self, measured: Tensor) -> None:
        """Take note of a step that has been taken. measured: (4,) as train.training_step returns it."""
        self.sums += measured
        self.step += 1
        self.position += 1
        self.log.step = self.step
        if self.config.run.tensorboard:
            self._untold.append((self.step, time.time(), measured))
            if len(self._untold) == STEPS_TOLD:
                self.tell_steps()

    def tell_steps(self) -> None:
        """Tell TensorBoard the losses and learning rates of the steps since it was last told, and images/s.

        It waits for the device, and all processes call it after the same step.
        """
        if not self._untold:
            return
        untold = self._untold
        self._untold = []
        sums = self.world.sum(torch.stack([measured for *_, measured in untold])).tolist()
        self.tick()
        if self.log.board is not None:
            for (step, when, _), (image_loss, cell_loss, _, weight) in zip(untold, sums, strict=True):
                losses = {"image_loss": image_loss / weight, "loss": image_loss / weight}
                if self.mix.cells:
                    losses["cell_loss"] = cell_loss / weight
                    losses["loss"] += self.config.mix.patch_weight * cell_loss / weight
                values = {**losses, **self.learning_rates(step - 1)}
                self.log.board.add(step, {f"step/{name}": value for name, value in values.items()}, when)
            images = (self.step - self._told_at) * self.config.train.batch
            rate = images / max(self.seconds - self._told_seconds, 1e-9)
            self.log.board.add(self.step, {"step/images_per_second": rate})
        self._told_at = self.step
        self._told_seconds = self.seconds

    def end_epoch(self) -> dict[str, float | None]:
        """Close an epoch; return its mean losses (nats), training accuracy (percent) and last learning rate."""
        self.tell_steps()
        sums = self.world.sum(self.sums)
        self.check(sums, weights=True)  # waits for the device, so that its time counts
        self.tick()
        image_loss, cell_loss, hit = (sums[:3] / sums[3]).tolist()
        self.epoch += 1
        self.position = 0
        self.order_before = self.order.get_state()
        self.sums = torch.zeros_like(self.sums)
        return {
            "image_loss": image_loss,
            "cell_loss": cell_loss if self.mix.cells else None,
            "training_accuracy": 100 * hit,
            **self.learning_rates(self.step - 1),
        }

    def tick(self, *, counts: bool = True) -> None:
        """Read the clock; the time since it was last read counts as training, or not."""
        now = time.perf_counter()
        if counts:
            self.seconds += now - self._ticked
        self._ticked = now

    def check(self, sums: Tensor | None = None, *, weights: bool = False) -> None:
        """Raise UserError where a loss since the last check, or a weight, is not finite. It waits for the device.

        sums: the epoch's over all processes, where they are at hand.
        """
        finite = torch.isfinite(self.sums if sums is None else sums).all()
        if weights:
            finite = (
                finite & torch.stack([tensor.isfinite().all() for tensor in self.model.state_dict().values()]).all()
            )
        if not finite:
            raise self._diverged(
                f"the loss or a weight became NaN or infinite in steps {self.checked + 1}..{self.step}"
            )
        self.checked = self.step

    def tests_after(self, epoch: int) -> bool:
        """Whether an epoch is followed by a test."""
        options = self.config.train
        return epoch % options.evaluate_every == 0 or epoch > options.epochs - ALWAYS_TESTED

    def test(self) -> dict[str, float]:
        """Test the model, and where an ema is kept it in the model's place, with the live model's beside it."""
        batch = self.config.train.eval_batch

        def tested(model: nn.Module) -> tuple[float, float]:
            forward = self._compiled(model)
            return evaluate(model, self.test_set, self.prepare, self.autocast, batch, self.world, forward)

        accuracy, loss = tested(self.model)
        live = {}
        if self.ema is not None:
            live = {"live_accuracy": accuracy}
            accuracy, loss = tested(self.ema.model)
        if not math.isfinite(loss):
            raise self._diverged(f"the test loss became {loss} after step {self.step}")
        self.accuracies.append(accuracy)
        return {"accuracy": accuracy, "test_loss": loss, **live}

    def _compiled(self, model: nn.Module) -> Forward | None:
        """A model's forward through torch.compile, where that is asked for; else None."""
        if not compiles(self.config.train.compile, self.device):
            return None
        if id(model) not in self._tested:
            self._tested[id(model)] = torch.compile(model, dynamic=False)
        return self._tested[id(model)]

    @property
    def images_per_second(self) -> float:
        """Since this process began; tests are left out."""
        steps, seconds = self.step - self._started_at, self.seconds - self._started_seconds
        return steps * self.config.train.batch / max(seconds, 1e-9)

    def cost(self) -> dict[str, Any]:
        """Images forwarded and seconds spent so far; tests are left out."""
        return {
            "image_forwards": self.step * self.config.train.batch + self.mix.forwards,
            "search_forwards": self.mix.forwards,
            "seconds": round(self.seconds, 3),
            "search_seconds": round(self.mix.seconds, 3),
        }

    def finish(self) -> dict[str, Any]:
        """Write and return the `end` event."""
        result = {
            "last_accuracy": self.accuracies[-1],
            "median10_accuracy": median(self.accuracies[-ALWAYS_TESTED:]),
            "best_accuracy": max(self.accuracies),
            "test_images": len(self.test_set),
            "steps": self.step,
            **self.cost(),
        }
        self.log.event("end", **result)
        self.log.check_place()  # what came last was written where it is found
        self.log.close()
        return result

    def _diverged(self, what: str) -> UserError:
        kept = "; the last checkpoint is kept" if self.has_checkpoint else ""
        return UserError(f"{what}; lower train.lr={self.config.train.lr:g}, or set train.clip{kept}")


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
    torch.manual_seed(streams.number("weights"))
    names = training_set.class_names
    options = without_fetching(config) if resume else config.model
    model = build_model(options, training_set.shape, len(names)).to(device)
    model.to(memory_format=torch.channels_last)
    if model.cell_head is not None and not trains_cells(config):
        model.cell_head.requires_grad_(False)  # no loss reaches it
    if world.size > 1 and config.train.sync_norm:
        model = cast(PatchModel, share_batch_norm(model, device))
    prepare = Prepare(*training_set.statistics(), device)
    autocast = autocast_type(config.train.precision, device)
    optimiser = Optimiser(model, config.train)
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
    return Run(
        config, training_set, test_set, model, parallel, forward, optimiser, prepare, autocast, mix, log, streams,
        world, average, ema,
    )  # fmt: skip


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
    if options.batch > images:
        raise UserError(
            f"train.batch={options.batch} is larger than the training set of {images} images; "
            f"set -s train.batch={images} or less"
        )
    parts = world.size * options.accumulate
    if parts > 1 and options.batch < 2 * parts:  # batch norm needs two rows
        raise UserError(
            f"train.batch={options.batch} leaves fewer than 2 images for each of {world.size} processes x "
            f"train.accumulate={options.accumulate} parts; raise train.batch to {2 * parts} or more"
        )


def snapshot_epochs(epochs: int) -> set[int]:
    """The epochs whose first search is written whole: about SNAPSHOTS, the first and the last among them."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(SNAPSHOTS, epochs)).round()}
