"""What a composition may be, and how one that may not is repaired: with few changes, never by drawing again."""

from __future__ import annotations

import numpy as np

from evo.arrays import Array
from evo.errors import UserError
from evo.packed import Masks


class Rules:
    """The validity rules of one search batch.

    Where no permutation obeys the pairing rules (all labels equal, say, and same_class False), as few rows as possible
    break them.

    Args:
        labels: (B,) int, -1 where not given.
        grid: G.
        min_cells: Each mask keeps and gives away at least so many cells.
        self_pairing: Whether an image may be its own partner.
        same_class: Whether a partner may be of the image's class.
        hold: Every row keeps the share of cells and the class relation (same class or not) that the first genome drew
            for it, so that a search cannot win by mixing less or by pairing like with like.

    Attributes:
        unmet: How many rows of the last repair break the rules.

    Raises:
        UserError: min_cells is more than half of the cells.
    """

    def __init__(
        self,
        labels: Array,
        grid: int,
        *,
        min_cells: int = 0,
        self_pairing: bool = True,
        same_class: bool = True,
        hold: bool = False,
    ) -> None:
        cells = grid * grid
        if not 0 <= min_cells <= cells // 2:
            raise UserError(f"min_cells must be 0..{cells // 2}, half of the grid's {cells} cells, got {min_cells}")
        self.labels = labels
        self.hold = hold
        self.min_cells = min_cells
        self.cells = cells
        self.unmet = 0
        own = labels[:, None]
        partner = labels[None, :]
        self.same: Array = (own == partner) & (own >= 0)
        np.fill_diagonal(self.same, True)
        self.permitted: Array = np.ones((len(labels),) * 2, bool)  # whatever is held
        if not self_pairing and len(labels) > 1:
            np.fill_diagonal(self.permitted, False)
        if not same_class:
            self.permitted &= ~self.same | np.eye(len(labels), dtype=bool) & self_pairing
        self.release()

    @property
    def held(self) -> bool:
        """Whether shares and class relations are fixed by now."""
        return isinstance(self.low, np.ndarray)

    def release(self) -> None:
        """Hold nothing: as before the first generation."""
        self.low: Array | int = self.min_cells
        self.high: Array | int = self.cells - self.min_cells
        self.allowed = self.permitted

    def restore(self, held: tuple[Array, Array] | None, unmet: int) -> None:
        """Hold what was saved.

        Args:
            held: Shares (B,) as numbers of cells, and allowed pairs (B,B) bool; None: nothing is held.
            unmet: The attribute.
        """
        self.release()
        self.unmet = unmet
        if held is not None:
            self.low = self.high = held[0]
            self.allowed = held[1]

    @property
    def free(self) -> bool:
        """Whether every composition is valid."""
        return isinstance(self.low, int) and self.low == 0 and bool(self.allowed.all())

    def repair_first(self, masks: Masks, pairings: Array, rng: np.random.Generator) -> tuple[Masks, Array]:
        """Repair a first generation. With `hold`, its first genome fixes shares and relations.

        Args:
            masks: Masks (P,B).
            pairings: (P,B) int32.
            rng: The generator.

        Returns:
            Valid masks and pairings.
        """
        self.release()
        masks, pairings = self.repair(masks, pairings, rng)
        if self.hold:
            self.hold_from(masks[0], pairings[0])
            # Deal the masks out anew, each to a row whose share is near its own, so that few cells change.
            slots = np.argsort(np.broadcast_to(self.low, masks.shape), axis=None, kind="stable")
            order = np.lexsort((rng.random(slots.size), masks.kept().ravel()))
            dealt = np.empty_like(masks.words.reshape(slots.size, -1))
            dealt[slots] = masks.words.reshape(slots.size, -1)[order]
            first = masks.words[0]
            masks = Masks(dealt.reshape(masks.words.shape), masks.grid)
            masks.words[0] = first
            masks, pairings = self.repair(masks, pairings, rng)
        return masks, pairings

    def hold_from(self, masks: Masks, pairing: Array) -> None:
        """Hold shares and class relations from now on.

        Args:
            masks: Masks (B,), whose shares are held.
            pairing: (B,) int, whose class relations are held.
        """
        self.low = self.high = masks.kept()
        relation = self.same[np.arange(len(pairing)), pairing]
        self.allowed = self.allowed & (self.same == relation[:, None])

    def count_broken(self, pairings: Array) -> int:
        """Count rows that break the rules.

        Args:
            pairings: (N,B) int.

        Returns:
            How many of the N x B rows do.
        """
        return int((~self.allowed[np.arange(pairings.shape[1]), pairings]).sum())

    def repair(self, masks: Masks, pairings: Array, rng: np.random.Generator) -> tuple[Masks, Array]:
        """Find the valid genomes nearest to some.

        Args:
            masks: Masks (N,B).
            pairings: (N,B) int32.
            rng: The generator.

        Returns:
            Masks (N,B) and pairings (N,B).
        """
        pairings, self.unmet = repair_pairings(pairings, self.allowed, rng)
        return limit_kept(masks, self.low, self.high, rng), pairings


