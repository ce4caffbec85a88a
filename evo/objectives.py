"""What makes a row worth training on: losses of rows -> row scores, larger is fitter.

Contract: objective(rows: RowLosses) -> scores (P,B) float32. A genome's fitness is the mean of its rows'
scores. A new objective is a function and an entry in OBJECTIVES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class RowLosses:
    """All an objective may look at, for P genomes over one batch of B images.

    cell_losses    (P,B,G,G) float32, nats: each cell's cross-entropy against the label it came from
    image_losses   (P,B) float32, nats: cross-entropy against the soft target; NaN where not measured
    masks          (P,B,G,G) bool, True = the cell keeps the row's own image
    own_labels     (B,) int; -1 where labels are not given
    partner_labels (P,B) int
    """

    cell_losses: Array
    image_losses: Array
    masks: Array
    own_labels: Array
    partner_labels: Array


def hard(rows: RowLosses) -> Array:
    """Mean cell loss (nats): prefers compositions the model gets wrong."""
    return rows.cell_losses.mean(axis=(2, 3))


def easy(rows: RowLosses) -> Array:
    """Negative mean cell loss (nats): prefers compositions the model gets right."""
    return -hard(rows)


OBJECTIVES: dict[str, Callable[[RowLosses], Array]] = {"hard": hard, "easy": easy}
