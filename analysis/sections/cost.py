"""Where the time and the image forwards went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.estimate_checks import is_estimated
from analysis.run_folder import RunFolder, places_of
from analysis.sections.head import cost_of
from analysis.sections.parts import count, figure, key, paragraph, section, table
from analysis.style import colour, for_page, ink, new_figure, soft, tidy
from analysis.words import plain, shortened
from evo.durations import duration

MOST = 24  # runs in one figure
UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
HATCHES = ("", "///", "\\\\\\\\")


class Cost(NamedTuple):
    """Seconds, and images forwarded. None where it is not known."""

    name: str
    training: float
    search: float
    rest: float | None  # tests, saving and starting, by the clock
    training_forwards: float
    search_forwards: float
    saved: float | None  # forwards of a search that carried losses with unchanged rows and so were not needed


def cost(runs: Sequence[RunFolder]) -> str:
    """Stacked bars by run, and their numbers; "" before the first epoch."""
    numbered = [(number, _cost(run)) for number, run in zip(places_of(runs), runs, strict=True)]
    found = [cost for _, cost in numbered if cost is not None]
    keys = [key(number) for number, cost in numbered if cost is not None] if len(runs) > 1 else []
    if not found:
        return ""
    with for_page():
        drawn = _draw(found[:MOST])
    caption = (
        "Left: seconds of training, of searching, and of tests, saving and starting (from the first event logged to the "
        "last, a pause between a stop and a resume included). Right: images forwarded through the model for training and "
        "for searching; saved are those that searches did not forward because their rows had not changed."
        + (
            " Of estimated scores none are told, as their rows are not forwarded."
            if any(map(is_estimated, runs))
            else ""
        )
    )
    rows = [
        [
            c.name,
            *(duration(spent, 1) for spent in (c.training, c.search, c.rest)),
            *map(count, (c.training_forwards, c.search_forwards, c.saved)),
        ]
        for c in found
    ]
    head = ("run", "training", "search", "tests and rest", "forwards, training", "forwards, search", "forwards saved")
    return section(
        "cost", "Cost", _summary(found), figure(drawn, "", caption, "Cost"), table(head, rows, "Cost by run", keys=keys)
    )


def _cost(run: RunFolder) -> Cost | None:
    known = cost_of(run)
    if not known:
        return None
    searching = known["search_seconds"]
    wall = run.wall_seconds
    rest = None if wall is None else max(0.0, wall - known["seconds"])
    forwards = known["search_forwards"]
    return Cost(
        run.name,
        known["seconds"] - searching,
        searching,
        rest,
        known["image_forwards"] - forwards,
        forwards,
        _saved(run),
    )


def _saved(run: RunFolder) -> float | None:
    """Rows of newly proposed genomes less those forwarded; None where the log does not tell (version 1), and of
    estimated scores, for which rows are not forwarded, carried or new.
    """
    if "full_rows" not in run.generations or is_estimated(run):
        return None
    table = run.generations.dropna(subset=["full_rows"])
    return float((table["full_rows"] - table["new_rows"]).sum())


def _summary(found: Sequence[Cost]) -> str:
    """A sentence, where there is one run that searched."""
    if len(found) != 1 or not found[0].search_forwards:
        return ""
    only = found[0]
    text = (
        f"The search took {100 * only.search / max(only.training + only.search, 1e-9):.0f} % of the time of training and "
        f"{100 * only.search_forwards / max(only.training_forwards + only.search_forwards, 1):.0f} % of all image forwards."
    )
    if only.saved:
        share = only.saved / (only.saved + only.search_forwards)
        text += f" Carrying losses with unchanged rows saved {100 * share:.0f} % of the forwards a search would else have made."
    return paragraph(text)


def _draw(found: Sequence[Cost]) -> Figure:
    drawn = new_figure(9, 1.7 + 0.36 * len(found))
    left, right = drawn.subplots(1, 2, sharey=True)
    seconds = {
        "training": [c.training for c in found],
        "search": [c.search for c in found],
        "tests and rest": [c.rest or 0.0 for c in found],
    }
    longest = max(map(sum, zip(*seconds.values(), strict=True)))
    unit, scale = next((unit, scale) for unit, scale in UNITS if longest > 2 * scale or scale == 1)
    _bars(left, {name: [value / scale for value in values] for name, values in seconds.items()})
    forwards = {
        "training": [c.training_forwards for c in found],
        "search": [c.search_forwards for c in found],
        "saved (not forwarded)": [c.saved or 0.0 for c in found],
    }
    _bars(right, forwards)
    left.set_yticks(range(len(found)), [plain(shortened(c.name, 28)) for c in found])
    left.set_ylim(len(found) - 0.4, -0.6)
    tidy(left, title="Time", xlabel=unit)
    tidy(right, title="Image forwards", xlabel="images")
    right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.locator_params(axis="x", nbins=5)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelcolor=soft())
    bars = [*left.containers, right.containers[-1]]
    drawn.legend(
        bars, [bar.get_label() for bar in bars], loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return drawn


def _bars(axes: Axes, parts: dict[str, list[float]]) -> None:
    """Stacked horizontal bars, told apart by hatching as well."""
    left = [0.0] * len(next(iter(parts.values())))
    for index, (name, values) in enumerate(parts.items()):
        hollow = name.startswith("saved")
        axes.barh(
            range(len(values)), values, left=left, height=0.6, label=name,
            color="none" if hollow else colour(index), edgecolor=ink() if hollow else "none", linewidth=0.8,
            hatch=HATCHES[index],
        )  # fmt: skip
        left = [a + b for a, b in zip(left, values, strict=True)]
