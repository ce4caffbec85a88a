"""What is shown of searches, topic by topic: fitness, estimated scores, Pareto fronts, diversity and forwards, operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.curve_lines import (
    Of,
    Panel,
    bars,
    compared,
    finish,
    finish_bars,
    legend_below,
    plot,
    series_of,
    statistic,
)
from analysis.curve_tables import (
    History,
    Series,
    Setting,
    band,
    by_forwards,
    by_generation_of,
    checks_over,
    forwards_saved,
    over_training,
    turnover,
)
from analysis.lineage import contested, operator_rows
from analysis.run_folder import RunFolder, RunFolderError
from analysis.style import Look, look, soft
from evo.arrays import Array

MEANINGS = {
    "hard": "mean cell loss, nats",
    "easy": "negative mean cell loss, nats",
    "learnable": "negative distance of cell\nlosses to a learnable band, nats",
    "balanced": "negative difference of the two\nimages' cell losses, nats",
    "contrast": "standard deviation of\na row's cell losses, nats",
    "reducible": "mean cell loss less\nthe reference's, nats",
    "image_hard": "image loss less its\ntarget's entropy, nats",
    "image_easy": "target's entropy less\nthe image loss, nats",
    "image_reducible": "image loss less\nthe reference's, nats",
    "diversity": "difference from the\nother genomes, 0 to 1",
}
VOLUME = "hypervolume of the front of all\ncompositions evaluated, above the worst\nvalues of the first generation"
PER_IMAGE = "image forwards per image of the search batch"
WOULD_TAKE = "image forwards that the rows scored would take,\nper image of the search batch"  # of estimated scores
EITHER = f"{PER_IMAGE}\n(of estimated scores: those that the rows scored would take)"
SPREAD = "standard deviation\nof the population's fitness"
STATISTICS = {"best": "fittest genome", "median": "median", "mean": "mean of the population", "min": "least fit genome"}
CREDITS = {
    "survived": "children that survived",
    "elites": "children that were elites",
    "ancestors": "share of the last elites' ancestors",
}
TURNOVER = "Row turnover"
MOST_PAIRS = 3  # of objectives, whose fronts are shown


class Topic(NamedTuple):
    """Panels that belong together, and what a reader has to know of them."""

    title: str
    caption: str
    panels: list[Panel]


def topics_of(settings: Sequence[Setting]) -> list[Topic]:
    """What can be shown of these runs, in the order of reading; what their lines do not tell is left out."""
    found = []
    for objective in dict.fromkeys(name for setting in settings for name in setting.histories[0].objectives):
        having = [setting for setting in settings if series_of(setting, statistic(objective, "best"))]
        if having:
            found += [_within(having, objective, len(settings)), _training(having, objective, len(settings))]
    found += [
        _estimates(settings),
        _hypervolume(settings),
        _pareto(settings),
        _efficiency(settings),
        _operators(settings),
    ]
    return [topic for topic in found if topic.panels]


def fitness(objective: str, *, estimated: bool = False) -> str:
    """The fitness axis's label."""
    return f"{'estimated ' * estimated}fitness '{objective}'\n({MEANINGS.get(objective, 'mean row score')})"


def fitness_of(objective: str, settings: Sequence[Setting]) -> str:
    """The same for what is shown of settings: of estimates alone it says so."""
    return fitness(objective, estimated=all(map(is_estimated, settings)))


def is_estimated(setting: Setting) -> bool:
    """Whether scores of a setting are estimates."""
    return any(history.estimated for history in setting.histories)


def forwards_label(settings: Sequence[Setting]) -> str:
    """The label of what `by_forwards` has along x."""
    if all(map(is_estimated, settings)):
        return WOULD_TAKE
    return EITHER if any(map(is_estimated, settings)) else PER_IMAGE


def by_what(settings: Sequence[Setting]) -> str:
    """The same in a title."""
    return "rows scored" if any(map(is_estimated, settings)) else "image forwards"


def bands(settings: Sequence[Setting]) -> str:
    """What the bands are."""
    counts = [len(setting.histories) for setting in settings]
    if max(counts) == 1:
        return "One seed each: no intervals." if len(settings) > 1 else ""
    text = "Bands: 95 % intervals of the mean over seeds (Student's t), cut off where they would hide the lines."
    return text + (" Of two seeds they are very wide." if 2 in counts else "")


def beside(setting: Setting) -> list[Look]:
    """Looks of what is shown of one setting alone: the first is its own, the others are of no run."""
    own = look(setting.number)
    others = [one for one in map(look, range(len(STATISTICS))) if (one.line, one.marker) != (own.line, own.marker)]
    return [own, *(one._replace(colour=soft()) for one in others[-(len(STATISTICS) - 1) :])]


# Fitness


def _within(having: Sequence[Setting], objective: str, settings: int) -> Topic:
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


