"""Variation over whole populations. One function and one entry in a dict per operator.

Contracts (rng is a numpy Generator; nothing given is changed; N genomes at once):

    MASK_SAMPLERS       sampler(count, grid, rng) -> masks (count,G,G) bool
    MASK_CROSSOVERS     cross(first, second, rng) -> masks, each (N,B,G,G) bool
    MASK_MUTATIONS      mutate(masks, rng, **rates) -> masks (N,B,G,G) bool
    PAIRING_CROSSOVERS  cross(first, second, rng) -> pairings, each (N,B) int32 permutations
    PAIRING_MUTATIONS   mutate(pairings, rng, **rates) -> pairings (N,B) int32 permutations
    CROSSOVERS          cross(first: Population, second: Population, rng) -> (masks, pairings)
"""

from evo.operators.masks import flip_cells, sample_bernoulli, sample_box, uniform_cells
from evo.operators.pairings import pmx, swap
from evo.operators.rows import row_crossover, uniform_pmx

MASK_SAMPLERS = {"bernoulli": sample_bernoulli, "box": sample_box}
MASK_CROSSOVERS = {"uniform": uniform_cells}
MASK_MUTATIONS = {"flip": flip_cells}
PAIRING_CROSSOVERS = {"pmx": pmx}
PAIRING_MUTATIONS = {"swap": swap}
CROSSOVERS = {"rows": row_crossover, "uniform": uniform_pmx}
