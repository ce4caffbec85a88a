"""DEAP's algorithms on whole populations: the same keywords, the same Logbook, one call per operator and generation.

DEAP's own eaSimple and eaMuPlusLambda run on a Population too, one individual at a time; these are the fast
path. The toolbox is DEAP's, its operators take arrays:

    select(population, k) -> (k,) indices, or a list of individuals as DEAP's selections return
    mate(first: Population, second: Population) -> Masks (N,B), pairings (N,B): one child of each pair
    mutate(masks, pairings) -> Masks (N,B), pairings (N,B)
    evaluate(population) -> values (N,) or (N,M), larger is fitter; called once per generation

    toolbox = base.Toolbox()
    toolbox.register("select", tournament, rng=rng)
    toolbox.register("mate", CROSSOVERS["uniform"], rng=rng)

A genome with a fitness value that is NaN has -inf for all of them. `evaluate` may set the population's row scores as
well, for operators that ask for them. The given population is not changed.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from deap import base, tools

from evo.arrays import Array
from evo.genome import Population
from evo.hall import enter
from evo.individual import Individual
from evo.records import first_value
from evo.selection import tournament

__all__ = ["eaMuPlusLambda", "eaSimple", "first_value", "tournament"]


def eaSimple(
    population: Population,
    toolbox: base.Toolbox,
    cxpb: float,
    mutpb: float,
    ngen: int,
    stats: tools.Statistics | tools.MultiStatistics | None = None,
    halloffame: tools.HallOfFame | None = None,
    verbose: bool = False,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[Population, tools.Logbook]:
    """The simple genetic algorithm: children replace their parents.

    Each generation `len(population)` parents are selected; neighbours mate with probability cxpb and leave two
    children, and each child mutates with probability mutpb. After Baeck, Fogel and Michalewicz, Evolutionary
    computation 1, chapter 7, 2000.

    Args:
        population: P genomes, which are not changed.
        toolbox: DEAP's, with the operators that this module's head describes.
        cxpb: Probability that two neighbours mate, 0 to 1.
        mutpb: Probability that a child mutates, 0 to 1.
        ngen: Generations.
        stats: DEAP's statistics, compiled for every generation.
        halloffame: DEAP's hall of fame or Pareto front, fed with everybody evaluated.
        verbose: Print the Logbook's lines.
        rng: Draws who mates and who mutates; without one, Python's `random`, which DEAP's algorithms draw from, seeds
            it.

    Returns:
        The last population, and a Logbook with gen, nevals and the statistics' fields.

    Raises:
        ValueError: `evaluate` returned values of another shape.
    """
    rng = np.random.default_rng(random.getrandbits(64)) if rng is None else rng
    population = population.copy()
    logbook = _start_logbook(population, toolbox, stats, halloffame, verbose)
    for generation in range(1, ngen + 1):
        population, parents = _take_chosen(population, toolbox.select(population, len(population)))
        pairs = 2 * np.flatnonzero(rng.random(len(parents) // 2) < cxpb)
        mated = np.concatenate([pairs, pairs + 1])
        mates = np.concatenate([pairs + 1, pairs])
        mutated = np.flatnonzero(rng.random(len(parents)) < mutpb)
        population = _vary(population, parents, toolbox, mated, parents[mates], mutated)
        evaluated = _evaluate(population, toolbox)
        if halloffame is not None:
            enter(halloffame, population)
        _record(logbook, generation, evaluated, population, stats, verbose)
    return population, logbook


def eaMuPlusLambda(
    population: Population,
    toolbox: base.Toolbox,
    mu: int,
    lambda_: int,
    cxpb: float,
    mutpb: float,
    ngen: int,
    stats: tools.Statistics | tools.MultiStatistics | None = None,
    halloffame: tools.HallOfFame | None = None,
    verbose: bool = False,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[Population, tools.Logbook]:
    """The (mu + lambda) algorithm: `select` picks mu survivors from the parents and lambda_ children.

    Each child comes from a crossover of two random parents (probability cxpb), a mutation of one (mutpb), or is a copy
    of one. After Beyer and Schwefel, Evolution strategies, Natural Computing 1, 2002.

    Args:
        population: P genomes, which are not changed.
        toolbox: DEAP's, with the operators that this module's head describes.
        mu: How many survive.
        lambda_: How many children are made.
        cxpb: Probability of a crossover, 0 to 1.
        mutpb: Probability of a mutation, 0 to 1.
        ngen: Generations.
        stats: As in `eaSimple`.
        halloffame: As in `eaSimple`.
        verbose: Print the Logbook's lines.
        rng: As in `eaSimple`.

    Returns:
        The last population, and a Logbook with gen, nevals and the statistics' fields.

    Raises:
        ValueError: cxpb + mutpb is above 1, or `evaluate` returned values of another shape.
    """
    if cxpb + mutpb > 1:
        raise ValueError(f"cxpb + mutpb must be at most 1, got {cxpb} + {mutpb}")
    rng = np.random.default_rng(random.getrandbits(64)) if rng is None else rng
    population = population.copy()
    logbook = _start_logbook(population, toolbox, stats, halloffame, verbose)
    for generation in range(1, ngen + 1):
        choice = rng.random(lambda_)
        mated = np.flatnonzero(choice < cxpb)
        mutated = np.flatnonzero((choice >= cxpb) & (choice < cxpb + mutpb))
        parents = rng.integers(0, len(population), size=lambda_)
        step = rng.integers(1, max(2, len(population)), size=len(mated))  # to another one, where there is one
        mates = (parents[mated] + step) % len(population)
        offspring = _vary(population, parents, toolbox, mated, mates, mutated)
        evaluated = _evaluate(offspring, toolbox)
        if halloffame is not None:
            enter(halloffame, offspring)
        pool = population.join(offspring)
        pool, survivors = _take_chosen(pool, toolbox.select(pool, mu))
        population = pool.take(survivors)
        _record(logbook, generation, evaluated, population, stats, verbose)
    return population, logbook


def _vary(
    population: Population, parents: Array, toolbox: base.Toolbox, mated: Array, mates: Array, mutated: Array
) -> Population:
    """A child of each of `parents` (N,), genomes of the population: those at `mated` (R,) cross with `mates` (R,),
    genomes as well, then those at `mutated` mutate. The others stay what they are, and keep their fitness.
    """
    packed, pairings = population.packed[parents], population.pairings[parents]
    if len(mated):
        first = population.take(parents[mated])
        second = population.take(mates)
        packed[mated], pairings[mated] = toolbox.mate(first, second)
    if len(mutated) == len(parents):
        packed, pairings = toolbox.mutate(packed, pairings)
    elif len(mutated):
        packed[mutated], pairings[mutated] = toolbox.mutate(packed[mutated], pairings[mutated])
    children = Population(packed, pairings, population.values.shape[1])
    same = np.ones(len(parents), bool)
    same[mated] = same[mutated] = False
    if same.any():
        for name in ("values", "valid", "scores"):
            getattr(children, name)[same] = getattr(population, name)[parents[same]]
    if "known" in population._rows:  # an evaluate that carries losses finds those of rows either parent has
        children.inherit(population, parents)
        if len(mated):
            other = parents.copy()
            other[mated] = mates
            children.inherit(population, other)
    return children


def _evaluate(population: Population, toolbox: base.Toolbox) -> int:
    """Give every genome a fitness that has none; return how many had none."""
    new = np.flatnonzero(~population.valid)
    if not len(new):
        return 0
    asked = population if len(new) == len(population) else population.take(new)
    values = np.asarray(toolbox.evaluate(asked), np.float64)
    expected = (len(new), population.values.shape[1])
    if values.shape != expected and (values.shape != expected[:1] or expected[1] > 1):
        raise ValueError(f"evaluate must return values (N,M) = {expected} for these genomes, got {values.shape}")
    values = values.reshape(expected)
    values = np.where(np.isnan(values).any(axis=1, keepdims=True), -np.inf, values)
    if asked is population:
        population.values[:] = values
    else:
        population.values[new] = values
        for name, array in asked._rows.items():
            getattr(population, name)[new] = array
    population.valid[:] = True
    return len(new)


def _compile(stats: tools.Statistics | tools.MultiStatistics, population: Population) -> dict[str, Any]:
    if isinstance(stats, tools.MultiStatistics):
        return {name: _compile(part, population) for name, part in stats.items()}
    if stats.key is first_value:
        return {name: function(population.values[:, 0]) for name, function in stats.functions.items()}
    compiled: dict[str, Any] = stats.compile(population)
    return compiled


def _record(
    logbook: tools.Logbook, generation: int, evaluated: int, population: Population, stats: Any, verbose: bool
) -> None:
    logbook.record(gen=generation, nevals=evaluated, **(_compile(stats, population) if stats else {}))
    if verbose:
        print(logbook.stream)


def _start_logbook(
    population: Population, toolbox: base.Toolbox, stats: Any, halloffame: tools.HallOfFame | None, verbose: bool
) -> tools.Logbook:
    """Generation 0: evaluate what has no fitness yet, and open the Logbook."""
    logbook = tools.Logbook()
    logbook.header = ["gen", "nevals", *(stats.fields if stats else [])]
    evaluated = _evaluate(population, toolbox)
    if halloffame is not None:
        enter(halloffame, population)
    _record(logbook, 0, evaluated, population, stats, verbose)
    return logbook


def _take_chosen(population: Population, chosen: Array | list[Individual]) -> tuple[Population, Array]:
    """The genomes selected: indices, and of which population; DEAP's selections return individuals."""
    if isinstance(chosen, np.ndarray):
        return population, chosen
    return Population.gather(chosen), np.arange(len(chosen))
