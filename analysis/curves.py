"""Pictures of searches: fitness within a search and over the training, Pareto fronts, diversity, forwards saved,
what the operators did. Seeds of one setting are one band; settings differ in colour and line style.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    by_forwards,
    by_generation_of,
    forwards_saved,
    over_training,
    settings_of,
    turnover,
    write_table,
)
from analysis.lineage import operator_table
from analysis.run_folder import RunFolder, RunFolderError, out_root
from analysis.style import colour, new_figure, save, soft, theme, tidy

if TYPE_CHECKING:
    import pandas as pd

LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
MARKERS = "osD^vPX"
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
SMALL = 8  # points; 10 pixels of a picture shown 900 wide
MEANINGS = {
    "hard": "mean cell loss, nats",
    "easy": "negative mean cell loss, nats",
    "learnable": "negative distance of cell losses to the learnable band, nats",
    "balanced": "negative difference between own and partner's cell losses, nats",
    "contrast": "standard deviation of a row's cell losses, nats",
    "reducible": "mean cell loss less the reference's, nats",
    "image_hard": "image loss less its target's entropy, nats",
    "image_easy": "target's entropy less the image loss, nats",
    "image_reducible": "image loss less the reference's, nats",
    "diversity": "difference from the other genomes, 0 to 1",
}
PER_IMAGE = "image forwards per image of the search batch"


class Panel(NamedTuple):
    title: str
    draw: Callable[[Axes], None]


class Topic(NamedTuple):
    """Panels that belong together, and what a reader has to know of them."""

    title: str
    caption: str
    panels: list[Panel]


# What is written


def write_curves(runs: Sequence[RunFolder], out: Path | None = None, *, dark: bool = False) -> list[Path]:
    """Write curves.png, curves.svg and curves.csv (columns: curve_tables.COLUMNS); return their paths.

    They go into `out`; else into the run's figures/, and of several runs into curves/ under runs/out.
    Raises RunFolderError, before anything is written, where no run has generations.
    """
    settings, notes = settings_of(runs)
    folder = out or _folder([history.run for setting in settings for history in setting.histories])
    with theme(dark):
        figure = _picture(settings, notes)
        pictures = [save(figure, folder / f"curves.{ending}") for ending in ("png", "svg")]
    return [*pictures, write_table(settings, folder / "curves.csv")]


def draw_curves(runs: Sequence[RunFolder], path: Path) -> Path:
    """Write the picture alone, as PNG or SVG by the path's ending."""
    return save(_picture(*settings_of(runs)), path)


def figures_of(runs: Sequence[RunFolder]) -> list[tuple[str, Figure, str]]:
    """The picture's topics as figures of their own, 9 inches wide: title, figure, caption.

    Raises RunFolderError where no run has generations.
    """
    settings, notes = settings_of(runs)
    found: list[tuple[str, Figure, str]] = []
    for topic in topics_of(settings):
        columns = min(2, len(topic.panels))
        rows = -(-len(topic.panels) // columns)
        figure = new_figure(9 if columns > 1 else 6, 3.2 * rows + (0.4 if len(settings) > 1 else 0))
        _fill(figure, topic.panels, columns)
        _legend(figure, settings)
        found.append((topic.title, figure, " ".join([topic.caption, *(notes if not found else [])])))
    return found


def by_generation(run: RunFolder) -> pd.DataFrame:
    """Means over the run's searches, a row a generation: best, mean, std, forwards
    per image of the search batch, number of searches. Raises RunFolderError where it has no generations.
    """
    settings_of([run])
    table = run.generations
    table = table.assign(per_image=table["forwards"] / table["images"])
    return table.groupby("generation").agg(
        best=("best", "mean"),
        mean=("mean", "mean"),
        std=("std", "mean"),
        per_image=("per_image", "mean"),
        searches=("search", "nunique"),
    )


def fitness_label(run: RunFolder) -> str:
    """What the fitness axis shows."""
    return _fitness("".join(str(run.config["search"]["objective"]).split(",")[0].split()))


def _fitness(objective: str) -> str:
    return f"fitness '{objective}'\n({MEANINGS.get(objective, 'mean row score')})"


def _folder(runs: Sequence[RunFolder]) -> Path:
    if len(runs) == 1:
        return runs[0].figures()
    names = [re.sub(r"[^\w.-]+", "-", run.name) for run in runs]
    joined = "+".join(names)
    if len(joined) > 120:  # a file name has at most 255 bytes
        joined = f"{names[0][:60]}+{len(names) - 1}-more"
    return out_root() / "curves" / joined


# The picture


def _picture(settings: Sequence[Setting], notes: Sequence[str]) -> Figure:
    """All topics, two panels a row."""
    topics = topics_of(settings)
    panels = [panel for topic in topics for panel in topic.panels]
    columns = min(2, len(panels))
    figure = new_figure(9.5 if columns > 1 else 6, 3.1 * -(-len(panels) // columns) + 0.9)
    _fill(figure, panels, columns)
    figure.suptitle(_heading(settings), fontsize=10)
    _legend(figure, settings)
    below = [_bands(settings), *(_wrapped(note) for note in notes)]
    figure.supxlabel("\n".join(note for note in below if note), fontsize=SMALL, color=soft())
    return figure


def _fill(figure: Figure, panels: Sequence[Panel], columns: int) -> None:
    places = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        panel.draw(axes)
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.tick_params(labelsize=SMALL)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    for axes in places[len(panels) :]:
        axes.set_axis_off()


def _legend(figure: Figure, settings: Sequence[Setting]) -> None:
    """One legend for all panels, where there are several settings."""
    if len(settings) > 1:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=colour(i), linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)],
                   linewidth=2, markersize=5, label=setting.label)
            for i, setting in enumerate(settings)
        ]  # fmt: skip
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(3, len(handles)), frameon=False, fontsize=9,
            handlelength=4,
        )  # fmt: skip


