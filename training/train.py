"""The training loop: data, model, mix, optimiser, one loop, evaluation, log. Start here.

images (B,C,H,W), labels (B,) -> mix -> model -> image logits (B,K), cell logits (B,G,G,K)
loss = image loss + patch_weight x mean cell loss
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import Config, UserError
from training.data.augment import augment
from training.data.image_set import AnyImageSet
from training.data.load import load_data
from training.losses import cell_losses, image_losses
from training.mixes import MIXES
from training.mixes.batch import Batch, Mix, MixContext, Mixed, unmixed
from training.mixes.evolved import Evolved, SearchRecord
from training.models.patch_model import PatchModel, build_model
from training.models.trained import Prepare, autocast_type, evaluate, load_weights, pick_device
from training.progress import Progress
from training.randomness import Streams
from training.run_log import RunLog, command_line
from training.shelf import open_entry

SNAPSHOTS = 10  # searches written whole, over a run
ALWAYS_EVALUATED = 10  # last epochs, whose median is reported


def train(config: Config, folder: Path, *, resume: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Train as `config` says, writing the run folder `folder`; return the log's `end` event.

    With resume, go on from the folder's latest checkpoint: the result is that of a run that was not
    interrupted. Raises UserError for what the user can mend.
    """
    progress = progress or Progress()
    device = pick_device(config.run)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    streams = Streams(config.run.seed)

    training_set, test_set = (part.to(device) for part in load_data(config.data))
    if config.train.batch > len(training_set):
        raise UserError(
            f"train.batch={config.train.batch} is larger than the training set of {len(training_set)} images; "
            f"set -s train.batch={len(training_set)} or less"
        )
    torch.manual_seed(streams.number("weights"))
    model = build_model(config.model, training_set.shape, len(training_set.class_names)).to(device)
    model.to(memory_format=torch.channels_last)
    prepare = Prepare(*training_set.statistics(), device)
    autocast = autocast_type(config, device)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=config.train.lr,
        momentum=config.train.momentum,
        weight_decay=config.train.weight_decay,
        nesterov=config.train.momentum > 0,
    )

    log = RunLog(folder)
    steps_per_epoch = len(training_set) // config.train.batch
    total_steps = steps_per_epoch * config.train.epochs
    snapshots = snapshot_epochs(config.train.epochs)

    def on_search(record: SearchRecord) -> None:
        if log.epoch in snapshots:
            log.search(record, training_set.class_names)
            snapshots.remove(log.epoch)

    context = MixContext(config, model, training_set.class_names, prepare, autocast, streams, log.generation, on_search)
    mix: Mix = open_entry(MIXES, config.mix.name, "mix")(context)
    torch.manual_seed(streams.number("global"))  # torchvision's mixes draw from it
    unmixed_grid = model.grid if mix.cells else None
    run = RunState(streams, model, optimiser, mix, prepare, training_set.shape, training_set.class_names)
    if resume:
        log.cut(run.restore(load_checkpoint(folder / "checkpoint", "latest")))
        log.event("resume", epoch=run.epoch)
        snapshots = {epoch for epoch in snapshots if epoch > run.epoch}
    else:
        log.begin(config, device, command_line())
        log.event(
            "start",
            epochs=config.train.epochs,
            steps=total_steps,
            training_images=len(training_set),
            test_images=len(test_set),
            classes=training_set.class_names,
            grid=model.grid,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )

    for epoch in range(run.epoch + 1, config.train.epochs + 1):
        began = time.perf_counter()
        log.epoch, log.step = epoch, run.step
        model.train()
        sums = torch.zeros(4, device=device)  # image loss, mean cell loss, share of the target hit, steps
        order = torch.randperm(len(training_set), generator=run.order)
        batches = epoch_batches(training_set, order, config, run)
        for group in mixed_groups(batches, config.mix.probability, mix.span, run.choice):
            composed = iter(mix([batch for batch, mixes in group if mixes]))
            for batch, mixes in group:
                item = next(composed) if mixes else unmixed(batch, context.num_classes, unmixed_grid)
                set_learning_rate(optimiser, learning_rate(run.step, total_steps, steps_per_epoch, config))
                sums += training_step(model, optimiser, item, prepare, autocast, config)
                run.step += 1
                log.step = run.step
                progress.update(_step_line(config, epoch, run, total_steps, began))
        run.seconds += time.perf_counter() - began
        run.epoch = epoch
        run.forwards += steps_per_epoch * config.train.batch

        image_loss, cell_loss, hit = (sums[:3] / sums[3]).tolist()
        if not math.isfinite(image_loss + cell_loss):
            kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
            raise UserError(
                f"the loss became {image_loss} in steps {run.step - steps_per_epoch + 1}..{run.step} (epoch {epoch}); "
                f"lower train.lr={config.train.lr}{kept}"
            )
        tested: dict[str, float] = {}
        if epoch % config.train.evaluate_every == 0 or epoch > config.train.epochs - ALWAYS_EVALUATED:
            accuracy, test_loss = evaluate(model, test_set, prepare, autocast, config.train.eval_batch)
            tested = {"accuracy": accuracy, "test_loss": test_loss}
            run.accuracies.append(accuracy)
        record = {
            "epoch": epoch,
            "step": run.step,
            "image_loss": image_loss,
            "cell_loss": cell_loss if mix.cells else None,
            "training_accuracy": 100 * hit,
            **tested,
            "image_forwards": run.all_forwards(),
            "search_forwards": run.search_forwards(),
            "seconds": round(run.seconds, 3),
            "search_seconds": round(run.search_seconds(), 3),
        }
        log.event("epoch", **record)
        progress.update(_epoch_line(config, record), final=True)
        save(folder, run, log, is_best=bool(tested) and tested["accuracy"] >= max(run.accuracies))

    result = run.result(len(test_set))
    log.event("end", **result)
    log.close()
    return result


