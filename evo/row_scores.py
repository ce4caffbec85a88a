"""From losses to fitness: objectives by name, row scores, and what becomes of rows without finite losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evo.archive import RowArchive
from evo.arrays import Array
from evo.errors import UserError
from evo.genome import Population
from evo.objectives import RowLosses, parse_objectives
from evo.packed import Masks

Function = Callable[..., Array]
Wanted = str | Function | Sequence[str | Function]


def resolve_objectives(objective: Wanted) -> dict[str, Function]:
    """Read what a search is to prefer.

    Args:
        objective: A name or sum as evo/objectives.py reads it, a function with its contract, or several of them.

    Returns:
        The objectives by name, in order.

    Raises:
        UserError: One is unknown, or stands twice.
    """
    wanted = [objective] if isinstance(objective, str) or callable(objective) else list(objective)
    found: dict[str, Function] = {}
    for one in wanted:
        if isinstance(one, str):
            for part in parse_objectives(one):
                if part.name in found:
                    raise UserError(f"the objective {part.name!r} stands twice")
                found[part.name] = part
        else:
            name = getattr(one, "__name__", "objective")
            found[name if name not in found else f"{name} {len(found) + 1}"] = one
    if not found:
        raise UserError("a search needs at least one objective, got none")
    return found


class Scoring:
    """The objectives of a search, and the labels they look at.

    Args:
        objectives: M of them, by name.
        labels: (B,) int; -1 where not given.
    """

    def __init__(self, objectives: dict[str, Function], labels: Array) -> None:
        self.objectives = objectives
        self.labels = labels

    @property
    def relative(self) -> bool:
        """Whether an objective scores rows against a population, so that scores are valid for one context only."""
        return any(getattr(objective, "relative", False) for objective in self.objectives.values())

    @property
    def row_cost(self) -> int:
        """Image forwards that a row takes: one, or two where an objective compares with the reference."""
        return 2 if self.needs_reference else 1

    @property
    def needs_reference(self) -> bool:
        """Whether an objective compares with the reference's losses."""
        return any(getattr(objective, "needs_reference", False) for objective in self.objectives.values())

    def gather_rows(self, population: Population) -> RowLosses:
        """Collect what objectives look at.

        Args:
            population: P genomes whose losses are known.

        Returns:
            Views of its losses, with masks, partners and labels.
        """
        return RowLosses(
            cell_losses=population.cell_losses,
            image_losses=population.image_losses,
            packed=population.packed,
            own_labels=self.labels,
            partner_labels=self.labels[population.pairings],
            partners=population.pairings,
            reference_cell_losses=population._rows.get("reference_cell_losses"),
            reference_image_losses=population._rows.get("reference_image_losses"),
        )

    def gather_archive_rows(self, archive: RowArchive) -> RowLosses:
        """Collect what objectives look at, of all rows in an archive.

        Args:
            archive: N rows.

        Returns:
            The same as `gather_rows`, as P=1 genome of N rows.
        """
        facts = {name: array[None] for name, array in archive.facts.items() if name in Population.LOSSES}
        nowhere = np.full((1, len(archive)), np.nan, np.float32)
        return RowLosses(
            cell_losses=facts["cell_losses"],
            image_losses=facts.get("image_losses", nowhere),
            packed=Masks(archive.words[None], archive.grid),
            own_labels=self.labels[archive.image],
            partner_labels=self.labels[archive.partner][None],
            partners=archive.partner[None],
            reference_cell_losses=facts.get("reference_cell_losses"),
            reference_image_losses=facts.get("reference_image_losses"),
            images=archive.image,
        )

    def score(self, rows: RowLosses, context: RowLosses | None = None) -> Array:
        """Row scores under every objective.

        Args:
            rows: P genomes' rows of B images.
            context: What relative objectives score against; None: the rows' own population.

        Returns:
            (M,P,B) float32. A row whose cell losses, or whose score under one of the objectives, are not finite is -inf
            under all, so that its genome is the worst whatever is asked for besides.

        Raises:
            ValueError: An objective returned another shape, or lacks losses.
        """
        each = []
        for name, objective in self.objectives.items():
            relative = context is not None and getattr(objective, "relative", False)
            scores = np.asarray(objective(rows, context) if relative else objective(rows))
            if scores.shape != rows.partners.shape:
                raise UserError(f"the objective {name} must return scores {rows.partners.shape}, got {scores.shape}")
            with np.errstate(over="ignore"):
                each.append(scores.astype(np.float32))
        stacked = np.stack(each)
        sound = np.isfinite(stacked).all(axis=0)
        measured = np.isfinite(rows.cell_losses).all(axis=(2, 3))
        if measured.any():  # else nobody measured cells, for objectives that do not look at them
            sound &= measured
        return np.where(sound, stacked, np.float32(-np.inf))

    def rate(self, archive: RowArchive, pool: Population) -> Array:
        """Put the scores of all rows in an archive on one scale.

        Args:
            archive: Rows of all generations.
            pool: The genomes of the last one, which relative objectives score against.

        Returns:
            (M,2) float64, the scale; see `measure_scale`.
        """
        several = len(self.objectives) > 1
        scores = archive.objective_scores.T
        if self.relative:
            scores = self.score(self.gather_archive_rows(archive), self.gather_rows(pool))[:, 0]
        scale = measure_scale(scores) if several else np.zeros((1, 2))
        if several or self.relative:
            archive.rate(combine_scores(scores, scale))
        return scale


