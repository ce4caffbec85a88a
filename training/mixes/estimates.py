"""Estimated scores beside exact ones: a sample compared now and then, and genomes forwarded before they are trained on.

Both forward composed images with `ScoringMix.forward_rows`, which is exact. Neither draws from a stream of the search or
of the training, so that these find the same with and without them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from evo.archive import group_equal_rows
from evo.arrays import Array
from evo.genome import Population
from evo.islands import Islands
from evo.objectives import RowLosses, parse_objectives
from evo.operators import MASK_SAMPLERS
from evo.packed import Masks
from evo.proposal import Elites
from evo.row_scores import Scoring, check_finite, combine_scores, compute_fitness, measure_scale, resolve_objectives
from evo.rules import Rules
from evo.search import Rows, Search
from evo.selection import choose_elites
from training.probe import Losses

if TYPE_CHECKING:
    from training.mixes.scoring import ScoringMix


MOST_CHECKS = 50  # of a training
CHECKED_IMAGES = 8  # of a search batch
RANDOM_COMPOSITIONS = 8  # of each of these images
TRUSTED = 0.5  # rank correlation below which search.compose_at=auto forwards every row
SHARE = 0.1  # of all forwards for searching, at most, that checks make; the first check of a run is always made


class Checks:
    """Compares estimates with the truth for a few rows of some searches; the fittest composition is among them.

    At most MOST_CHECKS over the epochs of a training that search, each in the first search of an epoch, and never more
    than SHARE of the forwards that searching takes, but for the first.

    Attributes:
        epoch: Of the last check that was due in a training; 0 before the first.
        trial: What the trial before the first search has found, until it is reported.
        forwards: Image forwards of all checks so far, the reference's included.
    """

    def __init__(self, mix: ScoringMix) -> None:
        self.mix = mix
        self.epoch = 0
        self.forwards = 0
        self.trial: dict[str, Any] | None = None

    def due(self, epoch: int) -> bool:
        """Whether a search that has just ended in this epoch is to be checked."""
        config, mix = self.mix.context.config, self.mix
        if not mix.estimates:
            return False
        last = max(min(config.search.stop_epoch or config.train.epochs, config.train.epochs), config.search_start)
        planned = np.linspace(config.search_start, last, min(MOST_CHECKS, last - config.search_start + 1)).round()
        if not ((planned > self.epoch) & (planned <= epoch)).any():
            return False
        images = min(CHECKED_IMAGES, config.train.batch_size)
        rows = images * (RANDOM_COMPOSITIONS + 1) * mix.row_cost
        return self.epoch == 0 or self.forwards + rows <= SHARE * mix.forwards

    def compare(
        self, images: Tensor, labels: Tensor, masks: Array, pairing: Array, number: int, generation: int = 0
    ) -> dict[str, Any] | None:
        """Estimates and exact scores of random compositions and of one that was found, for a few images of a batch.

        Args:
            images: (B,C,H,W) uint8.
            labels: (B,) int64.
            masks: (B,G,G) bool, of the composition that was found.
            pairing: (B,) int.
            number: Of the search, and `generation` within it: with the run's seed they decide what is drawn.

        Returns:
            What `summarise` says of it, with `checked_rows` and `forwards`, which mix.forwards counts; None where no
            score is finite.
        """
        mix = self.mix
        seed = [mix.context.streams.number("checks"), number, generation]
        rng, classes = np.random.default_rng(seed), labels.cpu().numpy()
        chosen = np.sort(rng.choice(len(classes), min(CHECKED_IMAGES, len(classes)), replace=False))
        random = self._draw(classes, rng)
        compositions = (np.concatenate([random[0], masks[None]]), np.concatenate([random[1], pairing[None]]))
        rows = Rows(
            np.tile(chosen, len(compositions[0])).astype(np.int32),
            compositions[0][:, chosen].reshape(-1, *masks.shape[1:]),
            compositions[1][:, chosen].ravel().astype(np.int32),
        )
        exact = mix.forward_rows(images, labels, rows)
        spent = len(rows.image) * mix.row_cost
        self.forwards += spent
        mix.forwards += spent
        of_both = [spread(losses, chosen, *compositions, classes) for losses in (Losses(*mix.scores(rows)), exact)]
        first = parse_objectives(mix.options.objective)[0]
        scoring = Scoring(resolve_objectives(first), classes)
        # What is scored against a population is scored against the same one, whose losses are exact.
        estimate, truth = (scoring.score(losses, of_both[1])[0][:, chosen] for losses in of_both)
        found = summarise(estimate, truth)
        return None if found is None else {**found, "checked_rows": len(rows.image), "forwards": spent}

    def trust(self, images: Tensor, labels: Tensor) -> bool:
        """Try on a batch whether estimates may stand for exact scores: their rank correlation is TRUSTED or more.

        As `compare`, of random compositions alone. A line says so where they may not; `report_trial` has it logged.
        """
        mix = self.mix
        random = self._draw(labels.cpu().numpy(), np.random.default_rng(mix.context.streams.number("trial")))
        found = self.compare(images, labels, random[0][0], random[1][0], number=0)
        if found is None or found["rank_correlation"] is None:
            return True
        known = ("rank_correlation", "bias", "checked_rows", "forwards")
        trusted = bool(found["rank_correlation"] >= TRUSTED)
        self.trial = {name: found[name] for name in known} | {"needed": TRUSTED, "trusted": trusted}
        if not trusted and mix.context.world.main:
            print(
                f"search: scores estimated from feature maps rank an image's compositions with a correlation of "
                f"{found['rank_correlation']:.2f} to exact ones, below {TRUSTED:g}; every composed image is forwarded "
                "(search.compose_at=pixels)",
                file=sys.stderr,
            )
        return trusted

    def report_trial(self) -> None:
        """Have what the trial has found logged, once."""
        if self.trial is not None:
            self.mix.context.on_check(self.trial, event="trial")
            self.trial = None

    def _draw(self, classes: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Random compositions (N,B,G,G), (N,B) that obey the search's rules."""
        options, grid, batch = self.mix.options, self.mix.context.model.grid, len(classes)
        sampler = MASK_SAMPLERS[options.sampler or self.mix.context.config.mix.sampler]
        masks = sampler(RANDOM_COMPOSITIONS * batch, grid, rng).reshape(RANDOM_COMPOSITIONS, batch, grid, grid)
        pairings = np.stack([rng.permutation(batch) for _ in masks]).astype(np.int32)
        rules = Rules(
            classes,
            grid,
            min_cells=options.min_cells,
            self_pairing=options.self_pairing,
            same_class=options.same_class,
        )
        packed, pairings = rules.repair(Masks.pack(masks), pairings, rng)
        return packed.cells, pairings

    def state(self) -> Array:
        return np.array([self.epoch, self.forwards])

    def restore(self, state: Array) -> None:
        self.epoch, self.forwards = (int(count) for count in state)


