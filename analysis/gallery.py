"""Real composed images of a search: own image, partner, mixture with its grid, and the model's cell losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from analysis.snapshots import read_snapshot
from analysis.style import ink, new_figure, save, soft, theme
from analysis.words import plain
from evo.arrays import Array

Item = TypeVar("Item")
LOSS = (0.75, 0.12, 0.0)  # the colour of cell losses over a picture; the larger the loss, the more opaque
DEEPEST = 0.8  # opacity of the largest loss of a snapshot
LARGEST_WRITTEN = 1000  # nats; a longer number does not fit into a cell
NUMBERED = 5  # cells a side: up to there every cell's loss is written into it
SHOWN_GENERATIONS = 5
ACROSS = 6  # pictures in a line of the way through the generations
LONGEST_LABEL = 16  # characters of a class name under a picture


class Row(NamedTuple):
    """One row of a composition, as it was composed and scored in a generation. Pictures: (H,W,3) or (H,W) uint8."""

    kind: str  # best, worst or way
    generation: int
    own: Array
    partner: Array
    mixed: Array
    mask: Array  # (G,G) bool, True = own image
    cell_losses: Array  # (G,G) nats
    score: float
    own_label: str
    partner_label: str

    @property
    def share(self) -> float:
        """Of the own image, 0..1."""
        return float(self.mask.mean())


def snapshot_files(run: RunFolder) -> list[Path]:
    """The searches the run wrote whole, in order."""
    return sorted((run.path / "elites").glob("*.npz"))


def last_snapshot(run: RunFolder) -> dict[str, Array]:
    """The last search the run wrote whole. Raises RunFolderError where there is none."""
    files = snapshot_files(run)
    if not files:
        raise RunFolderError(f"run {run.name} has no composed images: only `evolved` runs and `./run search` keep some")
    return read_snapshot(files[-1])


def rows_of(snapshot: dict[str, Array]) -> list[Row]:
    """The gallery's rows in the file's order: of a generation the best score first."""
    names = [str(name) for name in snapshot["class_names"]]
    pictures = [as_picture(image) for image in snapshot["gallery_pictures"]]
    return [
        Row(
            kind=str(snapshot["gallery_kind"][index]),
            generation=int(snapshot["gallery_generation"][index]),
            own=pictures[snapshot["gallery_own"][index]],
            partner=pictures[snapshot["gallery_partner"][index]],
            mixed=as_picture(snapshot["gallery_mixed"][index]),
            mask=snapshot["gallery_masks"][index],
            cell_losses=snapshot["gallery_cell_losses"][index],
            score=float(snapshot["gallery_scores"][index]),
            own_label=names[snapshot["gallery_labels"][index][0]],
            partner_label=names[snapshot["gallery_labels"][index][1]],
        )
        for index in range(len(snapshot["gallery_scores"]))
    ]


def of_kind(rows: Sequence[Row], kind: str, generation: int | None = None) -> list[Row]:
    """The rows of a kind, of one generation where it is given."""
    return [row for row in rows if row.kind == kind and generation in (None, row.generation)]


def generations_of(rows: Sequence[Row]) -> list[int]:
    """The generations of which the best and the worst rows are kept, ascending."""
    return sorted({row.generation for row in rows if row.kind != "way"})


def way_of(rows: Sequence[Row]) -> list[Row]:
    """One row of the batch by generation, ascending; empty where none is kept (version 1)."""
    return sorted(of_kind(rows, "way"), key=lambda row: row.generation)


def evenly(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` of the items, spread evenly, the first and the last among them (of one, the last)."""
    if number <= 1:
        return list(items[-1:])
    if len(items) <= number:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, number)]


def place(snapshot: dict[str, Array]) -> str:
    """Which search a snapshot is of; a search experiment has no epochs."""
    epoch = int(snapshot["epoch"])
    return f"search {int(snapshot['search']):,}" + (f", epoch {epoch}" if epoch else "")


