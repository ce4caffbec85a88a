"""The mix that replays a pattern bank: masks by their weight, partners by class affinity."""

from __future__ import annotations

from evo.bank import PatternBank
from training.config import UserError
from training.mixes.batch import Mix, MixContext
from training.mixes.patchmix import DrawnCompositions, PatchMix


def build(context: MixContext) -> Mix:
    """Draws from the pattern file `mix.bank`. Raises UserError where it does not fit model or data."""
    path = context.config.mix.bank or ""
    bank = PatternBank.load(path)
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