def _heading(settings: Sequence[Setting]) -> str:
    if len(settings) > 1:
        return ""
    setting = settings[0]
    searches, generations = (
        max(getattr(history, name) for history in setting.histories) for name in ("searches", "generations")
    )
    times = f"{searches:,} searches" if searches > 1 else "one search"
    return f"{setting.label}: {times} of {generations:,} generation{'s' if generations > 1 else ''}"


def _bands(settings: Sequence[Setting]) -> str:
    counts = [len(setting.histories) for setting in settings]
    if max(counts) == 1:
        return "One seed each: no interval." if len(settings) > 1 else ""
    text = "Bands: 95 % intervals of the mean over seeds (Student's t), cut off where they would hide the lines."
    return text + (" Two seeds give very wide ones." if 2 in counts else "")


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 140)[:4])


# Topics


def topics_of(settings: Sequence[Setting]) -> list[Topic]:
    """What can be shown of these runs, in the order of reading; what their lines do not tell is left out."""
    found = []
    for objective in dict.fromkeys(name for setting in settings for name in setting.histories[0].objectives):
        found.append(_within(settings, objective))
        found.append(_training(settings, objective))
    found += [_pareto(settings), _efficiency(settings), _operators(settings)]
    return [topic for topic in found if topic.panels]


def _within(settings: Sequence[Setting], objective: str) -> Topic:
    """Fitness by generation and by forwards."""
    sets = [_Set(i, setting, objective) for i, setting in enumerate(settings) if _has(setting, objective)]
    title = f"Fitness '{objective}' within a search"
    caption = f"Means over the searches of a run. {_bands(settings)}".strip()
    fitness = _fitness(objective)
    if len(settings) > 1:
        panels = [
            _compared("Fittest genome", sets, "best", by_generation_of, "generation", fitness),
            _compared("Fittest genome", sets, "best", by_forwards, PER_IMAGE, fitness),
            _compared("Median of the population", sets, "median", by_generation_of, "generation", fitness),
            _compared("Mean of the population", sets, "mean", by_generation_of, "generation", fitness),
            _compared("Least fit genome", sets, "min", by_generation_of, "generation", fitness),
            _compared("Spread in the population", sets, "std", by_generation_of, "generation", SPREAD),
        ]
        return Topic(title, caption, [panel for panel in panels if panel])
    one = sets[0]
    statistics = [name for name in STATISTICS if one.series(name, by_generation_of)]
    panels = [
        Panel(
            "Fitness by generation", lambda axes: _one_setting(axes, one, statistics, by_generation_of, "generation")
        ),
        Panel(
            "Fitness by image forwards", lambda axes: _one_setting(axes, one, ["best", "mean"], by_forwards, PER_IMAGE)
        ),
        _compared("Spread in the population", sets, "std", by_generation_of, "generation", SPREAD),
    ]
    if len(one.setting.histories) == 1 and "std" in one.setting.histories[0].columns:
        caption += " Shaded: mean ± standard deviation of the population."
    return Topic(title, caption.strip(), [panel for panel in panels if panel])


