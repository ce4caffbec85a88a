"""The training loop. Start here: it reads from top to bottom.

    images (B,C,H,W), labels (B,) -> mix -> model -> image logits (B,K), cell logits (B,G,G,K)
    loss = image loss + patch_weight x mean cell loss

run.py builds what the loop works with, mixes/grouping.py gives batches to the mix, saving.py writes checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from training.config import Config
from training.data.augment import augment
from training.data.image_set import ImageSet
from training.devices import compile_explained, memory_explained
from training.distributed import lost_processes_explained, stop
from training.evaluation import evaluate_run, is_tested
from training.lines import epoch_line, memory_hint, step_line
from training.losses import cell_losses, image_losses
from training.mixes.batch import Batch, Mixed
from training.mixes.grouping import mixed_batches
from training.progress import Progress
from training.run import Run, set_up
from training.run_events import begin_epoch, begin_run, end_epoch, finish_run
from training.saving import Saver, resume_run
from training.stopping import Interruption
from training.sums import Sums


def train(config: Config, folder: Path, *, resume: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Train as `config` says, writing the run folder `folder`; return the log's `end` event.

    With resume, go on from the folder's latest checkpoint: the result is that of a run that was not
    interrupted. On Ctrl-C or SIGTERM a checkpoint is written before KeyboardInterrupt is raised. Raises
    UserError for what the user can mend.
    """
    with lost_processes_explained():
        run = set_up(config, folder, resume=resume)
        progress = progress or Progress(visible=run.world.main)
        try:
            with Interruption() as interruption, run.log.telling_failure():
                result = train_epochs(run, resume, progress, interruption)
            stop()
            if interruption.asked:  # too late to stop this run, but not what would follow it
                raise KeyboardInterrupt
            return result
        finally:
            progress.close()
            if run.world.size == 1:  # else the other processes may be gone
                with suppress(Exception):  # what a run that failed has come to; it is told why already
                    run.curves.tell()
            run.log.close()


def train_epochs(run: Run, resume: bool, progress: Progress, interruption: Interruption) -> dict[str, Any]:
    """From the first epoch, or the latest checkpoint, to the end."""
    if resume:
        resume_run(run)
    else:
        begin_run(run)
    options = run.config.train
    saver = Saver(run)
    for epoch in range(run.state.epoch + 1, options.epochs + 1):
        losses = train_epoch(run, epoch, progress, lambda: saver.between_groups(interruption))
        record = {"epoch": epoch, **losses}
        if is_tested(epoch, options):
            with memory_explained(f"lower train.eval_batch_size={options.eval_batch_size}"), compile_explained():
                record |= evaluate_run(run)
        record |= {"step": run.state.step, **run.cost()}
        run.log.event("epoch", **record)
        best = "accuracy" in record and run.state.accuracies[-1] == max(run.state.accuracies)
        saver.after_epoch(epoch, best=best)
        progress.update(epoch_line(run, record), final=True)
    return finish_run(run)


def train_epoch(
    run: Run, epoch: int, progress: Progress, between_groups: Callable[[], None] = lambda: None
) -> dict[str, float | None]:
    """Train on every image once; return the epoch's mean losses (nats) and training accuracy (percent).

    between_groups: called where a checkpoint can be written, and may raise KeyboardInterrupt.
    """
    begin_epoch(run)
    with memory_explained(memory_hint(run)), compile_explained():
        for batch in mixed_batches(
            epoch_batches(run),
            run.mix,
            epoch,
            probability=run.config.mix.probability_in(epoch),
            generator=run.state.choice,
            num_classes=len(run.class_names),
            grid=run.cell_grid,
        ):
            run.count(training_step(run, batch))
            progress.update(lambda: step_line(run, epoch))
            if batch.resumable:
                run.clock.tick()
                between_groups()
    return end_epoch(run)


def training_step(run: Run, batch: Mixed) -> Sums:
    """Forward, loss, backward and one optimizer step. Of several processes each returns the sums of its rows."""
    smoothing, patch_weight = run.config.train.label_smoothing, run.config.mix.patch_weight
    sums = Sums.zeros(run.device)
    run.optimizer.zero_grad()
    for part, share, exchanging in batch_parts(run, batch):
        with exchanging:
            image_logits, cell_logits = run.forward(part.images)
            loss = image_loss = image_losses(image_logits, part.targets, smoothing).mean()
            cell_loss = torch.zeros_like(image_loss)
            if part.cell_targets is not None and patch_weight > 0:
                cell_loss = cell_losses(cell_logits, part.cell_targets, smoothing).mean()
                loss = image_loss + patch_weight * cell_loss
            (share * run.world.size * loss).backward()  # DDP divides by the world's size
        with torch.no_grad():  # a mixed image hits its targets by their shares, so that accuracy reads as usual
            hit = part.targets.gather(1, image_logits.argmax(1, keepdim=True)).mean()
            sums += Sums.of_part(share, image_loss, cell_loss, hit)
    run.optimizer.step(run.learning_rate_factor)
    run.world.average_statistics(run.model)
    for average in (run.average, run.ema):
        if average is not None:
            average.update(run.model)
    return sums


def batch_parts(run: Run, batch: Mixed) -> Iterator[tuple[Mixed, float, AbstractContextManager[Any]]]:
    """The parts of a batch that are forwarded at once: this process's rows, in train.accumulate parts.

    Yields each with its share of the batch's rows, and the context to forward it in: processes sum their gradients once
    a step, with the last part.
    """
    rows, parts = len(batch.targets), run.config.train.accumulate
    mine = run.world.share(rows)
    bounds = [mine.start + (mine.stop - mine.start) * part // parts for part in range(parts + 1)]
    for first, end in pairwise(bounds):
        exchanges = end == mine.stop or run.world.size == 1
        exchanging = nullcontext() if exchanges else run.parallel.no_sync()  # type: ignore[operator]
        yield batch.part(slice(first, end)), (end - first) / rows, exchanging


def epoch_batches(run: Run) -> Iterator[Batch]:
    """The epoch's whole batches from where it stands on, shuffled and augmented: images (B,C,H,W) uint8, labels (B,).

    Of several processes each reads its share of a batch from files or the host, and they exchange them.
    """
    images = run.training_set
    size = run.config.train.batch_size
    order = torch.randperm(len(images), generator=run.state.order)
    whole = order[: len(order) // size * size].split(size)[run.state.position :]
    exchanged = run.world.size > 1 and not (isinstance(images, ImageSet) and images.device is None)
    mine = run.world.share(size) if exchanged else slice(None)
    for pixels, labels in images.batches([indices[mine] for indices in whole]):
        if exchanged:
            pixels, labels = run.world.gather(pixels, size), run.world.gather(labels, size)  # noqa: PLW2901
        yield augment(pixels, images.crop, images.flip, images.cutout, run.state.crops, run.fill), labels
