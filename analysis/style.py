"""How figures look. Colours are Okabe and Ito's, told apart by colour-blind readers as well.

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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.files import replacing


class Theme(NamedTuple):
    """Colours of a figure's ground, text, secondary text and grid, and of the last series, black on light."""

    ground: str
    ink: str
    soft: str
    rule: str
    last: str


LIGHT = Theme("#ffffff", "#111111", "#555555", "#dddddd", "#000000")
DARK = Theme("#16181d", "#e8e8e8", "#a8adb5", "#3a3f47", "#ffffff")
# Colours that stand for CSS variables in an inline SVG; no figure has them otherwise.
MARKED = Theme("none", "#010203", "#010204", "#010205", "#010203")
VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--soft)", "#010205": "var(--rule)"}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
OWN, PARTNER = "#0072B2", "#F0E6D2"  # a cell that keeps the row's own image, and one that takes the partner's
GREY = "#555555"

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
    """Of series number `index`; the seventh is the ink."""
    index %= len(COLOURS) + 1
    return _themes[-1].last if index == len(COLOURS) else COLOURS[index]


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches, laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=_themes[-1].ground)


def tidy(axes: Axes, **labels: str) -> None:
    """Light frame, faint grid, whole numbers along x, labels: title, xlabel, ylabel."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=grid_colour(), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(**labels)
    axes.title.set_fontsize(11)


# The same figure gives the same bytes; text stays text.
SVG: dict[Any, Any] = {"svg.hashsalt": "evomix", "svg.fonttype": "none"}


def save(figure: Figure, path: Path, **options: Any) -> Path:
    """Write a figure whole, in the format of the path's ending."""
    if path.suffix == ".svg":
        options = {"metadata": {"Date": None}, **options}
    with matplotlib.rc_context(SVG), replacing(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:], dpi=160, **options)
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
