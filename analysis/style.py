"""How figures look, and how the runs in them are told apart.

A run, or a setting, has a number, which gives its colour, line, marker and hatch in every figure (`look`). Colours hold a
contrast of 3 to 1 to the ground of their theme, and are told apart by colour-blind readers as well.

Figures are made without pyplot: it takes a second to import and keeps global state.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evo.storage import replacing


class Theme(NamedTuple):
    """Colours of a figure's ground, text, secondary text and grid, and of the series; the last of these is the ink."""

    ground: str
    ink: str
    soft: str
    rule: str
    series: tuple[str, ...]


# Found by a search for the largest distance in CIELAB between any two, as seen with normal sight and by protanopes,
# deuteranopes and tritanopes (Machado et al. 2009), each hue in a range of its own: blue, orange, green, purple, yellow, sky.
LIGHT = Theme(
    "#ffffff", "#111111", "#555555", "#dddddd",
    ("#104cdf", "#792c01", "#376f5c", "#71126f", "#aa8a09", "#0e8ad6", "#111111"),
)  # fmt: skip
DARK = Theme(
    "#16181d", "#e8e8e8", "#a8adb5", "#3a3f47",
    ("#2264e7", "#c13e01", "#58a875", "#b53994", "#f8ca27", "#4bc4fe", "#e8e8e8"),
)  # fmt: skip
# Colours that stand for CSS variables in an inline SVG; no figure has them otherwise. report.css gives them the values
# of LIGHT and DARK.
MARKED = Theme("none", "#010203", "#010204", "#010205", (*(f"#01020{6 + place:x}" for place in range(6)), "#010203"))
VARIABLES = {
    MARKED.ink: "var(--ink)",
    MARKED.soft: "var(--soft)",
    MARKED.rule: "var(--rule)",
    **{mark: f"var(--series-{place})" for place, mark in enumerate(MARKED.series[:-1])},
}

OWN, PARTNER = "#0072B2", "#F0E6D2"  # a cell that keeps the row's own image, and one that takes the partner's
GREY = "#555555"


class Look(NamedTuple):
    """How a run is drawn: colour, matplotlib's line style and marker, and the hatch of its bars."""

    colour: str
    line: Any
    marker: str
    hatch: str


# On, off, on, off, ... in widths of the line.
LINES: tuple[Any, ...] = (
    "-", (0, (4, 1.6)), (0, (6, 1.8, 1.2, 1.8)), (0, (1.2, 1.6)), (0, (5, 1.5, 1.2, 1.5, 1.2, 1.5)), (0, (10, 3)),
    (0, (1.2, 4)),
)  # fmt: skip
MARKERS = "osD^vPX"
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")

_themes = [LIGHT]  # the last is in force


@contextmanager
def theme(chosen: Theme | bool) -> Iterator[None]:
    """Figures made within have this theme; True stands for dark, False for light."""
    look = chosen if isinstance(chosen, Theme) else (DARK if chosen else LIGHT)
    options: dict[Any, Any] = {
        "figure.facecolor": look.ground,
        "axes.facecolor": "none",
        "savefig.facecolor": look.ground,
        "text.color": look.ink,
        "axes.labelcolor": look.ink,
        "axes.titlecolor": look.ink,
        "axes.edgecolor": look.soft,
        "xtick.color": look.soft,
        "ytick.color": look.soft,
        "legend.labelcolor": look.ink,
        "grid.color": look.rule,
    }
    _themes.append(look)
    try:
        with matplotlib.rc_context(options):
            yield
    finally:
        _themes.pop()


def for_page() -> AbstractContextManager[None]:
    """The theme of figures that `as_svg` turns into parts of a page: text and frames follow the page's colours."""
    return theme(MARKED)


def ink() -> str:
    return _themes[-1].ink


def soft() -> str:
    """Of secondary text."""
    return _themes[-1].soft


def grid_colour() -> str:
    return _themes[-1].rule


def colour(index: int) -> str:
    """Of series number `index`; the seventh is the ink, the eighth has the first one's again."""
    series = _themes[-1].series
    return series[index % len(series)]


def look(number: int) -> Look:
    """Of run or setting number `number`, from 0: the same in every figure.

    The first seven differ in everything. Each further seven have the colours again, with lines moved on by one place
    and markers by two: of the first 49 no two share two of colour, line and marker, so that any two of these tell
    them apart, without colour as well. All three together repeat after 343.
    """
    turn, place = divmod(number, len(LINES))
    return Look(
        colour(place),
        LINES[(place + turn) % len(LINES)],
        MARKERS[(place + 2 * turn + number // 49) % len(MARKERS)],
        HATCHES[(place + turn) % len(HATCHES)],
    )


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches, laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=_themes[-1].ground)


def tidy(axes: Axes, **labels: str) -> None:
    """Light frame, faint grid, whole numbers along x, labels: title, xlabel, ylabel."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=grid_colour(), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(**labels)
    axes.title.set_fontsize(11)


BLOWN_UP = 1e4  # nats; no loss of a training that goes well is as large
LEAST_POINTS = 1.0  # of an axis of accuracies in percent


def fit_blown_up(axes: Axes) -> bool:
    """Make the vertical axis logarithmic, and say so, where values have blown up and would hide the others.

    Values that are not finite are not drawn. Returns whether the axis is logarithmic now.
    """
    parts = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    sizes = np.abs(values[values != 0])
    if not len(sizes) or sizes.max() < BLOWN_UP or sizes.max() < 100 * sizes.min():
        return False
    if values.min() > 0:
        axes.set_yscale("log")
    else:  # linear about zero, as far as the smallest value
        axes.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(sizes.min())))
    axes.set_ylabel(f"{axes.get_ylabel()}, logarithmic")
    return True


def widen(axis: Axis, least: float = LEAST_POINTS, *, within: tuple[float, float] = (0, 100)) -> None:
    """Let an axis of accuracies in percent, or of their differences, span `least` points, so that a single test image
    seems no more than it is. Wider ones stay as they are. within: where values can lie.
    """
    low, high = axis.get_data_interval()
    if not (np.isfinite(low) and np.isfinite(high)) or high - low >= least:
        return
    middle = min(max((low + high) / 2, within[0] + least / 2), max(within[1] - least / 2, within[0] + least / 2))
    axis.set_view_interval(middle - 0.55 * least, middle + 0.55 * least, ignore=True)


# The same figure gives the same bytes; text stays text.
SVG: dict[Any, Any] = {"svg.hashsalt": "evomix", "svg.fonttype": "none"}


def save(figure: Figure, path: Path, **options: Any) -> Path:
    """Write a figure whole, in the format of the path's ending, and its folder if it is missing."""
    if path.suffix == ".svg":
        options = {"metadata": {"Date": None}, **options}
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(SVG), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=160, **options)
    return path


def as_svg(figure: Figure, label: str) -> str:
    """A figure made under `for_page()` as inline SVG: text, frames and grid in the page's --ink, --soft and --rule.

    label: what a screen reader says. Names of the SVG's parts begin with a hash of the label, which is to differ
    within a page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**SVG, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    for marked, variable in VARIABLES.items():
        text = text.replace(marked, variable)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height|xmlns:xlink|version)="[^"]*"', "", head)
    mark = f"f{zlib.crc32(label.encode()):x}-"
    rest = re.sub(r'(\bid=")', rf"\1{mark}", rest)
    rest = re.sub(r'(\bhref="#|url\(#)', rf"\1{mark}", rest).replace("xlink:href", "href")
    head += f' stroke-linejoin="round" role="img" aria-label="{escape(label)}"'
    return f"{head}>{rest}".strip()
