"""The training loop. Start here: it reads from top to bottom.

    images (B,C,H,W), labels (B,) -> mix -> model -> image logits (B,K), cell logits (B,G,G,K)
    loss = image loss + patch_weight x mean cell loss

run.py builds what the loop works with, run_state.py saves it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import Config
from training.data.augment import augment
from training.data.image_set import ImageSet
from training.devices import compile_explained, memory_explained
from training.distributed import lost_processes_explained, stop
from training.losses import cell_losses, image_losses
from training.mixes.batch import Batch, Mixed, leave_unmixed
from training.mixes.scoring import probe_chunk
from training.progress import Progress, duration, loss_text
from training.run import Run, set_up
from training.run_state import resume_run, save_run
from training.stopping import Interruption

CHEAP = 0.5  # seconds: a checkpoint that takes less is written after every epoch
LONGEST = 4  # spans of batches in a group

Group = list[tuple[Batch, bool]]  # batches, each with whether it is to be mixed


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
                result = train_on(run, resume, progress, interruption)
            stop()
            if interruption.asked:  # too late to stop this run, but not what would follow it
                raise KeyboardInterrupt
            return result
        finally:
            progress.close()
            if run.world.size == 1:  # else the other processes may be gone
                with suppress(Exception):  # what a run that failed has come to; it is told why already
                    run.tell_steps()
            run.log.close()


def train_on(run: Run, resume: bool, progress: Progress, interruption: Interruption) -> dict[str, Any]:
    """From the first epoch, or the latest checkpoint, to the end."""
    if resume:
        resume_run(run)
    else:
        run.begin()
    options = run.config.train
    for epoch in range(run.epoch + 1, options.epochs + 1):
        record = {"epoch": epoch, **train_epoch(run, epoch, progress, interruption)}
        if run.tests_after(epoch):
            with memory_explained(f"lower train.eval_batch={options.eval_batch}"), compile_explained():
                record |= run.test()
        record |= {"step": run.step, **run.cost()}
        run.log.event("epoch", **record)
        best = "accuracy" in record and run.accuracies[-1] == max(run.accuracies)
        if best or epoch == options.epochs or run.world.any(saving_pays(run))[0]:
            save_run(run, best=best)
        progress.update(epoch_line(run, record), final=True)
    return run.finish()


def saving_pays(run: Run) -> bool:
    """Whether an epoch is worth a checkpoint: it took little, or the last one is long enough ago."""
    return run.saving_took < CHEAP or time.monotonic() - run.saved > 20 * run.saving_took


def train_epoch(run: Run, epoch: int, progress: Progress, interruption: Interruption) -> dict[str, float | None]:
    """Train on every image once; return the epoch's mean losses (nats) and training accuracy (percent)."""
    run.begin_epoch()
    with memory_explained(memory_hint(run)), compile_explained():
        probability = run.config.mix.probability_in(epoch)
        for group in mixed_groups(epoch_batches(run), probability, run.mix.span, run.choice):
            for item in group_items(run, group, epoch):
                run.count(training_step(run, item))
                progress.update(lambda: step_line(run, epoch))
            run.tick()
            between_groups(run, interruption)
    return run.end_epoch()


def group_items(run: Run, group: Group, epoch: int) -> Iterator[Mixed]:
    """The batches of a group to train on, in order: a step is to be taken on one before the next is asked for."""
    composed = run.mix([batch for batch, mixes in group if mixes], epoch)
    for batch, mixes in group:
        grid = run.model.grid if run.mix.cells else None
        yield next(composed) if mixes else leave_unmixed(batch, len(run.class_names), grid)
    next(composed, None)  # what the mix does after its last step


def between_groups(run: Run, interruption: Interruption) -> None:
    """Write a checkpoint where one is due, or where someone asked to stop; then raise KeyboardInterrupt."""
    run.log.check_place(every=1.0)
    due = time.monotonic() - run.saved > 60 * run.config.train.save_minutes
    stops, due = run.world.any(interruption.asked, due)
    if stops or due:
        save_run(run)
        run.tick(counts=False)
    if stops:
        raise KeyboardInterrupt


