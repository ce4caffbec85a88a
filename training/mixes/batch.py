"""What every mix takes and gives.

A mix draws; `compose` applies. It is given training batches and yields as many mixed ones. Most mixes work batch by
batch (span 1); the evolved one asks for several at once, to search over all their images. grouping.py gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo.arrays import Array
from training.compose import cell_targets, compose, image_targets
from training.config import Config
from training.devices import send
from training.distributed import World
from training.models.patch_model import PatchModel
from training.randomness import Streams

Batch = tuple[Tensor, Tensor]  # images (B,C,H,W) uint8, labels (B,) int64


@dataclass(frozen=True)
class Mixed:
    """A batch to train on: images (B,C,H,W) of 0..255, soft targets (B,K), cell targets (B,G,G) or None.

    resumable: whether its mix holds no other batch in hand, so that a checkpoint written after its step is whole.
    """

    images: Tensor
    targets: Tensor
    cell_targets: Tensor | None
    resumable: bool = False

    def part(self, rows: slice) -> Mixed:
        cells = None if self.cell_targets is None else self.cell_targets[rows]
        return Mixed(self.images[rows], self.targets[rows], cells)


class Mix(Protocol):
    """span: batches it takes at once.

    forwards, seconds: what it has spent on choosing compositions, in image forwards and time.
    """

    span: int
    forwards: int
    seconds: float

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        """As many mixed batches as there are `batches`, each made when it is asked for; epochs count from 1.

        After the last one there is nothing left to do: a checkpoint written then is whole.
        """
        ...

    def state(self) -> dict[str, Array]:
        """What a checkpoint keeps of it: arrays of numbers."""
        ...

    def restore(self, state: dict[str, Array]) -> None: ...


@dataclass(frozen=True)
class MixContext:
    """What a mix may be built from.

    prepare: images of 0..255 -> model input. world: the processes that share the work. on_generation: takes
    the search log's new line. on_search: takes a finished search (see evolved.py). on_check: takes estimates
    beside the truth (see estimates.py). reference: the model that the search's objective compares with, if it does.
    image_shape: (C,H,W) of the images, where they are known before the first ones come.
    """

    config: Config
    model: PatchModel
    class_names: list[str]
    prepare: Callable[[Tensor], Tensor]
    autocast: torch.dtype | None
    streams: Streams
    world: World = field(default_factory=World)
    on_generation: Callable[[dict[str, Any]], object] = field(default=lambda record: None)
    on_search: Callable[[Any], None] = field(default=lambda record: None)
    reference: nn.Module | None = None
    on_check: Callable[..., object] = field(default=lambda record, event="checked": None)
    image_shape: tuple[int, int, int] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def leave_unmixed(batch: Batch, num_classes: int, grid: int | None) -> Mixed:
    """The batch as it is. With a grid every cell carries the image's own label."""
    images, labels = batch
    cells = None if grid is None else labels.view(-1, 1, 1).expand(-1, grid, grid)
    return Mixed(images, F.one_hot(labels, num_classes).float(), cells)


def compose_batch(batch: Batch, masks: Tensor, pairing: Tensor, num_classes: int, rows: Tensor | None = None) -> Mixed:
    """The batch under a composition: masks (R,G,G), pairing (R,) and, for a part of it, own images `rows`."""
    images, labels = batch
    masks, pairing = send(masks, images.device), send(pairing, images.device)
    return Mixed(
        compose(images, masks, pairing, rows=rows),
        image_targets(labels, masks, pairing, num_classes, rows=rows),
        cell_targets(labels, masks, pairing, rows=rows),
    )


def generator_state(rng: np.random.Generator) -> Array:
    """The state of a PCG64 generator as (6,) uint64: two numbers of 128 bits, a flag and a spare half."""
    state = rng.bit_generator.state
    halves = [part for key in ("state", "inc") for part in divmod(state["state"][key], 2**64)]
    return np.array([*halves, state["has_uint32"], state["uinteger"]], dtype=np.uint64)


def set_generator_state(rng: np.random.Generator, array: Array) -> None:
    """Undo `generator_state`."""
    numbers = [int(number) for number in array]
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": numbers[0] * 2**64 + numbers[1], "inc": numbers[2] * 2**64 + numbers[3]},
        "has_uint32": numbers[4],
        "uinteger": numbers[5],
    }
