"""Loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.run_folder import RunFolder
from analysis.sections.parts import figure, section
from analysis.style import colour, for_page, new_figure, soft, tidy
from analysis.words import plain

DASHES = ("-", "--", "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MOST = 12  # runs in one figure


def training(runs: Sequence[RunFolder]) -> str:
    """Training curves; "" where no epoch is logged."""
    logged = [run for run in runs if not run.epochs.empty]
    if not logged:
        return ""
    with for_page():
        drawn = _one(logged[0]) if len(logged) == 1 else _several(logged[:MOST])
    left_out = f" The first {MOST} of {len(logged)} runs are shown." if len(logged) > MOST else ""
    caption = (
        "By epoch: mean losses of the training batches and of the test images (left); accuracy on the test images, and "
        "the share of the targets hit in training, where mixed images count by their shares (right)."
        if len(logged) == 1
        else f"By epoch: image loss in training (left); accuracy on the test images (right).{left_out}"
    )
    return section("training", "Training", figure(drawn, "", caption, "Training curves"))


def _one(run: RunFolder) -> Figure:
    epochs = run.epochs
    drawn = new_figure(9, 3.5)
    left, right = drawn.subplots(1, 2)
    left.plot(epochs["epoch"], epochs["image_loss"], color=colour(0), label="image loss, training")
    if "cell_loss" in epochs and epochs["cell_loss"].notna().any():
        left.plot(
            epochs["epoch"], epochs["cell_loss"], color=colour(1), linestyle="--", label="mean cell loss, training"
        )
    if "accuracy" in epochs:
        tested = epochs[epochs["accuracy"].notna()]
        left.plot(
            tested["epoch"], tested["test_loss"], color=colour(2), linestyle="-.", **_dots(len(tested)), label="test"
        )
        right.plot(
            tested["epoch"], tested["accuracy"], color=colour(2), linestyle="-.", **_dots(len(tested)), label="test"
        )
    right.plot(epochs["epoch"], epochs["training_accuracy"], color=colour(0), label="training (targets hit)")
    _finish(left, right)
    return drawn


def _several(runs: Sequence[RunFolder]) -> Figure:
    drawn = new_figure(9, 3.5 + 0.2 * -(-len(runs) // 3))
    left, right = drawn.subplots(1, 2)
    for index, run in enumerate(runs):
        epochs, look = run.epochs, {"color": colour(index), "linestyle": DASHES[index % len(DASHES)]}
        left.plot(epochs["epoch"], epochs["image_loss"], label=plain(run.name), **look)
        if "accuracy" in epochs:
            tested = epochs[epochs["accuracy"].notna()]
            right.plot(tested["epoch"], tested["accuracy"], **look, **_dots(len(tested)))
    _finish(left, right, legend=False)
    drawn.legend(loc="outside lower center", ncols=min(3, len(runs)), frameon=False, fontsize=8)
    return drawn


def _dots(points: int) -> dict[str, object]:
    return {"marker": "o", "markersize": 3.5} if points <= 25 else {}


def _finish(left: Axes, right: Axes, legend: bool = True) -> None:
    tidy(left, title="Loss", xlabel="epoch", ylabel="nats")
    tidy(right, title="Accuracy", xlabel="epoch", ylabel="%")
    for axes in (left, right):
        axes.tick_params(labelcolor=soft())
        if legend:
            axes.legend(frameon=False, fontsize=8)
