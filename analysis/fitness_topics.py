"""Fitness within a search and over a training."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from analysis.curve_lines import Of, Panel, compared, finish, legend_below, plot, series_of, statistic
from analysis.curve_tables import Setting, band, by_forwards, over_training
from analysis.curve_words import STATISTICS, Topic, bands, beside, by_what, fitness_of, forwards_label, of_many_searches
from analysis.style import soft

SPREAD = "standard deviation\nof the population's fitness"


def within_topic(having: Sequence[Setting], objective: str, settings: int) -> Topic:
    """By generation and by forwards."""
    caption = f"Means over the searches of a run. {bands(having)}"
    label, title = fitness_of(objective, having), f"Fitness '{objective}' within a search"
    first = any(setting.histories[0].objectives[0] == objective for setting in having)
    spread = compared("Spread in the population", having, statistic(objective, "std"), "generation", SPREAD, 0)
    if settings == 1:
        setting = having[0]
        if len(setting.histories) == 1 and spread:
            caption += "Shaded: mean ± standard deviation of the population."
        panels = [_statistics(setting, objective), *([_by_forwards(setting, objective)] if first else []), *spread]
        return Topic(title, caption.strip(), panels)
    best, by_cost = statistic(objective, "best"), statistic(objective, "best", by_forwards)
    panels = compared("Fittest genome", having, best, "generation", label)
    if first:
        title_by_cost = f"Fittest genome, by {by_what(having)}"
        panels += compared(title_by_cost, having, by_cost, forwards_label(having), label)
    for heading, name in (("Median", "median"), ("Mean", "mean")):
        panels += compared(f"{heading} of the population", having, statistic(objective, name), "generation", label)
    return Topic(title, caption.strip(), [*panels, *spread])


def _statistics(setting: Setting, objective: str) -> Panel:
    """Fittest, median, mean and least fit by generation; the spread of one seed, or the fittest's interval."""

    def draw(axes: Axes) -> None:
        for (name, label), shown in zip(STATISTICS.items(), beside(setting), strict=True):
            if series := series_of(setting, statistic(objective, name)):
                plot(axes, band(series), shown, label, interval=name == "best")
        mean, spread = (series_of(setting, statistic(objective, name)) for name in ("mean", "std"))
        if len(mean) == len(spread) == 1:
            axes.fill_between(
                mean[0].x, mean[0].y - spread[0].y, mean[0].y + spread[0].y, color=soft(), alpha=0.25, linewidth=0,
                label="mean ± standard deviation",
            )  # fmt: skip
        finish(axes, "generation", fitness_of(objective, [setting]))
        legend_below(axes)

    return Panel("Fitness by generation", draw)


def _by_forwards(setting: Setting, objective: str) -> Panel:
    def draw(axes: Axes) -> None:
        for (name, label), shown in zip(STATISTICS.items(), beside(setting), strict=True):
            if name in ("best", "mean") and (series := series_of(setting, statistic(objective, name, by_forwards))):
                plot(axes, band(series), shown, label, interval=name == "best")
        finish(axes, forwards_label([setting]), fitness_of(objective, [setting]))
        legend_below(axes, lines_above=forwards_label([setting]).count("\n"))

    return Panel(f"Fitness by {by_what([setting])}", draw)


def training_topic(having: Sequence[Setting], objective: str, settings: int) -> Topic:
    """The fittest of each search's first and last generation over the training."""
    having, scale, xlabel = of_many_searches(having)
    label = fitness_of(objective, having)

    def end(which: str) -> Of:
        return statistic(objective, "best", lambda history, values: over_training(history, values, which, scale))

    def draw(axes: Axes) -> None:
        for which, shown in zip(("last", "first"), beside(having[0]), strict=False):
            plot(axes, band(series_of(having[0], end(which))), shown, f"{which} generation")
        finish(axes, xlabel, label)
        legend_below(axes)

    both = [Panel("Over the training: fittest of each search", draw)] if having else []
    caption = (
        f"Fittest genome of the first and of the last generation of each search, means by {xlabel}: what lies between "
        "them is what evolving adds to drawing at random."
    )
    panels = (
        both
        if settings == 1
        else [
            panel
            for which in ("first", "last")
            for panel in compared(
                f"Over the training: fittest of {which} generations", having, end(which), xlabel, label
            )
        ]
    )
    return Topic(f"Fitness '{objective}' over the training", caption, panels)
