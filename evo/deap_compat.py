"""What DEAP's own algorithms need to run on a Population: operators of individuals, one evaluation a generation.

    toolbox.register("evaluate", Evaluator(lambda rows: probe(model, images, labels, rows), labels.numpy()))
    toolbox.register("map", batched_map)
    toolbox.register("mate", mate, rng=rng)
    toolbox.register("mutate", mutate, rng=rng)
    toolbox.register("select", tools.selTournament, tournsize=3)
    algorithms.eaMuPlusLambda(population, toolbox, mu=16, lambda_=16, cxpb=0.6, mutpb=0.3, ngen=20)

Losses are carried here too: only rows that have changed are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.archive import first_of_each
from evo.genome import Individual, Population
from evo.objectives import parse_objectives
from evo.operators import CROSSOVERS, MASK_MUTATIONS, PAIRING_MUTATIONS
from evo.scoring import row_losses
from evo.search import Evaluate, Rows
from evo.variation import as_masks

Array = NDArray[Any]


class Evaluator:
    """`toolbox.evaluate` for lists of individuals: one call of `evaluate` for all their new rows.

    evaluate: Rows -> losses in the order of `Search.tell`. labels: (B,) int or None. objective: as Search takes
    it by name; several make fitness values of as many parts. `forwards` counts rows evaluated.
    """

    def __init__(self, evaluate: Evaluate, labels: Array | None = None, objective: str = "hard") -> None:
        self.evaluate, self.labels, self.objectives = evaluate, labels, parse_objectives(objective)
        self.batched = True  # what batched_map looks for
        self.forwards = 0

    def __call__(self, individuals: Individual | Sequence[Individual]) -> Any:
        """Fitness values of individuals, a tuple each; of a single individual its tuple."""
        if isinstance(individuals, Individual):
            return self([individuals])[0]
        pool = Population.gather(individuals)
        self._measure(pool)
        labels = np.full(pool.pairings.shape[1], -1) if self.labels is None else self.labels
        rows = row_losses(pool, labels)
        scores = [objective(rows) for objective in self.objectives]
        pool.scores = scores[0]
        for number, individual in enumerate(individuals):
            individual.population.place(individual.index, pool, number)
        return [tuple(values) for values in np.stack([score.mean(axis=1, dtype=float) for score in scores], axis=1)]

    def _measure(self, pool: Population) -> None:
        genome, row = np.nonzero(~pool.known)
        first, source = first_of_each(row, pool.pairings[genome, row], pool.packed.words[genome, row])
        if not len(first):
            return
        g, r = genome[first], row[first]
        losses = self.evaluate(Rows(r.astype(np.int32), pool.packed[g, r].cells, pool.pairings[g, r]))
        for name, array in zip(Population.LOSSES, losses, strict=False):
            if array is not None:
                getattr(pool, name)[genome, row] = np.asarray(array)[source]
        pool.known[:] = True
        self.forwards += len(first)


def batched_map(function: Callable[..., Any], individuals: Iterable[Individual]) -> Any:
    """`toolbox.map`: an evaluation that says it is `batched` is called once, with all individuals."""
    if getattr(function, "batched", False):
        everybody = list(individuals)
        return function(everybody) if everybody else []
    return map(function, individuals)


def mate(
    first: Individual,
    second: Individual,
    *,
    rng: np.random.Generator,
    cross: Callable[..., Any] = CROSSOVERS["rows"],
) -> tuple[Individual, Individual]:
    """Turn two individuals into their two children, in place, by one of CROSSOVERS."""
    pair = Population.gather([first, second])
    other = np.array([1, 0])
    masks, pairings = cross(pair, pair.take(other), rng)
    _become([first, second], Population(as_masks(masks, "cross"), pairings, pair.values.shape[1]), pair, other)
    return first, second


def mutate(
    individual: Individual,
    *,
    rng: np.random.Generator,
    masks: Callable[..., Any] = MASK_MUTATIONS["flip"],
    pairing: Callable[..., Any] = PAIRING_MUTATIONS["swap"],
) -> tuple[Individual]:
    """Change an individual in place, by one of MASK_MUTATIONS and one of PAIRING_MUTATIONS."""
    parent = Population.gather([individual])
    varied = as_masks(masks(parent.packed, rng), "masks")
    child = Population(varied, pairing(parent.pairings, rng), parent.values.shape[1])
    _become([individual], child, parent, np.array([0]))
    return (individual,)


def _become(individuals: list[Individual], children: Population, parents: Population, other: Array) -> None:
    """Make individuals what the children are, with the losses of rows either parent has."""
    children.inherit(parents, np.arange(len(parents)))
    children.inherit(parents, other)
    for number, individual in enumerate(individuals):
        individual.population.place(individual.index, children, number)
