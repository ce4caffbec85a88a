"""Feeding DEAP's halls of fame from whole populations: only who can enter is looked at one by one."""

from __future__ import annotations

import numpy as np
from deap import tools
from numpy.typing import NDArray

from evo.arrays import Array
from evo.genome import Population
from evo.selection import find_distinct

BLOCK = 256  # rows compared with at once, so that memory grows linearly


def enter(hall: tools.HallOfFame, population: Population) -> None:
    """Update a hall of fame, or a Pareto front, with everybody in a population.

    Args:
        hall: DEAP's; it keeps copies, no genome twice.
        population: P genomes with valid values.
    """
    if isinstance(hall, tools.ParetoFront):
        members = np.array([member.fitness.wvalues for member in hall]).reshape(-1, population.values.shape[1])
        candidates = np.flatnonzero(find_not_dominated(population.values, [population.values, members]))
        hall.update([population[int(index)] for index in candidates])
        return
    if hall.maxsize is None:
        hall.update(population)
        return
    for index in np.lexsort(-population.values.T[::-1]):  # the fittest first
        individual = population[int(index)]
        if len(hall) >= hall.maxsize and not (hall.maxsize and individual.fitness > hall[-1].fitness):
            break
        hall.update([individual])


def keep_best(best: Population | None, population: Population, count: int) -> Population:
    """The best genomes of two populations, each kind once.

    Args:
        best: What this returned before, or None.
        population: P genomes with valid values.
        count: How many are kept where there is one objective. With several it is those that none dominates.

    Returns:
        The fittest first, by the first objective; of equals those of `population`.
    """
    values = population.values
    if values.shape[1] == 1:
        full = best is not None and len(best) >= count
        fit = values[:, 0] > best.values[-1, 0] if best is not None and full else np.ones(len(values), bool)
        if not fit.any() and best is not None:
            return best
        chosen = np.flatnonzero(fit)
    else:
        others = [] if best is None else [best.values]
        chosen = np.flatnonzero(find_not_dominated(values, [values, *others]))
        if not len(chosen) and best is not None:
            return best
    candidates = population.take(chosen, fields=())
    if best is not None:
        candidates = candidates.join(best.take(np.arange(len(best)), fields=()))
    first = np.zeros(len(candidates), bool)
    first[find_distinct(candidates)] = True
    if values.shape[1] > 1:
        first &= find_not_dominated(candidates.values, [candidates.values])
        count = len(candidates)
    order = np.lexsort(-candidates.values.T[::-1])
    order = order[first[order]][:count]
    new = order < len(chosen)  # what is known of rows is copied for those alone that stay
    if best is None or new.all():
        return population.take(chosen[order])
    joined = population.take(chosen[order[new]]).join(best.take(order[~new] - len(chosen)))
    return joined.take(np.argsort(np.argsort(~new, kind="stable"), kind="stable"))


def find_not_dominated(values: Array, by: list[Array]) -> NDArray[np.bool_]:
    """Find the values that none dominates, that is, that none exceeds once and nowhere falls short of.

    Args:
        values: (P,M) float64, larger is fitter.
        by: Arrays (N,M) of what may dominate them; `values` itself may be among them.

    Returns:
        (P,) bool.

    Example:
        >>> values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])
        >>> find_not_dominated(values, [values])
        array([ True,  True, False])
    """
    sound = np.ones(len(values), bool)
    for others in by:
        for start in range(0, len(others), BLOCK):
            block = others[start : start + BLOCK]
            nowhere_greater = (values[:, None] <= block).all(axis=2)
            once_less = (values[:, None] < block).any(axis=2)
            sound &= ~np.asarray(nowhere_greater & once_less).any(axis=1)
    return sound


def find_front(values: Array) -> Array:
    """Find the front of values.

    Args:
        values: (P,M) float64, larger is fitter; rows that are not finite are left out.

    Returns:
        (N,M): those that no other dominates, each kind once, the greatest by the first objective first.

    Example:
        >>> find_front(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.5]]))
        array([[1., 0.],
               [0., 1.]])
    """
    kinds = np.unique(values[np.isfinite(values).all(axis=1)], axis=0)[::-1]
    return kinds[find_not_dominated(kinds, [kinds])]


def hypervolume(front: Array, reference: Array) -> float:
    """Measure what a front dominates of the space above a reference point.

    The measure of Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 3, 1999, by moocore.

    Args:
        front: (N,M) float64.
        reference: (M,) the point.

    Returns:
        The volume, in the product of the objectives' units; larger is better.

    Example:
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros(2))
        3.0
    """
    above = front[(front > reference).all(axis=1)]
    if not len(above):
        return 0.0
    import moocore

    return float(moocore.hypervolume(above, ref=reference, maximise=True))