@dataclass
class RunState:
    """All that changes during a run and that a checkpoint must hold."""

    streams: Streams
    model: PatchModel
    optimiser: torch.optim.Optimizer
    mix: Mix
    prepare: Prepare
    image_shape: tuple[int, int, int]
    class_names: list[str]

    def __post_init__(self) -> None:
        self.order = self.streams.torch("order")
        self.crops = self.streams.torch("crops")
        self.choice = self.streams.torch("choice")
        self.epoch = 0
        self.step = 0
        self.forwards = 0  # of training steps
        self.seconds = 0.0  # of training, search included, tests not
        self.accuracies: list[float] = []

    def search_forwards(self) -> int:
        return self.mix.forwards if isinstance(self.mix, Evolved) else 0

    def search_seconds(self) -> float:
        return self.mix.seconds if isinstance(self.mix, Evolved) else 0.0

    def all_forwards(self) -> int:
        return self.forwards + self.search_forwards()

    def result(self, test_images: int) -> dict[str, Any]:
        return {
            "last_accuracy": self.accuracies[-1],
            "median10_accuracy": median(self.accuracies[-ALWAYS_EVALUATED:]),
            "best_accuracy": max(self.accuracies),
            "test_images": test_images,
            "steps": self.step,
            "image_forwards": self.all_forwards(),
            "search_forwards": self.search_forwards(),
            "seconds": round(self.seconds, 3),
            "search_seconds": round(self.search_seconds(), 3),
        }

    def checkpoint(self, log_lengths: dict[str, int]) -> Checkpoint:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {"input.mean": self.prepare.mean, "input.std": self.prepare.std}
        for index, state in self.optimiser.state_dict()["state"].items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{index}"] = state["momentum_buffer"]
        arrays = {f"mix.{name}": array for name, array in self.mix.state().items()}
        for name in ("order", "crops", "choice"):
            arrays[f"rng.{name}"] = getattr(self, name).get_state().numpy()
        arrays["rng.torch"] = torch.get_rng_state().numpy()
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "forwards": self.forwards,
            "seconds": self.seconds,
            "accuracies": self.accuracies,
            "log_lengths": log_lengths,
            "image_shape": list(self.image_shape),
            "class_names": self.class_names,
        }
        return Checkpoint(tensors, arrays, meta)

    def restore(self, saved: Checkpoint) -> dict[str, int]:
        """Take over a checkpoint; return the lengths the logs had."""
        load_weights(self.model, saved)
        optimiser = self.optimiser.state_dict()
        optimiser["state"] = {
            int(name.removeprefix("momentum.")): {"momentum_buffer": tensor}
            for name, tensor in saved.tensors.items()
            if name.startswith("momentum.")
        }
        self.optimiser.load_state_dict(optimiser)
        self.mix.restore(
            {name.removeprefix("mix."): array for name, array in saved.arrays.items() if name.startswith("mix.")}
        )
        for name in ("order", "crops", "choice"):
            getattr(self, name).set_state(torch.from_numpy(saved.arrays[f"rng.{name}"]))
        torch.set_rng_state(torch.from_numpy(saved.arrays["rng.torch"]))
        for name in ("epoch", "step", "forwards", "seconds", "accuracies"):
            setattr(self, name, saved.meta[name])
        lengths: dict[str, int] = saved.meta["log_lengths"]
        return lengths


