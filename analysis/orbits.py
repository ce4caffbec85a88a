"""Masks that are alike under the grid's symmetries, with the shape of each and how often drawing at random gives it."""

from __future__ import annotations

from math import comb, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evo.arrays import Array
from evo.bank import PatternBank, random_masks
from evo.symmetry import canonical, orbits

if TYPE_CHECKING:
    import pandas as pd

LISTED = 500  # orbits
SAMPLED = 20_000  # masks drawn for a lift that has no formula
FEWEST = 5  # of these an orbit must have for a lift to be told


class Orbits(NamedTuple):
    """Masks that are alike under rotation, mirroring and complement; the most frequent first, at most LISTED."""

    masks: Array  # (U,G,G) bool, the canonical form
    sizes: Array  # (U,) how many different masks it stands for, 1..16
    frequency: Array  # (U,) share of the rows trained on
    lift: Array  # (U,) over random drawing; NaN where it is too rare to tell
    share: Array  # (U,) of cells kept by the form
    own_pieces: Array  # (U,) 4-connected pieces of kept cells
    partner_pieces: Array  # (U,) and of the others
    boundary: Array  # (U,) edges between a kept cell and one that is not
    number: int  # of orbits found in all

    def table(self) -> pd.DataFrame:
        """One row an orbit."""
        import pandas as pd

        form = ["/".join("".join("#" if cell else "." for cell in row) for row in mask) for mask in self.masks]
        columns = self._asdict()
        return pd.DataFrame({"form": form, **{k: v for k, v in columns.items() if k not in ("masks", "number")}})


def chance(mask: Array, sampler: str) -> float | None:
    """The probability that random PatchMix draws this mask (G,G); None for samplers without a formula.

    Bernoulli masks with a share q ~ U(0,1): k of n kept cells have probability 1 / ((n + 1) C(n, k)).
    """
    if sampler != "bernoulli":
        return None
    return 1 / ((mask.size + 1) * comb(mask.size, int(mask.sum())))


def pieces(masks: Array) -> Array:
    """Of masks (N,G,G) bool: how many 4-connected pieces their True cells form, (N,) int64."""
    from scipy.ndimage import label

    if not len(masks):
        return np.zeros(0, np.int64)
    across = np.zeros((3, 3, 3), bool)
    across[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]  # neighbours within a mask only
    numbered = label(masks, across)[0].reshape(len(masks), -1).max(axis=1)
    # Pieces are numbered in reading order, mask after mask; a mask without any has 0.
    reached = np.maximum.accumulate(numbered)
    return np.diff(reached, prepend=0).astype(np.int64)


def boundary(masks: Array) -> Array:
    """Of masks (N,G,G) bool: edges between a kept cell and one that is not, (N,) int64."""
    beside = (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    below = (masks[:, 1:] != masks[:, :-1]).sum((1, 2))
    edges: Array = beside + below
    return edges


def orbits_of(bank: PatternBank, sampler: str, rng: np.random.Generator) -> Orbits:
    """A bank's masks grouped under the 16 symmetries, with their lift over the sampler's random drawing."""
    index, which = orbits(bank.masks)
    weight = np.bincount(which, bank.weights, len(index))
    order = np.argsort(-weight, kind="stable")[:LISTED]
    forms, sizes = canonical(bank.masks[index[order]])
    frequency = weight[order] / weight.sum()
    return Orbits(
        forms,
        sizes,
        frequency,
        frequency / _orbit_chance(forms, sizes, sampler, rng),
        forms.mean((1, 2)),
        pieces(forms),
        pieces(~forms),
        boundary(forms),
        len(index),
    )


def _orbit_chance(forms: Array, sizes: Array, sampler: str, rng: np.random.Generator) -> Array:
    """(U,) the probability that a random mask is of each orbit; NaN where it is too rare to tell."""
    closed = [chance(form, sampler) for form in forms]
    if sampler == "bernoulli":  # a complement is as likely, and so are rotations
        return sizes * np.array(closed, np.float64)
    drawn = random_masks(sampler, SAMPLED, forms.shape[-1], rng)
    _, which = orbits(np.concatenate([forms, drawn]))
    counts = np.bincount(which[len(forms) :], minlength=int(which.max()) + 1)[which[: len(forms)]]
    return np.where(counts >= FEWEST, counts / SAMPLED, nan)
