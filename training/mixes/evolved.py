"""Evolved compositions: a search over the images about to be trained on, scored by the live model.

For every R-th group of training batches (R is search.every) a population evolves over all their images at
once. Training steps follow, one per elite: each trains on its own batch's rows of its elite, so that every image is
trained on once an epoch, and the number of steps is that of any other mix. The elites are those of the last
generation, the fittest, or with search.consume=each those of every generation in turn.
The weights hold still during a search, so that losses carried with rows are exact.

The groups between searches draw masks of recent searches from the live bank, and partners by chance. That costs no
forward.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evo.arrays import Array
from evo.bank import PatternBank
from evo.errors import UserError
from evo.islands import Islands
from evo.objectives import parse_objectives
from evo.operators import MASK_SAMPLERS
from evo.pair_table import PairTable
from evo.row_scores import combine_scores, measure_scale
from evo.rules import Rules
from evo.search import Elites, Search, SearchSettings
from training.feature_probe import FeatureProbe
from training.mixes.batch import Batch, Mix, MixContext, Mixed
from training.mixes.drawn import PatternFile
from training.mixes.estimates import Verified, verify
from training.mixes.scoring import ScoringMix
from training.search_options import SearchOptions

BANK = ("masks", "weights", "pairs", "uncut")  # what a checkpoint keeps of a pattern bank


@dataclass(frozen=True)
class SearchRecord:
    """A finished search: its number, batch, each generation's elites, and its genomes' lineage (evo/lineage.py)."""

    number: int
    images: Tensor  # (B,C,H,W) uint8
    labels: Tensor  # (B,) int64
    elites: list[Elites]
    lineage: dict[str, Array]


class Evolved(ScoringMix):
    """The live search as a mix.

    bank: the patterns trained on so far, for export. live: those of recent searches' last elites, decaying.
    searches counts them, groups the groups of batches from search.start_epoch to stop_epoch.
    """

    def __init__(self, context: MixContext) -> None:
        super().__init__(context)
        options, grid = context.config.search, context.model.grid
        self.span = span(options, context.config.train.batch_size)
        self.bank = PatternBank(grid, context.num_classes, context.class_names)
        self.live = PatternBank(grid, context.num_classes, context.class_names)
        self.start = None if options.start is None else PatternFile("search.start", options.start)
        self.groups = 0
        self.searches = 0

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        if not batches:
            return
        if not self._selects(epoch):
            yield from (self._mix_at_random(batch) for batch in batches)
            return
        searches = self.groups % self.options.every == 0
        self.groups += 1
        yield from self._search_and_mix(batches, epoch) if searches else self._mix_from_bank(batches)

    def _search_and_mix(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        """Search over the batches' images, then train on the elites, those found last at the end."""
        steps = len(batches)
        images = torch.cat([images for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        classes = labels.cpu().numpy()  # once: on a GPU it waits for the device, before the clock starts
        with self._clock():
            search = self.make_search(images, labels, classes)
        elites: list[Elites] = []
        self.go_on(search, elites, images, labels, epoch=epoch)
        self._remember(elites[-1], classes)
        consumed = elites[-1:] if self.options.consume == "last" else elites
        done = 0
        for number, kept in enumerate(consumed, 1):
            due = steps * number // len(consumed)
            for step in range(done, due):
                progress = (step - done + 1) / (due - done)
                yield self._mix_elite((images, labels), classes, kept, progress, step, steps)
            done = due

    def _mix_elite(self, whole: Batch, classes: Array, elites: Elites, progress: float, step: int, steps: int) -> Mixed:
        """Batch number `step` of `steps` under one of a generation's elites: the fittest at progress 1.

        whole: the images and labels of all of them. classes: the same labels.
        """
        count = len(elites.fitness)
        rank = count - math.ceil(progress * count - 1e-9)
        size = len(classes) // steps
        first = step * size
        rows = slice(first, first + size)
        masks, pairing = elites.masks[rank][rows], elites.pairings[rank][rows]
        self.bank.collect(masks, classes[rows], classes[pairing])
        own = torch.arange(first, first + size, device=whole[0].device)
        return self._compose(whole, masks, pairing, own)

    def _remember(self, elites: Elites, classes: Array) -> None:
        """Take a search's last elites into the live bank, if anything is drawn from it."""
        if self.options.every == 1:
            return
        with self._clock():
            self.live.decay(self.options.bank_decay)
            for masks, pairing in zip(elites.masks, elites.pairings, strict=True):
                self.live.collect(masks, classes, classes[pairing])
            # At once, so that sums are rounded alike whether or not a checkpoint is written before the next search.
            self.live.fold()

    def _mix_from_bank(self, batches: list[Batch]) -> Iterator[Mixed]:
        """Masks from the live bank, partners by chance. Labels leave the device, once, only where the search's rules
        depend on them.
        """
        classes = None
        if not self.options.same_class:
            classes = torch.cat([labels for _, labels in batches]).cpu().numpy()
        start = 0
        for batch in batches:
            count = len(batch[1])
            with self._clock():
                own = np.full(count, -1) if classes is None else classes[start : start + count]
                masks, pairing = self._obey_rules(*self.live.draw(own, self.rng), own)
                start += count
            yield self._compose(batch, masks, pairing)

    def evolve(self, images: Tensor, labels: Tensor) -> list[Elites]:
        """Run one search over a batch; return each generation's elites."""
        search = self.make_search(images, labels)
        elites = list[Elites]()
        self.go_on(search, elites, images, labels)
        return elites

    def make_search(self, images: Tensor, labels: Tensor, classes: Array | None = None) -> Search | Islands:
        """A search of this mix's options over a batch; classes: its labels, where they are known outside the device.

        Raises UserError where the options do not fit it.
        """
        options = self.options
        count = len(labels)
        if classes is None:
            classes = labels.cpu().numpy()
        evaluation = self.decide_evaluation(images)
        generators = [self.rng]
        if options.islands > 1:  # streams of their own, so that what one draws leaves the others alone
            generators = [np.random.default_rng(self.rng.integers(2**63)) for _ in range(options.islands)]
        self.searches += 1
        if options.budget is not None and options.budget < options.islands:
            raise UserError(
                f"search.budget={options.budget:g} image forwards per image is less than one for each of "
                f"search.islands={options.islands}"
            )
        try:
            self.decide_scores(images, labels)
            settings = options.settings(
                sampler=options.sampler or self.context.config.mix.sampler,
                evaluation=evaluation,
                budget=None if options.budget is None else options.budget / options.islands,
            )
            start = None if self.start is None else self.start.bank
            grid = self.context.model.grid
            table = self._score_pairs(settings, classes)
            searches = [Search(count, grid, classes, settings, rng, start=start, table=table) for rng in generators]
            if options.islands == 1:
                return searches[0]
            return Islands(searches, every=options.migrate_every, migrants=options.migrants)
        except ValueError as error:
            raise UserError(f"search: {error}") from None

    def _score_pairs(self, settings: SearchSettings, classes: Array) -> PairTable | None:
        """Scores of all pairs of a batch, where search.pair_masks asks for them."""
        count = self.options.pairs_by_scores
        probe = self.scores
        if not count or not isinstance(probe, FeatureProbe):
            return None
        masks = MASK_SAMPLERS[settings.sampler](count, self.context.model.grid, self.rng)
        rules = Rules(classes, masks.shape[1], self_pairing=settings.self_pairing, same_class=settings.same_class)
        objectives = parse_objectives(settings.objective)

        def score(images: Array, masks: Array) -> Array:
            each = np.stack([probe.score_pairs(objective, images, masks) for objective in objectives])
            return combine_scores(each, measure_scale(each))

        return PairTable(score, len(classes), masks, rules.permitted, self.rng)

    def go_on(
        self,
        search: Search | Islands,
        elites: list[Elites],
        images: Tensor,
        labels: Tensor,
        *,
        epoch: int | None = None,
        checks: Collection[Literal["first", "last"]] = (),
    ) -> None:
        """Run a search to its end; add every generation's elites to `elites` and report it.

        The last generation's line says why it ended, as `stopped`. The last elites are those of `verify`, where
        search.verify asks for it. epoch: of a training, where estimates are checked against the truth when that is
        due. checks: after which generations of a search experiment they are checked.
        """
        told: dict[str, int | str] = {"search": self.searches, "images": len(labels)}
        if self.evaluation == "full":
            told["evaluation"] = "full"
        self.checks.report_trial()
        with self._clock(images.device):
            verified: Verified | None = None
            proposal = search.ask()
            while proposal is not None:
                with self._explaining():
                    record = search.tell(*self.scores(proposal.rows))
                elites.append(search.elites(min(self.options.elites, len(search))))
                proposal = search.ask()
                ended = {} if search.stopped is None else {"stopped": search.stopped}
                if search.stopped is not None:
                    verified = self._verify(search, images, labels)
                if search.generation == 1 and "first" in checks:
                    self._check(elites[0], search.generation, images, labels)
                self.context.on_generation({**told, **record, **self._spent(record, verified), **ended})
            if verified is None:  # a search that is taken up at its end
                verified = self._verify(search, images, labels)
            if verified is not None:
                elites[-1] = verified.elites
                self.forwards += verified.forwards
            self.forwards += self.scores.forwards
            if epoch is not None and self.checks.due(epoch):
                self.checks.epoch = epoch
                self._check(elites[-1], search.generation, images, labels)
            if "last" in checks and search.generation > 1:
                self._check(elites[-1], search.generation, images, labels)
            self.context.on_search(SearchRecord(self.searches, images, labels, elites, search.lineage.arrays()))

    def take_up(self, forwards: int, of_scores: int) -> None:
        """Count on for a search experiment that is gone on with, as if it had not been interrupted.

        forwards: those that are in self.forwards. of_scores: the present search's for scores. Maps are forwarded once
        more, and counted once.
        """
        self.forwards = forwards
        self.checks.trial = None  # the log has it
        if of_scores:
            getattr(self.scores, "maps", None)
        self.scores.forwards = of_scores

    def _verify(self, search: Search | Islands, images: Tensor, labels: Tensor) -> Verified | None:
        with self._explaining():
            return verify(self, search, images, labels)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Tell losses that are not finite as a user's error, with the search's number."""
        try:
            yield
        except FloatingPointError as error:
            raise UserError(f"search {self.searches}, {error}") from None

    def _spent(self, record: dict[str, Any], verified: Verified | None) -> dict[str, Any]:
        """What a line says where scores are estimates: of the search's forwards so far, and of what was verified.

        forwards: images forwarded for scores. scored: those that the rows scored would have taken, which is what the
        engine counts. `verified_forwards` come on top, and those of checks, which have events of their own.
        """
        if not self.estimates:
            return {}
        spent = {"scored": record["forwards"], "forwards": self.scores.forwards}
        return spent if verified is None else {**spent, **verified.line, "verified_forwards": verified.forwards}

    def _check(self, elites: Elites, generation: int, images: Tensor, labels: Tensor) -> None:
        """Report estimates beside the truth, where scores are estimates and some are finite."""
        if not self.estimates:
            return
        found = self.checks.compare(images, labels, elites.masks[0], elites.pairings[0], self.searches, generation)
        if found is not None:
            self.context.on_check({"search": self.searches, "generation": generation, **found})

    def state(self) -> dict[str, Array]:
        return {
            **super().state(),
            "counts": np.array([self.searches, self.forwards, self.groups]),
            **{f"bank_{name}": np.asarray(getattr(self.bank, name)) for name in BANK},
            **{f"live_{name}": np.asarray(getattr(self.live, name)) for name in BANK},
            **({} if self.start is None else {"start": self.start.digest}),
        }

    def restore(self, state: dict[str, Array]) -> None:
        if self.start is not None:
            self.start.check(state.get("start"))
        super().restore(state)
        self.searches, self.forwards, self.groups = (int(count) for count in state["counts"])
        for key, bank in (("bank", self.bank), ("live", self.live)):
            masks, weights, pairs = (state[f"{key}_{name}"] for name in BANK[:3])
            bank.restore(masks, weights, pairs, int(state.get(f"{key}_uncut", 0)))  # older checkpoints have none


def span(options: SearchOptions, batch: int) -> int:
    """Training batches of a search batch: one for each elite that is trained on where search.batch_size is not given."""
    generations = 1 if options.consume == "last" else options.generations or 1
    return max(1, (options.batch_size or batch * generations * options.elites) // batch)


def build(context: MixContext) -> Mix:
    """The live search."""
    return Evolved(context)
