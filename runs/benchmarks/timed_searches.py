"""Searches without a model: losses that cost nothing, and the clock around the search alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from evo.arrays import Array
from evo.search import Rows, Search

CLASSES = 10


def draw_losses(seed: int, batch: int, grid: int) -> tuple[Array, Callable[[Rows], Array]]:
    """Labels (B,) of a batch, and a free stand-in for a model: a cell's loss depends on whose it is, so that there are
    better rows to be found.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, batch)
    own, other = rng.gamma(2.0, 1.0, (2, batch, grid, grid)).astype(np.float32)
    return labels, lambda rows: np.where(rows.masks, own[rows.image], other[rows.partner])


def time_generation(search: Search, losses: Callable[[Rows], Array], elites: int = 0) -> float | None:
    """Seconds that a search itself takes for a generation, and to choose so many elites; None at its end."""
    began = time.perf_counter()
    proposal = search.ask()
    if proposal is None:
        return None
    rows = proposal.rows
    asked = time.perf_counter()
    found = losses(rows)
    told = time.perf_counter()
    search.tell(found)
    if elites:
        search.elites(elites)
    return asked - began + time.perf_counter() - told
