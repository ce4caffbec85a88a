"""One training run: what it works with, all that changes while it goes on, and how that is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from training.average import WeightAverage
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import Config, UserError
from training.data.image_set import AnyImageSet
from training.data.load import load_data
from training.devices import autocast_type, pick_device
from training.distributed import World, start
from training.mixes import MIXES
from training.mixes.batch import Mix, MixContext
from training.mixes.evolved import Evolved, SearchRecord
from training.models.patch_model import PatchModel, build_model
from training.models.trained import (
    Prepare,
    TrainedModel,
    load_reference,
    load_weights,
    needs_average,
)
from training.randomness import Streams
from training.run_log import RunLog, command_line
from training.shelf import open_entry

SNAPSHOTS = 10  # searches written whole, over a run
ALWAYS_TESTED = 10  # last epochs, whose median is reported
GENERATORS = ("order", "crops", "choice")


@dataclass
class Run:
    """A run's parts, fixed, and its counters. `set_up` builds it; epochs count from 1."""

    config: Config
    training_set: AnyImageSet
    test_set: AnyImageSet
    model: PatchModel
    optimiser: torch.optim.Optimizer
    prepare: Prepare
    autocast: torch.dtype | None
    mix: Mix
    log: RunLog
    streams: Streams
    world: World
    average: WeightAverage | None = None  # kept where the search's objective compares with it

    def __post_init__(self) -> None:
        self.order, self.crops, self.choice = (self.streams.torch(name) for name in GENERATORS)
        self.epoch = 0  # whole ones
        self.step = 0
        self.seconds = 0.0  # of training, search included, tests not
        self.accuracies: list[float] = []  # percent, of every test so far

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def steps_per_epoch(self) -> int:
        return len(self.training_set) // self.config.train.batch

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.train.epochs

    def tests_after(self, epoch: int) -> bool:
        """Whether an epoch is followed by a test."""
        options = self.config.train
        return epoch % options.evaluate_every == 0 or epoch > options.epochs - ALWAYS_TESTED

    def cost(self) -> dict[str, Any]:
        """Images forwarded and seconds spent so far; tests are left out."""
        searching = self.mix if isinstance(self.mix, Evolved) else None
        forwards = searching.forwards if searching else 0
        return {
            "image_forwards": self.step * self.config.train.batch + forwards,
            "search_forwards": forwards,
            "seconds": round(self.seconds, 3),
            "search_seconds": round(searching.seconds, 3) if searching else 0.0,
        }

    def begin(self) -> None:
        """Make the run folder. Raises UserError where it is there already."""
        self.log.begin(self.config, self.device, command_line())
        self.log.event(
            "start",
            epochs=self.config.train.epochs,
            steps=self.total_steps,
            training_images=len(self.training_set),
            test_images=len(self.test_set),
            classes=self.training_set.class_names,
            grid=self.model.grid,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
        )

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
        self.log.close()
        return result

    def save(self, *, best: bool) -> None:
        """Write the latest checkpoint, the best one if this is it, and the patterns trained on so far."""
        if not self.world.main:
            return
        folder, checkpoint = self.log.folder, self._checkpoint()
        if best:  # first: once `latest` counts, this epoch is never run again
            save_checkpoint(folder / "checkpoint", "best", self.step, checkpoint)
        save_checkpoint(folder / "checkpoint", "latest", self.step, checkpoint)
        if isinstance(self.mix, Evolved) and len(self.mix.bank):
            self.mix.bank.save(folder / "patterns" / "bank.npz")

    def resume(self) -> None:
        """Take over the folder's latest checkpoint; drop from the logs what came after it."""
        saved = load_checkpoint(self.log.folder / "checkpoint", "latest")
        load_weights(self.model, saved)
        optimiser = self.optimiser.state_dict()
        optimiser["state"] = {
            int(number): {"momentum_buffer": tensor} for number, tensor in _below("momentum", saved.tensors).items()
        }
        self.optimiser.load_state_dict(optimiser)
        if self.average is not None:
            self.average.restore(_below("average", saved.tensors), updates=saved.meta["step"])
        self.mix.restore(_below("mix", saved.arrays))
        for name in GENERATORS:
            getattr(self, name).set_state(torch.from_numpy(saved.arrays[f"rng.{name}"]))
        torch.set_rng_state(torch.from_numpy(saved.arrays["rng.torch"]))
        for name in ("epoch", "step", "seconds", "accuracies"):
            setattr(self, name, saved.meta[name])
        self.log.cut(saved.meta["log_lengths"])
        self.log.event("resume", epoch=self.epoch)

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {"input.mean": self.prepare.mean, "input.std": self.prepare.std}
        for number, state in self.optimiser.state_dict()["state"].items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{number}"] = state["momentum_buffer"]
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        arrays = {f"mix.{name}": array for name, array in self.mix.state().items()}
        arrays |= {f"rng.{name}": getattr(self, name).get_state().numpy() for name in GENERATORS}
        arrays["rng.torch"] = torch.get_rng_state().numpy()
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "accuracies": self.accuracies,
            "log_lengths": self.log.lengths(),
            "image_shape": list(self.training_set.shape),
            "class_names": self.training_set.class_names,
        }
        return Checkpoint(tensors, arrays, meta)


def set_up(config: Config, folder: Path) -> Run:
    """Load the data and build everything else; nothing is written yet.

    Raises UserError for what the user can mend.
    """
    device = pick_device(config.run)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    world = start(device)
    streams = Streams(config.run.seed)
    training_set, test_set = (part.to(device) for part in load_data(config.data))
    if config.train.batch > len(training_set):
        raise UserError(
            f"train.batch={config.train.batch} is larger than the training set of {len(training_set)} images; "
            f"set -s train.batch={len(training_set)} or less"
        )
    if world.size > 1 and config.train.batch < 2 * world.size:  # batch norm needs two rows
        raise UserError(f"train.batch={config.train.batch} leaves {world.size} processes fewer than 2 images each")
    torch.manual_seed(streams.number("weights"))
    model = build_model(config.model, training_set.shape, len(training_set.class_names)).to(device)
    model.to(memory_format=torch.channels_last)
    prepare, autocast = Prepare(*training_set.statistics(), device), autocast_type(config, device)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=config.train.lr,
        momentum=config.train.momentum,
        weight_decay=config.train.weight_decay,
        nesterov=config.train.momentum > 0,
    )
    log = RunLog(folder, writes=world.main)
    names, unwritten = training_set.class_names, snapshot_epochs(config.train.epochs)

    def on_search(record: SearchRecord) -> None:
        if log.epoch in unwritten:
            log.search(record, names)
            unwritten.remove(log.epoch)

    average = reference = None
    if config.mix.name == "evolved":
        average = WeightAverage(model, config.search.reference_decay) if needs_average(config) else None
        live = TrainedModel(model, prepare, training_set.shape, names)
        reference = load_reference(config, live, None if average is None else average.model)
    context = MixContext(config, model, names, prepare, autocast, streams, world, log.generation, on_search, reference)
    mix: Mix = open_entry(MIXES, config.mix.name, "mix")(context)
    torch.manual_seed(streams.number("global"))  # torchvision's mixes draw from it
    return Run(config, training_set, test_set, model, optimiser, prepare, autocast, mix, log, streams, world, average)


def snapshot_epochs(epochs: int) -> set[int]:
    """The epochs whose first search is written whole: about SNAPSHOTS, the first and the last among them."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(SNAPSHOTS, epochs)).round()}


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries `prefix.NAME`, by NAME."""
    return {key.removeprefix(f"{prefix}."): value for key, value in values.items() if key.startswith(f"{prefix}.")}
