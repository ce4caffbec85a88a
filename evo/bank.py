"""Pattern banks: the masks a search found, how often, and which classes it paired.

A bank is data in memory; `evo.bank_files` reads and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from evo.arrays import Array
from evo.errors import BankError, UserError, did_you_mean

FADED = 0.05  # of a row: a pattern that has decayed below this weight is dropped
MAX_PATTERNS = 100_000  # of a file, and of a bank each time as many rows more have been counted in
MAX_GRID = 64
MAX_CLASSES = 50_000
KINDS = {"b": "bool", "iu": "integers", "fiu": "numbers"}  # of numpy's types


class PatternBank:
    """Masks with weights, and how often each class was paired with which.

    Everything that is given is checked first and copied; a call that is refused leaves the bank as it was.

    Args:
        grid: G, cells along a side of a mask, 1 to 64.
        num_classes: K, 1 to 50,000.
        class_names: K names, for reading; without them the classes are called 0 to K-1.

    Attributes:
        grid: G.
        class_names: the K names.
        uncut: rows counted in since the patterns were last cut down to the MAX_PATTERNS heaviest, which is done at
            fixed counts so that it does not depend on who looks when.

    Raises:
        ValueError: a size is out of its bounds, or there are more or fewer names than classes.

    Example:
        >>> bank = PatternBank(grid=2, num_classes=3)
        >>> masks = np.array([[[True, False], [False, False]]])
        >>> bank.collect(masks, own_labels=np.array([0]), partner_labels=np.array([2]))
        >>> masks, pairing = bank.draw(np.zeros(8), np.random.default_rng(0))
        >>> masks.shape, pairing.shape
        ((8, 2, 2), (8,))
    """

    def __init__(self, grid: int, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        _check_size("grid", grid, MAX_GRID)
        _check_size("number of classes", num_classes, MAX_CLASSES)
        names = [str(k) for k in range(num_classes)] if class_names is None else list(class_names)
        if len(names) != num_classes:
            raise ValueError(f"{num_classes} classes need as many names, got {len(names)}")
        self.grid = int(grid)
        self.class_names = names
        self.uncut = 0
        self._pairs: Array = np.zeros((num_classes, num_classes))
        self._masks: Array = np.zeros((0, grid, grid), bool)  # these two are replaced, never written to
        self._weights: Array = np.zeros(0)
        self._pending: list[Array] = []

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self._pairs)

    @property
    def masks(self) -> Array:
        """(N,G,G) bool, True = the cell keeps the row's own image; distinct, the heaviest first. Read-only."""
        self.fold()
        return _as_read_only(self._masks)

    @property
    def weights(self) -> Array:
        """(N,) float64, how many rows of elites had each mask, in the order of `masks`. Read-only."""
        self.fold()
        return _as_read_only(self._weights)

    @property
    def pairs(self) -> Array:
        """(K,K) float64, pairs[a, b] = how many rows of class a had a partner of class b. A copy."""
        return self._pairs.copy()

    def __len__(self) -> int:
        return len(self.masks)

    def collect(self, masks: Array, own_labels: Array, partner_labels: Array) -> None:
        """Count in R rows of elites.

        Args:
            masks: (R,G,G) bool, True = the cell keeps the row's own image.
            own_labels: (R,) integers, 0 to K-1, the classes of the rows' own images.
            partner_labels: (R,) integers, 0 to K-1, the classes of their partners.

        Raises:
            ValueError: a shape, a type or a label is another one.
        """
        masks = _check_array("masks", masks, "b", (None, self.grid, self.grid))
        own = self._check_labels("own_labels", own_labels, len(masks))
        partner = self._check_labels("partner_labels", partner_labels, len(masks))
        self._pending.append(masks.copy())
        np.add.at(self._pairs, (own, partner), 1.0)
        self.uncut += len(masks)
        if self.uncut >= MAX_PATTERNS:
            self.fold()
            self._masks = self._masks[:MAX_PATTERNS]
            self._weights = self._weights[:MAX_PATTERNS]
            self.uncut = 0

    def decay(self, share: float) -> None:
        """Keep a share of all weights and pairs, and drop the patterns that have faded.

        Args:
            share: 0 to 1.

        Raises:
            ValueError: it is outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a bank keeps a share of 0..1 of its weights, got {share}")
        weights = self.weights * share
        kept = weights >= FADED
        self._masks = self._masks[kept]
        self._weights = weights[kept]
        self._pairs = self._pairs * share

    def fold(self) -> None:
        """Fold pending rows into distinct masks with weights, which whoever looks at them does unasked.

        It is put off because each fold sorts all masks.
        """
        if not self._pending:
            return
        every = np.concatenate([self._masks, *self._pending])
        weights = np.concatenate([self._weights, np.ones(len(every) - len(self._masks))])
        self._masks, self._weights = _fold_masks(every, weights)
        self._pending = []

    def top(self, count: int) -> PatternBank:
        """Keep the heaviest masks.

        Args:
            count: how many, 0 or more; all where there are fewer.

        Returns:
            A bank with the `count` masks of largest weight and the same pairs.

        Raises:
            ValueError: the count is below 0.
        """
        if count < 0:
            raise ValueError(f"a bank keeps 0 patterns or more, got {count}")
        return self._with(self.masks[:count], self.weights[:count], self._pairs)

    def heavier_than(self, weight: float) -> PatternBank:
        """Keep the masks of at least a weight.

        Args:
            weight: in rows of elites.

        Returns:
            A bank with these masks and the same pairs.
        """
        return self.top(int((self.weights >= weight).sum()))

    def of_classes(self, names: Sequence[str]) -> PatternBank:
        """Keep the pairs of rows whose own image is of some classes, and all masks: they are not kept by class.

        Args:
            names: names of classes.

        Returns:
            A bank with these pairs.

        Raises:
            BankError: there is no such class.
        """
        chosen = np.isin(np.arange(self.num_classes), [self.class_number(name) for name in names])
        return self._with(self.masks, self.weights, self._pairs * chosen[:, None])

    def class_number(self, name: str) -> int:
        """Find a class by its name.

        Args:
            name: one of `class_names`.

        Returns:
            Its number, 0 to K-1.

        Raises:
            BankError: there is no such class; the error names the nearest.
        """
        if name in self.class_names:
            return self.class_names.index(name)
        known = ", ".join(self.class_names[:20]) + (", ..." if self.num_classes > 20 else "")
        hint = did_you_mean(name, self.class_names)
        raise BankError(f"there is no class {name!r:.60} among the patterns' classes{hint} (they are {known})")

    def describe(self) -> str:
        """Describe what is in it.

        Returns:
            Lines for a person: how many patterns, their shares, and how often partners are of the own class.
        """
        if not len(self):
            return f"no patterns; grid {self.grid}x{self.grid}, {self.num_classes:,} classes"
        total = self.weights.sum()
        cells = self.grid**2
        share = float(self.weights @ self.masks.mean((1, 2)) / total)
        kept = self.masks.reshape(len(self), -1).sum(1)
        unmixed = float(self.weights[(kept == 0) | (kept == cells)].sum() / total)
        lines = [
            f"{len(self):,} pattern{'s' * (len(self) != 1)} of {self.grid}x{self.grid} cells, from {total:,.0f} rows of "
            f"{self.num_classes:,} classes",
            f"{100 * share:.1f} % of cells keep the own image; {100 * unmixed:.1f} % of rows are not mixed",
        ]
        if len(self) > 1:
            ten = float(self.weights[:10].sum() / total)
            lines.append(f"the {min(10, len(self))} heaviest patterns have {100 * ten:.1f} % of the weight")
        seen = self.pairs.sum()
        if seen:
            lines.append(
                f"partners of the own class: {100 * float(np.trace(self.pairs) / seen):.1f} % of {seen:,.0f} rows"
            )
        return "\n".join(lines)

    @classmethod
    def merge(cls, banks: Sequence[PatternBank]) -> PatternBank:
        """Merge banks of one grid and the same classes.

        Args:
            banks: one bank or more.

        Returns:
            A bank with the MAX_PATTERNS heaviest masks of all, their weights added up, and all pairs.

        Raises:
            BankError: there is none, or their grids or the names of their classes differ.
        """
        if not banks:
            raise BankError("expected banks to merge, got none")
        first = banks[0]
        for other in banks[1:]:
            if other.grid != first.grid:
                raise BankError(
                    f"expected banks of one grid to merge, got {first.grid}x{first.grid} and {other.grid}x{other.grid}"
                )
            if other.class_names != first.class_names:
                raise BankError(
                    f"expected banks of the same classes to merge, got {_shorten(first.class_names)} and {_shorten(other.class_names)}"
                )
        every = np.concatenate([bank.masks for bank in banks])
        masks, weights = _fold_masks(every, np.concatenate([bank.weights for bank in banks]))
        pairs = np.sum([bank.pairs for bank in banks], axis=0)
        return first._with(masks[:MAX_PATTERNS], weights[:MAX_PATTERNS], pairs)

    def restore(self, masks: Array, weights: Array, pairs: Array, uncut: int = 0) -> None:
        """Replace the content. Masks that are doubled are summed, and the heaviest come first.

        Args:
            masks: (N,G,G) bool.
            weights: (N,) numbers, finite and not negative; where there are any, at least one is above zero.
            pairs: (K,K) numbers, finite and not negative.
            uncut: the attribute, 0 or more.

        Raises:
            ValueError: a shape, a type or a value is another one.
        """
        masks = _check_array("masks", masks, "b", (None, self.grid, self.grid))
        weights = _check_counts("weights", weights, (len(masks),))
        pairs = _check_counts("pairs", pairs, self._pairs.shape)
        if len(weights) and not weights.any():
            raise ValueError("at least one weight must be above zero")
        if isinstance(uncut, bool) or not isinstance(uncut, int | np.integer) or uncut < 0:
            raise ValueError(f"uncut must be a whole number of rows, 0 or more, got {uncut!r:.60}")
        if (np.diff(weights) > 0).any() or len(_find_distinct(masks.reshape(len(masks), self.grid**2))[0]) < len(masks):
            masks, weights = _fold_masks(masks, weights)
        self._put(masks.copy(), weights, pairs)
        self.uncut = int(uncut)

    def affinity(self) -> Array:
        """Tell which classes were paired more often than chance.

        Returns:
            (K,K) float64, the lift of each pair of classes: 1 = as often as its classes' frequencies say, and 1 as well
            where a pair was not to be expected at all.
        """
        total = self._pairs.sum()
        expected = np.outer(self._pairs.sum(axis=1), self._pairs.sum(axis=0)) / max(total, 1.0)
        return np.divide(self._pairs, expected, out=np.ones_like(self._pairs), where=expected > 0)

    def draw(self, labels: Sized, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw a composition: masks by their weights, partners by chance, as searches pair classes by chance too.

        Args:
            labels: (B,) the labels of the batch, or anything else of its length: their values do not matter.
            rng: the generator.

        Returns:
            Masks (B,G,G) bool, True = the cell keeps the row's own image, and a pairing (B,) int32, a permutation.

        Raises:
            ValueError: the bank is empty.
        """
        masks = self.draw_masks(len(labels), rng)
        return masks, rng.permutation(len(labels)).astype(np.int32)

    def draw_masks(self, count: int, rng: np.random.Generator) -> Array:
        """Draw masks, each by the patterns' weights.

        Args:
            count: how many.
            rng: the generator.

        Returns:
            (count,G,G) bool.

        Raises:
            ValueError: the bank is empty.
        """
        if not len(self):
            raise ValueError("this pattern bank is empty; collect elites before drawing")
        cumulative = np.cumsum(self.weights)
        chosen = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        drawn: Array = self.masks[np.minimum(chosen, len(cumulative) - 1)]
        return drawn

    def _with(self, masks: Array, weights: Array, pairs: Array) -> PatternBank:
        """A bank of the same grid and classes with other content, which is sound and folded."""
        made = PatternBank(self.grid, self.num_classes, self.class_names)
        made._put(masks.copy(), weights.copy(), pairs.copy())
        return made

    def _put(self, masks: Array, weights: Array, pairs: Array) -> None:
        self._masks = masks
        self._weights = weights
        self._pairs = pairs
        self._pending = []

    def _check_labels(self, name: str, labels: Array, count: int) -> Array:
        labels = _check_array(name, labels, "iu", (count,))
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"{name} must be classes 0..{self.num_classes - 1} of this bank, got {labels.min()}..{labels.max()}"
            )
        return labels


