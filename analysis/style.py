"""How figures look. Colours are Okabe and Ito's, told apart by colour-blind readers as well.

Figures are made without pyplot: it takes a second to import and keeps global state.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
OWN, PARTNER = "#0072B2", "#F0E6D2"  # a cell that keeps the row's own image, and one that takes the partner's
GREY = "#555555"


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches, laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def tidy(axes: Axes, **labels: str) -> None:
    """Light frame, faint grid, whole numbers along x, labels: title, xlabel, ylabel."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(**labels)
    axes.title.set_fontsize(11)


def save(figure: Figure, path: Path, **options: Any) -> Path:
    """Write a figure so that a reader never sees half of it, nor another process takes it away unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    figure.savefig(unfinished, dpi=160, **options)
    os.replace(unfinished, path)
    return path
