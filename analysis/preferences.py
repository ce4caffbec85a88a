"""What a search prefers, against what chance gives: a permutation test for each statement, with its words.

Tests are over one row per image of each search that was kept whole: that of the fittest genome of its last
generation. Kin genomes share most rows, so that only one of them is counted. Every test is a permutation test, exact
under its null whatever the numbers of rows:

- Masks: beside each row's mask lie DRAWN masks made as the null says. Where the null holds, which of them is the
  search's own is arbitrary; so each permutation picks one of them for each row. (For the cells' places, one for each of
  BLOCKS groups of rows.)
- Pairings: a permutation deals the partners of one search anew among its rows (class_pairs.py).
"""

from __future__ import annotations

from math import nan
from typing import Any, NamedTuple

import numpy as np

from analysis.class_pairs import about_pairings
from analysis.orbits import boundary, pieces
from analysis.permutations import PERMUTATIONS, STEPS, Rows, Statement, share_as_far, strength_of, untested
from analysis.rounding import significant
from analysis.statistics import LEVEL, holm
from evo.arrays import Array
from evo.bank import random_masks
from evo.symmetry import orbits

DRAWN = 19  # masks of the null beside each row's own
BLOCKS = 64
RANDOM = "masks drawn at random ({sampler})"
SAME_SHARE = "random masks of the same share"


class Alternatives(NamedTuple):
    """(R, 1 + DRAWN, n) bool each, a row's own mask first: beside masks drawn at random, and beside masks with
    which its form is compared: its own cells shuffled, or where places are not alike the random ones.
    """

    drawn: Array
    alike: Array


def alternatives_to(masks: Array, sampler: str, min_cells: int, rng: np.random.Generator) -> Alternatives:
    """Beside masks (R,G,G), made as the null says."""
    count, grid = masks.shape[:2]
    own = masks.reshape(count, 1, -1)
    random = random_masks(sampler, count * DRAWN, grid, rng, min_cells=min_cells).reshape(count, DRAWN, -1)
    drawn = np.concatenate([own, random], axis=1)
    if sampler != "bernoulli":
        return Alternatives(drawn, drawn)
    shuffled = rng.permuted(np.repeat(own, DRAWN, axis=1), axis=2)
    return Alternatives(drawn, np.concatenate([own, shuffled], axis=1))


def statements_of(
    rows: Rows,
    alternatives: Alternatives,
    sampler: str,
    search: dict[str, Any],
    class_names: list[str],
    rng: np.random.Generator,
) -> tuple[list[Statement], Array | None]:
    """All statements, with p adjusted by Holm over those that are tested, in the order that Atlas says; and its pair_p."""
    form = SAME_SHARE if sampler == "bernoulli" else RANDOM.format(sampler=sampler)
    about_pairs, pair_p = about_pairings(rows, search, class_names, rng)
    found = [
        *_shares(alternatives.drawn, RANDOM.format(sampler=sampler), bool(search.get("hold")), rng),
        *_forms(alternatives.alike, rows.masks.shape[-1], form, rng),
        *about_pairs,
    ]
    adjusted = holm([s.p for s in found])
    found = [_worded(s._replace(p_holm=float(p))) for s, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=_rank), pair_p


def _rank(statement: Statement) -> tuple[int, float]:
    """Told from no preference, not told from it, not tested; within each the furthest from chance first."""
    if np.isnan(statement.p_holm):
        return 2, 0.0
    return int(statement.p_holm >= LEVEL), -statement.strength


class Words(NamedTuple):
    """How a test is told: its subject, what is preferred above and below chance, and how a value is written."""

    subject: str
    above: str
    below: str
    value: str
    rest: str = ""  # of the unit, said once


WORDS = {
    "share": Words("share of cells kept", "keeping more of the own image", "keeping less of the own image", "{} %"),
    "balance": Words("how evenly images are mixed", "mixing less evenly", "mixing more evenly", "{}",
                     " points away from half and half"),
    "unmixed": Words("rows not mixed at all", "leaving rows unmixed", "mixing every row", "{} %", " of rows unmixed"),
    "places": Words("which cells are kept", "keeping certain cells", "keeping all cells alike", "{}",
                    " percentage points between places"),
    "pieces": Words("pieces of a mask", "more pieces", "fewer pieces", "{}", " pieces of either image"),
    "boundary": Words("boundary of a mask", "longer boundaries", "shorter boundaries", "{}", " edges"),
    "patterns": Words("rows that share a pattern", "certain patterns", "varied patterns", "{} %", " of pairs of rows alike"),
    "same class": Words("partners of the own class", "partners of the own class", "partners of other classes", "{} %",
                        " of rows with a partner of their class"),
    "itself": Words("images as their own partners", "images as their own partners", "other images as partners", "{} %",
                    " of rows"),
    "class pairs": Words("which classes are paired", "certain pairs of classes", "evenly spread pairs of classes", "{}",
                         " (chi-square for each pair of classes)"),
}  # fmt: skip


def _worded(statement: Statement) -> Statement:
    if np.isnan(statement.p):
        return statement
    words = WORDS[statement.name]
    observed, expected = (words.value.format(significant(value)) for value in (statement.observed, statement.expected))
    told = (
        f"{observed}{words.rest} against {expected} of {statement.null} (p = {significant(statement.p)}, adjusted "
        f"{significant(statement.p_holm)})"
    )
    if statement.p_holm >= LEVEL:
        return statement._replace(text=f"no preference seen: {words.subject}, {told}")
    preferred = words.above if statement.observed > statement.expected else words.below
    return statement._replace(text=f"evolution prefers {preferred}: {told}")


