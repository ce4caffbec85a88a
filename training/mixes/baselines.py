"""The mixes to compare with: none, and torchvision's MixUp and CutMix, alone or in turn by chance. They train no cells."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evo.arrays import Array
from training.mixes.batch import Batch, Mix, MixContext, Mixed, leave_unmixed


class Plain:
    """No mixing: the base model."""

    span = 1
    forwards = 0
    seconds = 0.0

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        return (leave_unmixed(batch, self.num_classes, None) for batch in batches)

    def state(self) -> dict[str, Array]:
        return {}

    def restore(self, state: dict[str, Array]) -> None:
        pass


class Torchvision(Plain):
    """A torchvision.transforms.v2 batch transform. It draws from torch's global generator, lent for each call.

    averages: it computes with pixels, which uint8 cannot hold; others only move them.
    """

    def __init__(self, transform: torch.nn.Module, context: MixContext, *, averages: bool) -> None:
        super().__init__(context.num_classes)
        self.transform = transform
        self.averages = averages
        self.generator = context.streams.torch("mix")

    def __call__(self, batches: list[Batch], epoch: int) -> Iterator[Mixed]:
        return (self._mix(images, labels) for images, labels in batches)

    def _mix(self, images: Tensor, labels: Tensor) -> Mixed:
        with torch.random.fork_rng([]):  # what a model draws inside is another stream
            torch.set_rng_state(self.generator.get_state())
            mixed, targets = self.transform(images.float() if self.averages else images, labels)
            self.generator.set_state(torch.get_rng_state())
        return Mixed(mixed, targets, None)

    def state(self) -> dict[str, Array]:
        return {"generator": self.generator.get_state().numpy()}

    def restore(self, state: dict[str, Array]) -> None:
        self.generator.set_state(torch.from_numpy(state["generator"]))


def build_plain(context: MixContext) -> Mix:
    return Plain(context.num_classes)


def build_mixup(context: MixContext) -> Mix:
    """MixUp: Zhang et al., ICLR 2018."""
    from torchvision.transforms import v2  # 5 s to import

    return Torchvision(
        v2.MixUp(alpha=context.config.mix.alpha, num_classes=context.num_classes), context, averages=True
    )


def build_cutmix(context: MixContext) -> Mix:
    """CutMix: Yun et al., ICCV 2019."""
    from torchvision.transforms import v2

    return Torchvision(
        v2.CutMix(alpha=context.config.mix.alpha, num_classes=context.num_classes), context, averages=False
    )


def build_mixup_or_cutmix(context: MixContext) -> Mix:
    """MixUp or CutMix, for each batch one of them by equal chances: timm's `Mixup` with its switch_prob of 0.5."""
    from torchvision.transforms import v2

    alpha = context.config.mix.alpha
    classes = context.num_classes
    either = v2.RandomChoice([v2.MixUp(alpha=alpha, num_classes=classes), v2.CutMix(alpha=alpha, num_classes=classes)])
    return Torchvision(either, context, averages=True)
