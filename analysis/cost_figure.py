"""A figure of accuracy against cost: what a variant's longer training buys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.label_places import ends_of_leaders, place_labels
from analysis.statistics import search_adds, t_interval
from analysis.style import colour, ink, new_figure, save, soft, tidy, widen
from analysis.words import plain, shortened

if TYPE_CHECKING:
    import pandas as pd

DRAWN_FROM = 3  # variants; fewer are told faster by the table
REFERENCE = "patchmix"
BOUND = 1.35  # times random PatchMix: what a search may cost
SEARCHED_FROM = 1.1  # times the reference; below that no variant searched, and the bound means nothing
LABEL_SIZE = 9
NAMED_UP_TO, LONGEST_NAME = 14, 30  # variants and characters; beyond, points have numbers and the names are a key
LONGEST_TITLE = 70  # characters of a title in the key
MARKER = 7  # points across
APART = 0.018  # of the range of costs, between variants of equal cost
LEADER_FROM = 9.0  # points; a name that is nearer needs no line to its point
LEADER: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 0, "shrinkB": MARKER / 2}


class Spent(NamedTuple):
    """One variant beside the reference, over the seeds of both: time over its time; accuracy less its accuracy, in
    points, and half the 95 % interval of that (NaN of one seed).
    """

    variant: str
    seeds: int
    cost: float
    gain: float
    half: float


def spent_by(trials: pd.DataFrame, order: Sequence[str] | None = None, *, steps_alike: bool = False) -> list[Spent]:
    """The variants that share seeds with the reference, in `order` (else as they come), the reference among them.

    trials: with the columns of analysis.per_seed.PER_SEED. steps_alike: but for its search every variant takes the same
    time; then cost is what the search adds within each run, else it is seconds, which a machine's changing speed blurs.
    Empty where no ratio is: the reference took no time.
    """
    time = (1 + search_adds(trials)) if steps_alike else trials["seconds"]
    by_seed = trials.assign(time=time).pivot(index="seed", columns="variant", values=["last_accuracy", "time"])
    accuracies, times = by_seed["last_accuracy"], by_seed["time"]
    names = [name for name in dict.fromkeys(order or trials["variant"]) if name in accuracies]
    reference = reference_of(names)
    if not times[reference].mean() > 0:
        return []
    found = []
    for name in names:
        gains = (accuracies[name] - accuracies[reference]).dropna()
        if len(gains):
            cost = times[name][gains.index].mean() / times[reference][gains.index].mean()
            low, high = t_interval(gains)
            found.append(Spent(name, len(gains), cost, gains.mean(), (high - low) / 2))
    return found


def reference_of(variants: Sequence[str]) -> str:
    """Whose time the others' are divided by, and whose accuracy is taken from theirs."""
    return REFERENCE if REFERENCE in variants else variants[0]


