"""The figure of a comparison: every seed as a dot, and the differences that are paired by seed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from analysis.per_seed import MEASURES
from analysis.statistics import widest_interval
from analysis.style import GREY, LEAST_POINTS, colour, ink, new_figure, save, tidy, widen

if TYPE_CHECKING:
    import pandas as pd


def draw_comparison(trials: pd.DataFrame, table: pd.DataFrame, path: Path) -> Path:
    """Every seed as a dot, means with 95 % intervals below; beside it the differences that are paired by seed.

    Variants without a finished trial have no row: the table names them.
    """
    table = table[(table["seeds"] > 0) | (table["variant"] == table["baseline"])]
    measure, baseline = table["measure"].iloc[0], table["baseline"].iloc[0]
    by_seed = trials.pivot(index="seed", columns="variant", values=measure).reindex(columns=list(table["variant"]))
    labels = [_folded(name) for name in table["variant"]]
    heights = [max(0.38, 0.17 * (label.count("\n") + 1)) for label in labels]  # inches, as the vertical axis has it
    places = [sum(heights[:row]) + heights[row] / 2 for row in range(len(labels))]
    figure = new_figure(9, 1 + sum(heights))
    panels = figure.subplots(1, 2 if len(labels) > 1 else 1, sharey=True, squeeze=False)[0]
    for place, row in zip(places, table.itertuples(), strict=True):
        _draw_row(panels[0], place, by_seed[row.variant], row.mean, row.high)
    panels[0].set_yticks(places, labels)
    panels[0].set_ylim(sum(heights), 0)
    _finish(panels[0], MEASURES.get(measure, (measure, ""))[0], "Seeds; mean with 95 % interval")
    for axes in panels[1:]:
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=1)
        for place, row in zip(places, table.itertuples(), strict=True):
            if row.variant == baseline:
                axes.text(0.99, place, "baseline", transform=axes.get_yaxis_transform(), **NOTE)
                continue
            differences = by_seed[row.variant] - by_seed[baseline]
            _draw_row(axes, place, differences, row.difference, row.difference_high)
        _finish(axes, f"difference to {_folded(baseline)}", "Differences paired by seed")
    if "accuracy" in measure:
        least = max(LEAST_POINTS, widest_interval(trials[measure]))
        widen(panels[0].xaxis, least)
        for axes in panels[1:]:
            widen(axes.xaxis, least, within=(-100, 100))
    return save(figure, path, metadata={"Date": None} if path.suffix == ".svg" else None)


NOTE: dict[str, Any] = {"color": GREY, "fontsize": 9, "ha": "right", "va": "center"}


def _draw_row(axes: Axes, place: float, values: pd.Series, mean: float, high: float) -> None:
    axes.scatter(
        values, [place - 0.06] * len(values), facecolors=to_rgba(colour(0), 0.4), edgecolors=colour(0), s=22,
        linewidths=0.8, zorder=3,
    )  # fmt: skip
    if not math.isnan(high):
        axes.errorbar(mean, place + 0.06, xerr=high - mean, fmt="D", color=ink(), markersize=4, capsize=3, zorder=4)


def _finish(axes: Axes, xlabel: str, title: str) -> None:
    tidy(axes, xlabel=xlabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", length=0)


def _folded(name: str) -> str:
    """A name in lines of at most 30 characters, so that none is cut; $ begins no formula."""
    lines = [""]
    for part in re.findall(r".{1,29}?(?:[,=._+/ -]|$)|.{1,30}", name):
        if len(lines[-1] + part) > 30:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines).strip("\n").replace("$", r"\$")