def _of_many_searches(having: Sequence[Setting]) -> tuple[list[Setting], str, str]:
    """Those with several searches each; what their time goes by, as a column and as a label."""
    several = [setting for setting in having if all(history.searches > 1 for history in setting.histories)]
    epochs = [len(np.unique(history.columns["epoch"])) for setting in several for history in setting.histories]
    return (several, "epoch", "epoch") if min(epochs, default=0) > 3 else (several, "step", "training step")


def _training(having: Sequence[Setting], objective: str, settings: int) -> Topic:
    """The fittest of each search's first and last generation over the training."""
    having, scale, xlabel = _of_many_searches(having)
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


# Estimated scores


def _estimates(settings: Sequence[Setting]) -> Topic:
    """What the checks against exact forwards found: over a training, or in a search experiment's generations."""
    having = [setting for setting in settings if series_of(setting, _checked("rank_correlation", "step"))]
    kinds = [
        (alike, scale, of_what)
        for searching, of_what in ((False, ""), (True, ", search experiments"))
        if (alike := [one for one in having if _is_experiment(one) == searching])
        for scale in [_scale_of_checks(alike, searching)]
    ]
    panels = []
    for alike, scale, of_what in kinds:
        panels += _check_panels(alike, scale, of_what if len(kinds) > 1 else "")
    caption = (
        "Estimated scores beside exact ones, for random compositions of a few images and the one that was chosen. Rank "
        "correlation: Spearman's, within an image (1: the same order, 0: none). Bias: estimate less truth. Gain: score of "
        "what was chosen less that of random compositions; what the estimate promises beyond the truth was chosen by its "
        "errors. " + (bands(having) if having else "")
    )
    return Topic("Estimated scores", caption.strip(), panels)


def _check_panels(alike: Sequence[Setting], scale: str, of_what: str) -> list[Panel]:
    """Of trainings alone, or of search experiments alone; scores of other objectives have axes of their own."""
    xlabel = "training step" if scale == "step" else scale

    def drawn(title: str, shown: Sequence[Setting], names: dict[str, str], ylabel: str, top: float | None) -> Panel:
        lines = [
            (which, name, band(series))
            for setting in shown
            for name, which in zip(names, beside(setting), strict=False)
            if (series := series_of(setting, _checked(name, scale)))
        ]

        def draw(axes: Axes) -> None:
            for which, name, line in lines:
                plot(axes, line, which, names[name] or None)
            axes.axhline(0, color=soft(), linewidth=1, linestyle=":", zorder=1)
            finish(axes, xlabel, ylabel)
            if top is not None:
                axes.set_ylim(min(axes.get_ylim()[0], -0.05), top)
            if any(names.values()):
                legend_below(axes)

        return Panel(title + of_what, draw)

    agree = {"rank_correlation": ""}
    panels = [drawn("Rank correlation of estimate and truth", alike, agree, "Spearman's rank correlation", 1.05)]
    objectives = dict.fromkeys(one.histories[0].objectives[0] for one in alike)
    for objective in objectives:
        shown = [one for one in alike if one.histories[0].objectives[0] == objective]
        of = f": {objective}" if len(objectives) > 1 else ""
        unit = f"\n'{objective}' ({MEANINGS.get(objective, 'row score')})"
        above = f"score above random compositions,{unit}"
        panels.append(drawn(f"Bias of the estimate{of}", shown, {"bias": ""}, f"estimate less truth,{unit}", None))
        gains = {"gain_true": "in truth", "gain_estimated": "by the estimate"}
        if len(shown) == 1:
            panels.append(drawn(f"Gain of what was chosen{of}", shown, gains, above, None))
        else:
            panels += [drawn(f"Gain {how}{of}", shown, {name: ""}, above, None) for name, how in gains.items()]
    return panels


def _checked(name: str, scale: str) -> Of:
    return lambda history: checks_over(history, name, scale)


def _is_experiment(setting: Setting) -> bool:
    return "model" in setting.histories[0].run.start


def _scale_of_checks(alike: Sequence[Setting], searching: bool) -> str:
    if searching:
        return "generation"
    counts = [len(one.x) for setting in alike for one in series_of(setting, _checked("rank_correlation", "epoch"))]
    return "epoch" if min(counts, default=0) > 3 else "step"


# Hypervolume and Pareto fronts


def _hypervolume(settings: Sequence[Setting]) -> Topic:
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
    several, scale, xlabel = _of_many_searches(alike)
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


def _pareto(settings: Sequence[Setting]) -> Topic:
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


# Diversity and forwards


