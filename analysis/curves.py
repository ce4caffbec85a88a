"""Pictures of searches: fitness within a search and over the training, Pareto fronts, diversity, forwards saved,
what the operators did. Seeds of one setting are one band; settings differ in colour, line style and marker.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from analysis.curve_lines import SMALL, Panel, legend
from analysis.curve_tables import Setting, settings_of, write_table
from analysis.curve_topics import topics_of
from analysis.curve_words import bands, fitness
from analysis.files import joined_name
from analysis.run_folder import RunFolder, out_root
from analysis.style import new_figure, save, soft, theme

if TYPE_CHECKING:
    import pandas as pd


def write_curves(runs: Sequence[RunFolder], out: Path | None = None, *, dark: bool = False) -> list[Path]:
    """Write curves.png, curves.svg and curves.csv (columns: curve_tables.COLUMNS); return their paths.

    They go into `out`; else into the run's figures/, and of several runs into a folder of curves/ under runs/out.
    Raises RunFolderError, before anything is written, where no run has generations.
    """
    settings, notes = settings_of(runs)
    folder = out or _folder(runs)
    with theme(dark):
        figure = _picture(settings, notes)
        picture = save(figure, folder / "curves.png")
        figure.set_layout_engine("none")  # it is laid out, which takes as long as drawing
        drawing = save(figure, folder / "curves.svg")
    return [picture, drawing, write_table(settings, folder / "curves.csv")]


def draw_curves(runs: Sequence[RunFolder], path: Path) -> Path:
    """Write the picture alone, as PNG or SVG by the path's ending."""
    return save(_picture(*settings_of(runs)), path)


def figures_of(runs: Sequence[RunFolder]) -> list[tuple[str, Figure, str]]:
    """The picture's topics as figures of their own, at most 9 inches wide: title, figure, caption.

    Raises RunFolderError where no run has generations.
    """
    settings, notes = settings_of(runs)
    found: list[tuple[str, Figure, str]] = []
    for topic in topics_of(settings):
        columns = min(2, len(topic.panels))
        figure = new_figure(9 if columns > 1 else 6, 3.4 * -(-len(topic.panels) // columns) + 0.4 * (len(settings) > 1))
        _fill(figure, topic.panels, columns)
        legend(figure, settings)
        found.append((topic.title, figure, topic.caption))
    title, figure, caption = found[0]
    return [(title, figure, " ".join([caption, *notes])), *found[1:]]


def by_generation(run: RunFolder) -> pd.DataFrame:
    """Means over the run's searches, a row a generation: best, mean, std, forwards
    per image of the search batch, number of searches. Raises RunFolderError where it has no generations.
    """
    settings_of([run])
    table = run.generations
    table = table.assign(per_image=table["forwards"] / table["images"])
    return table.groupby("generation").agg(
        best=("best", "mean"),
        mean=("mean", "mean"),
        std=("std", "mean"),
        per_image=("per_image", "mean"),
        searches=("search", "nunique"),
    )


def fitness_label(run: RunFolder) -> str:
    """What the fitness axis shows: the run's first objective."""
    return fitness("".join(str(run.config["search"]["objective"]).split(",")[0].split()))


def _picture(settings: Sequence[Setting], notes: Sequence[str]) -> Figure:
    """All topics, two panels a row."""
    panels = [panel for topic in topics_of(settings) for panel in topic.panels]
    columns = min(2, len(panels))
    figure = new_figure(9.5 if columns > 1 else 6, 3.3 * -(-len(panels) // columns) + 0.9)
    _fill(figure, panels, columns)
    if len(settings) == 1:
        figure.suptitle(_heading(settings[0]), fontsize=10)
    legend(figure, settings)
    below = [bands(settings), *("\n".join(textwrap.wrap(note, 140, max_lines=4)) for note in notes)]
    figure.supxlabel("\n".join(note for note in below if note), fontsize=SMALL, color=soft())
    return figure


def _fill(figure: Figure, panels: Sequence[Panel], columns: int) -> None:
    places = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        panel.draw(axes)
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.tick_params(labelsize=SMALL)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    for axes in places[len(panels) :]:
        axes.set_axis_off()


def _heading(setting: Setting) -> str:
    searches, generations = (
        max(getattr(history, name) for history in setting.histories) for name in ("searches", "generations")
    )
    times = f"{searches:,} searches" if searches > 1 else "one search"
    return f"{setting.label}: {times} of {generations:,} generation{'s' if generations > 1 else ''}"


def _folder(runs: Sequence[RunFolder]) -> Path:
    """Where a picture of these runs goes: never where one of a run alone is."""
    unlike = list({run.path.resolve(): run for run in runs}.values())
    if len(unlike) == 1:
        return unlike[0].figures()
    return out_root() / "curves" / joined_name([run.whole_name for run in unlike])