def spread(losses: Losses, chosen: Array, masks: Array, pairings: Array, classes: Array) -> RowLosses:
    """Losses of P compositions' rows of the N chosen images as of whole compositions, NaN elsewhere.

    losses: of P x N rows. masks (P,B,G,G), pairings (P,B), classes (B,).
    """

    def whole(part: Array | None) -> Array | None:
        if part is None:
            return None
        array = np.full((*pairings.shape, *part.shape[1:]), np.nan, np.float32)
        array[:, chosen] = part.reshape(len(pairings), len(chosen), *part.shape[1:])
        return array

    cells, images, reference_cells, reference_images = (whole(part) for part in losses)
    assert cells is not None and images is not None
    return RowLosses(
        cells, images, Masks.pack(masks), classes, classes[pairings], pairings, reference_cells, reference_images
    )


def summarise(estimate: Array, truth: Array) -> dict[str, float | None] | None:
    """How estimates go with the truth.

    Args:
        estimate: (P,N) scores of N images' rows in P compositions; the last was found by a search, the others drawn.
        truth: (P,N), exact. What is not finite in either is left out.

    Returns:
        rank_correlation: Spearman's within an image, over the random compositions, mean over images. bias: mean
        estimate less mean truth of these. gain_estimated, gain_true: mean score of the rows found less that of the
        random ones. None for what cannot be told, and in the place of all where nothing is finite.
    """
    estimate, truth = estimate.astype(np.float64), truth.astype(np.float64)
    sound = np.isfinite(estimate) & np.isfinite(truth)
    random, found = sound[:-1], sound[-1]
    if not random.any():
        return None
    correlations = [
        correlate_ranks(estimate[:-1][random[:, image], image], truth[:-1][random[:, image], image])
        for image in range(random.shape[1])
    ]
    known = [value for value in correlations if np.isfinite(value)]
    gains = [
        float(scores[-1][found].mean() - scores[:-1][random].mean()) if found.any() else None
        for scores in (estimate, truth)
    ]
    return {
        "rank_correlation": round(float(np.mean(known)), 5) if known else None,
        "bias": round(float((estimate - truth)[:-1][random].mean()), 6),
        "gain_estimated": None if gains[0] is None else round(gains[0], 6),
        "gain_true": None if gains[1] is None else round(gains[1], 6),
    }


