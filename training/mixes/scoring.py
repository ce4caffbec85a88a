"""What mixes share that have the live model score compositions before it trains on them: its losses, and the draw."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from evo.arrays import Array
from evo.errors import UserError
from evo.packed import Masks
from evo.rules import Rules
from evo.search import Rows
from training.config import Config
from training.devices import dtype_of, send
from training.feature_probe import FeatureProbe, Places
from training.mixes.batch import Batch, MixContext, Mixed, compose_batch, generator_state, set_generator_state
from training.mixes.estimates import Checks
from training.mixes.patchmix import PatchMix
from training.probe import CPU_CHUNK, Losses, check_independence, gather_losses, probe
from training.stage_probe import CutModel, StageProbe, cut_model


class ScoringMix:
    """The live model's losses of rows, as the options of a search ask for them, and random compositions.

    forwards (the reference's included) and seconds (of scores and draws, without the trainer's steps) count what
    was spent. scores: of the batch at hand. checks: of scores that are estimates.
    """

    def __init__(self, context: MixContext) -> None:
        options = context.config.search
        self.context = context
        self.options = options
        self.rng = context.streams.numpy("search")
        # The stream of random PatchMix: until a score is asked for both see the same compositions.
        self.random = context.streams.torch("mix")
        sampler = context.config.mix.sampler
        self.patchmix = PatchMix(grid=context.model.grid, sampler=sampler, generator=self.random)
        self.forwards = 0
        self.seconds = 0.0
        self.scores: Scores
        self.checks = Checks(self)
        # Decided at the first search, once the model can be asked; kept in the checkpoint.
        self.trusted: bool | None = (
            None  # whether estimates may stand for exact scores: decided likewise, where it is auto
        )
        self.evaluation: Literal["incremental", "full"] | None = "full" if options.evaluation == "full" else None
        self.forward = torch.compile(context.model, dynamic=False) if options.compile else None
        self.reference = context.reference
        models: list[Any] = [context.model] if self.reference is None else [context.model, self.reference]
        self.places: list[Places] | None = None
        if options.compile:
            self.places = [torch.compile(model.place_logits, dynamic=False) for model in models]
            if self.reference is not None:
                self.reference = cast(nn.Module, torch.compile(self.reference, dynamic=False))
        self.cuts: list[CutModel] | None = None
        if context.image_shape is not None and self.estimates:  # before anything is trained
            self._cut(context.image_shape)
        self.autocast = context.autocast
        if options.precision != "auto":
            device = next(context.model.parameters()).device
            self.autocast = dtype_of(options.precision, device, "search.precision")

    def _selects(self, epoch: int) -> bool:
        """Whether compositions are selected in an epoch; else they are random."""
        return self.context.config.search_start <= epoch <= (self.options.stop_epoch or epoch)

    def _mix_at_random(self, batch: Batch) -> Mixed:
        """What random PatchMix would draw, made to obey the search's rules."""
        return self._compose(batch, *self._draw(batch[1], self._classes(batch[1])))

    def _draw(self, labels: Tensor, classes: Array) -> tuple[Array, Array]:
        """A random composition (B,G,G), (B,) under the search's rules; classes: as `_classes` gives them."""
        masks, pairing = self.patchmix.draw(labels)
        return self._obey_rules(masks.numpy(), pairing.numpy(), classes)

    def _classes(self, labels: Tensor) -> Array:
        """The labels (B,) where partners depend on them, for which a GPU is waited for; else -1."""
        return np.full(len(labels), -1) if self.options.same_class else labels.cpu().numpy()

    def _obey_rules(self, masks: Array, pairing: Array, labels: Array) -> tuple[Array, Array]:
        """A composition (B,G,G), (B,) under search.min_cells, self_pairing and same_class; labels (B,) or -1."""
        options = self.options
        if options.min_cells == 0 and options.self_pairing and options.same_class:
            return masks, pairing
        rules = Rules(
            labels,
            masks.shape[1],
            min_cells=options.min_cells,
            self_pairing=options.self_pairing,
            same_class=options.same_class,
        )
        packed, pairings = rules.repair(Masks.pack(masks[None]), pairing[None], self.rng)
        return packed.cells[0], pairings[0]

    @contextmanager
    def _clock(self, asks: torch.device | None = None) -> Iterator[None]:
        """Count the time within as the search's. asks: the device whose model is asked there, whose queued training
        steps, which the probe would wait for, are done first: they are not the search's time.
        """
        if asks is not None and asks.type == "cuda":
            torch.cuda.synchronize(asks)
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def decide_evaluation(self, images: Tensor) -> Literal["incremental", "full"]:
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

    def open_scores(self, images: Tensor, labels: Tensor) -> Scores:
        """What answers rows of a batch with their losses, as search.compose_at says; `decide_evaluation` comes first."""
        if not self.estimates:
            return ForwardedScores(self, images, labels)
        context = self.context
        if isinstance(self.options.compose_at, int):
            channels, height, width = images.shape[1:]
            return StageProbe(
                context.model,
                images,
                labels,
                prepare=context.prepare,
                chunk=probe_chunk(context.config, images.device),
                autocast=self.autocast,
                channels_last=self.options.channels_last,
                cuts=self._cut((channels, height, width)),
                world=context.world,
            )
        return FeatureProbe(
            context.model,
            images,
            labels,
            reference=context.reference,
            prepare=context.prepare,
            chunk=probe_chunk(context.config, images.device),
            autocast=self.autocast,
            channels_last=self.options.channels_last,
            places=self.places,
            world=context.world,
        )

    @property
    def row_cost(self) -> int:
        """Image forwards that an exact score of a row takes: the model's, and the reference's where there is one."""
        return 1 if self.reference is None else 2

    @property
    def estimates(self) -> bool:
        """Whether scores are estimated from the images' feature maps, of the last stage or another."""
        return self.options.compose_at != "pixels" and self.evaluation != "full" and self.trusted is not False

    def _cut(self, shape: tuple[int, int, int]) -> list[CutModel] | None:
        """The models behind the stage that search.compose_at names, for images of `shape`; None where it names none.

        Raises UserError where a model has no such stage.
        """
        options, context = self.options, self.context
        if self.cuts is None and isinstance(options.compose_at, int):
            models = {context.config.model.name: context.model, "the network of search.reference": context.reference}
            self.cuts = [
                cut_model(model, options.compose_at, shape, name, options.compile)
                for name, model in models.items()
                if model is not None
            ]
        return self.cuts

    def decide_scores(self, images: Tensor, labels: Tensor) -> None:
        """Open `scores` for a batch; with search.compose_at=auto the first time decide whether they may be estimates."""
        self.scores = self.open_scores(images, labels)
        if self.options.compose_at == "auto" and self.trusted is None and self.estimates:
            self.trusted = self.checks.trust(images, labels)
            if not self.trusted:
                self.forwards += self.scores.forwards
                self.scores = self.open_scores(images, labels)

    def forward_rows(self, images: Tensor, labels: Tensor, rows: Rows) -> Losses:
        """Losses of rows, which each process has forwarded its share of: rows, or whole genomes of B rows."""
        context, options = self.context, self.options
        unit = len(labels) if self.evaluation == "full" else 1  # rows that share a forward
        chunk = unit
        if self.evaluation != "full":
            chunk = probe_chunk(context.config, images.device)
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
        return gather_losses(found, context.world, count, images.device, unit)

    def _compose(self, batch: Batch, masks: Array, pairing: Array, rows: Tensor | None = None) -> Mixed:
        device = batch[0].device
        return compose_batch(
            batch,
            send(torch.from_numpy(np.require(masks, requirements=["C", "W"])), device),
            send(torch.from_numpy(pairing.astype(np.int64)), device),
            self.context.num_classes,
            rows=rows,
        )

    def state(self) -> dict[str, Array]:
        return {
            "rng": generator_state(self.rng),
            "random": self.random.get_state().numpy(),
            "seconds": np.array(self.seconds),
            "checks": self.checks.state(),
            "trusted": np.array([] if self.trusted is None else [self.trusted], dtype=bool),
            "full": np.array([] if self.evaluation is None else [self.evaluation == "full"], dtype=bool),
        }

    def restore(self, state: dict[str, Array]) -> None:
        set_generator_state(self.rng, state["rng"])
        self.random.set_state(torch.from_numpy(state["random"]))
        self.seconds = float(state["seconds"])
        if "checks" in state:  # older checkpoints have none
            self.checks.restore(state["checks"])
        if len(state.get("trusted", ())):
            self.trusted = bool(state["trusted"][0])
        if len(state["full"]):
            self.evaluation = "full" if state["full"][0] else "incremental"


class Scores(Protocol):
    """Answers rows of one batch with their losses. forwards: image forwards so far, the reference's included."""

    forwards: int

    def __call__(self, rows: Rows) -> Losses: ...


class ForwardedScores:
    """Scores by a forward of each composed row."""

    def __init__(self, mix: ScoringMix, images: Tensor, labels: Tensor) -> None:
        self.mix, self.images, self.labels = mix, images, labels
        self.forwards = 0

    def __call__(self, rows: Rows) -> Losses:
        self.forwards += len(rows.image) * self.mix.row_cost
        return self.mix.forward_rows(self.images, self.labels, rows)


def probe_chunk(config: Config, device: torch.device) -> int:
    """Images per forward of the probe, but for full evaluation."""
    return config.search.forward_batch_size or (CPU_CHUNK if device.type == "cpu" else config.train.eval_batch_size)
