"""Drawing, crossing and mutating masks. True (a 1) = the cell keeps the row's own image. Contracts: evo/operators/__init__.py.

Samplers return bool (count,G,G); variation works on packed masks (N,B), see evo.packed. A `row_rate` is the
share of rows that a mutation touches: touching few keeps most carried losses true, so a child costs few
image forwards.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from evo.arrays import Array
from evo.packed import Masks, full_words


def sample_bernoulli(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Draw masks (count,G,G): each draws a share q ~ U(0,1), and its cells are Bernoulli(q). Our own."""
    share = rng.random((count, 1, 1), dtype=np.float32)
    return rng.random((count, grid, grid), dtype=np.float32) < share


def sample_box(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Draw masks (count,G,G) whose dropped cells form one box, as CutMix does on pixels.

    The box covers a share 1-q of the image, q ~ U(0,1), has the image's aspect ratio and lies wholly
    inside; its sides are rounded to cells. After Yun et al., CutMix, ICCV 2019, section 3.
    """
    side = np.rint(grid * np.sqrt(rng.random(count))).astype(np.int64)
    top, left = (np.floor(rng.random((2, count)) * (grid - side + 1))).astype(np.int64)
    cells = np.arange(grid)
    rows = (cells >= top[:, None]) & (cells < (top + side)[:, None])
    columns = (cells >= left[:, None]) & (cells < (left + side)[:, None])
    return ~(rows[:, :, None] & columns[:, None, :])


def sample_connected(count: int, grid: int, rng: np.random.Generator) -> Array:
    """Draw masks (count,G,G) whose dropped cells form one 4-connected blob of 0..G^2 cells, each as likely.

    The blob grows from a random cell by a random neighbour at a time: Eden, A two-dimensional growth
    process, Berkeley Symposium 1961. Grown all at once by Richardson's equivalent (Mathematical Proceedings
    of the Cambridge Philosophical Society 74, 1973): a cell is reached an exponential time after its first
    neighbour, so every cell on the border is as likely to be next.
    """
    reached = np.full((count, grid + 2, grid + 2), np.inf)  # when; the rim is never reached
    inner = reached[:, 1:-1, 1:-1]
    delay = rng.standard_exponential((count, grid, grid))
    seed = rng.integers(0, grid, size=(2, count))
    inner[np.arange(count), seed[0], seed[1]] = 0
    while True:  # as often as the longest quickest way has cells
        sides = np.minimum(reached[:, :-2, 1:-1], reached[:, 2:, 1:-1])
        sides = np.minimum(sides, np.minimum(reached[:, 1:-1, :-2], reached[:, 1:-1, 2:])) + delay
        if not (sides < inner).any():
            break
        np.minimum(inner, sides, out=inner)
    size = rng.integers(0, grid * grid + 1, size=count)
    ordered = np.sort(inner.reshape(count, -1), axis=1)
    last = np.where(size > 0, ordered[np.arange(count), size - 1], -np.inf)
    return inner > last[:, None, None]


def uniform_cells(first: Masks, second: Masks, rng: np.random.Generator) -> Masks:
    """Cross masks: each cell comes from either parent with equal chance.

    Uniform crossover: Syswerda, Uniform crossover in genetic algorithms, ICGA 1989.
    """
    return _exchange(first, second, _draw_words(first.words.shape, first.words.dtype, rng))


def uniform_rows(first: Masks, second: Masks, rng: np.random.Generator) -> Masks:
    """Cross masks: each row's whole mask comes from either parent with equal chance.

    Uniform crossover (Syswerda, ICGA 1989) with the row as the gene.
    """
    from_first = _draw_words((*first.shape, 1), np.dtype(np.uint8), rng) & 1
    return Masks(np.where(from_first.view(np.bool_), first.words, second.words), first.grid)


def block_cells(first: Masks, second: Masks, rng: np.random.Generator) -> Masks:
    """Cross masks: in each row one random rectangle of cells comes from the second parent.

    The two-dimensional form of two-point crossover: Cohoon and Paris, Genetic placement, IEEE Transactions
    on Computer-Aided Design 6(6), 1987.
    """
    grid = first.grid
    return _exchange(first, second, _draw_rectangles(first.shape, grid, grid, rng))


def kpoint_cells(first: Masks, second: Masks, rng: np.random.Generator, *, points: int = 2) -> Masks:
    """Cross masks: each row is cut at `points` random places in reading order, and every other piece comes
    from the second parent. Cuts may coincide, and cancel out then.

    De Jong, An analysis of the behavior of a class of genetic adaptive systems, Michigan 1975.
    """
    if points < 1:
        raise ValueError(f"k-point crossover needs at least 1 point, got {points}")
    heads = _make_heads(first.grid)
    take = np.zeros_like(first.words)
    for _ in range(points):  # two heads differ in the piece between their ends
        take ^= heads[rng.integers(0, len(heads), size=first.shape)]
    return _exchange(first, second, take)


def flip_cells(masks: Masks, rng: np.random.Generator, *, row_rate: float = 0.15, cells: float = 1.5) -> Masks:
    """Flip about `cells` cells in a share `row_rate` of the rows.

    With row_rate = 1 this is the textbook bit flip of rate cells / G^2 (Holland, Adaptation in natural and
    artificial systems, 1975). Drawn by the gaps between flips, so that it costs what it changes.
    """
    count = masks.grid * masks.grid
    touched = None if row_rate == 1 else _draw_touched(masks, row_rate, rng)
    rows = prod(masks.shape) if touched is None else len(touched)
    flips = draw_hits(rows * count, min(1.0, cells / count), rng)
    row = flips // count
    return _toggle(masks, row if touched is None else touched[row], flips - row * count)


def flip_block(masks: Masks, rng: np.random.Generator, *, row_rate: float = 0.15) -> Masks:
    """Invert one random rectangle in a share `row_rate` of the rows; its sides are at most G / 2. Our own."""
    touched = _draw_touched(masks, row_rate, rng)
    return _xor(masks, touched, _draw_rectangles(touched.shape, masks.grid, max(1, masks.grid // 2), rng))


def complement(masks: Masks, rng: np.random.Generator, *, row_rate: float = 0.15) -> Masks:
    """Invert the whole mask in a share `row_rate` of the rows: own image and partner change places. Our own."""
    return _xor(masks, _draw_touched(masks, row_rate, rng), full_words(masks.grid))


def shift(masks: Masks, rng: np.random.Generator, *, row_rate: float = 0.15) -> Masks:
    """Move the mask by one cell up, down, left or right, around the edges, in a share `row_rate` of the rows.

    The shares stay as they are. Our own.
    """
    touched = _draw_touched(masks, row_rate, rng)
    direction = rng.integers(0, 4, size=len(touched))
    child = masks.copy()
    words = child.words.reshape(-1, child.words.shape[-1])  # a view
    for number, (step, axis) in enumerate(((1, 1), (-1, 1), (1, 2), (-1, 2))):
        rows = touched[direction == number]
        words[rows] = Masks.pack(np.roll(Masks(words[rows], masks.grid).cells, step, axis=axis)).words
    return child


def trade(masks: Masks, rng: np.random.Generator, *, row_rate: float = 0.15) -> Masks:
    """Let a kept cell and a dropped one trade places in a share `row_rate` of the rows.

    The shares stay as they are; rows that are not mixed at all have nothing to trade. Our own.
    """
    touched = _draw_touched(masks, row_rate, rng)
    words = masks.words.reshape(-1, masks.words.shape[-1])[touched]
    cells = Masks(words, masks.grid).cells.reshape(len(touched), masks.grid**2)
    mixed = cells.any(axis=1) & ~cells.all(axis=1)
    touched, cells = touched[mixed], cells[mixed]
    chance = _draw_words(cells.shape, np.dtype(np.uint32), rng) >> 1  # the top bit is for the cell
    chance |= cells.astype(np.uint32) << 31
    kept = chance.argmax(axis=1)
    chance ^= np.uint32(1 << 31)
    dropped = chance.argmax(axis=1)
    return _toggle(_toggle(masks, touched, kept), touched, dropped)


def draw_hits(count: int, rate: float, rng: np.random.Generator) -> Array:
    """Draw the successes among independent trials.

    Rare ones are found by their gaps, which are geometric, so the cost goes with the successes: Devroye, Non-uniform
    random variate generation, 1986, chapter X.

    Args:
        count: How many trials.
        rate: The chance of each, 0 to 1.
        rng: The generator.

    Returns:
        Sorted indices of the successes, int64.

    Raises:
        ValueError: The rate is outside 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate is a share between 0 and 1, got {rate}")
    if rate == 1:
        return np.arange(count)
    if rate == 0 or not count:
        return np.empty(0, np.int64)
    if rate > 0.25 or count < 2000:
        return np.flatnonzero(rng.random(count) < rate)
    mean = count * rate
    pieces = []
    reached = -1
    while reached < count - 1:  # nearly always once
        gaps = rng.standard_exponential(int(mean + 4 * mean**0.5) + 4)
        gaps /= -np.log1p(-rate)
        at = np.minimum(gaps, count, out=gaps).astype(np.int64)  # a gap's end may lie far beyond int64
        at += 1
        at[0] += reached
        pieces.append(np.cumsum(at, out=at))
        reached = int(at[-1])
    found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return found[: np.searchsorted(found, count)]