def correlate_ranks(first: Array, second: Array) -> float:
    """Spearman's rank correlation of two (N,), equals sharing their mean rank; NaN where one has a single value.

    scipy.stats has it as well, and takes two seconds to import.

    Example:
        >>> round(correlate_ranks(np.array([1.0, 2.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])), 4)
        0.9487
    """
    ranks = []
    for values in (first, second):
        _, kind, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[kind])
    if min(len(np.unique(rank)) for rank in ranks) < 2:
        return float("nan")
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


class Verified(NamedTuple):
    """Genomes of a last generation in the light of exact forwards.

    Attributes:
        elites: The truly fittest, with exact losses and fitness.
        forwards: Image forwards that it took, the reference's included.
        line: For the generation's line in the log: `verified`, how many genomes were forwarded; `verified_fitness`,
            the exact fitness of the fittest; `verified_first`, that of the fittest by the estimate; `verified_rank`,
            the place by the estimate, from 1, of the fittest.
    """

    elites: Elites
    forwards: int
    line: dict[str, Any]


def verify(mix: ScoringMix, search: Search | Islands, images: Tensor, labels: Tensor) -> Verified | None:
    """Forward a generation's search.verify fittest genomes and choose search.elites of them by their exact losses.

    Rows that are equal are forwarded once. With several objectives the choice is that of the search's own elites, by
    the exact values: the first non-dominated front, the least crowded first. An objective that scores rows against a
    population scores these genomes against each other.

    Returns:
        None where search.verify is 0, or the scores are exact anyway.

    Raises:
        FloatingPointError: More than search.max_nonfinite of the rows are not finite.
    """
    options = mix.options
    if not options.verify or not mix.estimates:
        return None
    candidates = search.elites(min(options.verify, len(search)))
    scoring = (search.searches[0] if isinstance(search, Islands) else search).scoring
    genomes = Population(candidates.masks, candidates.pairings, objectives=len(scoring.objectives))
    genomes.ids = candidates.ids
    row = np.tile(np.arange(len(labels), dtype=np.int32), len(genomes))
    partner = genomes.pairings.ravel()
    first, kind = group_equal_rows(row, partner, genomes.packed.words.reshape(len(row), -1))
    grid = candidates.masks.shape[2]
    rows = Rows(row[first], candidates.masks.reshape(-1, grid, grid)[first], partner[first])
    for name, losses in zip(Population.LOSSES, mix.forward_rows(images, labels, rows), strict=True):
        if losses is not None:
            setattr(genomes, name, losses[kind].reshape(*genomes.pairings.shape, *losses.shape[1:]))
    scores = scoring.score(scoring.gather_rows(genomes))
    check_finite(np.isinf(scores[0]), options.max_nonfinite, search.generation)
    genomes.scores = combine_scores(scores, measure_scale(scores))
    genomes.values = compute_fitness(scores)
    genomes.valid[:] = True
    elites = choose_elites(genomes, min(options.elites, len(genomes)), copies=options.duplicates == "keep")
    line = {
        "verified": len(genomes),
        "verified_fitness": round(float(elites.fitness[0]), 6),
        "verified_first": round(float(genomes.values[0, 0]), 6),
        "verified_rank": int(np.flatnonzero(genomes.ids == elites.ids[0])[0]) + 1,
    }
    return Verified(elites, len(rows.image) * mix.row_cost, line)
