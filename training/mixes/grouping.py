"""Training batches through a mix: which of them are mixed, in what order, and how many a mix is given at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from training.mixes.batch import Batch, Mix, Mixed, leave_unmixed

LONGEST = 4  # spans of batches in a group

Group = list[tuple[Batch, bool]]  # batches, each with whether it is to be mixed


def mixed_batches(
    batches: Iterator[Batch],
    mix: Mix,
    epoch: int,
    *,
    probability: float,
    generator: torch.Generator,
    num_classes: int,
    grid: int | None,
) -> Iterator[Mixed]:
    """The batches of an epoch to train on, in order.

    A mix that asks the live model does so when its batch is asked for: with the weights of the step before.

    Args:
        batches: Images (B,C,H,W) and labels (B,) of each.
        mix: What mixes them.
        epoch: From 1.
        probability: With which a batch is mixed.
        generator: Decides which are.
        num_classes: K.
        grid: G where unmixed batches have labels of cells too, else None.

    Yields:
        Each batch, mixed or as it is. The last of a group has `resumable` set.
    """
    for group in group_batches(batches, probability, mix.span, generator):
        yield from mix_group(group, mix, epoch, num_classes, grid)


def group_batches(
    batches: Iterator[Batch], probability: float, span: int, generator: torch.Generator
) -> Iterator[Group]:
    """Batches in order, each with whether it is to be mixed, in groups of up to `span` that are.

    An unmixed batch waits only behind mixed ones, and no group is longer than 4 x span: few are held at once.
    """
    group: Group = []
    for batch in batches:
        group.append((batch, bool(torch.rand((), generator=generator) < probability)))
        if sum(mixes for _, mixes in group) in (0, span) or len(group) == LONGEST * span:
            yield group
            group = []
    if group:
        yield group


def mix_group(group: Group, mix: Mix, epoch: int, num_classes: int, grid: int | None) -> Iterator[Mixed]:
    """The batches of a group to train on, in order; grid as in `mixed_batches`."""
    composed = mix([batch for batch, mixes in group if mixes], epoch)
    for number, (batch, mixes) in enumerate(group, 1):
        mixed = next(composed) if mixes else leave_unmixed(batch, num_classes, grid)
        yield replace(mixed, resumable=number == len(group))
