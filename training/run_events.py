"""What a run writes into its folder when it begins, goes on, ends an epoch, and ends."""

from __future__ import annotations

from statistics import median
from typing import Any

from training.divergence import check_finite
from training.run import ALWAYS_TESTED, Run
from training.run_log import command_line

MEASURES = ("last_accuracy", "median10_accuracy", "best_accuracy", "image_forwards", "seconds")


def begin_run(run: Run) -> None:
    """Make the run folder. Raises UserError where it is there already."""
    run.log.begin(run.config, run.device, command_line())
    run.log.event(
        "start",
        epochs=run.config.train.epochs,
        steps=run.total_steps,
        training_images=len(run.training_set),
        test_images=len(run.test_set),
        images=run.origin["images"],
        test=run.origin["test"],
        classes=run.class_names,
        grid=run.model.grid,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        processes=run.world.size,
    )
    run.log.watch(run.config, MEASURES)


def continue_run(run: Run, board: int | None) -> None:
    """What follows a resume. board: bytes of TensorBoard's file that the checkpoint knows of."""
    run.log.event("resume", epoch=run.state.epoch, step=run.state.step, processes=run.world.size)
    run.log.watch(run.config, MEASURES, board)
    run.clock.began = run.curves.told = run.mark


def begin_epoch(run: Run) -> None:
    """Start an epoch, or go on with the one that a resumed checkpoint was made in."""
    run.log.epoch = run.state.epoch + 1
    run.log.step = run.state.step
    run.model.train()
    run.clock.tick(counts=False)


def end_epoch(run: Run) -> dict[str, float | None]:
    """Close an epoch; return its mean losses (nats), training accuracy (percent) and last learning rates."""
    run.curves.tell()
    sums = run.state.sums.over(run.world)
    check_finite(run, sums, weights=True)  # waits for the device, so that its time counts
    run.clock.tick()
    means = sums.means
    run.state.close_epoch()
    return {
        "image_loss": means.image_loss,
        "cell_loss": means.cell_loss if run.config.mix.kind.trains_cells else None,
        "training_accuracy": means.accuracy,
        **run.learning_rates(run.state.step - 1),
    }


def finish_run(run: Run) -> dict[str, Any]:
    """Write and return the `end` event."""
    accuracies = run.state.accuracies
    result = {
        "last_accuracy": accuracies[-1],
        "median10_accuracy": median(accuracies[-ALWAYS_TESTED:]),
        "best_accuracy": max(accuracies),
        "test_images": len(run.test_set),
        "steps": run.state.step,
        **run.cost(),
    }
    run.log.event("end", **result)
    run.log.check_place()  # what came last was written where it is found
    run.log.close()
    return result
