"""What several objectives have come to together: hypervolume and Pareto fronts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.curve_lines import Of, Panel, compared, finish, legend_below, series_of
from analysis.curve_tables import History, Series, Setting, by_forwards, by_generation_of, over_training
from analysis.curve_words import Topic, bands, beside, by_what, fitness_of, forwards_label, of_many_searches
from analysis.style import Look
from evo.arrays import Array

VOLUME = "hypervolume of the front of all\ncompositions evaluated, above the worst\nvalues of the first generation"
MOST_PAIRS = 3  # of objectives, whose fronts are shown


def hypervolume_topic(settings: Sequence[Setting]) -> Topic:
    """What several objectives have come to in one number; those of other objectives have panels of their own."""
    having = [setting for setting in settings if series_of(setting, _volume(by_generation_of))]
    kinds = dict.fromkeys(_kind(setting) for setting in having)
    panels = []
    for kind in kinds:
        alike = [setting for setting in having if _kind(setting) == kind]
        panels += _volumes(alike, f": {', '.join(kind)}" if len(kinds) > 1 else "")
    caption = (
        "The hypervolume of the front of all compositions evaluated, above the worst values of the first generation: what "
        "the objectives have come to together, in one number; over the training, at the end of each search. It may fall "
        "where an objective depends on the population, as diversity does. Means over the searches of a run. "
        + (bands(having) if having else "")
    )
    return Topic("Hypervolume", caption.strip(), panels)


def _volumes(alike: Sequence[Setting], of_what: str) -> list[Panel]:
    """By generation, by forwards and over the training, of settings with the same objectives."""
    several, scale, xlabel = of_many_searches(alike)
    last = _volume(lambda history, values: over_training(history, values, "last", scale))
    return [
        *compared(f"Hypervolume{of_what}", alike, _volume(by_generation_of), "generation", VOLUME, 0),
        *compared(
            f"Hypervolume by {by_what(alike)}{of_what}", alike, _volume(by_forwards), forwards_label(alike), VOLUME, 0
        ),
        *compared(f"Hypervolume over the training{of_what}", several, last, xlabel, VOLUME),
    ]


def _volume(how: Callable[[History, Array], Series]) -> Of:
    def of(history: History) -> Series | None:
        values = history.columns["hypervolume"]
        return None if np.isnan(values).all() else how(history, values)

    return of


def _kind(setting: Setting) -> tuple[str, ...]:
    """Its objectives, whatever their order."""
    return tuple(sorted(setting.histories[0].objectives))


def pareto_topic(settings: Sequence[Setting]) -> Topic:
    """Non-dominated genomes of the first and the last generation, for pairs of objectives."""
    having = [setting for setting in settings if all(history.fronts for history in setting.histories)]
    pairs = list(dict.fromkeys(pair for setting in having for pair in combinations(setting.histories[0].objectives, 2)))
    caption = (
        "Genomes that no other genome of their generation beats in all objectives, of a run's last search; the fitter, "
        "the further up and to the right."
    )
    if len(pairs) > MOST_PAIRS:
        caption += f" The first {MOST_PAIRS} of {len(pairs)} pairs of objectives."
    return Topic(
        "Pareto front", caption, [_front(having, pair, several=len(settings) > 1) for pair in pairs[:MOST_PAIRS]]
    )


def _front(having: Sequence[Setting], pair: tuple[str, str], *, several: bool) -> Panel:
    def draw(axes: Axes) -> None:
        for setting in having:
            if set(pair) <= set(setting.histories[0].objectives):
                for seed, history in enumerate(setting.histories):
                    fronts = history.fronts[-1:] if several else history.fronts[::-1]
                    for front, shown in zip(fronts, beside(setting), strict=False):
                        values = front.values[:, [history.objectives.index(name) for name in pair]]
                        label = None if several or seed else f"generation {front.generation:,}"
                        _points(axes, values, shown, label, steps=len(history.objectives) == 2)
        finish(axes, fitness_of(pair[0], having).replace("\n", " "), fitness_of(pair[1], having))
        axes.xaxis.set_major_locator(MaxNLocator("auto"))
        if not several:
            legend_below(axes)

    return Panel("Pareto front, last generation" if several else "Pareto front", draw)


def _points(axes: Axes, values: Array, shown: Look, label: str | None, *, steps: bool) -> None:
    """values: (n,2). steps: join them by the border of what they dominate."""
    x, y = values[np.argsort(values[:, 0], kind="stable")].T
    axes.plot(
        x, y, drawstyle="steps-pre", linestyle=shown.line if steps else "none", linewidth=0.8, color=shown.colour,
        marker=shown.marker, markersize=5, label=label,
    )  # fmt: skip