def as_picture(image: Array) -> Array:
    """(C,H,W) uint8 -> (H,W,3), or (H,W) where C is 1."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def largest_loss(rows: Sequence[Row]) -> float:
    """Nats of the deepest colour: the largest finite cell loss of the rows."""
    losses = np.concatenate([row.cell_losses.ravel() for row in rows]) if rows else np.ones(1)
    return max(float(np.max(losses, initial=0.0, where=np.isfinite(losses))), 1e-6)


def depths(losses: Array, largest: float) -> Array:
    """Cell losses (G,G) as 0..1 of the largest; what is not finite counts as the largest."""
    return np.clip(np.nan_to_num(losses / largest, nan=1.0, posinf=1.0, neginf=0.0), 0.0, 1.0)


# Figures


def write_gallery(run: RunFolder, out: Path | None = None, *, dark: bool = False) -> list[Path]:
    """Write gallery.png and, where the run kept them, gallery-generations.png and gallery-way.png into the folder
    `out`, else RUN/figures; all of the last search that was written whole. Raises RunFolderError where there is none.
    """
    folder = out or run.figures()
    snapshot = last_snapshot(run)
    rows = rows_of(snapshot)
    where = f"{run.name}, {place(snapshot)}"
    with theme(dark):
        written = [save(_before_and_after(rows, where), folder / "gallery.png")]
        if len(generations_of(rows)) > 1:
            written.append(save(_by_generation(rows, where), folder / "gallery-generations.png"))
        if way_of(rows):
            written.append(save(_way(rows, where), folder / "gallery-way.png"))
    return written


def draw_gallery(run: RunFolder, path: Path) -> Path:
    """Write one figure: images before and after, of the last generation of the last search written whole."""
    snapshot = last_snapshot(run)
    return save(_before_and_after(rows_of(snapshot), f"{run.name}, {place(snapshot)}"), path)


def _before_and_after(rows: Sequence[Row], where: str) -> Figure:
    generation = generations_of(rows)[-1]
    best, worst = of_kind(rows, "best", generation), of_kind(rows, "worst", generation)
    figure, columns = _columns(4, len(best), len(worst), 6.0, 1)
    figure.suptitle(plain(f"Composed images: {where}, generation {generation} (last)"), fontsize=11)
    largest = largest_loss(rows)
    for axes, row in zip(columns, [*best, *worst], strict=True):
        _picture(axes[0], row.own, _short(row.own_label))
        _picture(axes[1], row.partner, _short(row.partner_label))
        _picture(axes[2], row.mixed, share_text(row))
        _grid(axes[2], row)
        _picture(axes[3], row.mixed, score_text(row))
        _losses(axes[3], row, largest)
    names = ("own image", "partner", "composed", "cell losses")
    for first, name in zip(columns[0], names, strict=True):
        first.set_ylabel(name, fontsize=10, color=ink())
    figure.supxlabel(_scale(largest), fontsize=9, color=soft())
    return figure


def _by_generation(rows: Sequence[Row], where: str) -> Figure:
    shown = evenly(generations_of(rows), SHOWN_GENERATIONS)
    best, worst = (max(len(of_kind(rows, kind, generation)) for generation in shown) for kind in ("best", "worst"))
    figure, columns = _columns(len(shown), best, worst, 0.9 + 1.6 * len(shown), 3)
    figure.suptitle(plain(f"Rows of the fittest genome by generation: {where}"), fontsize=11)
    largest = largest_loss(rows)
    for line, generation in enumerate(shown):
        for kind, own in (("best", columns[:best]), ("worst", columns[best:])):
            found = of_kind(rows, kind, generation)
            for axes, row in zip(own, found, strict=False):
                _picture(axes[line], row.mixed, f"{share_text(row)}\n{score_text(row)}")
                _losses(axes[line], row, largest)
            for axes in own[len(found) :]:
                axes[line].set_axis_off()
        columns[0][line].set_ylabel(f"generation {generation}", fontsize=10, color=ink())
    figure.supxlabel(_scale(largest), fontsize=9, color=soft())
    return figure


def _way(rows: Sequence[Row], where: str) -> Figure:
    way = way_of(rows)
    across = min(max(len(way), 4), ACROSS)
    lines = -(-len(way) // across)
    figure = new_figure(9, 0.9 + (0.75 + 8.6 / across) * lines)
    figure.suptitle(
        plain(f"One row's way through the generations: {where}\nown image: {way[0].own_label}"), fontsize=11
    )
    panels = figure.subplots(lines, across, squeeze=False)
    largest = largest_loss(rows)
    for axes, row in zip(panels.flat, way, strict=False):
        _picture(axes, row.mixed, f"generation {row.generation}\n{share_text(row)}\n{score_text(row)}")
        _losses(axes, row, largest)
    for axes in panels.flat[len(way) :]:
        axes.set_axis_off()
    figure.supxlabel(_scale(largest), fontsize=9, color=soft())
    return figure


def _columns(lines: int, best: int, worst: int, height: float, title_lines: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure with columns for the best rows, a gap, and columns for the worst; its axes column by column.

    title_lines: lines of the titles of the first line's pictures, above which the groups' names stand.
    """
    gap = [0.12] if best and worst else []
    figure = new_figure(9.2, height)
    panels = figure.subplots(
        lines, best + len(gap) + worst, squeeze=False, width_ratios=[1.0] * best + gap + [1.0] * worst
    )
    columns = [list(column) for column in panels.T]
    if gap:
        for axes in columns.pop(best):
            axes.set_axis_off()
    for first, name in ((0, "fittest rows"), (best, "least fit rows")):
        if first < len(columns):
            columns[first][0].annotate(
                name, (0, 1), xytext=(0, 8 + 10.5 * title_lines), xycoords="axes fraction", textcoords="offset points",
                fontsize=10, color=soft(), style="italic",
            )  # fmt: skip
    return figure, columns


