"""From losses to fitness: objectives by name, row scores, and what becomes of rows without finite losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.genome import Population
from evo.objectives import RowLosses, parse_objectives

Array = NDArray[Any]
Function = Callable[[RowLosses], Array]


def objectives_by_name(objective: str | Function | Sequence[str | Function]) -> dict[str, Function]:
    """Names and functions as objectives by name, in order; see Search. Raises ValueError for unknown or equal ones."""
    wanted = [objective] if isinstance(objective, str) or callable(objective) else list(objective)
    found: dict[str, Function] = {}
    for one in wanted:
        if isinstance(one, str):
            for part in parse_objectives(one):
                if part.name in found:
                    raise ValueError(f"the objective {part.name!r} stands twice")
                found[part.name] = part
        else:
            name = getattr(one, "__name__", "objective")
            found[name if name not in found else f"{name} {len(found) + 1}"] = one
    if not found:
        raise ValueError("a search needs at least one objective, got none")
    return found


def row_losses(population: Population, labels: Array) -> RowLosses:
    """What objectives look at, of a population whose losses are known and the labels (B,) of its batch."""
    return RowLosses(
        cell_losses=population.cell_losses,
        image_losses=population.image_losses,
        packed=population.packed,
        own_labels=labels,
        partner_labels=labels[population.pairings],
        partners=population.pairings,
        reference_cell_losses=population._rows.get("reference_cell_losses"),
        reference_image_losses=population._rows.get("reference_image_losses"),
    )


def row_scores(population: Population, labels: Array, objectives: dict[str, Function]) -> Array:
    """(M,P,B) float32: each objective's row scores; -inf where they are not finite."""
    rows, each = row_losses(population, labels), []
    for name, objective in objectives.items():
        scores = np.asarray(objective(rows))
        if scores.shape != population.pairings.shape:
            raise ValueError(f"the objective {name} must return scores {population.pairings.shape}, got {scores.shape}")
        with np.errstate(over="ignore"):
            scores = scores.astype(np.float32)
        each.append(np.where(np.isfinite(scores), scores, -np.inf))
    return np.stack(each)


def set_fitness(population: Population, scores: Array) -> None:
    """Give a population its fitness and its row scores, of scores (M,P,B) some of which are finite."""
    population.values = np.stack([_means(of_objective) for of_objective in scores], axis=1)
    population.valid[:] = True
    population.scores = scores[0] if len(scores) == 1 else _combined(scores)


def _means(scores: Array) -> Array:
    """(P,) float64: genomes' mean row scores (P,B). A row that has none (-inf) weighs so much that its genome is less
    fit than any without such a row, and still comparable with others that have some.
    """
    bad = np.isinf(scores)
    if bad.any():
        low, high = float(scores[~bad].min()), float(scores[~bad].max())
        scores = np.where(bad, low - scores.shape[1] * max(high - low, 1.0), scores.astype(np.float64))
    return np.asarray(scores.mean(axis=1, dtype=np.float64))


def _combined(each: Array) -> Array:
    """Row scores of several objectives as one, for crossovers that compare rows: the sum, each standardised."""
    total = np.zeros(each[0].shape)
    for scores in each.astype(np.float64):
        finite = scores[np.isfinite(scores)]
        total += (scores - finite.mean()) / (finite.std() + 1e-9)
    return np.where(np.isfinite(total), total, -np.inf).astype(np.float32)
