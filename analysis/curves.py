"""Fitness by generation: best, mean and spread, with the image forwards they cost as a second axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes

from analysis.run_folder import RunFolder, RunFolderError
from analysis.style import GREY, colour, new_figure, save, tidy

if TYPE_CHECKING:
    import pandas as pd


def by_generation(run: RunFolder) -> pd.DataFrame:
    """Means over the run's searches, a row a generation: best, mean, std, forwards
    per image of the search batch, number of searches.
    """
    table = run.generations
    if table.empty:
        raise RunFolderError(
            f"run {run.name} has no generations: its mix is {run.mix!r}; only `evolved` runs and `./run search` have some"
        )
    table = table.assign(per_image=table["forwards"] / table["images"])
    grouped = table.groupby("generation")
    return grouped.agg(
        best=("best", "mean"),
        mean=("mean", "mean"),
        std=("std", "mean"),
        per_image=("per_image", "mean"),
        searches=("search", "nunique"),
    )


def draw_curves(runs: Sequence[RunFolder], path: Path) -> Path:
    """Write the figure of fitness curves of one or more runs as PNG."""
    live = any(not run.generations.empty and run.generations["search"].max() > 1 for run in runs)
    figure = new_figure(9.5 if live else 7, 4.2)
    panels = figure.subplots(1, 2 if live else 1, squeeze=False)[0]
    for index, run in enumerate(runs):
        _generation_panel(panels[0], run, colour(index), second_axis=len(runs) == 1)
        if live:
            _training_panel(panels[1], run, colour(index))
    panels[0].legend(frameon=False, fontsize=8)
    if live:
        panels[1].legend(frameon=False, fontsize=8)
    return save(figure, path)


def _generation_panel(axes: Axes, run: RunFolder, shade: str, *, second_axis: bool) -> None:
    table = by_generation(run)
    generation = table.index.to_numpy()
    searches = int(table["searches"].iloc[0])
    name = f"{run.name} " if not second_axis else ""
    marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(table) <= 20 else {}
    axes.plot(generation, table["best"], color=shade, linewidth=2, label=f"{name}best", **marker)
    axes.plot(generation, table["mean"], color=shade, linestyle="--", label=f"{name}mean of the population", **marker)
    axes.fill_between(
        generation, table["mean"] - table["std"], table["mean"] + table["std"], color=shade, alpha=0.18,
        linewidth=0, label=f"{name}mean ± standard deviation",
    )  # fmt: skip
    over = f", mean over {searches:,} searches" if searches > 1 else ""
    tidy(axes, title=f"Within a search{over}", xlabel="generation", ylabel=fitness_label(run))
    if second_axis:
        _forwards_axis(axes, generation, table["per_image"].to_numpy())


def _forwards_axis(axes: Axes, generation: Any, forwards: Any) -> None:
    """Image forwards per image as a second scale above the generations."""
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    shown = sorted({int(i) for i in (len(generation) - 1) * _fractions(min(6, len(generation)))})
    top.set_xticks([generation[i] for i in shown], [f"{forwards[i]:.1f}" for i in shown], fontsize=8, color=GREY)
    top.set_xlabel("image forwards per image of the search batch, so far", fontsize=8, color=GREY)
    top.spines[["right", "left"]].set_visible(False)


def _fractions(count: int) -> Any:
    import numpy as np

    return np.linspace(0, 1, count)


def _training_panel(axes: Axes, run: RunFolder, shade: str) -> None:
    table = run.generations.sort_values(["search", "generation"])
    first, last = (getattr(table.groupby("search")["best"], which)() for which in ("first", "last"))
    searches = first.index.to_numpy()
    window = max(1, len(searches) // 40)
    for values, style, label in ((last, "-", "last generation"), (first, ":", "first generation")):
        smooth = values.rolling(window, min_periods=1, center=True).mean()
        axes.plot(searches, smooth, linestyle=style, color=shade, label=f"{run.name}: {label}")
    note = f" (running mean of {window})" if window > 1 else ""
    tidy(axes, title=f"Over training: best of each search{note}", xlabel="search", ylabel=fitness_label(run))


def fitness_label(run: RunFolder) -> str:
    """What the fitness axis shows."""
    objective = run.config["search"]["objective"]
    meaning = {"hard": "mean cell loss, nats", "easy": "negative mean cell loss, nats"}.get(objective, "mean row score")
    return f"fitness '{objective}' ({meaning})"
