"""The patterns a run found: exported as JSON and npz, and drawn with their weights and class pairs."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from analysis.atlas import Atlas
from analysis.run_folder import RunFolder
from analysis.style import GREY, OWN, PARTNER, new_figure, save, tidy
from evo.bank import PatternBank

EXPORTED = 1000
SHOWN = 24
NAMED_CLASSES = 24  # more class names than these do not fit beside the matrix


def export_patterns(run: RunFolder) -> list[Path]:
    """Write patterns/patterns.json and .npz (the heaviest EXPORTED masks) and figures/patterns.png."""
    bank = PatternBank.load(run.bank_file())
    kept = bank.top(EXPORTED)
    written = []
    for ending in ("json", "npz"):
        path = run.path / "patterns" / f"patterns.{ending}"
        kept.save(path)
        written.append(path)
    return [*written, draw_patterns(run, bank)]


def chance(mask: NDArray[Any], sampler: str) -> float | None:
    """The probability that random PatchMix draws this mask (G,G); None for samplers without a formula.

    Bernoulli masks with a share q ~ U(0,1): k of n kept cells have probability 1 / ((n + 1) C(n, k)).
    """
    if sampler != "bernoulli":
        return None
    return 1 / ((mask.size + 1) * comb(mask.size, int(mask.sum())))


def draw_patterns(run: RunFolder, bank: PatternBank) -> Path:
    """Write figures/patterns.png: heaviest masks, cells kept, shares, class pairs."""
    sampler = run.config["mix"]["sampler"]
    figure = new_figure(11, 8.2)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 1))).tolist()
    _heaviest(upper, bank, sampler)
    panels = lower.subplots(1, 3, width_ratios=(0.9, 1.0, 1.3))
    _cells_kept(panels[0], bank)
    _shares(panels[1], bank, sampler)
    _pairs(panels[2], bank)
    return save(figure, run.figures() / "patterns.png")


def _heaviest(figure: SubFigure, bank: PatternBank, sampler: str) -> None:
    total = bank.weights.sum()
    figure.suptitle(
        f"The {min(SHOWN, len(bank))} heaviest of {len(bank):,} masks in {total:,.0f} rows of elites   "
        "(blue: the row's own image, pale: its partner)",
        fontsize=11,
    )
    for axes, index in zip(figure.subplots(3, SHOWN // 3).flat, range(SHOWN), strict=True):
        axes.set_axis_off()
        if index >= len(bank):
            continue
        mask, share = bank.masks[index], bank.weights[index] / total
        axes.imshow(mask, cmap=ListedColormap([PARTNER, OWN]), vmin=0, vmax=1)
        for edge in np.arange(bank.grid + 1) - 0.5:
            axes.axhline(edge, color="white", linewidth=1)
            axes.axvline(edge, color="white", linewidth=1)
        by_chance = chance(mask, sampler)
        lift = "" if by_chance is None else f"   x{share / by_chance:,.{int(share < 10 * by_chance)}f}"
        axes.set_title(f"{100 * share:.2g} %{lift}", fontsize=8, color=GREY, pad=2)


def _cells_kept(axes: Axes, bank: PatternBank) -> None:
    kept = np.tensordot(bank.weights, bank.masks, 1) / bank.weights.sum()
    axes.imshow(kept, cmap="cividis", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(kept):
        if bank.grid <= 8:
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value < 0.6 else "black")  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.set_title("Own image kept, % of rows", fontsize=10)


def _shares(axes: Axes, bank: PatternBank, sampler: str) -> None:
    cells = bank.grid**2
    counts = np.bincount(bank.masks.reshape(len(bank), -1).sum(1), bank.weights, cells + 1)
    axes.bar(np.arange(cells + 1), 100 * counts / counts.sum(), color=OWN, width=0.8, label="elites")
    if sampler == "bernoulli":
        axes.axhline(100 / (cells + 1), color="#D55E00", linestyle="--", label="random drawing")
        axes.legend(frameon=False, fontsize=8)
    axes.margins(y=0.25)  # room for the legend
    tidy(axes, title="Cells kept per row", xlabel=f"cells of {cells}", ylabel="% of rows")
    axes.title.set_fontsize(10)


def _pairs(axes: Axes, bank: PatternBank) -> None:
    lift = bank.affinity()
    norm = TwoSlopeNorm(1.0, vmin=min(0.5, float(lift.min())), vmax=max(1.5, float(lift.max())))
    image = axes.imshow(lift, cmap="PuOr", norm=norm)
    if bank.num_classes <= NAMED_CLASSES:
        ticks = np.arange(bank.num_classes)
        axes.set_xticks(ticks, bank.class_names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(ticks, bank.class_names, fontsize=8)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="partner's class", ylabel="own class")
    axes.set_title("Class pairs (1 = as often as by chance)", fontsize=10)
    axes.figure.colorbar(image, ax=axes, fraction=0.046)


def figures_of(atlas: Atlas) -> list[tuple[str, Figure, str]]:
    """(title, figure, caption) of each figure, in the theme in force (analysis.style)."""
    return []
