"""A statement with the permutation test it was held against, and the rows that the tests are over."""

from __future__ import annotations

from math import nan
from typing import NamedTuple

from evo.arrays import Array

PERMUTATIONS = 2000
STEPS = 250  # permutations at once, which bounds memory


class Statement(NamedTuple):
    """A claim about what evolution prefers. p, p_holm: NaN where it could not be tested."""

    name: str
    text: str
    observed: float
    expected: float
    unit: str
    p: float
    p_holm: float
    null: str  # what counts as chance
    strength: float = nan  # how far from chance, in standard deviations of what chance gives


class Rows(NamedTuple):
    """One row per image of the searches kept whole: masks (R,G,G), classes (R,), partners' classes, whether the partner
    is the image itself, the number of the search and of its images.
    """

    masks: Array
    own: Array
    partner: Array
    itself: Array
    search: Array
    images: Array


def untested(name: str, why: str) -> Statement:
    """What stands where a test has no sense for a run."""
    return Statement(name, f"{name}: not tested, {why}", nan, nan, "", nan, nan, "")


def strength_of(observed: float, by_chance: Array) -> float:
    """Standard deviations from what chance gives on average; 0 where chance gives always the same."""
    spread = float(by_chance.std())
    return abs(float(observed - by_chance.mean())) / spread if spread > 0 else 0.0


def share_as_far(observed: float, by_chance: Array) -> float:
    """Share of permutations at least as far out, the search's own counted in."""
    return float(1 + (by_chance >= observed - 1e-9).sum()) / (1 + len(by_chance))
