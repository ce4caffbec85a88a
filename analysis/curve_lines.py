"""Lines with bands, and bars: how the panels of curves draw settings so that they can be told apart without colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.curve_tables import (
    Band,
    History,
    Series,
    Setting,
    band,
    by_generation_of,
)
from analysis.style import Look, fit_blown_up, look, tidy
from evo.arrays import Array

SMALL = 8  # points; 10 pixels of a picture shown 900 wide
WHOLE = ("generation", "epoch", "training step", "search")  # what has no parts: such an axis has whole numbers only
FEW = 20  # points of a line that each have a marker

Of = Callable[[History], Series | None]  # what is shown of a run; None where it did not write it


class Panel(NamedTuple):
    title: str
    draw: Callable[[Axes], None]


def statistic(objective: str, name: str, how: Callable[[History, Array], Series] = by_generation_of) -> Of:
    """An objective's best, mean, ... by generation, or as `how` says."""

    def of(history: History) -> Series | None:
        values = history.column(objective, name)
        return None if values is None else how(history, values)

    return of


def series_of(setting: Setting, of: Of) -> list[Series]:
    """One for each seed; none where a seed has none."""
    found = [one for history in setting.histories if (one := of(history)) is not None]
    return found if len(found) == len(setting.histories) else []


def compared(
    title: str, settings: Sequence[Setting], of: Of, xlabel: str, ylabel: str, bottom: float | None = None
) -> list[Panel]:
    """A panel of a line for each setting; none where no setting has it."""
    lines = [(look(setting.number), band(series)) for setting in settings if (series := series_of(setting, of))]

    def draw(axes: Axes) -> None:
        for shown, line in lines:
            plot(axes, line, shown)
        finish(axes, xlabel, ylabel, bottom)

    return [Panel(title, draw)] if lines else []


def plot(axes: Axes, line: Band, shown: Look, label: str | None = None, *, interval: bool = True) -> None:
    """A line, with a marker at each of few points or at some of many, and its interval."""
    axes.plot(
        line.x, line.mean, color=shown.colour, linestyle=shown.line, linewidth=1.8, label=label, marker=shown.marker,
        markersize=4, markevery=markers_at(len(line.x), len(axes.lines)),
    )  # fmt: skip
    if interval and np.isfinite(line.low).any():
        axes.fill_between(line.x, line.low, line.high, color=shown.colour, alpha=0.15, linewidth=0)


def markers_at(points: int, lines: int) -> int | tuple[int, int]:
    """matplotlib's markevery: every one of few points; else about eight, at other places than those of `lines` before."""
    if points <= FEW:
        return 1
    step = points // 8
    return lines * max(1, points // 40) % step, step


def finish(axes: Axes, xlabel: str, ylabel: str, bottom: float | None = None) -> None:
    """Frame, labels, and limits: all of the lines, and of the bands as much as leaves the lines half of the height."""
    tidy(axes, xlabel=xlabel, ylabel=ylabel)
    if xlabel not in WHOLE:
        axes.xaxis.set_major_locator(MaxNLocator("auto"))
    if fit_blown_up(axes):
        return
    values = _finite([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    room = (high - low) or abs(high) * 0.1 or 1.0
    ends = _finite([np.asarray(path.vertices)[:, 1] for area in axes.collections for path in area.get_paths()])
    if len(ends):
        low = max(low - room / 2, min(low, float(ends.min())))
        high = min(high + room / 2, max(high, float(ends.max())))
    margin = 0.05 * ((high - low) or room)
    axes.set_ylim(low - margin if bottom is None else bottom, high + margin)


def bars(axes: Axes, values: Sequence[float], place: int, of: int, shown: Look, label: str | None = None) -> None:
    """Bars number `place` of `of` in each group, in percent, with the numbers beside them while there is room."""
    height = 0.8 / of
    rows = np.arange(len(values)) + (place - (of - 1) / 2) * height
    axes.barh(
        rows, values, height=height * 0.92, color=shown.colour, hatch=shown.hatch, edgecolor="white",
        linewidth=0, label=label,
    )  # fmt: skip
    for row, value in zip(rows, values, strict=True):
        if value == value and of * len(values) <= 18:
            axes.text(max(value, 0) + 1, row, f"{value:.0f} %", va="center", fontsize=SMALL)


def finish_bars(axes: Axes, names: Sequence[str], xlabel: str) -> None:
    """Frame and labels of bars in percent."""
    tidy(axes, xlabel=xlabel)
    axes.grid(False, axis="y")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(min(0.0, axes.get_xlim()[0]), 114), ylim=(len(names) - 0.45, -0.55))
    axes.set_xticks(range(0, 101, 20))


def legend_below(axes: Axes, columns: int = 2, lines_above: int = 0) -> None:
    """A panel's legend, where it hides nothing. lines_above: of the x axis's label, beyond its first."""
    axes.legend(
        frameon=False, fontsize=SMALL, handlelength=3, ncols=columns, loc="upper center", borderaxespad=0,
        bbox_to_anchor=(0.5, -0.17 - 0.06 * lines_above),
    )  # fmt: skip


def legend(figure: Figure, settings: Sequence[Setting]) -> None:
    """One legend for all panels, where there are several settings."""
    if len(settings) < 2:
        return
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=shown.colour, linestyle=shown.line, marker=shown.marker, linewidth=2, markersize=5,
               label=setting.label)
        for setting in settings
        for shown in [look(setting.number)]
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(3 if len(settings) != 4 else 2, len(settings)),
        frameon=False, fontsize=9, handlelength=4,
    )  # fmt: skip


def _finite(parts: Sequence[Array]) -> Array:
    values = np.concatenate(parts) if parts else np.empty(0)
    return values[np.isfinite(values)]
