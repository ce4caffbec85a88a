"""Evolved compositions: a search over the images about to be trained on, scored by the live model.

For every R-th group of training batches (R is search.every) a population evolves over all their images at
once. Training steps follow, one per elite: each trains on its own batch's rows of its elite, so that every image is
trained on once an epoch, and the number of steps is that of any other mix. The elites are those of the last
generation, the fittest, or with search.consume=each those of every generation in turn.
With search.rescore=hold the weights hold still during a search, and losses carried with rows are exact; else
every generation's steps are taken before the next generation.

The groups between searches draw from the live bank: masks of recent searches, and partners by chance or by
the classes that those searches paired. That costs no forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evo.bank import PatternBank
from evo.errors import UserError
from evo.islands import Islands
from evo.search import Elites, Search
from training.config import SearchOptions
from training.mixes.batch import Array, Batch, Mix, MixContext, Mixed
from training.mixes.drawn import PatternFile
from training.mixes.scoring import ScoringMix

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
        self.span = span(options, context.config.train.batch)
        self.bank = PatternBank(grid, context.num_classes, context.class_names)
        self.live = PatternBank(grid, context.num_classes, context.class_names)
        self.start = None if options.start is None else PatternFile("search.start", options.start)
        self.groups = 0
        self.searches = 0

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        if not batches:
            return
        if not self._selects(epoch):
            yield from (self._by_chance(batch) for batch in batches)
            return
        searches = self.groups % self.options.every == 0
        self.groups += 1
        yield from self._searched(batches) if searches else self._drawn(batches)

    def _searched(self, batches: list[Batch]) -> Iterator[Mixed]:
        """Search over the batches' images, or the first of each; train on the elites, those found last at the end."""
        steps, part = len(batches), self._part(len(batches[0][1]))
        images = torch.cat([images[:part] for images, _ in batches])
        labels = torch.cat([labels[:part] for _, labels in batches])
        classes = labels.cpu().numpy()  # once: on a GPU it waits for the device, before the clock starts
        whole, done = (images, labels), 0
        if self.options.rows < 1:
            whole = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
        with self._clock():
            search, elites = self.make_search(images, labels, classes), list[Elites]()
        turns, generations = self.options.takes_turns, self.options.generations
        if turns:
            found = self._generations(search, elites, images, labels)
        else:
            self.go_on(search, elites, images, labels)
            self._remember(elites[-1], classes)
            consumed = elites[-1:] if self.options.consumes_last else elites
            found, generations = iter(consumed), len(consumed)
        for number, kept in enumerate(found, 1):
            due = steps * number // generations
            for step in range(done, due):
                yield self._of_elite(whole, classes, kept, (step - done + 1) / (due - done), step, steps)
            if turns and due > done:
                search.forget()
            done = due
        for step in range(done, steps):  # it ended before its time
            yield self._of_elite(whole, classes, elites[-1], (step - done + 1) / (steps - done), step, steps)
        if turns:
            self._finish(search, elites, images, labels)
            self._remember(elites[-1], classes)

    def _part(self, size: int) -> int:
        """How many images of a training batch of `size`, which are in random order, a search is over."""
        return min(size, max(2, round(self.options.rows * size)))

    def _of_elite(self, whole: Batch, classes: Array, elites: Elites, progress: float, step: int, steps: int) -> Mixed:
        """Batch number `step` of `steps` under one of a generation's elites: the fittest at progress 1.

        whole: the images and labels of all of them. classes: the labels that the search was over.
        """
        count, size, part = len(elites.fitness), len(whole[1]) // steps, len(classes) // steps
        rank = count - math.ceil(progress * count - 1e-9)
        rows = slice(step * part, (step + 1) * part)
        masks, pairing = elites.masks[rank][rows], elites.pairings[rank][rows]
        self.bank.collect(masks, classes[rows], classes[pairing])
        first = step * size
        if part < size:  # the others, among themselves
            labels = whole[1][first + part : first + size]
            others, partners = self._draw(labels, self._classes(labels))
            masks = np.concatenate([masks, others])
            pairing = np.concatenate([pairing // part * size + pairing % part, first + part + partners])
        own = torch.arange(first, first + size, device=whole[0].device)
        return self._composed(whole, masks, pairing, own)

    def _remember(self, elites: Elites, classes: Array) -> None:
        """Take a search's last elites into the live bank, if anything is drawn from it."""
        if self.options.every == 1 and not self.options.carry:
            return
        with self._clock():
            self.live.decay(self.options.bank_decay)
            for masks, pairing in zip(elites.masks, elites.pairings, strict=True):
                self.live.collect(masks, classes, classes[pairing])
            # At once, so that sums are rounded alike whether or not a checkpoint is written before the next search.
            self.live.settle()

    def _drawn(self, batches: list[Batch]) -> Iterator[Mixed]:
        """Compositions from the live bank. Labels leave the device, once, only where the partners depend on them."""
        options = self.options
        classes = None
        if options.bank_pairing != "random" or not options.same_class:
            classes = torch.cat([labels for _, labels in batches]).cpu().numpy()
        start = 0
        for batch in batches:
            count = len(batch[1])
            with self._clock():
                own = np.full(count, -1) if classes is None else classes[start : start + count]
                masks, pairing = self._obeying(*self.live.draw(own, self.rng, options.bank_pairing), own)
                start += count
            yield self._composed(batch, masks, pairing)

    def evolve(self, images: Tensor, labels: Tensor) -> list[Elites]:
        """Run one search over a batch; return each generation's elites."""
        search, elites = self.make_search(images, labels), list[Elites]()
        self.go_on(search, elites, images, labels)
        return elites

    def make_search(self, images: Tensor, labels: Tensor, classes: Array | None = None) -> Search | Islands:
        """A search of this mix's options over a batch; classes: its labels, where they are known outside the device.

        Raises UserError where the options do not fit it.
        """
        options, count = self.options, len(labels)
        if classes is None:
            classes = labels.cpu().numpy()
        start = None if self.start is None else self.start.bank
        if options.carry and len(self.live):
            start = self.live
        evaluation = self.settle_evaluation(images)
        budget = None if options.budget is None else int(options.budget * count) // options.islands
        generators = [self.rng]
        if options.islands > 1:  # streams of their own, so that what one draws leaves the others alone
            generators = [np.random.default_rng(self.rng.integers(2**63)) for _ in range(options.islands)]
        self.searches += 1
        if budget is not None and budget < count:
            raise UserError(
                f"search.budget={options.budget:g} image forwards per image is less than one for each of "
                f"search.islands={options.islands}"
            )
        try:
            searches = [
                Search(
                    count,
                    self.context.model.grid,
                    classes,
                    population=options.population,
                    objective=options.objective,
                    sampler=self.context.config.mix.sampler,
                    select=options.selection,
                    crossover=options.crossover,
                    mask_mutation=options.mask_mutation,
                    pairing_mutation=options.pairing_mutation,
                    adaptive=options.adaptive,
                    evaluation=evaluation,
                    rescore="survivors" if options.rescore == "hold" else options.rescore,
                    duplicates=options.duplicates,
                    generations=options.generations,
                    budget=budget,
                    patience=options.patience,
                    target=options.target,
                    max_nonfinite=options.max_nonfinite,
                    min_cells=options.min_cells,
                    self_pairing=options.self_pairing,
                    same_class=options.same_class,
                    hold=options.hold,
                    start=start,
                    rng=generator,
                )
                for generator in generators
            ]
            if options.islands == 1:
                return searches[0]
            return Islands(searches, every=options.migrate_every, migrants=options.migrants)
        except ValueError as error:
            raise UserError(f"search: {error}") from None

    def go_on(self, search: Search | Islands, elites: list[Elites], images: Tensor, labels: Tensor) -> None:
        """Run a search to its end; add every generation's elites to `elites` and report it."""
        for _ in self._generations(search, elites, images, labels):
            pass
        self._finish(search, elites, images, labels)

    def _generations(
        self, search: Search | Islands, elites: list[Elites], images: Tensor, labels: Tensor
    ) -> Iterator[Elites]:
        """The elites of one generation after the other, which are added to `elites`, reported and yielded."""
        options, context = self.options, self.context
        told: dict[str, int | str] = {"search": self.searches, "images": len(labels)}
        if self.evaluation == "full":
            told["evaluation"] = "full"
        while True:
            with self._clock(images.device):
                proposal = search.ask()
                if proposal is None:
                    return
                try:
                    record = search.tell(*self._losses(images, labels, proposal.rows))
                except FloatingPointError as error:
                    raise UserError(f"search {self.searches}, {error}") from None
                elites.append(search.elites(min(options.elites, len(search))))
                context.on_generation({**told, **record})
            yield elites[-1]

    def _finish(self, search: Search | Islands, elites: list[Elites], images: Tensor, labels: Tensor) -> None:
        self.forwards += search.forwards
        with self._clock():
            self.context.on_search(SearchRecord(self.searches, images, labels, elites, search.lineage.arrays()))

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
    """Training batches of a search batch: one for each elite that is trained on where search.batch is not given."""
    generations = 1 if options.consumes_last else options.generations
    return max(1, (options.batch or batch * generations * options.elites) // batch)


def build(context: MixContext) -> Mix:
    """The live search. Raises UserError where a search could not take turns with training steps."""
    options, batch = context.config.search, context.config.train.batch
    if options.takes_turns and options.consumes_last:
        raise UserError(
            f"search.rescore={options.rescore} trains on every generation's elites before the next generation; set "
            "search.consume=each, or search.rescore=hold"
        )
    if options.takes_turns and min(options.generations, span(options, batch)) < 2:
        raise UserError(
            f"search.rescore={options.rescore} takes turns between generations and training steps, but a search batch has "
            f"{span(options, batch)} steps of train.batch={batch} and {options.generations} generations; set search.batch "
            "to at least two batches and search.generations to at least 2, or search.rescore=hold"
        )
    return Evolved(context)