def _training(settings: Sequence[Setting], objective: str) -> Topic:
    """The best of each search's first and last generation over the training."""
    sets = [
        _Set(i, setting, objective)
        for i, setting in enumerate(settings)
        if _has(setting, objective) and all(history.searches > 1 for history in setting.histories)
    ]
    scale = (
        "epoch" if all(len(np.unique(h.columns["epoch"])) > 3 for s in sets for h in s.setting.histories) else "step"
    )
    first, last = (_ending(which, scale) for which in ("first", "last"))
    labels = {"xlabel": "epoch" if scale == "epoch" else "training step", "ylabel": _fitness(objective)}
    title = f"Fitness '{objective}' over the training"
    caption = (
        f"Fittest genome of the first and of the last generation of each search, means by {scale}. Their distance is what "
        "evolving adds to drawing at random."
    )
    if not sets:
        return Topic(title, caption, [])
    if len(settings) > 1:
        panels = [
            _compared("Over the training: fittest of first generations", sets, "best", first, **labels),
            _compared("Over the training: fittest of last generations", sets, "best", last, **labels),
        ]
        return Topic(title, caption, [panel for panel in panels if panel])

    def draw(axes: Axes) -> None:
        for number, (name, series) in enumerate((("last generation", last), ("first generation", first))):
            found = sets[0].series("best", series)
            if found:
                _plot(axes, band(found), number, name)
        _limits(axes)
        tidy(axes, **labels)
        axes.legend(frameon=False, fontsize=SMALL, handlelength=3)

    return Topic(title, caption, [Panel("Over the training: fittest of each search", draw)])


def _pareto(settings: Sequence[Setting]) -> Topic:
    """Non-dominated genomes of the first and the last generation, for pairs of objectives."""
    having = [(i, setting) for i, setting in enumerate(settings) if all(h.fronts for h in setting.histories)]
    pairs = dict.fromkeys(
        (h.objectives[a], h.objectives[b])
        for _, setting in having
        for h in setting.histories[:1]
        for a in range(len(h.objectives))
        for b in range(a + 1, len(h.objectives))
    )
    caption = "Genomes that no other genome beats in all objectives, in the last search; the fitter, the further up and right."
    return Topic("Pareto front", caption, [_front_panel(having, pair) for pair in list(pairs)[:3]])


def _front_panel(having: Sequence[tuple[int, Setting]], pair: tuple[str, str]) -> Panel:
    def draw(axes: Axes) -> None:
        for i, setting in having:
            if set(pair) <= set(setting.histories[0].objectives):
                _draw_fronts(axes, i, setting, pair, compared=len(having) > 1)
        tidy(axes, xlabel=_fitness(pair[0]), ylabel=_fitness(pair[1]))
        axes.xaxis.set_major_locator(MaxNLocator("auto"))
        if len(having) == 1:
            axes.legend(frameon=False, fontsize=SMALL)

    return Panel("Pareto front" + (" of the last generation" if len(having) > 1 else ""), draw)


def _draw_fronts(axes: Axes, i: int, setting: Setting, pair: tuple[str, str], *, compared: bool) -> None:
    for history in setting.histories:
        places = [history.objectives.index(name) for name in pair]
        for front in history.fronts[-1:] if compared else history.fronts:
            x, y = front.values[np.argsort(front.values[:, places[0]], kind="stable")][:, places].T
            last = front is history.fronts[-1]
            axes.plot(
                x, y, drawstyle="steps-pre", linestyle=("-" if len(history.objectives) == 2 and len(x) > 1 else "none"),
                linewidth=0.8, color=colour(i if compared else 1 - last), marker=MARKERS[(i if compared else 1 - last) % 7],
                markersize=5, markerfacecolor=colour(i if compared else 0) if last else "none", alpha=0.9,
                label=None if history is not setting.histories[0] else f"generation {front.generation:,}",
            )  # fmt: skip


def _efficiency(settings: Sequence[Setting]) -> Topic:
    """Diversity, row turnover and the forwards that carried losses save."""
    sets = [_Set(i, setting, setting.histories[0].objectives[0]) for i, setting in enumerate(settings)]
    with_saving = [one for one in sets if _saved(one.setting) is not None]
    panels = [
        _compared(
            "Diversity of the population", sets, "diversity", by_generation_of,
            xlabel="generation", ylabel="rows that differ from the fittest\ngenome's, mean share", bottom=0,
        ),
        _compared(
            "Row turnover", with_saving, "", lambda history, _: turnover(history),
            xlabel="generation", ylabel="rows forwarded, % of the rows\nof newly proposed genomes", bottom=0,
        ),
        Panel("Image forwards saved by carrying losses", lambda axes: _saving_bars(axes, with_saving)),
    ]  # fmt: skip
    caption = (
        "Losses travel with a row into the children of a genome, so that rows which changed are forwarded only: the "
        "turnover is their share, the rest is saved."
    )
    kept = [panel for panel in (panels if with_saving else panels[:1]) if panel]
    return Topic("Diversity and forwards", caption, kept)