def compute_fitness(scores: Array) -> Array:
    """Genomes' mean row scores.

    A row that has none (-inf) weighs so much that its genome is less fit than any without such a row, and still
    comparable with others that have some.

    Args:
        scores: (M,P,B) float32, some of them finite.

    Returns:
        (P,M) float64.

    Example:
        >>> compute_fitness(np.array([[[1.0, 3.0], [2.0, -np.inf]]]))[:, 0] > 0  # of M = 1, P = 2, B = 2
        array([ True, False])
    """
    return np.stack([_average(of_objective) for of_objective in scores], axis=1)


def combine_scores(scores: Array, scale: Array) -> Array:
    """Row scores of several objectives as one, for crossovers that compare rows: the sum, each standardised.

    Args:
        scores: (M,...) float32, -inf where a row has none.
        scale: (M,2) mean and standard deviation, see `measure_scale`.

    Returns:
        (...) float32, -inf where a row has none. Of a single objective the scores as they are.
    """
    if len(scores) == 1:
        return np.asarray(scores[0])
    total = np.zeros(scores.shape[1:])
    for of_objective, (mean, deviation) in zip(scores.astype(np.float64), scale, strict=True):
        total += (of_objective - mean) / (deviation + 1e-9)
    return np.where(np.isfinite(total), total, -np.inf).astype(np.float32)


def measure_scale(scores: Array) -> Array:
    """Measure the scale of each objective's scores.

    Args:
        scores: (M,...) float32, -inf where a row has none.

    Returns:
        (M,2) float64, mean and standard deviation of what is finite; 0 and 1 where nothing is.

    Example:
        >>> measure_scale(np.array([[1.0, 3.0, -np.inf]]))
        array([[2., 1.]])
    """
    scale = np.tile([0.0, 1.0], (len(scores), 1))
    for number, of_objective in enumerate(scores.astype(np.float64)):
        finite = of_objective[np.isfinite(of_objective)]
        if finite.size:
            scale[number] = finite.mean(), finite.std()
    return scale


def _average(scores: Array) -> Array:
    bad = np.isinf(scores)
    if bad.all():
        return np.full(len(scores), -np.inf)
    if bad.any():
        low, high = float(scores[~bad].min()), float(scores[~bad].max())
        scores = np.where(bad, low - scores.shape[1] * max(high - low, 1.0), scores.astype(np.float64))
    return np.asarray(scores.mean(axis=1, dtype=np.float64))


def check_labels(labels: Array | None, batch_size: int) -> Array:
    """Refuse labels that are not of a batch.

    Args:
        labels: (B,) int, or None where they are not given.
        batch_size: B.

    Returns:
        (B,) int, a copy; -1 where not given.

    Raises:
        UserError: They have another shape or type.
    """
    if labels is None:
        return np.full(batch_size, -1)
    found = np.array(labels)
    if found.shape != (batch_size,) or not np.issubdtype(found.dtype, np.integer):
        raise UserError(
            f"labels must be ({batch_size},) integers to go with the batch, got {found.dtype} {found.shape}"
        )
    return found


def check_finite(bad: Array, max_nonfinite: float, generation: int) -> None:
    """Refuse a generation of which too many rows have no finite score.

    Args:
        bad: (P,B) bool, those that have none.
        max_nonfinite: The share that may be so.
        generation: Its number, for the error.

    Raises:
        FloatingPointError: There are more, or all are so.
    """
    share = float(bad.mean())
    if share <= max_nonfinite and share < 1:
        return
    images = np.flatnonzero(bad.any(axis=0))
    listed = ", ".join(map(str, images[:8])) + (", ..." if len(images) > 8 else "")
    raise FloatingPointError(
        f"generation {generation}: {100 * share:.0f} % of the rows have losses that are NaN or infinite, in "
        f"{int(bad.any(axis=1).sum())} of {len(bad)} genomes (rows of images {listed}), beyond "
        f"max_nonfinite={max_nonfinite:g}; lower the learning rate, or use float32"
    )
