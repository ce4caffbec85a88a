"""The trainer's mixes that draw: random PatchMix, and the replay of a pattern bank. They train the cells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from evo.arrays import Array
from evo.bank_files import load_bank
from evo.errors import UserError
from training.devices import send
from training.mixes.batch import Batch, Mix, MixContext, Mixed, compose_batch
from training.mixes.patchmix import PatchMix


class DrawnCompositions:
    """Compositions as a PatchMix draws them.

    file: the pattern file it draws from, which must be the same when a run goes on.
    """

    span = 1
    forwards = 0
    seconds = 0.0

    def __init__(
        self,
        patchmix: PatchMix,
        generator: torch.Generator,
        num_classes: int,
        file: PatternFile | None = None,
    ) -> None:
        self.patchmix = patchmix
        self.generator = generator
        self.num_classes = num_classes
        self.file = file

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        return (self._mix(batch) for batch in batches)

    def _mix(self, batch: Batch) -> Mixed:
        masks, pairing = (send(drawn, batch[0].device) for drawn in self.patchmix.draw(batch[1]))
        return compose_batch(batch, masks, pairing, self.num_classes)

    def state(self) -> dict[str, Array]:
        patterns = {} if self.file is None else {"pattern_file": self.file.digest}
        return {"generator": self.generator.get_state().numpy(), **patterns}

    def restore(self, state: dict[str, Array]) -> None:
        if self.file is not None:
            self.file.check(state.get("pattern_file"))
        self.generator.set_state(torch.from_numpy(state["generator"]))


class PatternFile:
    """A pattern file that an option names: its bank, and the sha256 of the file (32,) uint8.

    Raises BankError where it is not a sound bank.
    """

    def __init__(self, option: str, path: str) -> None:
        self.option = option
        self.path = path
        self.bank = load_bank(path)
        self.digest: Array = np.frombuffer(hashlib.sha256(Path(path).read_bytes()).digest(), np.uint8)

    def check(self, digest: Array | None) -> None:
        """Raises UserError where the digest that a checkpoint kept, if it did, is another one's."""
        if digest is not None and not np.array_equal(digest, self.digest):
            raise UserError(
                f"{self.option}: {self.path} has changed since the run began; restore the file, or train anew"
            )


def build_random(context: MixContext) -> Mix:
    """Random masks and random partners."""
    generator = context.streams.torch("mix")
    patchmix = PatchMix(grid=context.model.grid, sampler=context.config.mix.sampler, generator=generator)
    return DrawnCompositions(patchmix, generator, context.num_classes)


def build_bank(context: MixContext) -> Mix:
    """Draws from the pattern file `mix.bank`. Raises UserError where it does not fit model or data."""
    file = PatternFile("mix.bank", context.config.mix.bank or "")
    bank, path = file.bank, file.path
    if not len(bank):
        raise UserError(f"mix.bank: {path} holds no patterns; export a run's with `./run patterns RUN`")
    if bank.grid != context.model.grid:
        raise UserError(
            f"mix.bank: the patterns of {path} are {bank.grid}x{bank.grid}, the model's grid is "
            f"{context.model.grid}; set -s model.grid={bank.grid}"
        )
    generator = context.streams.torch("mix")
    patchmix = PatchMix(num_classes=context.num_classes, bank=bank, generator=generator)
    return DrawnCompositions(patchmix, generator, context.num_classes, file)
