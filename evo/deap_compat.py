"""What DEAP's own algorithms need to run on a Population: operators of individuals, one evaluation a generation.

    toolbox.register("evaluate", Evaluator(lambda rows: probe(model, images, labels, rows), labels.numpy()))
    toolbox.register("map", batched_map)
    toolbox.register("mate", mate, rng=rng)
    toolbox.register("mutate", mutate, rng=rng)
    toolbox.register("select", tools.selTournament, tournsize=3)
    algorithms.eaMuPlusLambda(population, toolbox, mu=16, lambda_=16, cxpb=0.6, mutpb=0.3, ngen=20)

Losses are carried here too: only rows that have changed are asked for. tools.History works with `mate` and `mutate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from evo.arrays import Array
from evo.ask_tell import Evaluate, as_losses, store_losses
from evo.errors import UserError
from evo.genome import Population
from evo.individual import Individual
from evo.objectives import RELATIVE
from evo.operators import CROSSOVERS, MASK_MUTATIONS, PAIRING_MUTATIONS
from evo.proposal import Question
from evo.row_scores import Scoring, combine_scores, measure_scale, resolve_objectives
from evo.variation import as_masks


class Evaluator:
    """`toolbox.evaluate` for lists of individuals: one call of `evaluate` for all their new rows.

    A genome with a row whose losses are not finite has -inf for every fitness value.

    Args:
        evaluate: Rows -> losses in the order of `Search.tell`, the same kinds at every call.
        labels: (B,) int, or None where objectives do not look at them.
        objective: As Search takes it by name; several make fitness values of as many parts.

    Attributes:
        forwards: Rows evaluated so far.

    Raises:
        UserError: An objective is unknown, or scores rows against the population that they are in, which individuals
            do not tell.
    """

    def __init__(self, evaluate: Evaluate, labels: Array | None = None, objective: str = "hard") -> None:
        self.evaluate = evaluate
        self.labels = labels
        self.objectives = resolve_objectives(objective)
        relative = [name for name, found in self.objectives.items() if getattr(found, "relative", False)]
        if relative:
            raise UserError(
                f"{', '.join(relative)}: {' and '.join(sorted(RELATIVE))} score a row against a population, and DEAP's "
                "algorithms ask for the individuals that have changed, whoever else is alive; take another objective, or "
                "evo.search.Search"
            )
        self.batched = True  # what batched_map looks for
        self.forwards = 0
        self._kinds: tuple[str, ...] = ()

    def __call__(self, individuals: Individual | Sequence[Individual]) -> Any:
        """Fitness values of individuals, a tuple each; of a single individual its tuple."""
        if isinstance(individuals, Individual):
            return self([individuals])[0]
        pool = Population.gather(individuals)
        self._measure(pool)
        labels = np.full(pool.pairings.shape[1], -1) if self.labels is None else np.asarray(self.labels)
        scoring = Scoring(self.objectives, labels)
        scores = scoring.score(scoring.gather_rows(pool))
        pool.scores = combine_scores(scores, measure_scale(scores))
        for number, individual in enumerate(individuals):
            individual.population.place(individual.index, pool, number)
        return [tuple(values) for values in scores.mean(axis=2, dtype=float).T]

    def _measure(self, pool: Population) -> None:
        question = Question.about(pool, full=False)
        asked = int(question.new.sum())
        if not asked:
            return
        losses = as_losses(self.evaluate(question.proposal(pool).rows))
        self._kinds = store_losses(pool, question, losses, self._kinds)
        pool.known[:] = True
        self.forwards += asked


def batched_map(function: Callable[..., Any], individuals: Iterable[Individual]) -> Any:
    """Map for `toolbox.map`: an evaluation that says it is `batched` is called once, with all individuals.

    Args:
        function: Called with all individuals where its attribute `batched` is true, else with each.
        individuals: Any number.

    Returns:
        What it returned for each individual, in order.
    """
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
    """Turn two individuals into their two children, in place.

    Args:
        first: A parent, and then a child.
        second: The other.
        rng: The generator.
        cross: One of CROSSOVERS, or a function with their contract.

    Returns:
        Both individuals.
    """
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
    """Change an individual in place.

    Args:
        individual: The parent, and then the child.
        rng: The generator.
        masks: One of MASK_MUTATIONS, or a function with their contract.
        pairing: One of PAIRING_MUTATIONS, or a function with their contract.

    Returns:
        A tuple of the individual, as DEAP's algorithms expect it.
    """
    parent = Population.gather([individual])
    varied = as_masks(masks(parent.packed, rng), "masks")
    child = Population(varied, pairing(parent.pairings, rng), parent.values.shape[1])
    _become([individual], child, parent, np.array([0]))
    return (individual,)


def _become(individuals: list[Individual], children: Population, parents: Population, other: Array) -> None:
    """Make individuals what the children are, with the losses of rows either parent has."""
    children.inherit(parents, np.arange(len(parents)))
    children.inherit(parents, other)
    children.ids = parents.ids.copy()  # tools.History reads the parents' numbers from the children
    for number, individual in enumerate(individuals):
        individual.population.place(individual.index, children, number)
