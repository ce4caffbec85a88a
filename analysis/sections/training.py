"""Loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curve_lines import markers_at
from analysis.run_folder import RunFolder, places_of
from analysis.sections.parts import figure, section
from analysis.statistics import accuracy_interval
from analysis.style import Look, fit_blown_up, for_page, ink, look, new_figure, soft, tidy, widen
from analysis.words import plain, shortened

if TYPE_CHECKING:
    import pandas as pd

MOST = 24  # runs in one figure
LONGEST_NAME = 40  # characters of a run's, in the legend
INTERVALS = (
    "The bars beside the last tests are their 95 % intervals for the test images alone (Wilson's), as if the models were "
    "fixed."
)


def training(runs: Sequence[RunFolder]) -> str:
    """Training curves; "" where no epoch is logged."""
    logged = [(run, number) for run, number in zip(runs, places_of(runs), strict=True) if not run.epochs.empty]
    if not logged:
        return ""
    with for_page():
        drawn = _one(*logged[0]) if len(logged) == 1 else _several(logged[:MOST])
    left_out = f" The first {MOST} of {len(logged)} runs are shown." if len(logged) > MOST else ""
    caption = (
        "By epoch: mean losses of the training batches and of the test images (left); accuracy on the test images, and "
        "the share of the targets hit in training, where mixed images count by their shares (right)."
        if len(logged) == 1
        else f"By epoch: image loss in training (left); accuracy on the test images (right).{left_out}"
    )
    if any(np.isinf(run.epochs.select_dtypes("number")).any(axis=None) for run, _ in logged[:MOST]):
        caption += " Losses that are not finite are not drawn."
    tested = any(_interval(run) for run, _ in logged[:MOST])
    return section(
        "training", "Training", figure(drawn, "", f"{caption} {INTERVALS if tested else ''}".strip(), "Training curves")
    )


def _one(run: RunFolder, number: int) -> Figure:
    """Losses and accuracies of one run. What is of the training batches has the run's look."""
    epochs = run.epochs
    own = look(number)
    tests = Look(ink(), look(2).line, "s", "")
    drawn = new_figure(9, 3.5)
    left, right = drawn.subplots(1, 2)
    _line(left, epochs, "image_loss", own, "image loss, training")
    _line(left, epochs, "cell_loss", Look(soft(), look(1).line, "^", ""), "mean cell loss, training")
    _line(left, epochs, "test_loss", tests, "test")
    _line(right, epochs, "accuracy", tests, "test")
    _line(right, epochs, "training_accuracy", own, "training (targets hit)")
    _draw_intervals(right, [(run, ink())])
    _finish(left, right)
    return drawn


def _several(runs: Sequence[tuple[RunFolder, int]]) -> Figure:
    drawn = new_figure(9, 3.5 + 0.2 * -(-len(runs) // 3))
    left, right = drawn.subplots(1, 2)
    for run, number in runs:
        name = plain(shortened(run.name, LONGEST_NAME))
        _line(left, run.epochs, "image_loss", look(number), name)
        _line(right, run.epochs, "accuracy", look(number), name)
    _draw_intervals(right, [(run, look(number).colour) for run, number in runs])
    _finish(left, right, legend=False)
    columns = min(3 if max(len(run.name) for run, _ in runs) < 28 else 2, len(runs))
    drawn.legend(
        handles=left.lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, handlelength=4
    )
    return drawn


def _line(axes: Axes, epochs: pd.DataFrame, column: str, shown: Look, label: str) -> None:
    """What the run has of a column, by epoch; nothing where it has none."""
    known = epochs[epochs[column].notna()] if column in epochs else epochs[:0]
    if len(known):
        axes.plot(
            known["epoch"], known[column], color=shown.colour, linestyle=shown.line, marker=shown.marker, markersize=3.5,
            markevery=markers_at(len(known), len(axes.lines)), linewidth=1.6, label=label,
        )  # fmt: skip


def _interval(run: RunFolder) -> tuple[float, float, float, float] | None:
    """Epoch and accuracy of the last test, with the interval of its images; None where it, or their number, is not known."""
    images = run.start.get("test_images") or (run.result or {}).get("test_images")
    tested = [event for event in run.events if event["event"] == "epoch" and event.get("accuracy") is not None]
    if not tested or not images:
        return None
    accuracy = float(tested[-1]["accuracy"])
    return float(tested[-1]["epoch"]), accuracy, *accuracy_interval(accuracy, int(images))


def _draw_intervals(axes: Axes, runs: Sequence[tuple[RunFolder, str]]) -> None:
    """Beside the last tests, one next to the other."""
    found = [(interval, shade) for run, shade in runs if (interval := _interval(run))]
    last = max((epoch for (epoch, *_), _ in found), default=1.0)
    step = min(0.25, 0.15 * max(last, 1) / max(len(found), 8))
    for number, ((_, accuracy, low, high), shade) in enumerate(found, 1):
        axes.errorbar(
            last + number * step, accuracy, yerr=[[accuracy - low], [high - accuracy]], ecolor=shade, color=shade,
            elinewidth=1.2, capsize=1.5, fmt="none",
        )  # fmt: skip


def _finish(left: Axes, right: Axes, legend: bool = True) -> None:
    tidy(left, title="Loss", xlabel="epoch", ylabel="nats")
    tidy(right, title="Accuracy", xlabel="epoch", ylabel="%")
    last = max((float(np.max(line.get_xdata())) for line in left.lines), default=1.0)
    right.set_xticks([tick for tick in right.get_xticks() if 1 <= tick <= last])  # beyond are the intervals
    fit_blown_up(left)
    widen(right.yaxis)  # the intervals of its tests are wider, where the number of images is known
    for axes in (left, right):
        axes.tick_params(labelcolor=soft())
        if legend:
            axes.legend(frameon=False, fontsize=8, handlelength=4)
