"""What came out: accuracies of the runs, and settings compared over their seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.comparison_forms import as_html
from analysis.estimate_checks import is_estimated
from analysis.per_seed import MEASURES, per_seed
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, first_to_last, places_of
from analysis.run_settings import Setting, differing, seed_of, settings_of
from analysis.sections.head import last_test
from analysis.sections.parts import count, figure, key, paragraph, percent, section, table
from analysis.statistics import accuracy_interval, compare, t_interval, widest_interval
from analysis.style import LEAST_POINTS, for_page, ink, look, new_figure, soft, tidy, widen
from analysis.tested import images_of_test, unlike
from analysis.words import plain, shortened
from evo.durations import duration

if TYPE_CHECKING:
    import pandas as pd

NOT_COMPARED = "These runs are not compared, since accuracies on different images cannot be"
HEAD = ("run", "seed", "state", "last epoch", "median of the last ten tests", "best test on the way", "steps")
SEARCH_HEAD = ("search", "state", "first generation", "last generation", "image forwards", "time")


def result(runs: Sequence[RunFolder]) -> str:
    """Accuracy by run with intervals; fitness of search experiments."""
    trained = [run for run in runs if "model" not in run.start]
    searches = [run for run in runs if "model" in run.start and not run.generations.empty]
    tested = [run for run in trained if run.result or last_test(run) is not None]
    parts = [paragraph(text) for text in _sentences(tested)]
    if tested:
        lines = [_line(run) for run in tested]
        parts.append(table(HEAD, lines, "Accuracy on the test images by run", words=3, keys=_keys(runs, tested)))
    if searches:
        lines = [_search_line(run) for run in searches]
        parts.append(table(SEARCH_HEAD, lines, "Best fitness by search, nats", words=2, keys=_keys(runs, searches)))
    return section("result", "Result", *parts)


def _keys(runs: Sequence[RunFolder], shown: Sequence[RunFolder]) -> list[str]:
    """The looks of those shown of these runs; of a single run none."""
    numbers = {run.path: number for run, number in zip(runs, places_of(runs), strict=True)}
    return [key(numbers[run.path]) for run in shown] if len(runs) > 1 else []


def _sentences(runs: Sequence[RunFolder]) -> list[str]:
    """The result with its interval, a sentence a setting."""
    lines = []
    for setting in settings_of(runs) if runs else []:
        finished = [run.result for run in setting.runs if run.result and "last_accuracy" in run.result]
        values = [found["last_accuracy"] for found in finished]
        if len(values) > 1:
            mean, least, most = (
                decimal_text(number, ".2f") for number in (sum(values) / len(values), *t_interval(values))
            )
            lines.append(
                f"{setting.name}: {mean} % accuracy at the last epoch, mean of {len(values)} "
                f"seeds; 95 % interval by Student's t {least} to {most} %."
            )
        elif values:
            low, high = accuracy_interval(values[0], finished[0]["test_images"])
            lines.append(
                f"{setting.name}: {values[0]:.2f} % accuracy at the last epoch. 95 % interval for the test images alone "
                f"{low:.2f} to {high:.2f} %; one seed tells nothing of the spread over seeds."
            )
    return lines


def _line(run: RunFolder) -> list[str]:
    found = run.result
    if found is None:
        last: dict[str, Any] = next((event for event in reversed(run.events) if event["event"] == "epoch"), {})
        tested = last_test(run)
        so_far = f"{percent(tested[0] if tested else None)} so far"
        return [run.name, str(seed_of(run)), str(run.state), so_far, "–", "–", count(last.get("step"))]
    accuracies = [percent(found.get(key)) for key in ("last_accuracy", "median10_accuracy", "best_accuracy")]
    return [run.name, str(seed_of(run)), str(run.state), *accuracies, count(found.get("steps"))]


def _search_line(run: RunFolder) -> list[str]:
    first, last = first_to_last(run)
    cost = run.result or {}
    forwards = cost.get("image_forwards", run.generations["forwards"].max())
    estimated = " (estimated)" * is_estimated(run)
    return [
        run.name,
        str(run.state),
        decimal_text(first, ".3f") + estimated,
        decimal_text(last, ".3f") + estimated,
        count(forwards),
        duration(cost.get("seconds"), 1),
    ]


def comparison(runs: Sequence[RunFolder]) -> str:
    """Settings against the first one, paired by seed; what differs between them. "" for a single setting."""
    trained = [run for run in runs if run.result and "last_accuracy" in run.result]
    settings = settings_of(trained) if trained else []
    if len(settings) < 2:
        return ""
    if what := unlike([images_of_test(run) for run in trained]):
        return section("comparison", "Comparison", paragraph(f"{NOT_COMPARED}: {what}."), _differences(settings))
    trials = per_seed([(setting.name, seed_of(run), run) for setting in settings for run in setting.runs])
    compared = compare(trials, order=[setting.name for setting in settings])
    return section(
        "comparison",
        "Comparison",
        _figure(trials, compared, settings, places_of([setting.runs[0] for setting in settings])),
        f"<div class='wide' tabindex='0' role='group' aria-label='Settings compared'>{as_html(compared)}</div>",
        _differences(settings),
    )


def _figure(trials: pd.DataFrame, compared: pd.DataFrame, settings: Sequence[Setting], numbers: Sequence[int]) -> str:
    with for_page():
        drawn = _draw(trials, compared, settings, numbers)
    caption = (
        "Marks above are seeds, in the look that their setting's first run has on the whole page; the diamond below is their "
        "mean, with its 95 % interval by Student's t from two seeds on. Of a single seed the thin line is the interval for "
        "the test images alone (Wilson's)."
    )
    return figure(drawn, "Accuracy by setting", caption)


def _draw(trials: pd.DataFrame, compared: pd.DataFrame, settings: Sequence[Setting], numbers: Sequence[int]) -> Figure:
    names = list(compared["variant"])
    drawn = new_figure(8.5, 0.9 + 0.45 * len(names))
    axes = drawn.subplots()
    for row, (found, setting, number) in enumerate(zip(compared.itertuples(), settings, numbers, strict=True)):
        values = trials[trials["variant"] == found.variant]["last_accuracy"]
        shown = look(number)
        axes.scatter(
            values, [row - 0.12] * len(values), color=shown.colour, marker=shown.marker, s=30, linewidths=0, zorder=3
        )
        if len(values) == 1:
            low, high = accuracy_interval(found.mean, int((setting.runs[0].result or {})["test_images"]))
            axes.plot([low, high], [row + 0.12] * 2, color=soft(), linewidth=1.2, zorder=2)
        half = 0.0 if found.high != found.high else found.high - found.mean
        axes.errorbar(
            found.mean, row + 0.12, xerr=half or None, fmt="D", color=ink(), markersize=4.5, capsize=3, zorder=4
        )
    axes.set_yticks(range(len(names)), [plain(shortened(name, 40)) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    tidy(axes, xlabel=MEASURES["last_accuracy"][0])
    axes.xaxis.set_major_locator(MaxNLocator(8))  # percent have parts
    widen(axes.xaxis, max(LEAST_POINTS, widest_interval(trials["last_accuracy"])))
    axes.tick_params(axis="y", length=0, labelcolor=soft())
    return drawn


def _differences(settings: Sequence[Setting]) -> str:
    """The options in which the settings differ."""
    rows = [[name, *map(_value, values)] for name, values in differing(settings).items()]
    if not rows:
        return ""
    heads = ["option", *(setting.name for setting in settings)]
    return f"<h3>{escape('What differs')}</h3>\n" + table(heads, rows, "Options in which the settings differ", words=99)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
