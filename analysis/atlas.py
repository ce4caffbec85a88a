"""What a run's search prefers: masks under the grid's symmetries, pairings, and how both move from search to search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any, NamedTuple

import numpy as np

from analysis.orbits import Orbits, boundary, orbits_of, pieces
from analysis.permutations import PERMUTATIONS, Rows, Statement
from analysis.preferences import Alternatives, alternatives_to, statements_of
from analysis.run_folder import RunFolder
from evo.arrays import Array
from evo.bank import PatternBank
from evo.bank_files import load_bank
from evo.symmetry import orbits

MOST_ROWS = 8192  # of all searches together; of more, evenly spread ones are tested


class Movement(NamedTuple):
    """One value per search kept whole, beside what chance gives, (S,) each."""

    title: str
    unit: str
    values: Array
    expected: Array


@dataclass
class Atlas:
    """All that `atlas_of` finds. kept (G,G): share of the rows trained on that keep the cell. mattered (G,G): of the
    cell losses at each place of the pictured rows, the share at cells that kept the own image; None without pictures.
    """

    run: str
    grid: int
    sampler: str
    bank: PatternBank
    orbits: Orbits
    kept: Array
    mattered: Array | None
    pictured: int  # rows that `mattered` is of
    epochs: Array  # (S,) of the searches kept whole; search numbers where there are no epochs
    by: str  # what `epochs` counts: epoch or search
    movements: list[Movement]
    statements: list[Statement]  # told from no preference first, of these the strongest first
    notes: list[str]
    tested: int  # rows
    pair_p: Array | None  # (K,K) of pairs of classes that come more often than by chance; None where not tested


def atlas_of(run: RunFolder) -> Atlas:
    """The atlas of a run's patterns. Raises RunFolderError where it has none."""
    bank = load_bank(run.bank_file())
    snapshots = run.snapshots()
    mix, search = run.config["mix"], run.config["search"]
    sampler = str(mix["sampler"])
    rng = np.random.default_rng(0)
    found = orbits_of(bank, sampler, rng)
    rows = rows_of_searches(snapshots, bank.grid)
    epochs = np.array([int(s["epoch"]) for s in snapshots], np.int64)
    by = "epoch"
    if not epochs.any():
        epochs = np.array([int(s["search"]) for s in snapshots], np.int64)
        by = "search"
    mattered, pictured = where_it_mattered(snapshots, bank.grid)
    statements: list[Statement] = []
    movements: list[Movement] = []
    pair_p = None
    if len(rows.masks):
        alternatives = alternatives_to(rows.masks, sampler, int(search.get("min_cells", 0)), rng)
        statements, pair_p = statements_of(rows, alternatives, sampler, search, bank.class_names, rng)
        movements = _movements(rows, alternatives, found, search)
    return Atlas(
        run.name,
        bank.grid,
        sampler,
        bank,
        found,
        np.tensordot(bank.weights, bank.masks, 1) / bank.weights.sum(),
        mattered,
        pictured,
        epochs,
        by,
        movements,
        statements,
        _notes(search, sampler, len(snapshots)),
        len(rows.masks),
        pair_p,
    )