def training_step(run: Run, item: Mixed) -> Tensor:
    """One optimiser step. Returns (4,): image loss, mean cell loss, share of the target hit, 1; of several
    processes each returns these times its share of the rows.
    """
    rows = len(item.targets)
    parts = run.config.train.accumulate
    mine = run.world.share(rows)
    bounds = [mine.start + (mine.stop - mine.start) * part // parts for part in range(parts + 1)]
    run.optimiser.zero_grad()
    measured = torch.zeros(4, device=run.device)
    for first, end in pairwise(bounds):
        last = end == mine.stop
        waits = nullcontext() if last or run.world.size == 1 else run.parallel.no_sync()  # type: ignore[operator]
        with waits:  # processes sum their gradients once a step
            measured += backward(run, item.part(slice(first, end)), (end - first) / rows)
    run.optimiser.step(run.learning_rate_factor)
    run.world.average_statistics(run.model)
    for average in (run.average, run.ema):
        if average is not None:
            average.update(run.model)
    return measured


def backward(run: Run, item: Mixed, share: float) -> Tensor:
    """Add the gradients of a part of a batch, `share` of its rows. Returns (4,) as training_step, times share."""
    smoothing, patch_weight = run.config.train.label_smoothing, run.config.mix.patch_weight
    image_logits, cell_logits = run.forward(item.images)
    image_loss = image_losses(image_logits, item.targets, smoothing).mean()
    loss = image_loss
    cell_loss = torch.zeros_like(image_loss)
    if item.cell_targets is not None and patch_weight > 0:
        cell_loss = cell_losses(cell_logits, item.cell_targets, smoothing).mean()
        loss = image_loss + patch_weight * cell_loss
    (share * run.world.size * loss).backward()  # DDP divides by the world's size
    with torch.no_grad():  # a mixed image hits its targets by their shares, so that accuracy reads as usual
        hit = item.targets.gather(1, image_logits.argmax(1, keepdim=True)).mean()
        return share * torch.stack([image_loss.detach(), cell_loss.detach(), hit, torch.ones_like(hit)])


def epoch_batches(run: Run) -> Iterator[Batch]:
    """The epoch's whole batches from run.position on, shuffled and augmented: images (B,C,H,W) uint8, labels (B,).

    Of several processes each reads its share of a batch from files or the host, and they exchange them.
    """
    images = run.training_set
    size = run.config.train.batch
    order = torch.randperm(len(images), generator=run.order)
    whole = order[: len(order) // size * size].split(size)[run.position :]
    exchanged = run.world.size > 1 and not (isinstance(images, ImageSet) and images.device is None)
    mine = run.world.share(size) if exchanged else slice(None)
    for pixels, labels in images.batches([indices[mine] for indices in whole]):
        if exchanged:
            pixels, labels = run.world.gather(pixels, size), run.world.gather(labels, size)  # noqa: PLW2901
        yield augment(pixels, images.crop, images.flip, images.cutout, run.crops, run.fill), labels


def mixed_groups(
    batches: Iterator[Batch], probability: float, span: int, generator: torch.Generator
) -> Iterator[Group]:
    """Batches in order, each with whether it is to be mixed, in groups of up to `span` that are.

    An unmixed batch waits only behind mixed ones, and no group is longer than 4 x span: few are held at once.
    """
    group: Group = []
    for batch in batches:
        group.append((batch, bool(torch.rand((), generator=generator) < probability)))
        if sum(mixes for _, mixes in group) in (0, span) or len(group) == LONGEST * span:
            yield group
            group = []
    if group:
        yield group


def memory_hint(run: Run) -> str:
    """What to lower when a step does not fit."""
    options = run.config.train
    hint = f"lower train.batch={options.batch}, or raise train.accumulate={options.accumulate}"
    if run.config.searches:
        hint += f"; for the search lower search.forward_batch={probe_chunk(run.config, run.device)}"
    return hint


def step_line(run: Run, epoch: int) -> str:
    """Where an epoch stands, for a person. It waits for the device."""
    run.tick()
    run.check()
    image_loss, _, hit, weight = run.sums.tolist()
    left = run.seconds / run.step * (run.total_steps - run.step)
    return (
        f"{run.config.mix.name}: epoch {epoch}/{run.config.train.epochs}  step {run.step}/{run.total_steps}  "
        f"loss {loss_text(image_loss / weight)}  training accuracy {100 * hit / weight:.1f} %  "
        f"{run.images_per_second:,.0f} images/s  {duration(left)} left{search_share(run.cost())}"
    )


def epoch_line(run: Run, record: dict[str, Any]) -> str:
    """How an epoch ended, for a person."""
    tested = f"  test accuracy {record['accuracy']:.2f} %" if "accuracy" in record else ""
    return (
        f"{run.config.mix.name}: epoch {record['epoch']}/{run.config.train.epochs}  loss {loss_text(record['image_loss'])}  "
        f"training accuracy {record['training_accuracy']:.1f} %{tested}  {run.images_per_second:,.0f} images/s  "
        f"{record['seconds']:.1f} s{search_share(record)}"
    )


def search_share(cost: dict[str, Any]) -> str:
    share = 100 * cost["search_seconds"] / max(cost["seconds"], 1e-9)
    return f"  search {share:.0f} % of the time" if cost["search_seconds"] else ""
