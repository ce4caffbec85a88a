"""Which classes a search pairs, and whether images are their own partners, against partners dealt at random."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np

from analysis.permutations import PERMUTATIONS, STEPS, Rows, Statement, share_as_far, strength_of, untested
from evo.arrays import Array

MOST_CLASSES = 100  # of more, the kept rows are too few for their pairs
DEALT = "partners dealt at random within each search"


def about_pairings(
    rows: Rows, search: dict[str, Any], class_names: list[str], rng: np.random.Generator
) -> tuple[list[Statement], Array | None]:
    """Which classes are paired, and whether images are their own partners; and `_pair_p`, None where it is not tested."""
    if search.get("hold") or not search.get("same_class", True):
        return [untested("class pairs", "the run's rules forbid some partners (search.hold, search.same_class)")], None
    if (rows.own < 0).any():
        return [untested("class pairs", "the images have no classes")], None
    classes = len(class_names)
    dense = classes <= MOST_CLASSES
    size = classes * classes if dense else 1
    expected = _expected_pairs(rows, classes) if dense else np.zeros(1)
    apart = ~np.eye(classes, dtype=bool).ravel() & (expected.ravel() > 0) if dense else np.zeros(1, bool)
    same, uneven, excess = [], [], []
    groups = [np.flatnonzero(rows.search == number) for number in np.unique(rows.search)]
    # That an image is its own partner is no choice of a class.
    groups = [group[~rows.itself[group]] for group in groups]
    for steps in [0, *[STEPS] * (PERMUTATIONS // STEPS)]:  # first as they are
        counts = np.zeros((max(steps, 1), size), np.int64)
        alike = np.zeros(max(steps, 1), np.int64)
        for group in groups:
            own, partner = rows.own[group], rows.partner[group]
            theirs = rng.permuted(np.broadcast_to(partner, (steps, len(partner))), axis=1) if steps else partner[None]
            alike += (theirs == own).sum(axis=1)
            if dense:
                codes = own * classes + theirs + np.arange(len(theirs))[:, None] * size
                counts += np.bincount(codes.ravel(), minlength=counts.size).reshape(counts.shape)
        same.append(alike)
        if dense:
            uneven.append(_unevenness(counts[:, apart], expected.ravel()[apart]))
            excess.append(_excess(counts.reshape(-1, classes, classes), expected))
    others = max(1, int((~rows.itself).sum()))
    by_chance = np.concatenate(same) * (100 / others)
    centre = float(by_chance[1:].mean())
    statements = [
        Statement("same class", "", float(by_chance[0]), centre, "% of rows",
                  share_as_far(abs(by_chance[0] - centre), abs(by_chance[1:] - centre)), nan, DEALT,
                  strength_of(by_chance[0], by_chance[1:]))
    ]  # fmt: skip
    if search.get("self_pairing", True):
        statements.append(_themselves(rows, rng))
    if dense and apart.any():
        values = np.concatenate(uneven)
        p = share_as_far(values[0], values[1:])
        strength = strength_of(values[0], values[1:])
        statements.append(
            Statement("class pairs", "", float(values[0]), float(values[1:].mean()), "", p, nan, DEALT, strength)
        )
    else:
        statements.append(untested("class pairs", f"{classes:,} classes have more pairs than {others:,} rows can tell"))
    return statements, _pair_p(excess, classes) if dense else None


def _expected_pairs(rows: Rows, classes: int) -> Array:
    """(K,K) pairs of classes under random partners within each search, among rows whose partner is another image."""
    expected = np.zeros((classes, classes))
    for number in np.unique(rows.search):
        chosen = (rows.search == number) & ~rows.itself
        own = np.bincount(rows.own[chosen], minlength=classes)
        partner = np.bincount(rows.partner[chosen], minlength=classes)
        expected += np.outer(own, partner) / max(1, int(chosen.sum()))
    return expected


def _excess(counts: Array, expected: Array) -> Array:
    """(S,N) of the N pairs of different classes, both directions together: how far counts (S,K,K) are above what is
    expected (K,K), in the square root of that, as of a Poisson count.
    """
    one, two = np.triu_indices(len(expected), 1)
    seen = (counts + counts.swapaxes(1, 2))[:, one, two]
    both = (expected + expected.T)[one, two]
    return np.divide(seen - both, np.sqrt(both), out=np.zeros(seen.shape), where=both > 0)


def _pair_p(excess: Sequence[Array], classes: int) -> Array:
    """(K,K) symmetric: p of each pair of different classes, NaN on the diagonal. The share of permutations in which any
    pair is as far above chance, which accounts for the number of pairs (Westfall and Young, *Resampling-Based Multiple
    Testing*, 1993). excess: the search's own first.
    """
    values = np.concatenate(excess)
    found = np.full((classes, classes), nan)
    if values.shape[1]:
        largest = np.sort(values[1:].max(axis=1))
        as_far = len(largest) - np.searchsorted(largest, values[0] - 1e-9)
        one, two = np.triu_indices(classes, 1)
        found[one, two] = found[two, one] = (1 + as_far) / (1 + len(largest))
    return found


def _unevenness(counts: Array, expected: Array) -> Array:
    """(S,) chi-square per pair of different classes, of counts (S,N) scaled to as many pairs as are expected."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    scaled = expected * total / expected.sum()
    result: Array = ((counts - scaled) ** 2 / scaled).mean(axis=1)
    return result


def _themselves(rows: Rows, rng: np.random.Generator) -> Statement:
    """How often an image is its own partner; in a random permutation of any length once on average."""
    count = len(rows.search)
    by_chance = np.zeros(PERMUTATIONS, np.int64)
    centre = 0.0
    for number in np.unique(rows.search):
        images = rows.images[rows.search == number]
        if len(images) == images[0]:
            places = np.arange(len(images))
            dealt = rng.permuted(np.broadcast_to(places, (PERMUTATIONS, len(places))), axis=1)
            by_chance += (dealt == places).sum(axis=1)
        else:  # a part of many rows
            by_chance += rng.binomial(len(images), 1 / images[0], PERMUTATIONS)
        centre += len(images) / images[0]
    observed = int(rows.itself.sum())
    # Counts this small are not symmetric: twice the smaller tail.
    p = min(1.0, 2 * min(share_as_far(observed, by_chance), share_as_far(-observed, -by_chance)))
    return Statement(
        "itself",
        "",
        100 * observed / count,
        100 * centre / count,
        "% of rows",
        p,
        nan,
        DEALT,
        strength_of(observed, by_chance),
    )