def limit_kept(masks: Masks, low: Array | int, high: Array | int, rng: np.random.Generator) -> Masks:
    """Turn as few random cells of masks as it takes for each to keep low..high cells.

    Args:
        masks: Masks (N,B).
        low: Cells, an int or (B,).
        high: Cells, an int or (B,).
        rng: The generator.

    Returns:
        Masks (N,B); those given where nothing is to be turned.

    Example:
        >>> empty = Masks.pack(np.zeros((1, 2, 3, 3), bool))
        >>> limit_kept(empty, 2, 7, np.random.default_rng(0)).kept()
        array([[2, 2]])
    """
    kept = masks.kept()
    lacking = np.clip(kept, low, high) - kept  # (N,B): above 0, cells to be kept; below 0, to be given away
    genome, row = np.nonzero(lacking)
    if not len(genome):
        return masks
    cells = masks[genome, row].cells.reshape(len(genome), -1)
    count = lacking[genome, row][:, None]
    eligible = cells != (count > 0)
    rank = np.argsort(np.argsort(np.where(eligible, rng.random(cells.shape), 2.0), axis=1), axis=1)
    repaired = masks.copy()
    turned = cells ^ (rank < np.abs(count))
    repaired[genome, row] = Masks.pack(turned.reshape(-1, masks.grid, masks.grid))
    return repaired


def repair_pairings(pairings: Array, allowed: Array, rng: np.random.Generator) -> tuple[Array, int]:
    """Make permutations obey what is allowed, by swapping partners.

    A row whose partner is not allowed trades with a random row such that both are well served. Where no single trade
    helps, the genome gets the assignment that keeps most of its pairs (Kuhn, 1955).

    Args:
        pairings: (N,B) int, permutations.
        allowed: (B,B) bool, whether image b may have partner j.
        rng: The generator.

    Returns:
        The permutations (N,B), and how many of their rows cannot be helped.
    """
    rows = np.arange(pairings.shape[1])
    bad = ~allowed[rows, pairings]
    if not bad.any():
        return pairings, 0
    child = pairings.copy()
    stuck = np.zeros(len(child), bool)
    while True:
        genome = np.flatnonzero(bad.any(axis=1) & ~stuck)
        if not len(genome):
            break
        row = (rng.random((len(genome), len(rows))) * bad[genome]).argmax(axis=1)  # a bad one, at random
        mine = child[genome, row]
        theirs = child[genome]
        fits = allowed[row[:, None], theirs] & allowed[rows, mine[:, None]]
        wish = np.where(fits, rng.random(fits.shape) + bad[genome], -1.0)  # rather one that is bad as well
        other = wish.argmax(axis=1)
        found = fits[np.arange(len(genome)), other]
        stuck[genome[~found]] = True
        genome, row, other = genome[found], row[found], other[found]
        child[genome, row], child[genome, other] = child[genome, other], child[genome, row]
        bad[genome, row] = bad[genome, other] = False
    for index in np.flatnonzero(stuck):
        child[index] = _assign(child[index], allowed)
    return child, int((~allowed[rows, child]).sum())


def _assign(pairing: Array, allowed: Array) -> Array:
    from scipy.optimize import linear_sum_assignment

    size = len(pairing)
    cost = np.where(allowed, 1.0, size + 1.0)  # one forbidden pair costs more than changing every pair
    cost[np.arange(size), pairing] -= 1.0
    return linear_sum_assignment(cost)[1].astype(pairing.dtype)
