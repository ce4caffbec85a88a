"""`./run bench scaling`: what a generation of the search costs as its population and its batch grow.

Milliseconds and peak MiB of one `ask` and `tell` on one thread, without a model: cell losses are looked up in a
table, outside the clock. The slope is that of a line through the larger half of the sizes on logarithmic axes;
1 is linear growth. The figure: runs/results/bench/scaling.png.
"""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.style import GREY, look, new_figure, save, tidy
from evo.search import Search
from runs.benchmarks import result_path, row
from runs.benchmarks.timed_searches import draw_losses, time_generation
from training.progress import Progress


@dataclass(frozen=True, order=True)
class Size:
    population: int
    batch: int
    grid: int = 4

    @property
    def rows(self) -> int:
        return self.population * self.batch


SERIES = {
    "P from 16 to 2,048 at B=64": [Size(population, 64) for population in (16, 32, 64, 128, 256, 512, 1024, 2048)],
    "B from 64 to 1,024 at P=64": [Size(64, batch) for batch in (64, 128, 256, 512, 1024)],
}
QUICK = {
    "P from 16 to 256 at B=64": [Size(population, 64) for population in (16, 32, 64, 128, 256)],
    "B from 64 to 256 at P=64": [Size(64, batch) for batch in (64, 128, 256)],
}


@dataclass
class Cost:
    """Of one size: milliseconds of single generations, and MiB at the peak of each."""

    milliseconds: list[float]
    mebibytes: list[float]


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    series = QUICK if quick else SERIES
    progress = Progress()
    costs = measure_sizes(series, rounds=2 if quick else 5, generations=4 if quick else 6, progress=progress)
    rows = []
    for name, sizes in series.items():
        for size in sizes:
            point = f"P{size.population} B{size.batch} G{size.grid}"
            rows.append(row(name, f"{point}, a generation", costs[size].milliseconds, "ms"))
            rows.append(row(name, f"{point}, peak memory", costs[size].mebibytes, "MiB"))
        for quantity, slope in slopes(sizes, costs).items():
            rows.append(row(name, f"growth of {quantity}, larger half", [slope], "slope"))
    draw(series, costs, result_path("scaling", quick, "png"))
    return rows, []


def measure_sizes(series: dict[str, list[Size]], rounds: int, generations: int, progress: Progress) -> dict[Size, Cost]:
    """Every size once a round, a new search each time; its first generation, which draws, is left out."""
    sizes = sorted({size for sizes in series.values() for size in sizes}, key=lambda size: size.rows)
    costs = {size: Cost([], []) for size in sizes}
    for number in range(rounds):
        for size in sizes:
            progress.update(f"round {number + 1}/{rounds}: P={size.population} B={size.batch}")
            gc.collect()
            costs[size].milliseconds += run(size, generations, seed=number)
    for size in sizes:  # apart: tracing slows everything down
        progress.update(f"memory: P={size.population} B={size.batch}")
        gc.collect()
        costs[size].mebibytes += run(size, 3, seed=0, memory=True)
    return costs


def run(size: Size, generations: int, seed: int, memory: bool = False) -> list[float]:
    """Milliseconds of each generation after the first, or with memory the search's MiB at each one's peak."""
    labels, losses = draw_losses(seed, size.batch, size.grid)
    figures: list[float] = []
    if memory:
        tracemalloc.start()
    try:
        search = Search(
            size.batch,
            size.grid,
            labels,
            population=size.population,
            objective="hard",
            sampler="bernoulli",
            seed=seed,
        )
        for _ in range(generations + 1):
            tracemalloc.reset_peak()
            seconds = time_generation(search, losses)
            if seconds is None:
                break
            figures.append(tracemalloc.get_traced_memory()[1] / 2**20 if memory else 1000 * seconds)
    finally:
        tracemalloc.stop()
    return figures[1:]


def slopes(sizes: list[Size], costs: dict[Size, Cost]) -> dict[str, float]:
    """Of time and memory against rows, on logarithmic axes, over the larger half of the sizes."""
    larger = sizes[len(sizes) // 2 :] if len(sizes) > 3 else sizes
    rows = np.log([size.rows for size in larger])
    figures = {
        "time": [median(costs[size].milliseconds) for size in larger],
        "memory": [median(costs[size].mebibytes) for size in larger],
    }
    return {name: float(np.polyfit(rows, np.log(values), 1)[0]) for name, values in figures.items()}


def draw(series: dict[str, list[Size]], costs: dict[Size, Cost], path: Path) -> Path:
    """Time and memory against the rows of a population, both logarithmic, with slopes."""
    figure = new_figure(9.0, 3.8)
    for column, (quantity, unit) in enumerate((("time", "ms"), ("memory", "MiB"))):
        axes = figure.add_subplot(1, 2, column + 1)
        tidy(axes, xlabel="rows of the population: P x B", ylabel=f"{quantity} of a generation ({unit})")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for axis, steps in ((axes.xaxis, LogLocator(2)), (axes.yaxis, LogLocator(subs=(1, 2, 5)))):
            axis.set_major_locator(steps)
            axis.set_major_formatter("{x:,g}")
            axis.set_minor_formatter(NullFormatter())
        for index, (name, sizes) in enumerate(series.items()):
            rows = [size.rows for size in sizes]
            found = [costs[size].milliseconds if quantity == "time" else costs[size].mebibytes for size in sizes]
            label = f"{name}: slope {slopes(sizes, costs)[quantity]:.2f}"
            own = look(index)
            axes.plot(
                rows, [median(values) for values in found], color=own.colour, linestyle=own.line, marker=own.marker,
                label=label, markersize=4,
            )  # fmt: skip
        _mark_linear(axes)
        axes.legend(loc="upper left", frameon=False, fontsize=8)
        axes.tick_params(labelsize=8)
    return save(figure, path)


def _mark_linear(axes: Any) -> None:
    """A dashed line of slope 1 under the last points."""
    line = max(axes.get_lines(), key=lambda drawn: drawn.get_xdata()[-1])
    rows = line.get_xdata()
    value = line.get_ydata()[-1]
    axes.plot(rows, [value * at / rows[-1] * 0.6 for at in rows], "--", color=GREY, linewidth=1, label="linear")