def rows_of_searches(snapshots: list[dict[str, Array]], grid: int) -> Rows:
    """The rows of the fittest genome of each search's last generation, MOST_ROWS at most, evenly spread."""
    parts = []
    step = max(1, -(-sum(len(s["labels"]) for s in snapshots) // MOST_ROWS))
    for number, snapshot in enumerate(snapshots):
        last = np.flatnonzero(snapshot["generation"] == snapshot["generation"].max())
        fitness = snapshot["fitness"].reshape(len(snapshot["generation"]), -1)[last, 0]
        genome = last[int(np.argmax(fitness))]
        labels = snapshot["labels"]
        pairing = snapshot["pairings"][genome]
        every = np.arange(0, len(labels), step)
        parts.append(
            Rows(
                snapshot["masks"][genome][every],
                labels[every],
                labels[pairing[every]],
                pairing[every] == every,
                np.full(len(every), number),
                np.full(len(every), len(labels)),
            )
        )
    if not parts:
        return Rows(np.zeros((0, grid, grid), bool), *(np.zeros(0, int) for _ in range(5)))
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def where_it_mattered(snapshots: list[dict[str, Array]], grid: int) -> tuple[Array | None, int]:
    """(G,G): of the cell losses at each place of the pictured rows, the share at cells that kept the own image; and how
    many rows are pictured. Only these rows' cell losses are kept: some of the fittest and of the least fit.
    """
    of_own = np.zeros((grid, grid))
    total = np.zeros((grid, grid))
    rows = 0
    for snapshot in snapshots:
        kind = snapshot.get("gallery_kind", np.full(len(snapshot["gallery_masks"]), "best"))
        chosen = kind != "way"  # the same row over and over
        losses = snapshot["gallery_cell_losses"][chosen].astype(np.float64)
        masks = snapshot["gallery_masks"][chosen]
        finite = np.isfinite(losses).all((1, 2))
        of_own += (losses * masks)[finite].sum(0)
        total += losses[finite].sum(0)
        rows += int(finite.sum())
    if not rows or not (total > 0).all():
        return None, 0
    return of_own / total, rows


def _movements(rows: Rows, alternatives: Alternatives, found: Orbits, search: dict[str, Any]) -> list[Movement]:
    """How each quantity moves from search to search, beside chance."""
    groups = [np.flatnonzero(rows.search == number) for number in np.unique(rows.search)]
    grid = rows.masks.shape[-1]
    few = alternatives.alike[:, 1:4].reshape(-1, grid, grid)
    random = alternatives.drawn[:, 1:4].reshape(-1, grid, grid)

    def movement(title: str, unit: str, of: Callable[[Array], Array], null: Array) -> Movement:
        values = of(rows.masks)
        by_chance = of(null).reshape(len(rows.masks), -1)
        if null is random:  # the same for every search
            by_chance = np.full_like(by_chance, by_chance.mean(), float)
        return Movement(
            title, unit, np.array([values[g].mean() for g in groups]), np.array([by_chance[g].mean() for g in groups])
        )

    moves = [
        movement("Share of cells kept", "% of cells", lambda m: 100 * m.mean((1, 2)), random),
        movement("Pieces", "per row", lambda m: pieces(m) + pieces(~m), few),
        movement("Boundary", "edges per row", boundary, few),
    ]
    mixed = np.flatnonzero(found.boundary > 0)
    if len(mixed):
        top = found.masks[mixed[0]]
        moves.append(movement("Commonest mixed pattern", "% of rows", lambda m: 100 * _is_like(m, top), random))
    if (rows.own >= 0).all():
        moves.append(_same_class(rows, groups))
    return moves


def _is_like(masks: Array, form: Array) -> Array:
    _, which = orbits(np.concatenate([form[None], masks]))
    like: Array = which[1:] == which[0]
    return like


def _same_class(rows: Rows, groups: list[Array]) -> Movement:
    values, expected = [], []
    for group in groups:
        chosen = group[~rows.itself[group]]
        own, partner = rows.own[chosen], rows.partner[chosen]
        count = max(1, len(chosen))
        most = int(max(own.max(initial=0), partner.max(initial=0))) + 1
        values.append(100 * float((own == partner).mean()) if len(chosen) else nan)
        by_class = np.bincount(own, minlength=most) * np.bincount(partner, minlength=most)
        expected.append(100 * float(by_class.sum()) / count**2)
    return Movement("Partner of the own class", "% of rows", np.array(values), np.array(expected))


def _notes(search: dict[str, Any], sampler: str, snapshots: int) -> list[str]:
    """What a careful reader of the statements should know."""
    notes = [
        f"Tests are over the fittest genome of the last generation of {snapshots} searches kept whole, one row per image, "
        f"with {PERMUTATIONS:,} permutations, adjusted by Holm."
    ]
    if search.get("carry") or search.get("start"):
        notes.append(
            "Searches started from earlier patterns, so that rows share ancestors: p of masks is smaller than it should be."
        )
    operators = [str(search.get(key, "")) for key in ("crossover", "mask_mutation")]
    shaped = [name for name in operators if "block" in name or "kpoint" in name]
    notes.append(
        "Chance is random drawing. Mutation and crossover also move shares without any selection"
        + (f", and {' and '.join(shaped)} makes masks hang together." if shaped else ".")
    )
    return notes