def _draw_touched(masks: Masks, row_rate: float, rng: np.random.Generator) -> Array:
    """Flat indices of the rows to touch."""
    return draw_hits(prod(masks.shape), row_rate, rng)


def _xor(masks: Masks, rows: Array, words: Array) -> Masks:
    """Masks of which the rows at flat indices (R,), all different, are xored with words (R,W) or (W,)."""
    child = masks.copy()
    child.words.reshape(-1, child.words.shape[-1])[rows] ^= words
    return child


def _toggle(masks: Masks, rows: Array, cells: Array) -> Masks:
    """Masks with cell cells[i] of the row at flat index rows[i] flipped; no (row, cell) comes twice."""
    flips: Array = np.zeros(masks.words.shape, masks.words.dtype)
    if flips.shape[-1] > 1:
        rows = rows * flips.shape[-1] + (cells >> 6)
        cells = cells & 63
    bits = np.left_shift(flips.dtype.type(1), cells.astype(flips.dtype))
    np.add.at(flips.reshape(-1), rows, bits)  # different bits, so adding is or-ing, and it is faster
    flips ^= masks.words
    return Masks(flips, masks.grid)


def _exchange(first: Masks, second: Masks, take: Array) -> Masks:
    """The first parent's cells, and the second's where the words `take` have a 1."""
    words = first.words ^ second.words
    words &= take
    words ^= first.words
    return Masks(words, first.grid)


