"""Choosing parents. DEAP's own selections work as well; these run on the population's arrays.

Contract of SELECTIONS, stated here once for all: select(population, k, *, rng) -> (k,) int64 indices into the population
of P scored genomes. `best` is such a selection as well, which draws nothing. In a Search,
`search.toolbox.register("select", tools.selRoulette)` and the like replace it.
"""

from __future__ import annotations

import numpy as np
from deap import tools

from evo.arrays import Array
from evo.errors import UserError
from evo.genome import Population
from evo.individual import Individual
from evo.proposal import Elites


def tournament(population: Population, k: int, *, rng: np.random.Generator, tournsize: int = 3) -> Array:
    """The fittest of `tournsize` drawn at random, k times. With several objectives: the better front, then the
    less crowded (Deb et al., NSGA-II, IEEE TEC 2002), in tournaments of two.
    """
    if population.values.shape[1] > 1:
        merit = -rank_crowded(population)
        tournsize = 2
    else:
        merit = population.values[:, 0]
    drawn = rng.integers(0, len(population), size=(k, tournsize))
    return drawn[np.arange(k), merit[drawn].argmax(axis=1)]


def lexicase(population: Population, k: int, *, rng: np.random.Generator) -> Array:
    """Rows as cases, in random order: whoever is within a case's median deviation of its best goes on.

    Epsilon lexicase with automatic epsilon (La Cava, Spector and Danai, GECCO 2016): DEAP's.
    """
    scored = population.take(np.arange(len(population)), fields=("scores",))
    bad = np.isinf(scored.scores)
    if bad.any():  # DEAP's median deviation cannot take them: as bad as can be, and finite
        scored.scores = np.where(bad, scored.scores[~bad].min() - 1, scored.scores)
    return as_indices(tools.selAutomaticEpsilonLexicase(scored.cases, k))


def best(population: Population, k: int) -> Array:
    """Indices of the k fittest, the fittest first; with several objectives NSGA-II's choice."""
    if population.values.shape[1] > 1:
        return np.argsort(rank_crowded(population), kind="stable")[:k]
    return np.argsort(-population.values[:, 0], kind="stable")[:k]


def rank_crowded(population: Population) -> Array:
    """Rank genomes by front, then by crowding distance.

    Args:
        population: P genomes with valid values.

    Returns:
        (P,) int64, each genome's place; 0 is the best.
    """
    individuals = list(population)
    rank, distance = np.zeros(len(population)), np.zeros(len(population))
    for number, front in enumerate(tools.sortNondominated(individuals, len(individuals))):
        tools.emo.assignCrowdingDist(front)
        for individual in front:
            rank[individual.index] = number
            distance[individual.index] = individual.fitness.crowding_dist
    place = np.empty(len(population), np.int64)
    place[np.lexsort((-distance, rank))] = np.arange(len(population))
    return place


def find_distinct(population: Population) -> Array:
    """Find the genomes that are not copies of an earlier one.

    Args:
        population: P genomes.

    Returns:
        (U,) int64, their indices, ascending.
    """
    words = np.ascontiguousarray(population.packed.words).view(np.uint8).reshape(len(population), -1)
    partners = np.ascontiguousarray(population.pairings).view(np.uint8).reshape(len(population), -1)
    genes = np.concatenate([words, partners], axis=1)
    whole, size = genes.tobytes(), genes.shape[1]
    first: dict[bytes, int] = {}  # several times faster than np.unique, which sorts
    for index in range(len(population)):
        first.setdefault(whole[index * size : (index + 1) * size], index)
    return np.fromiter(first.values(), np.int64, len(first))


def choose_elites(population: Population, count: int, *, weights_version: int = 0, copies: bool = False) -> Elites:
    """Choose the best genomes of a population.

    Args:
        population: P scored genomes.
        count: E, 1 to P.
        weights_version: The present one, which ages are counted back from.
        copies: Take copies of a genome like any other; else only where kinds are too few.

    Returns:
        The fittest first.

    Raises:
        UserError: There are not so many genomes.
    """
    if not 1 <= count <= len(population):
        raise UserError(f"elites must be 1..{len(population)}, got {count}")
    order = best(population, len(population))
    if not copies and count > 1:
        first_of_kind = np.zeros(len(order), bool)
        first_of_kind[find_distinct(population.take(order, fields=()))] = True
        order = np.concatenate([order[first_of_kind], order[~first_of_kind]])
    kept = population.take(order[:count])
    age = weights_version - kept.measured.min(axis=1)
    return Elites(kept.masks, kept.pairings, kept.values[:, 0], kept.cell_losses, kept.scores, kept.ids, age)


def as_indices(chosen: Array | list[Individual]) -> Array:
    """Read what a selection returned: ours return indices, DEAP's return individuals.

    Args:
        chosen: Either.

    Returns:
        (k,) int64 indices.
    """
    if isinstance(chosen, np.ndarray):
        return chosen
    return np.array([individual.index for individual in chosen], dtype=np.int64)


SELECTIONS = {"tournament": tournament, "lexicase": lexicase}
