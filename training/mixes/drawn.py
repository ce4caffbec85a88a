"""The trainer's mixes that draw: random PatchMix, and the replay of a pattern bank. They train the cells."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from evo.bank import PatternBank
from training.config import UserError
from training.devices import sent
from training.mixes.batch import Array, Batch, Mix, MixContext, Mixed, composed
from training.mixes.patchmix import PatchMix


class DrawnCompositions:
    """Compositions as a PatchMix draws them."""

    span = 1
    cells = True

    def __init__(self, patchmix: PatchMix, generator: torch.Generator, num_classes: int) -> None:
        self.patchmix, self.generator, self.num_classes = patchmix, generator, num_classes

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        return (self._mix(batch) for batch in batches)

    def _mix(self, batch: Batch) -> Mixed:
        masks, pairing = (sent(drawn, batch[0].device) for drawn in self.patchmix.draw(batch[1]))
        return composed(batch, masks, pairing, self.num_classes)

    def state(self) -> dict[str, Array]:
        return {"generator": self.generator.get_state().numpy()}

    def restore(self, state: dict[str, Array]) -> None:
        self.generator.set_state(torch.from_numpy(state["generator"]))


def build_random(context: MixContext) -> Mix:
    """Random masks and random partners."""
    generator = context.streams.torch("mix")
    patchmix = PatchMix(grid=context.model.grid, sampler=context.config.mix.sampler, generator=generator)
    return DrawnCompositions(patchmix, generator, context.num_classes)


def build_bank(context: MixContext) -> Mix:
    """Draws from the pattern file `mix.bank`. Raises UserError where it does not fit model or data."""
    path = context.config.mix.bank or ""
    bank = PatternBank.load(path)
    if not len(bank):
        raise UserError(f"mix.bank: {path} holds no patterns; export a run's with `./run patterns RUN`")
    if bank.grid != context.model.grid:
        raise UserError(
            f"mix.bank: the patterns of {path} are {bank.grid}x{bank.grid}, the model's grid is "
            f"{context.model.grid}; set -s model.grid={bank.grid}"
        )
    if bank.class_names != context.class_names:
        # Another data set's classes say nothing about these: keep the masks, pair by chance.
        by_chance = PatternBank(bank.grid, context.num_classes, context.class_names)
        by_chance.restore(bank.masks, bank.weights, by_chance.pairs)
        bank = by_chance
    generator = context.streams.torch("mix")
    return DrawnCompositions(PatchMix(bank=bank, generator=generator), generator, context.num_classes)