def _draw_words(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Words of which every bit is random, those beyond G^2 too. Drawn eight octets at a time, which is fast."""
    size = prod(shape)
    drawn = rng.integers(0, 2**64 - 1, size=-(-size * dtype.itemsize // 8), dtype=np.uint64, endpoint=True)
    return drawn.view(dtype)[:size].reshape(shape)


def _draw_rectangles(shape: tuple[int, ...], grid: int, longest: int, rng: np.random.Generator) -> Array:
    """Words (*shape,W) of random rectangles whose sides are at most `longest` cells."""
    rows, columns = _make_bands(grid)
    count = longest * grid - longest * (longest - 1) // 2
    words: Array = rows[rng.integers(0, count, size=shape)]
    words &= columns[rng.integers(0, count, size=shape)]
    return words


@lru_cache(maxsize=8)
def _make_bands(grid: int) -> tuple[Array, Array]:
    """(G(G+1)/2, W) words each: every band of neighbouring grid rows, then of columns; short ones first."""
    spans = [(start, start + length) for length in range(1, grid + 1) for start in range(grid - length + 1)]
    cells = np.arange(grid)
    inside = np.array([(cells >= start) & (cells < stop) for start, stop in spans])
    rows = np.repeat(inside[:, :, None], grid, axis=2)
    return Masks.pack(rows).words, Masks.pack(rows.swapaxes(1, 2)).words


@lru_cache(maxsize=8)
def _make_heads(grid: int) -> Array:
    """(G^2+1, W) words: the first 0, 1, ... G^2 cells in reading order."""
    return Masks.pack(np.tri(grid * grid + 1, grid * grid, -1, bool).reshape(-1, grid, grid)).words
