"""Real composed images of a search: own image, partner, mixture with its grid, and the model's cell losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.run_folder import RunFolder, RunFolderError, read_snapshot
from analysis.style import GREY, new_figure, save

Array = NDArray[Any]
WORST = 8.0  # nats: the darkest a cell is drawn


def last_snapshot(run: RunFolder) -> dict[str, Array]:
    """The last search the run wrote whole. Raises RunFolderError where there is none."""
    files = sorted((run.path / "elites").glob("*.npz"))
    if not files:
        raise RunFolderError(f"run {run.name} has no composed images: only `evolved` runs and `./run search` keep some")
    return read_snapshot(files[-1])


def rows_of(snapshot: dict[str, Array]) -> list[dict[str, Any]]:
    """The gallery's rows, best score first: images (H,W,3) or (H,W), mask, cell losses, labels, share."""
    names = [str(name) for name in snapshot["class_names"]]
    rows = []
    for index in range(len(snapshot["gallery_scores"])):
        own, partner = (names[label] for label in snapshot["gallery_labels"][index])
        mask = snapshot["gallery_masks"][index]
        rows.append(
            {
                "own": as_picture(snapshot["gallery_own"][index]),
                "partner": as_picture(snapshot["gallery_partner"][index]),
                "mixed": as_picture(snapshot["gallery_mixed"][index]),
                "mask": mask,
                "cell_losses": snapshot["gallery_cell_losses"][index],
                "score": float(snapshot["gallery_scores"][index]),
                "own_label": own,
                "partner_label": partner,
                "share": float(mask.mean()),
            }
        )
    return rows


def place(snapshot: dict[str, Array]) -> str:
    """Which search a snapshot is of; a search experiment has no epochs."""
    epoch = int(snapshot["epoch"])
    return f"search {int(snapshot['search']):,}" + (f", epoch {epoch}" if epoch else "")


def as_picture(image: Array) -> Array:
    """(C,H,W) uint8 -> (H,W,3), or (H,W) where C is 1."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def draw_gallery(run: RunFolder, path: Path) -> Path:
    """Write the last snapshot's rows as one figure."""
    snapshot = last_snapshot(run)
    rows = rows_of(snapshot)
    figure = new_figure(1.45 * len(rows), 6.2)
    figure.suptitle(
        f"{run.name}: the best genome of {place(snapshot)}, from its fittest rows to its least fit",
        fontsize=10,
    )
    grid = figure.subplots(4, len(rows), squeeze=False)
    for column, row in zip(grid.T, rows, strict=True):
        _picture(column[0], row["own"], row["own_label"])
        _picture(column[1], row["partner"], row["partner_label"])
        _picture(column[2], row["mixed"], share_text(row))
        _lines(column[2], row["mixed"].shape, row["mask"].shape[0])
        _losses(column[3], row)
    for axes, label in zip(grid[:, 0], ("own image", "partner", "composed", "cell losses\n(nats)"), strict=True):
        axes.set_ylabel(label, fontsize=9)
    return save(figure, path)


def share_text(row: dict[str, Any]) -> str:
    """Both labels with their shares."""
    return f"{100 * row['share']:.0f} % {row['own_label']}\n{100 - 100 * row['share']:.0f} % {row['partner_label']}"


def _picture(axes: Axes, image: Array, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, pad=3)


def _lines(axes: Axes, shape: tuple[int, ...], grid: int) -> None:
    for cell in range(1, grid):
        axes.axhline(cell * shape[0] / grid - 0.5, color="white", linewidth=0.7, alpha=0.8)
        axes.axvline(cell * shape[1] / grid - 0.5, color="white", linewidth=0.7, alpha=0.8)


def _losses(axes: Axes, row: dict[str, Any]) -> None:
    losses = row["cell_losses"]
    axes.imshow(np.minimum(losses, WORST), cmap="magma_r", vmin=0, vmax=WORST)
    axes.set(xticks=[], yticks=[])
    if len(losses) <= 8:
        for (y, x), value in np.ndenumerate(losses):
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=6,
                      color="white" if value > WORST / 2 else "black")  # fmt: skip
    axes.set_title(f"score {row['score']:.2f}", fontsize=8, pad=3, color=GREY)
