"""Best-of-k: random PatchMix that draws k compositions for a batch and keeps what the live model scores best.

The control that an evolved composition is to be compared with at equal image forwards. k compositions are forwarded
for every R-th mixed batch (R is search.every), k / R for every mixed image; the other batches are random PatchMix.
Partners are images of the same batch; draws obey search.min_cells, self_pairing and same_class. `shuffled` is a control
in its turn: it takes the partners that `rows` would take, as often, but mixes at random, since to pick images is to
resample them, which may be all that helps (Teney, Wang and Abbasnejad, Selective Mixup Helps with Distribution Shifts,
But Not (Only) because of Mixup, ICML 2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from evo.arrays import Array
from evo.errors import UserError
from evo.objectives import RowLosses, parse_objectives
from evo.packed import Masks
from evo.search import Rows
from training.mixes.batch import Batch, Mix, MixContext, Mixed
from training.mixes.scoring import ScoringMix


class BestOfK(ScoringMix):
    """Random compositions, selected by search.objective. With k = 1 it is random PatchMix and forwards nothing.

    batches counts mixed batches from search.start_epoch to stop_epoch.
    """

    span = 1

    def __init__(self, context: MixContext) -> None:
        super().__init__(context)
        (self.objective,) = parse_objectives(self.options.objective)
        self.draws = context.config.mix.draws
        self.keep = context.config.mix.keep
        self.batches = 0

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        for batch in batches:
            begun = self._selects(epoch)
            selects = begun and self.draws > 1 and self.batches % self.options.every == 0
            self.batches += begun
            yield self._select(batch, epoch) if selects else self._mix_at_random(batch)

    def _select(self, batch: Batch, epoch: int) -> Mixed:
        images, labels = batch
        with self._clock(images.device):
            classes = labels.cpu().numpy()
            drawn = [self._draw(labels, classes) for _ in range(self.draws)]
            masks, pairings = (np.stack(parts) for parts in zip(*drawn, strict=True))
            scores = self._score(images, labels, masks, pairings, classes)
            best = best_draws(scores, whole=self.keep == "batch")
            rows = np.arange(len(best))
            kept, partners = masks[best, rows], pairings[best, rows]
            if self.checks.due(epoch):
                self.checks.epoch = epoch
                if found := self.checks.compare(images, labels, kept, partners, self.batches):
                    self.context.on_check({"batch": self.batches, **found})
            if self.keep == "shuffled":
                kept, _ = self._draw(labels, classes)
                partners = self.rng.permutation(partners)
        return self._compose(batch, kept, partners)

    def _score(self, images: Tensor, labels: Tensor, masks: Array, pairings: Array, classes: Array) -> Array:
        """Row scores (k,B) of compositions (k,B,G,G), (k,B). Raises UserError where too many are not finite."""
        count, size = pairings.shape
        self.decide_evaluation(images)
        rows = Rows(
            np.tile(np.arange(size, dtype=np.int32), count),
            masks.reshape(-1, *masks.shape[2:]),
            pairings.reshape(-1).astype(np.int32),
        )
        self.decide_scores(images, labels)
        self.checks.report_trial()
        losses = self.scores(rows)
        self.forwards += self.scores.forwards
        cells, whole = losses.reference_cells, losses.reference_images
        scores = self.objective(
            RowLosses(
                losses.cells.reshape(masks.shape),
                losses.images.reshape(pairings.shape),
                Masks.pack(masks),
                classes,
                classes[pairings],
                pairings,
                None if cells is None else cells.reshape(masks.shape),
                None if whole is None else whole.reshape(pairings.shape),
            )
        )
        lost = float((~np.isfinite(scores)).mean())
        if lost > self.options.max_nonfinite or lost == 1:
            raise UserError(
                f"best-of-k: {100 * lost:.0f} % of the rows have losses that are NaN or infinite, beyond "
                f"search.max_nonfinite={self.options.max_nonfinite:g}; lower the learning rate, or use float32"
            )
        return scores

    def state(self) -> dict[str, Array]:
        return {**super().state(), "counts": np.array([self.forwards, self.batches])}

    def restore(self, state: dict[str, Array]) -> None:
        super().restore(state)
        self.forwards, self.batches = (int(count) for count in state["counts"])


def best_draws(scores: Array, *, whole: bool) -> Array:
    """(B,) which of k draws each row keeps, of row scores (k,B), larger is better; the first of equals.

    whole: all rows keep the draw whose mean score is best. A score that is not finite counts as the worst, and so
    does the mean of a draw with one.
    """
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    if whole:
        return np.full(scores.shape[1], scores.mean(axis=1).argmax())
    return np.asarray(scores.argmax(axis=0))


def build(context: MixContext) -> Mix:
    """Random compositions, the best of k by the live model's losses."""
    return BestOfK(context)