def write_cost(
    trials: pd.DataFrame,
    folder: Path,
    order: Sequence[str] | None = None,
    *,
    steps_alike: bool = False,
    titles: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write cost.png and cost.svg where there are enough variants; return their paths.

    steps_alike: as for spent_by. titles: what variants are called beside their points, where not by their names.
    """
    steps_alike = steps_alike and bool(trials["search_seconds"].notna().all())
    found = spent_by(trials, order, steps_alike=steps_alike)
    if len(found) < DRAWN_FROM:
        return []
    figure = draw_cost(side_by_side(found), steps_alike=steps_alike, titles=titles)
    return [save(figure, folder / f"cost{ending}") for ending in (".png", ".svg")]


def side_by_side(found: Sequence[Spent]) -> list[Spent]:
    """The same, but those of equal cost a little apart, so that no interval lies over another: the first where it is, the
    next to its right, to its left, and so on; the reference comes first.
    """
    costs = [one.cost for one in found]
    step = APART * (max(costs) - min(costs))
    reference = reference_of([one.variant for one in found])
    moved: dict[str, Spent] = {}
    met: dict[float, int] = {}
    for one in sorted(found, key=lambda one: one.variant != reference):
        number = met[one.cost] = met.get(one.cost, 0) + 1
        side = number // 2 * (1 if number % 2 == 0 else -1)
        moved[one.variant] = one._replace(cost=one.cost + side * step)
    return [moved[one.variant] for one in found]


def draw_cost(found: Sequence[Spent], *, steps_alike: bool = False, titles: Mapping[str, str] | None = None) -> Figure:
    """One named point per variant: cost along x, the gain with its interval along y. See write_cost for the others."""
    reference = reference_of([one.variant for one in found])
    titles = titles or {}
    called = [titles.get(one.variant, one.variant) for one in found]
    names = [plain(shortened(name, LONGEST_TITLE if titles else LONGEST_NAME + 16)) for name in called]
    if len(names) > NAMED_UP_TO or max(map(len, names)) > LONGEST_NAME:
        figure = new_figure(11 if titles else 9, max(4.6, 1 + 0.17 * len(names)))
        _draw_key(figure, names)
        names = [str(number) for number, _ in enumerate(names, 1)]
    else:
        figure = new_figure(9, 4.6)
    axes = figure.subplots()
    for one in found:
        own = one.variant == reference
        shade, marker = (colour(1), "D") if own else (colour(0), "o")
        half = None if own or math.isnan(one.half) else one.half
        axes.errorbar(
            one.cost, one.gain, yerr=half, fmt=marker, color=shade, ecolor=shade, elinewidth=1, capsize=3, capthick=1,
            markersize=MARKER, zorder=4 if own else 3,
        )  # fmt: skip
    unit = titles.get(reference, reference)
    tidy(axes, xlabel=_xlabel(unit, steps_alike), ylabel=_ylabel(unit), title=_title(found))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.15, y=0.08)
    widen(axes.yaxis, within=(-100, 100))
    axes.axvline(1, color=soft(), linewidth=1, linestyle="--", zorder=1)
    axes.axhline(0, color=soft(), linewidth=1, linestyle="--", zorder=1)
    lines = [1.0]
    if reference == REFERENCE and any(one.cost > SEARCHED_FROM for one in found):
        _draw_bound(axes)
        lines.append(BOUND)
    _name_points(figure, axes, found, names, lines)
    return figure


def _xlabel(reference: str, steps_alike: bool) -> str:
    one = f"{plain(shortened(reference, LONGEST_NAME))} = 1"
    if steps_alike:
        return f"time of training with search over that without, in the same run\n({one}; equal ones side by side)"
    return f"seconds of training, search included; {one}"


def _ylabel(reference: str) -> str:
    return f"accuracy less that of {plain(shortened(reference, LONGEST_NAME))}, points"


def _title(found: Sequence[Spent]) -> str:
    seeds = sorted({one.seeds for one in found})
    if seeds == [1]:
        return "Accuracy against cost (one seed each)"
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"Accuracy against cost: {count} pairs of seeds, 95 % intervals"


def _draw_key(figure: Figure, names: Sequence[str]) -> None:
    lines = [Line2D([], [], linestyle="", label=f"{number}  {name}") for number, name in enumerate(names, 1)]
    figure.legend(
        handles=lines, loc="outside right upper", frameon=False, fontsize=LABEL_SIZE, handlelength=0, handletextpad=0,
        labelspacing=0.2,
    )  # fmt: skip


def _draw_bound(axes: Axes) -> None:
    """The line is named above the frame, where no point is, and the title above that."""
    axes.axvline(BOUND, color=soft(), linewidth=1, linestyle=":", zorder=1)
    low, high = axes.get_xlim()
    axes.annotate(
        f"{BOUND} times random PatchMix", (BOUND, 1), (0, 3), xycoords=axes.get_xaxis_transform(),
        textcoords="offset points", ha="right" if (low + high) / 2 < BOUND else "center", va="bottom", color=soft(),
        fontsize=LABEL_SIZE,
    )  # fmt: skip
    axes.set_title(axes.get_title(), fontsize=axes.title.get_fontsize(), pad=20)


def _name_points(
    figure: Figure, axes: Axes, found: Sequence[Spent], names: Sequence[str], lines: Sequence[float]
) -> None:
    """The names are placed once the layout is known, which then stays."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    unit = 72 / figure.dpi
    places = axes.transData.transform([(one.cost, one.gain) for one in found]) * unit
    sizes = np.array([_size(axes, name) for name in names]) * unit + 2  # a little air around
    frame = np.array(axes.get_window_extent().extents) * unit
    bars = [
        _line(axes, (one.cost, one.gain - one.half), (one.cost, one.gain + one.half)) * unit
        for one in found
        if not math.isnan(one.half)
    ]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    bars += [_line(axes, (x, bottom), (x, top)) * unit for x in lines]
    bars.append(_line(axes, (left, 0), (right, 0)) * unit)
    centres = place_labels(places, sizes, frame, bars, MARKER / 2 + 1)
    ends = ends_of_leaders(places, centres, sizes)
    for one, name, place, centre, end in zip(found, names, places, centres, ends, strict=True):
        at = (one.cost, one.gain)
        offset: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": LABEL_SIZE}
        axes.annotate(name, at, centre - place, color=ink(), zorder=5, **offset)
        if np.linalg.norm(end - place) > LEADER_FROM:
            axes.annotate("", at, end - place, arrowprops=LEADER | {"color": soft()}, **offset)


def _size(axes: Axes, name: str) -> tuple[float, float]:
    """Width and height of a name in pixels."""
    text = axes.text(0, 0, name, fontsize=LABEL_SIZE)
    extent = text.get_window_extent()
    text.remove()
    return extent.width, extent.height


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> NDArray[np.float64]:
    """The box in pixels of a line, upright or level, from its lower or left end."""
    first, last = axes.transData.transform([start, end])
    across = np.array([1, 0]) if start[0] == end[0] else np.array([0, 1])
    return np.concatenate([first - across, last + across])
