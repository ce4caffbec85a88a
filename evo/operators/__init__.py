"""Variation over whole populations. One function and one entry in a dict per operator.

Contracts (rng is a numpy Generator; nothing given is changed; N genomes at once; the same rng state gives the
same result; keywords have defaults):

    MASK_SAMPLERS       sampler(count, grid, rng) -> masks (count,G,G) bool
    MASK_CROSSOVERS     cross(first, second, rng) -> Masks, each (N,B)
    MASK_MUTATIONS      mutate(masks, rng, *, row_rate) -> Masks (N,B); rows not touched stay as they are
    PAIRING_CROSSOVERS  cross(first, second, rng) -> pairings, each (N,B) int32 permutations
    PAIRING_MUTATIONS   mutate(pairings, rng, *, rate) -> pairings (N,B) int32 permutations
    CROSSOVERS          cross(first: Population, second: Population, rng) -> (Masks, pairings), both (N,B)
    ARCHIVE_CROSSOVERS  cross(first, second, rng, *, archive) -> the same, with what archive.best_pairs() knows
    TABLE_CROSSOVERS    cross(first, second, rng, *, table, temperature) -> the same, with what a PairTable knows

What an operator takes and returns is stated here, once for all operators of a dict. The docstring of each says what it
does, its keywords, and where it comes from.

Example:
    >>> import numpy as np
    >>> from evo.packed import Masks
    >>> rng = np.random.default_rng(0)
    >>> masks = Masks.pack(MASK_SAMPLERS["box"](6, 4, rng).reshape(2, 3, 4, 4))  # of N = 2 genomes and B = 3 images
    >>> MASK_MUTATIONS["flip"](masks, rng, row_rate=1)
    Masks(shape=(2, 3), G=4)
    >>> PAIRING_MUTATIONS["swap"](np.array([[0, 1], [0, 1]], np.int32), rng, rate=1)
    array([[1, 0],
           [1, 0]], dtype=int32)
"""

from functools import partial

from evo.operators.masks import (
    block_cells,
    complement,
    flip_block,
    flip_cells,
    kpoint_cells,
    sample_bernoulli,
    sample_box,
    sample_connected,
    shift,
    trade,
    uniform_cells,
    uniform_rows,
)
from evo.operators.pairings import cx, inversion, ox, pmx, scramble, swap
from evo.operators.rows import assignment, cross_apart, deal, local_search, row_crossover, uniform_pmx

MASK_SAMPLERS = {"bernoulli": sample_bernoulli, "box": sample_box, "connected": sample_connected}
MASK_CROSSOVERS = {"uniform": uniform_cells, "rows": uniform_rows, "block": block_cells, "kpoint": kpoint_cells}
MASK_MUTATIONS = {"flip": flip_cells, "block": flip_block, "shift": shift, "complement": complement, "trade": trade}
PAIRING_CROSSOVERS = {"pmx": pmx, "ox": ox, "cx": cx}
PAIRING_MUTATIONS = {"swap": swap, "inversion": inversion, "scramble": scramble}
CROSSOVERS = {"rows": row_crossover, "uniform": uniform_pmx, "local": local_search}
ARCHIVE_CROSSOVERS = {"assignment": assignment}
TABLE_CROSSOVERS = {"deal": deal}
# `block/ox` and the like: any crossover of masks beside any of pairings.
APART_CROSSOVERS = {
    f"{masks}/{pairings}": partial(cross_apart, masks=MASK_CROSSOVERS[masks], pairings=PAIRING_CROSSOVERS[pairings])
    for masks in MASK_CROSSOVERS
    for pairings in PAIRING_CROSSOVERS
}
ALL_CROSSOVERS = {**CROSSOVERS, **ARCHIVE_CROSSOVERS, **TABLE_CROSSOVERS, **APART_CROSSOVERS}