def _shares(drawn: Array, null: str, held: bool, rng: np.random.Generator) -> list[Statement]:
    """How many cells are kept, against random drawing."""
    if held:
        return [untested("share", "the run's rules hold every row's share (search.hold)")]
    cells = drawn.shape[-1]
    kept = drawn.sum(axis=2)
    values = {
        "share": (kept, 100 / cells, "% of cells"),
        "balance": (abs(2 * kept - cells), 50 / cells, "points"),
        "unmixed": (((kept == 0) | (kept == cells)).astype(np.int64), 100.0, "% of rows"),
    }
    return _picked(values, null, rng)


def _forms(alike: Array, grid: int, null: str, rng: np.random.Generator) -> list[Statement]:
    """Where cells are kept and how they hang together."""
    count, beside, _ = alike.shape
    flat = alike.reshape(-1, grid, grid)
    together = (pieces(flat) + pieces(~flat)).reshape(count, beside)
    edges = boundary(flat).reshape(count, beside)
    found = _picked({"pieces": (together, 1.0, "pieces"), "boundary": (edges, 1.0, "edges")}, null, rng)
    return [_places(alike, null, rng), *found, _repeats(flat, count, null, rng)]


def _picked(values: dict[str, tuple[Array, float, str]], null: str, rng: np.random.Generator) -> list[Statement]:
    """Tests of means: name -> (values (R, 1 + DRAWN) int, the row's own first; unit's size; unit). Two-sided."""
    names = list(values)
    count, beside = values[names[0]][0].shape
    start = np.arange(count) * beside
    sums: dict[str, list[Array]] = {name: [] for name in names}
    for _ in range(0, PERMUTATIONS, STEPS):
        picks = start + rng.integers(0, beside, (STEPS, count))
        for name in names:
            sums[name].append(values[name][0].ravel()[picks].sum(axis=1))
    found = []
    for name, (numbers, size, unit) in values.items():
        centre = float(numbers.sum()) / beside  # the same whichever of them is the search's
        observed = float(numbers[:, 0].sum())
        by_chance = np.concatenate(sums[name])
        p = share_as_far(abs(observed - centre), abs(by_chance - centre))
        expected = float(numbers[:, 1:].mean()) * size
        strength = strength_of(observed, by_chance)
        found.append(Statement(name, "", observed / count * size, expected, unit, p, nan, null, strength))
    return found


def _places(alike: Array, null: str, rng: np.random.Generator) -> Statement:
    """Whether some cells are kept more often than others (or than the sampler has it)."""
    count, beside, _ = alike.shape
    order = rng.permutation(count)
    blocks = min(BLOCKS, count)
    starts = np.linspace(0, count, blocks + 1).astype(int)[:-1]
    sums = np.add.reduceat(alike[order], starts, axis=0, dtype=np.int64)  # (blocks, beside, n)
    centre = sums.sum(axis=(0, 1)) / beside

    def uneven(kept: Array) -> Array:
        apart: Array = 100 * np.sqrt((((kept - centre) / count) ** 2).mean(axis=-1))
        return apart

    picks = rng.integers(0, beside, (PERMUTATIONS, blocks))
    by_chance = uneven(sums[np.arange(blocks), picks].sum(axis=1))
    rows = rng.integers(1, beside, count)  # one of the null for each row: what chance alone makes of the places
    observed = float(uneven(alike[:, 0].sum(axis=0)))
    expected = float(uneven(alike[np.arange(count), rows].sum(axis=0)))
    return Statement(
        "places",
        "",
        observed,
        expected,
        "points",
        share_as_far(observed, by_chance),
        nan,
        null,
        strength_of(observed, by_chance),
    )


def _repeats(flat: Array, count: int, null: str, rng: np.random.Generator) -> Statement:
    """Whether rows share patterns, up to symmetry, more often than chance has it."""
    index, which = orbits(flat)
    which = which.reshape(count, -1)
    pairs = count * (count - 1) or 1
    lone = np.bincount(which.ravel(), minlength=len(index)) < 2
    numbers = np.cumsum(~lone)  # orbits seen once cannot repeat: all of them are number 0, and left out
    numbers[lone] = 0
    which = numbers[which]
    most = int(numbers.max()) + 1

    def alike(picked: Array) -> float:
        counts = np.bincount(picked, minlength=most)[1:]
        return 100 * float((counts * (counts - 1)).sum()) / pairs

    beside = which.shape[1]
    rows = np.arange(count)
    by_chance = np.array([alike(which[rows, rng.integers(0, beside, count)]) for _ in range(PERMUTATIONS)])
    expected = float(np.mean([alike(which[:, column]) for column in range(1, beside)]))
    observed = alike(which[:, 0])
    centre = float(np.mean([alike(which[:, column]) for column in range(beside)]))
    p = share_as_far(abs(observed - centre), abs(by_chance - centre))
    return Statement(
        "patterns", "", observed, expected, "% of pairs of rows", p, nan, null, strength_of(observed, by_chance)
    )