def share_text(row: Row) -> str:
    """Both labels with their shares."""
    own = round(100 * row.share)
    return f"{_short(row.own_label)}: {own} %\n{_short(row.partner_label)}: {100 - own} %"


def score_text(row: Row) -> str:
    return f"score {decimal_text(row.score, '.2f')}"


def loss_texts(losses: Array) -> list[tuple[int, int, str]]:
    """(line, column, text) of each cell's loss (G,G), where the cells are few and the numbers short enough to stand in them."""
    if len(losses) > NUMBERED or not (np.abs(losses) < LARGEST_WRITTEN).all():
        return []
    return [(y, x, f"{value:.1f}") for (y, x), value in np.ndenumerate(losses)]


def _scale(largest: float) -> str:
    return (
        "Cell losses in nats over the composed image: the redder a cell, the larger its loss (deepest red: "
        f"{decimal_text(largest, '.1f')}). "
        "Bold lines: where the images meet."
    )


def _short(label: str) -> str:
    return plain(label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…")


def _picture(axes: Axes, image: Array, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8, pad=3, color=ink())


def _grid(axes: Axes, row: Row) -> None:
    """Thin lines between cells, bold ones where the own image and the partner meet."""
    height, width = row.mixed.shape[:2]
    side = len(row.mask)
    for cell in range(1, side):
        axes.axhline(cell * height / side - 0.5, color="white", linewidth=0.6, alpha=0.7)
        axes.axvline(cell * width / side - 0.5, color="white", linewidth=0.6, alpha=0.7)
    for (y0, x0), (y1, x1) in borders(row.mask):
        axes.plot(
            [x0 * width / side - 0.5, x1 * width / side - 0.5], [y0 * height / side - 0.5, y1 * height / side - 0.5],
            color="white", linewidth=1.6, path_effects=[withStroke(linewidth=3, foreground="black")],
            solid_capstyle="round",
        )  # fmt: skip


def borders(mask: Array) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The edges between unlike cells of a mask (G,G): start and end as (line, column) of the grid's corners."""
    below = [((y + 1, x), (y + 1, x + 1)) for y, x in np.argwhere(mask[1:] != mask[:-1]).tolist()]
    beside = [((y, x + 1), (y + 1, x + 1)) for y, x in np.argwhere(mask[:, 1:] != mask[:, :-1]).tolist()]
    return below + beside


def _losses(axes: Axes, row: Row, largest: float) -> None:
    """Cell losses over a composed picture."""
    height, width = row.mixed.shape[:2]
    side = len(row.cell_losses)
    shade = np.empty((side, side, 4))
    shade[..., :3] = LOSS
    shade[..., 3] = DEEPEST * depths(row.cell_losses, largest)
    axes.imshow(shade, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest", aspect="auto")
    axes.set_aspect("equal")
    _grid(axes, row)
    for y, x, text in loss_texts(row.cell_losses):
        axes.text(
            (x + 0.5) * width / side - 0.5, (y + 0.5) * height / side - 0.5, text, ha="center", va="center", fontsize=7,
            color="white", path_effects=[withStroke(linewidth=1.6, foreground="black")],
        )  # fmt: skip