def training_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    item: Mixed,
    prepare: Prepare,
    autocast: torch.dtype | None,
    config: Config,
) -> Tensor:
    """One optimiser step. Returns (4,): image loss, mean cell loss, share of the target hit, 1."""
    smoothing = config.train.label_smoothing
    with torch.autocast(item.images.device.type, autocast, enabled=autocast is not None):
        image_logits, cell_logits = model(prepare(item.images))
    image_loss = image_losses(image_logits, item.targets, smoothing).mean()
    cell_loss = torch.zeros_like(image_loss)
    if item.cell_targets is not None and config.mix.patch_weight > 0:
        cell_loss = cell_losses(cell_logits, item.cell_targets, smoothing).mean()
    loss = image_loss + config.mix.patch_weight * cell_loss
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    with torch.no_grad():  # a mixed image hits its targets by their shares, so that accuracy reads as usual
        hit = item.targets.gather(1, image_logits.argmax(1, keepdim=True)).mean()
        return torch.stack([image_loss.detach(), cell_loss.detach(), hit, torch.ones_like(hit)])


def epoch_batches(training_set: AnyImageSet, order: Tensor, config: Config, run: RunState) -> Iterator[Batch]:
    """The epoch's whole batches, augmented: images (B,C,H,W) uint8 and labels (B,)."""
    size = config.train.batch
    for start in range(0, len(order) - size + 1, size):
        images, labels = training_set.batch(order[start : start + size])
        yield augment(images, training_set.crop, training_set.flip, run.crops), labels


def mixed_groups(
    batches: Iterator[Batch], probability: float, span: int, generator: torch.Generator
) -> Iterator[list[tuple[Batch, bool]]]:
    """Batches in order, each with whether it is to be mixed, in groups of up to `span` that are."""
    group: list[tuple[Batch, bool]] = []
    for batch in batches:
        group.append((batch, bool(torch.rand((), generator=generator) < probability)))
        if sum(mixes for _, mixes in group) == span:
            yield group
            group = []
    if group:
        yield group


def learning_rate(step: int, total_steps: int, steps_per_epoch: int, config: Config) -> float:
    """Linear warm-up to train.lr, then a cosine to 0 at the last step."""
    warmup = min(config.train.warmup * steps_per_epoch, total_steps - 1)
    if step < warmup:
        return config.train.lr * (step + 1) / (warmup + 1)
    return config.train.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = value


def snapshot_epochs(epochs: int) -> set[int]:
    """The epochs whose first search is written whole: about SNAPSHOTS, the first and the last among them."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(SNAPSHOTS, epochs)).round()}


def save(folder: Path, run: RunState, log: RunLog, is_best: bool) -> None:
    """Write the latest checkpoint, the best one if this is it, and the bank of patterns trained on so far."""
    checkpoint = run.checkpoint(log.lengths())
    save_checkpoint(folder / "checkpoint", "latest", run.step, checkpoint)
    if is_best:
        save_checkpoint(folder / "checkpoint", "best", run.step, checkpoint)
    if isinstance(run.mix, Evolved) and len(run.mix.bank):
        run.mix.bank.save(folder / "patterns" / "bank.npz")


def _step_line(config: Config, epoch: int, run: RunState, total_steps: int, began: float) -> str:
    seconds = run.seconds + time.perf_counter() - began
    left = seconds / run.step * (total_steps - run.step)
    images = run.step * config.train.batch / seconds
    return (
        f"{config.mix.name}: epoch {epoch}/{config.train.epochs}  step {run.step}/{total_steps}  "
        f"{images:,.0f} images/s  {left:.0f} s left"
    )


def _epoch_line(config: Config, record: dict[str, Any]) -> str:
    accuracy = f"  accuracy {record['accuracy']:.2f} %" if "accuracy" in record else ""
    share = record["search_seconds"] / max(record["seconds"], 1e-9)
    search = f"  search {100 * share:.0f} % of the time" if record["search_seconds"] else ""
    return (
        f"{config.mix.name}: epoch {record['epoch']}/{config.train.epochs}  loss {record['image_loss']:.3f}"
        f"{accuracy}  {record['seconds']:.1f} s{search}"
    )