def random_masks(sampler: str, count: int, grid: int, rng: np.random.Generator, min_cells: int = 0) -> Array:
    """Draw masks as random PatchMix does, for readers of a bank that ask what is more than chance.

    Args:
        sampler: One of MASK_SAMPLERS.
        count: How many.
        grid: G.
        rng: The generator.
        min_cells: Cells that each mask keeps and gives away at least, as in a search's first generation.

    Returns:
        (count,G,G) bool, True = the cell keeps the row's own image.

    Raises:
        UserError: There is no such sampler.
    """
    from evo.operators import MASK_SAMPLERS  # these bring DEAP along
    from evo.packed import Masks
    from evo.rules import limit_kept

    if sampler not in MASK_SAMPLERS:
        hint = did_you_mean(sampler, MASK_SAMPLERS)
        raise UserError(f"unknown sampler {sampler!r:.60}{hint}; there are {', '.join(MASK_SAMPLERS)}")
    drawn: Array = MASK_SAMPLERS[sampler](count, grid, rng)
    if not min_cells:
        return drawn
    return limit_kept(Masks.pack(drawn[None]), min_cells, grid * grid - min_cells, rng).cells[0]


def _check_size(what: str, size: Any, largest: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= largest:
        raise ValueError(f"a pattern bank's {what} must be 1..{largest}, got {size!r:.60}")


def _check_array(name: str, given: Any, kinds: str, shape: tuple[int | None, ...]) -> Array:
    """An array of one of numpy's kinds and of a shape, of which None may be any. Raises ValueError for others."""
    array = np.asarray(given)
    fits = len(array.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind not in kinds or not fits:
        meant = ",".join("N" if side is None else str(side) for side in shape)
        raise ValueError(f"{name} must be {KINDS[kinds]} ({meant}), got {array.dtype!s:.40} {array.shape!s:.60}")
    return array


def _check_counts(name: str, given: Any, shape: tuple[int, ...]) -> Array:
    """A copy as float64 of an array of a shape, whose values and sum are finite and not negative."""
    with np.errstate(over="ignore"):
        counts = _check_array(name, given, "fiu", shape).astype(np.float64)
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise ValueError(f"{name} must be finite and not negative")
        if not np.isfinite(counts.sum()):
            raise ValueError(f"the sum of {name} must be finite")
    return counts


def _as_read_only(array: Array) -> Array:
    """A view that refuses to be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def _fold_masks(masks: Array, weights: Array) -> tuple[Array, Array]:
    """Distinct masks of (R,G,G) with the sums of their weights (R,), the heaviest first."""
    every = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    index, inverse = _find_distinct(every)
    totals = np.bincount(inverse, weights, minlength=len(index)).astype(np.float64)  # counts where there are none
    order = np.argsort(-totals, kind="stable")
    return masks[index[order]], totals[order]


def _find_distinct(rows: Array) -> tuple[Array, Array]:
    """Of rows (R,N) bool: where each kind first stands, in lexicographic order, and the kind of each row (R,)."""
    packed = np.packbits(rows, axis=1)
    if packed.shape[1] > 8:
        _, index, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    else:  # one number a row: sorted many times faster
        padded = np.zeros((len(rows), 8), np.uint8)
        padded[:, : packed.shape[1]] = packed
        numbers = padded.view(">u8").ravel().astype(np.uint64)
        _, index, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return index, inverse.ravel()


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names):,})" if len(names) > 4 else "")
