"""Evolved compositions: a search over the images about to be trained on, scored by the live model.

For every group of training batches a population evolves over all their images at once. Weights hold still
meanwhile, so losses carried with rows stay exact. Then training steps follow, one per elite, generation by
generation: step j trains on its own batch's rows of the j-th elite. So each generation's elites are
consumed, every image is trained on once an epoch, and the number of steps is that of any other mix.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from evo.bank import PatternBank
from evo.islands import Islands
from evo.search import Elites, Rows, Search
from training.config import UserError
from training.mixes.batch import (
    Array,
    Batch,
    Mix,
    MixContext,
    Mixed,
    composed,
    generator_state,
    set_generator_state,
)
from training.probe import Losses, check_independence, probe


@dataclass(frozen=True)
class SearchRecord:
    """A finished search: its number, batch, each generation's elites, and its genomes' lineage (evo/lineage.py)."""

    number: int
    images: Tensor  # (B,C,H,W) uint8
    labels: Tensor  # (B,) int64
    elites: list[Elites]
    lineage: dict[str, Array]


class Evolved:
    """The live search as a mix."""

    cells = True

    def __init__(self, context: MixContext) -> None:
        options, train = context.config.search, context.config.train
        self.context = context
        self.options = options
        wanted = options.batch or train.batch * options.generations * options.elites
        self.span = max(1, wanted // train.batch)
        self.rng = context.streams.numpy("search")
        self.bank = PatternBank(context.model.grid, context.num_classes, context.class_names)
        self.start = None if options.start is None else PatternBank.load(options.start)
        self.searches = 0
        self.forwards = 0
        self.seconds = 0.0
        # Settled at the first search, once the model can be asked; kept in the checkpoint.
        self.evaluation: Literal["incremental", "full"] | None = "full" if options.evaluation == "full" else None
        self.forward = torch.compile(context.model, dynamic=False) if options.compile else None
        self.reference = context.reference
        if options.compile and self.reference is not None:
            self.reference = cast(nn.Module, torch.compile(self.reference, dynamic=False))
        self.autocast = context.autocast
        if options.precision != "auto":
            self.autocast = torch.bfloat16 if options.precision == "bfloat16" else None

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        if not batches:
            return
        began = time.perf_counter()
        images = torch.cat([images for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        elites = self.evolve(images, labels)
        self.seconds += time.perf_counter() - began

        # One composition per elite, generation by generation, the fittest of each generation last.
        queue = [(e.masks[i], e.pairings[i]) for e in elites for i in reversed(range(len(e.fitness)))]
        size = len(batches[0][1])
        classes = labels.cpu().numpy()  # once: on a GPU it waits for the device
        for step in range(len(batches)):
            masks, pairing = queue[math.ceil((step + 1) * len(queue) / len(batches)) - 1]
            rows = np.arange(step * size, (step + 1) * size)
            masks, pairing = masks[rows], pairing[rows]
            self.bank.collect(masks, classes[rows], classes[pairing])
            yield self._compose((images, labels), masks, pairing, rows)

    def evolve(self, images: Tensor, labels: Tensor) -> list[Elites]:
        """Run one search over a batch; return each generation's elites."""
        search, elites = self.make_search(images, labels), list[Elites]()
        self.go_on(search, elites, images, labels)
        return elites

    def make_search(self, images: Tensor, labels: Tensor) -> Search | Islands:
        """A search of this mix's options over a batch. Raises UserError where they do not fit it."""
        options, count = self.options, len(labels)
        classes = labels.cpu().numpy()  # once: on a GPU it waits for the device
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
                    start=self.start,
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
        options, context = self.options, self.context
        told: dict[str, int | str] = {"search": self.searches, "images": len(labels)}
        if self.evaluation == "full":
            told["evaluation"] = "full"
        while (proposal := search.ask()) is not None:
            try:
                record = search.tell(*self._losses(images, labels, proposal.rows))
            except FloatingPointError as error:
                raise UserError(f"search {self.searches}, {error}") from None
            elites.append(search.elites(min(options.elites, len(search))))
            context.on_generation({**told, **record})
        self.forwards += search.forwards
        context.on_search(SearchRecord(self.searches, images, labels, elites, search.lineage.arrays()))

    def settle_evaluation(self, images: Tensor) -> Literal["incremental", "full"]:
        """Whether losses may be carried with rows; asks the model the first time and keeps the answer.

        Raises UserError where search.evaluation is incremental and samples influence each other.
        """
        if self.evaluation is not None:
            return self.evaluation
        context = self.context
        seen = check_independence(context.model, images, context.prepare, self.autocast)
        if seen is None and context.reference is not None:
            seen = check_independence(context.reference, images, context.prepare, self.autocast)
            seen = seen and f"of the reference, {seen}"
        if seen is not None and self.options.evaluation == "incremental":
            raise UserError(
                f"search.evaluation=incremental: {seen}, so that a row's losses are not its own; set "
                "search.evaluation=full or auto, or take a model without batch statistics or dropout in evaluation mode"
            )
        self.evaluation = "incremental" if seen is None else "full"
        if seen is not None and context.world.main:
            print(f"search: {seen}; every genome is forwarded whole (search.evaluation=full)", file=sys.stderr)
        return self.evaluation

    def _losses(self, images: Tensor, labels: Tensor, rows: Rows) -> Losses:
        """Losses of rows, which each process has forwarded its share of: rows, or whole genomes of B rows."""
        context, options = self.context, self.options
        unit = len(labels) if self.evaluation == "full" else 1  # rows that share a forward
        chunk = unit if self.evaluation == "full" else options.forward_batch or context.config.train.eval_batch
        count = len(rows.image) // unit
        mine = context.world.share(count)
        mine = slice(mine.start * unit, mine.stop * unit)
        found = probe(
            context.model,
            images,
            labels,
            Rows(*(array[mine] for array in rows)),
            reference=self.reference,
            prepare=context.prepare,
            chunk=chunk,
            autocast=self.autocast,
            channels_last=options.channels_last,
            forward=self.forward,
        )
        if context.world.size == 1:
            return found
        # One message: (rows of mine, N) with all losses of a row side by side, N = G^2 + 1 for either model.
        parts = [part for part in found if part is not None]
        widths = [math.prod(part.shape[1:]) for part in parts]
        flat = np.concatenate([part.reshape(-1, width) for part, width in zip(parts, widths, strict=True)], axis=1)
        sent = torch.from_numpy(flat).to(images.device).view(len(flat) // unit, unit * sum(widths))
        whole = context.world.gather(sent, count).cpu().numpy().reshape(count * unit, sum(widths))
        columns = np.split(whole, np.cumsum(widths)[:-1], axis=1)
        return Losses(*(column.reshape(-1, *part.shape[1:]) for column, part in zip(columns, parts, strict=True)))

    def _compose(self, batch: Batch, masks: Array, pairing: Array, rows: Array) -> Mixed:
        return composed(
            batch,
            torch.from_numpy(masks),
            torch.from_numpy(pairing.astype(np.int64)),
            self.context.num_classes,
            rows=torch.from_numpy(rows).to(batch[0].device),
        )

    def state(self) -> dict[str, Array]:
        return {
            "rng": generator_state(self.rng),
            "counts": np.array([self.searches, self.forwards]),
            "seconds": np.array(self.seconds),
            "full": np.array([] if self.evaluation is None else [self.evaluation == "full"], dtype=bool),
            "bank_masks": self.bank.masks,
            "bank_weights": self.bank.weights,
            "bank_pairs": self.bank.pairs,
        }

    def restore(self, state: dict[str, Array]) -> None:
        set_generator_state(self.rng, state["rng"])
        self.searches, self.forwards = (int(count) for count in state["counts"])
        self.seconds = float(state["seconds"])
        if len(state["full"]):
            self.evaluation = "full" if state["full"][0] else "incremental"
        self.bank.restore(state["bank_masks"], state["bank_weights"], state["bank_pairs"])


def build(context: MixContext) -> Mix:
    """The live search."""
    return Evolved(context)
