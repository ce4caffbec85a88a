"""Evolved compositions: a search over the images about to be trained on, scored by the live model.

For every group of training batches a population evolves over all their images at once. Weights hold still
meanwhile, so losses carried with rows stay exact. Then training steps follow, one per elite, generation by
generation: step j trains on its own batch's rows of the j-th elite. So each generation's elites are
consumed, every image is trained on once an epoch, and the number of steps is that of any other mix.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evo.bank import PatternBank
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
from training.probe import probe


@dataclass(frozen=True)
class SearchRecord:
    """A finished search: its number, batch, and each generation's elites."""

    number: int
    images: Tensor  # (B,C,H,W) uint8
    labels: Tensor  # (B,) int64
    elites: list[Elites]


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
        self.searches = 0
        self.forwards = 0
        self.seconds = 0.0

    def __call__(self, batches: list[Batch]) -> list[Mixed]:
        if not batches:
            return []
        began = time.perf_counter()
        images = torch.cat([images for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        elites = self.evolve(images, labels)
        self.seconds += time.perf_counter() - began

        # One composition per elite, generation by generation, the fittest of each generation last.
        queue = [(e.masks[i], e.pairings[i]) for e in elites for i in reversed(range(len(e.fitness)))]
        size = len(batches[0][1])
        classes = labels.cpu().numpy()  # once: on a GPU it waits for the device
        mixed = []
        for step in range(len(batches)):
            masks, pairing = queue[math.ceil((step + 1) * len(queue) / len(batches)) - 1]
            rows = np.arange(step * size, (step + 1) * size)
            masks, pairing = masks[rows], pairing[rows]
            self.bank.collect(masks, classes[rows], classes[pairing])
            mixed.append(self._compose((images, labels), masks, pairing, rows))
        return mixed

    def evolve(self, images: Tensor, labels: Tensor) -> list[Elites]:
        """Run one search over a batch; return each generation's elites."""
        options, context = self.options, self.context
        search = Search(
            len(labels),
            context.model.grid,
            labels.cpu().numpy(),
            population=options.population,
            objective=options.objective,
            sampler=context.config.mix.sampler,
            crossover=options.crossover,
            budget=None if options.budget is None else int(options.budget * len(labels)),
            rng=self.rng,
        )
        self.searches += 1
        elites = []
        while search.generation < options.generations:
            proposal = search.ask()
            if proposal is None:  # the budget is spent
                break
            try:
                record = search.tell(*self._losses(images, labels, proposal.rows))
            except FloatingPointError as error:
                raise UserError(f"search {self.searches}, {error}") from None
            elites.append(search.elites(min(options.elites, len(search))))
            context.on_generation({"search": self.searches, "images": len(labels), **record})
        self.forwards += search.forwards
        context.on_search(SearchRecord(self.searches, images, labels, elites))
        return elites

    def _losses(self, images: Tensor, labels: Tensor, rows: Rows) -> tuple[Array, Array]:
        """Cell losses (R,G,G) and image losses (R,) of rows; each process forwards its share of them."""
        context, count = self.context, len(rows.image)
        mine = context.world.share(count)
        parts = probe(
            context.model,
            images,
            labels,
            Rows(*(array[mine] for array in rows)),
            prepare=context.prepare,
            chunk=context.config.train.eval_batch,
            autocast=context.autocast,
        )
        cells, wholes = (context.world.gather(torch.from_numpy(part).to(images.device), count) for part in parts)
        return cells.cpu().numpy(), wholes.cpu().numpy()

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
            "bank_masks": self.bank.masks,
            "bank_weights": self.bank.weights,
            "bank_pairs": self.bank.pairs,
        }

    def restore(self, state: dict[str, Array]) -> None:
        set_generator_state(self.rng, state["rng"])
        self.searches, self.forwards = (int(count) for count in state["counts"])
        self.seconds = float(state["seconds"])
        self.bank.restore(state["bank_masks"], state["bank_weights"], state["bank_pairs"])


def build(context: MixContext) -> Mix:
    """The live search."""
    return Evolved(context)
