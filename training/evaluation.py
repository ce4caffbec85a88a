"""Tests: a model's accuracy and loss on the test images, and when a run is tested."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.data.image_set import AnyImageSet
from training.devices import compiles
from training.distributed import World
from training.divergence import diverged
from training.models.scaling import Prepare
from training.options import TrainOptions
from training.run import ALWAYS_TESTED, Run


def is_tested(epoch: int, options: TrainOptions) -> bool:
    """Whether an epoch is followed by a test."""
    return epoch % options.evaluate_every == 0 or epoch > options.epochs - ALWAYS_TESTED


def evaluate_run(run: Run) -> dict[str, float]:
    """Test the model, and where an ema is kept it in the model's place, with the live model's beside it.

    Returns:
        accuracy in percent, test_loss in nats, and live_accuracy beside an ema's.

    Raises:
        UserError: The loss is not finite.
    """
    accuracy, loss = _evaluate(run, run.model)
    live = {}
    if run.ema is not None:
        live = {"live_accuracy": accuracy}
        accuracy, loss = _evaluate(run, run.ema.model)
    if not math.isfinite(loss):
        raise diverged(run, f"the test loss became {loss} after step {run.state.step}")
    run.state.accuracies.append(accuracy)
    return {"accuracy": accuracy, "test_loss": loss, **live}


def _evaluate(run: Run, model: nn.Module) -> tuple[float, float]:
    forward = None
    if compiles(run.config.train.compile, run.device):
        if id(model) not in run.compiled:
            run.compiled[id(model)] = torch.compile(model, dynamic=False)
        forward = run.compiled[id(model)]
    batch = run.config.train.eval_batch_size
    return evaluate(model, run.test_set, run.prepare, run.autocast, batch, run.world, forward)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    test_set: AnyImageSet,
    prepare: Prepare,
    autocast: torch.dtype | None,
    batch: int,
    world: World | None = None,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[float, float]:
    """Top-1 accuracy in percent and mean cross-entropy in nats over a whole set, which several processes share.

    forward: called in the model's place on whole batches, so that one shape is compiled.
    """
    world = world or World()
    model.eval()
    mine = torch.arange(len(test_set))[world.share(len(test_set))]
    sums = torch.zeros(2, dtype=torch.float64)
    found = []
    for images, labels in test_set.batches(mine.split(batch)):
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            call = forward if forward is not None and len(images) == batch else model
            logits = call(prepare(images))[0]
        loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        found.append(torch.stack([(logits.argmax(1) == labels).sum().float(), loss]))
    if found:
        sums = torch.stack(found).cpu().double().sum(0)  # the one time that the device is waited for
    correct, loss_sum = world.sum(sums.to(prepare.scale.device) if world.size > 1 else sums).tolist()
    return 100 * correct / len(test_set), loss_sum / len(test_set)
