"""The training loop. Start here: it reads from top to bottom.

    images (B,C,H,W), labels (B,) -> mix -> model -> image logits (B,K), cell logits (B,G,G,K)
    loss = image loss + patch_weight x mean cell loss

run.py builds what the loop works with and saves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import Config, UserError
from training.data.augment import augment
from training.losses import cell_losses, image_losses
from training.mixes.batch import Batch, Mixed, unmixed
from training.models.trained import evaluate
from training.progress import Progress
from training.run import Run, set_up


def train(config: Config, folder: Path, *, resume: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Train as `config` says, writing the run folder `folder`; return the log's `end` event.

    With resume, go on from the folder's latest checkpoint: the result is that of a run that was not
    interrupted. Raises UserError for what the user can mend.
    """
    run = set_up(config, folder)
    progress = progress or Progress(visible=run.world.main)
    if resume:
        run.resume()
    else:
        run.begin()
    for epoch in range(run.epoch + 1, config.train.epochs + 1):
        record = {"epoch": epoch, **train_epoch(run, epoch, progress)}
        tested = run.tests_after(epoch)
        if tested:
            accuracy, loss = evaluate(run.model, run.test_set, run.prepare, run.autocast, config.train.eval_batch)
            run.accuracies.append(accuracy)
            record |= {"accuracy": accuracy, "test_loss": loss}
        record |= {"step": run.step, **run.cost()}
        run.log.event("epoch", **record)
        run.save(best=tested and run.accuracies[-1] == max(run.accuracies))
        progress.update(epoch_line(run, record), final=True)
    return run.finish()


def train_epoch(run: Run, epoch: int, progress: Progress) -> dict[str, float | None]:
    """Train on every image once; return the epoch's mean losses (nats) and training accuracy (percent)."""
    began = time.perf_counter()
    run.log.epoch, run.log.step = epoch, run.step
    run.model.train()
    sums = torch.zeros(4, device=run.device)  # read once, after the epoch: reading waits for the device
    num_classes = len(run.training_set.class_names)
    unmixed_grid = run.model.grid if run.mix.cells else None
    for group in mixed_groups(epoch_batches(run), run.config.mix.probability, run.mix.span, run.choice):
        composed = iter(run.mix([batch for batch, mixes in group if mixes], epoch))
        for batch, mixes in group:
            item = next(composed) if mixes else unmixed(batch, num_classes, unmixed_grid)
            for parameters in run.optimiser.param_groups:
                parameters["lr"] = learning_rate(run.step, run.total_steps, run.steps_per_epoch, run.config)
            sums += training_step(run, item)
            run.step += 1
            run.log.step = run.step
            progress.update(step_line(run, epoch, began))
    run.seconds += time.perf_counter() - began
    run.epoch = epoch

    image_loss, cell_loss, hit = (run.world.sum(sums)[:3] / sums[3]).tolist()
    if not math.isfinite(image_loss + cell_loss):
        kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
        raise UserError(
            f"the loss became {image_loss + cell_loss} in steps {run.step - run.steps_per_epoch + 1}..{run.step} "
            f"(epoch {epoch}); lower train.lr={run.config.train.lr}{kept}"
        )
    return {
        "image_loss": image_loss,
        "cell_loss": cell_loss if run.mix.cells else None,
        "training_accuracy": 100 * hit,
    }


def training_step(run: Run, item: Mixed) -> Tensor:
    """One optimiser step. Returns (4,): image loss, mean cell loss, share of the target hit, 1; of several
    processes each returns these times its share of the rows.
    """
    mine = run.world.share(len(item.targets))
    share = (mine.stop - mine.start) / len(item.targets)
    item = item.part(mine)
    smoothing, patch_weight = run.config.train.label_smoothing, run.config.mix.patch_weight
    with torch.autocast(run.device.type, run.autocast, enabled=run.autocast is not None):
        image_logits, cell_logits = run.model(run.prepare(item.images))
    image_loss = image_losses(image_logits, item.targets, smoothing).mean()
    cell_loss = torch.zeros_like(image_loss)
    if item.cell_targets is not None and patch_weight > 0:
        cell_loss = cell_losses(cell_logits, item.cell_targets, smoothing).mean()
    loss = share * (image_loss + patch_weight * cell_loss)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    run.world.sum_gradients(run.model)
    run.optimiser.step()
    run.world.average_statistics(run.model)
    if run.average is not None:
        run.average.update(run.model)
    with torch.no_grad():  # a mixed image hits its targets by their shares, so that accuracy reads as usual
        hit = item.targets.gather(1, image_logits.argmax(1, keepdim=True)).mean()
        return share * torch.stack([image_loss.detach(), cell_loss.detach(), hit, torch.ones_like(hit)])


def epoch_batches(run: Run) -> Iterator[Batch]:
    """The epoch's whole batches, shuffled and augmented: images (B,C,H,W) uint8 and labels (B,)."""
    images, size = run.training_set, run.config.train.batch
    order = torch.randperm(len(images), generator=run.order)
    for start in range(0, len(order) - size + 1, size):
        pixels, labels = images.batch(order[start : start + size])
        yield augment(pixels, images.crop, images.flip, run.crops), labels


def mixed_groups(
    batches: Iterator[Batch], probability: float, span: int, generator: torch.Generator
) -> Iterator[list[tuple[Batch, bool]]]:
    """Batches in order, each with whether it is to be mixed, in groups of up to `span` that are.

    An unmixed batch waits only behind mixed ones, so that few are held at once.
    """
    group: list[tuple[Batch, bool]] = []
    for batch in batches:
        group.append((batch, bool(torch.rand((), generator=generator) < probability)))
        if sum(mixes for _, mixes in group) in (0, span):
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


def step_line(run: Run, epoch: int, began: float) -> str:
    """Where an epoch stands, for a person."""
    seconds = run.seconds + time.perf_counter() - began
    return (
        f"{run.config.mix.name}: epoch {epoch}/{run.config.train.epochs}  step {run.step}/{run.total_steps}  "
        f"{run.step * run.config.train.batch / seconds:,.0f} images/s  "
        f"{seconds / run.step * (run.total_steps - run.step):.0f} s left"
    )


def epoch_line(run: Run, record: dict[str, Any]) -> str:
    """How an epoch ended, for a person."""
    accuracy = f"  accuracy {record['accuracy']:.2f} %" if "accuracy" in record else ""
    share = 100 * record["search_seconds"] / max(record["seconds"], 1e-9)
    search = f"  search {share:.0f} % of the time" if record["search_seconds"] else ""
    return (
        f"{run.config.mix.name}: epoch {record['epoch']}/{run.config.train.epochs}  loss {record['image_loss']:.3f}"
        f"{accuracy}  {record['seconds']:.1f} s{search}"
    )
