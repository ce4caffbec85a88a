"""What models say of the images of a search batch, forwarded once and kept until their weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from training.distributed import World
from training.probe import CPU_CHUNK, as_input, evaluating, no_random_trace

Kept = TypeVar("Kept")
Maps = Callable[[Tensor], Sequence[Tensor]]


class MapProbe(Generic[Kept]):
    """A query of live models that forwards the B images of a batch, unmixed, and answers rows from what it keeps.

    The images are forwarded when the first rows are asked for, in evaluation mode, and anew once the weights have
    changed. Parameters, buffers, gradients, modes and random states of the models stay as they are.

    Args:
        models: The live one first, on the images' device.
        images: (B,C,H,W), what the models take, or what `prepare` makes it of.
        labels: (B,) int64.
        prepare: Images -> model input.
        chunk: Images per forward; None: 128 on a CPU, 512 elsewhere.
        autocast: Dtype to forward in.
        channels_last: Memory format of the input; None leaves it as it comes.
        world: Processes that each forward their share of the images.

    Attributes:
        forwards: Image forwards so far, the reference's included.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        images: Tensor,
        labels: Tensor,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
        world: World | None = None,
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.models = list(models)
        self.images, self.labels = images, labels
        self.prepare = prepare
        self.chunk = chunk or (CPU_CHUNK if images.device.type == "cpu" else 512)
        self.autocast, self.channels_last = autocast, channels_last
        self.world = world or World()
        self.forwards = 0
        self._maps: list[Kept] = []
        self._of: list[list[tuple[int, int]]] = []  # the weights that the maps are of

    @property
    def maps(self) -> list[Kept]:
        """Of each model, of its present weights."""
        of = [weights_of(model) for model in self.models]
        if self._of != of:
            self.forget()
            self._maps = [self._keep(number) for number in range(len(self.models))]
            self._of = of
        return self._maps

    def forget(self) -> None:
        """Drop the maps, and forward the images again when rows are next asked for."""
        self._maps, self._of = [], []

    def _keep(self, number: int) -> Kept:
        """Forward all images through model `number`, and make of it what is kept."""
        raise NotImplementedError

    @torch.no_grad()
    def _forward(self, model: nn.Module, call: Maps) -> list[Tensor]:
        """Each of the tensors that `call` makes of all images; each process forwards its share of them."""
        count = len(self.labels)
        mine = self.images[self.world.share(count)]
        parts = []
        with evaluating(model), no_random_trace(self.images.device):
            for part in mine.split(min(self.chunk, max(1, len(mine)))):
                inputs = as_input(part, self.prepare, self.channels_last)
                with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
                    parts.append(call(inputs))
        return [self.world.gather(torch.cat(one), count) for one in zip(*parts, strict=True)]


def weights_of(model: nn.Module) -> list[tuple[int, int]]:
    """What tells whether a model's parameters or buffers have changed: where they lie, and torch's count of changes."""
    return [(tensor.data_ptr(), tensor._version) for tensor in (*model.parameters(), *model.buffers())]
