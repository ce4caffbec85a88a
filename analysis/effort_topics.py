"""Diversity, row turnover and the forwards that carried losses save; what came of each operator's children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.curve_lines import Panel, bars, compared, finish, finish_bars, legend_below, plot, series_of
from analysis.curve_tables import History, Series, Setting, band, by_generation_of, forwards_saved, turnover
from analysis.curve_words import Topic, is_estimated
from analysis.operator_table import contested, operator_rows
from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from analysis.style import look

CREDITS = {
    "survived": "children that survived",
    "elites": "children that were elites",
    "ancestors": "share of the last elites' ancestors",
}
TURNOVER = "Row turnover"


def effort_topic(settings: Sequence[Setting]) -> Topic:
    """Diversity, row turnover, and the forwards that carried losses save; estimates save them in any case."""
    estimated = any(map(is_estimated, settings))
    counted = [setting for setting in settings if saved(setting) is not None]
    panels = compared(
        "Diversity of the population", settings, _diversity, "generation",
        "rows that differ from the\nfittest genome's, mean share", 0,
    )  # fmt: skip
    panels += (
        turnover_panels(counted[0])
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


def turnover_panels(setting: Setting) -> list[Panel]:
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


def operators_topic(settings: Sequence[Setting]) -> Topic:
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