def _saving_bars(axes: Axes, sets: Sequence[_Set]) -> None:
    for row, one in enumerate(sets):
        share = _saved(one.setting) or 0.0
        axes.barh(
            row,
            share,
            color=colour(one.number),
            hatch=HATCHES[one.number % len(HATCHES)],
            edgecolor="white",
            linewidth=0,
        )
        axes.text(max(share, 0) + 1, row, f"{share:.1f} %", va="center", fontsize=SMALL)
    tidy(axes, xlabel="% of the rows of newly proposed genomes")
    axes.set_yticks(range(len(sets)), [one.setting.label for one in sets] if len(sets) > 1 else [""])
    axes.set(xlim=(min(0, axes.get_xlim()[0]), 114), ylim=(len(sets) - 0.4, -0.6))
    axes.set_xticks(range(0, 101, 20))


def _saved(setting: Setting) -> float | None:
    found = [share for share in map(forwards_saved, setting.histories) if share is not None]
    return float(np.mean(found)) if len(found) == len(setting.histories) else None


# Operators

CREDITS = {
    "survived": "children that survived, %",
    "elites": "children that were elites, %",
    "ancestors": "share among ancestors of the last elites, %",
}


def _operators(settings: Sequence[Setting]) -> Topic:
    """What came of each operator's children."""
    credits = [credit for credit in (_credits(i, setting) for i, setting in enumerate(settings)) if credit]
    operators = list(dict.fromkeys(name for _, _, shares in credits for name in shares))
    caption = (
        "Of searches that were kept whole. Ancestors: an operator's share among the bred genomes that the last "
        "generation's elites descend from, of all operators of its kind."
    )
    title = "What came of the operators' children"
    if not credits:
        return Topic(title, caption, [])
    if len(credits) == 1:
        return Topic(title, caption, [Panel(title, lambda axes: _credit_bars(axes, credits[0][2], operators))])
    chosen = "ancestors" if len({name.split(":")[0] for name in operators}) < len(operators) else "survived"
    drawn = Panel(f"Operators: {CREDITS[chosen]}", lambda axes: _compared_credits(axes, credits, operators, chosen))
    return Topic(title, caption, [drawn])


Credit = tuple[int, str, dict[str, dict[str, float]]]


def _credits(number: int, setting: Setting) -> Credit | None:
    """Operator -> survived, elites, ancestors (percent, means over seeds); None where the runs kept no lineage."""
    shares: dict[str, list[dict[str, float]]] = {}
    for history in setting.histories:
        table = operator_table(history.run)
        for row in [] if table is None else table.itertuples():
            if row.slot != "drawn":
                found = {name: float(getattr(row, name)) for name in CREDITS}
                shares.setdefault(f"{row.slot}:\n{row.operator}", []).append(found)
    means = {key: {n: float(np.mean([one[n] for one in found])) for n in CREDITS} for key, found in shares.items()}
    return (number, setting.label, means) if means else None


def _credit_bars(axes: Axes, shares: dict[str, dict[str, float]], operators: Sequence[str]) -> None:
    for number, (name, label) in enumerate(CREDITS.items()):
        _bars(axes, number, 3, [shares[operator][name] for operator in operators], label)
    _bar_axes(axes, operators)
    axes.legend(frameon=False, fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=1)


def _compared_credits(axes: Axes, credits: Sequence[Credit], operators: Sequence[str], chosen: str) -> None:
    for place, (number, label, shares) in enumerate(credits):
        values = [shares.get(operator, {}).get(chosen, np.nan) for operator in operators]
        _bars(axes, place, len(credits), values, label, number)
    _bar_axes(axes, operators)


def _bars(axes: Axes, place: int, of: int, values: Sequence[float], label: str, number: int | None = None) -> None:
    """Bars number `place` of `of` in each group, with their values beside them."""
    look = place if number is None else number
    rows, height = np.arange(len(values)) + (place - (of - 1) / 2) * 0.8 / of, 0.8 / of
    axes.barh(
        rows, values, height=height, color=colour(look), hatch=HATCHES[look % len(HATCHES)], edgecolor="white",
        linewidth=0, label=label,
    )  # fmt: skip
    for row, value in zip(rows, values, strict=True):
        if value == value and of * len(values) <= 18:
            axes.text(value + 1, row, f"{value:.0f} %", va="center", fontsize=7)