def _efficiency(settings: Sequence[Setting]) -> Topic:
    """Diversity, row turnover, and the forwards that carried losses save; estimates save them in any case."""
    estimated = any(map(is_estimated, settings))
    counted = [setting for setting in settings if saved(setting) is not None]
    panels = compared(
        "Diversity of the population", settings, _diversity, "generation",
        "rows that differ from the\nfittest genome's, mean share", 0,
    )  # fmt: skip
    panels += (
        _turnover(counted[0])
        if len(settings) == 1 and counted
        else compared(TURNOVER, counted, turnover, *_turned(counted), 0)
    )
    if len(settings) > 1 and counted:
        carried = (
            "Rows not scored, as their losses were carried" if estimated else "Image forwards saved by carrying losses"
        )
        panels.append(Panel(carried, lambda axes: _saved_bars(axes, counted)))
    caption = (
        "A row's losses travel with it into the children of a genome; only rows that are new are forwarded. The turnover "
        "is their share of the rows of newly proposed genomes; the rest is saved."
    )
    if estimated:
        caption = (
            "A row's losses travel with it into the children of a genome; only rows that are new are scored. The turnover is "
            "their share of the rows of newly proposed genomes. Where scores are estimated, rows are not forwarded, and "
            "carrying losses saves no forwards."
        )
    return Topic("Diversity and row turnover" if estimated else "Diversity and forwards", caption, panels)


def _turned(settings: Sequence[Setting]) -> tuple[str, str]:
    """Labels of the turnover's axes."""
    done = "scored" if any(map(is_estimated, settings)) else "forwarded"
    return "generation", f"rows {done}, % of the rows\nof newly proposed genomes"


def _diversity(history: History) -> Series | None:
    values = history.columns["diversity"]
    return None if np.isnan(values).all() else by_generation_of(history, values)


def _turnover(setting: Setting) -> list[Panel]:
    """With what is saved in words."""

    def draw(axes: Axes) -> None:
        plot(axes, band(series_of(setting, turnover)), look(setting.number))
        finish(axes, *_turned([setting]), 0)
        what = (
            "rows not scored, as their\nlosses were carried"
            if is_estimated(setting)
            else ("image forwards saved by carrying\nlosses")
        )
        text = f"{what}: {saved(setting):.0f} %"
        axes.text(0.96, 0.9, text, transform=axes.transAxes, ha="right", va="top", fontsize=9)

    return [Panel(TURNOVER, draw)]


def _saved_bars(axes: Axes, counted: Sequence[Setting]) -> None:
    for row, setting in enumerate(counted):
        bars(axes, [np.nan] * row + [saved(setting) or 0.0], 0, 1, look(setting.number))
    finish_bars(axes, [setting.label for setting in counted], "% of the rows of newly proposed genomes")


def saved(setting: Setting) -> float | None:
    """`forwards_saved`, mean over seeds; None where a seed did not count."""
    found = [share for share in map(forwards_saved, setting.histories) if share is not None]
    return float(np.mean(found)) if len(found) == len(setting.histories) else None


# Operators


def _operators(settings: Sequence[Setting]) -> Topic:
    """What came of each operator's children, of the kinds of which there are several to be compared."""
    credited = [(setting, found) for setting in settings if (found := _credits(setting))]
    within = {kind for _, shares in credited for kind in contested(shares)}
    kinds = within or contested({operator for _, shares in credited for operator in shares})
    operators = [name for name in dict.fromkeys(name for _, shares in credited for name in shares) if name[0] in kinds]
    names = [f"{kind}:\n{operator}" for kind, operator in operators]
    title = "What came of the operators' children"
    caption = (
        "Of the searches that were kept whole, operators of which a run has several of a kind. Ancestors: an operator's "
        "share of the bred genomes that the last generation's elites descend from, among all operators of its kind."
        if within
        else "Of the searches that were kept whole, operators in which the settings differ."
    )

    def draw_one(axes: Axes) -> None:
        for place, ((credit, label), shown) in enumerate(zip(CREDITS.items(), map(look, range(3)), strict=True)):
            bars(axes, [credited[0][1][operator][credit] for operator in operators], place, 3, shown, label)
        finish_bars(axes, names, "%")
        legend_below(axes, 1)

    credit = "ancestors" if within else "survived"  # of a run's only operator of a kind all ancestors are its own

    def draw_several(axes: Axes) -> None:
        for place, (setting, shares) in enumerate(credited):
            kept = {name for name in shares if not within or name[0] in contested(shares)}
            values = [shares[operator][credit] if operator in kept else np.nan for operator in operators]
            bars(axes, values, place, len(credited), look(setting.number))
        finish_bars(axes, names, f"{CREDITS[credit]}, %")

    draw = draw_one if len(settings) == 1 else draw_several
    return Topic(title, caption, [Panel(title, draw)] if operators else [])


def _credits(setting: Setting) -> dict[tuple[str, str], dict[str, float]]:
    """Kind and operator -> survived, elites, ancestors (percent, means over seeds); of runs without a lineage none."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for history in setting.histories:
        for row in _whole_operator_rows(history.run):
            if row["slot"] != "drawn":
                found.setdefault((row["slot"], row["operator"]), []).append({name: row[name] for name in CREDITS})
    return {name: {key: float(np.mean([row[key] for row in rows])) for key in CREDITS} for name, rows in found.items()}


def _whole_operator_rows(run: RunFolder) -> list[dict[str, Any]]:
    """Those of `operator_rows`; none where a search that was kept whole is damaged, which the run then tells."""
    try:
        return operator_rows(run)
    except RunFolderError as error:
        run.note_damage(error, "without what its operators did")
        return []