def _bar_axes(axes: Axes, operators: Sequence[str]) -> None:
    tidy(axes)
    axes.set_yticks(range(len(operators)), operators)
    axes.set(xlim=(0, 114), ylim=(len(operators) - 0.45, -0.55))
    axes.set_xticks(range(0, 101, 20))


# Lines

SPREAD = "standard deviation\nof the population's fitness"
STATISTICS = {
    "best": "fittest genome",
    "median": "median",
    "mean": "mean of the population",
    "min": "least fit genome",
}
Of = Callable[[History, Any], Series | None]


class _Set(NamedTuple):
    """A setting, its place among the settings (its look), and which objective is shown of it."""

    number: int
    setting: Setting
    objective: str

    def series(self, statistic: str, of: Of) -> list[Series]:
        """One for each seed; none where a seed did not write the statistic."""
        found = []
        for history in self.setting.histories:
            values = history.columns.get(statistic) if statistic == "diversity" else None
            if values is None:
                values = history.column(self.objective, statistic) if statistic else history.columns["best"]
            one = None if values is None or np.isnan(values).all() else of(history, values)
            if one is None:
                return []
            found.append(one)
        return found


def _has(setting: Setting, objective: str) -> bool:
    return all(objective in history.objectives for history in setting.histories)


def _ending(which: str, scale: str) -> Of:
    return lambda history, values: over_training(history, values, which, scale)


def _compared(
    title: str, sets: Sequence[_Set], statistic: str, of: Of, xlabel: str, ylabel: str, bottom: float | None = None
) -> Panel | None:
    """One statistic of all settings that have it; None where none has."""
    found = [(one, series) for one in sets if (series := one.series(statistic, of))]
    if not found:
        return None
    steps = of is by_forwards

    def draw(axes: Axes) -> None:
        for one, series in found:
            _plot(axes, band(series, steps=steps), one.number, steps=steps)
        _limits(axes, bottom)
        tidy(axes, xlabel=xlabel, ylabel=ylabel)

    return Panel(title, draw)


def _one_setting(axes: Axes, one: _Set, statistics: Sequence[str], of: Of, xlabel: str) -> None:
    """Several statistics of one setting, with the population's spread where it has one seed."""
    steps = of is by_forwards
    for number, name in enumerate(STATISTICS):
        series = one.series(name, of) if name in statistics else []
        if series:
            _plot(axes, band(series, steps=steps), number, STATISTICS[name], steps=steps)
    spread, mean = one.series("std", of), one.series("mean", of)
    if len(one.setting.histories) == 1 and spread and mean:
        low, high = mean[0].y - spread[0].y, mean[0].y + spread[0].y
        axes.fill_between(
            mean[0].x, low, high, color=colour(2), alpha=0.2, linewidth=0, label="mean ± standard deviation",
            step="post" if steps else None,
        )  # fmt: skip
    _limits(axes)
    tidy(axes, xlabel=xlabel, ylabel=_fitness(one.objective))
    axes.legend(frameon=False, fontsize=SMALL, handlelength=3)


def _plot(axes: Axes, line: Band, number: int, label: str | None = None, *, steps: bool = False) -> None:
    """A line with its interval; with a marker at each of few points, or at some of many."""
    few = len(line.x) <= 20
    axes.plot(
        line.x, line.mean, color=colour(number), linestyle=LINES[number % len(LINES)], linewidth=1.8, label=label,
        marker=MARKERS[number % len(MARKERS)], markersize=4 if few else 3.5,
        markevery=1 if few else (number * len(line.x) // 40, max(1, len(line.x) // 8)),
        drawstyle="steps-post" if steps else "default",
    )  # fmt: skip
    if np.isfinite(line.low).any():
        axes.fill_between(
            line.x, line.low, line.high, color=colour(number), alpha=0.15, linewidth=0, step="post" if steps else None
        )


def _limits(axes: Axes, bottom: float | None = None) -> None:
    """Show all of the lines, and of the bands as much as leaves the lines half of the height."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    room = (high - low) or abs(high) * 0.1 or 1.0
    edges = [np.asarray(path.vertices)[:, 1] for area in axes.collections for path in area.get_paths()]
    ends = np.concatenate([e[np.isfinite(e)] for e in edges]) if edges else values
    low = max(low - room / 2, min(low, float(ends.min()))) if len(ends) else low
    high = min(high + room / 2, max(high, float(ends.max()))) if len(ends) else high
    margin = 0.05 * ((high - low) or room)
    axes.set_ylim(low - margin if bottom is None else bottom, high + margin)


__all__ = ["RunFolderError", "by_generation", "draw_curves", "figures_of", "fitness_label", "write_curves"]
