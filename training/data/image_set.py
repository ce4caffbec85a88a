"""Labelled images: in memory as uint8, or decoded from files batch by batch.

Both kinds answer the same calls: `len`, `labels`, `class_names`, `shape`, `batch(indices)`, `select`,
`to(device)` and `statistics()`; the trainer does not know which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training.config import DataOptions, UserError

# Per channel, fractions; those of ImageNet, as in torchvision's references.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSet:
    """M images in memory.

    images: (M,C,H,W) uint8. labels: (M,) int64. crop: pixels a training crop may move. flip: whether
    training images may be mirrored.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    crop: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,H,W) uint8 and labels (B,) at `indices` (B,), on the set's device."""
        indices = indices.to(self.labels.device)
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of each of several indices (B,), in order."""
        return map(self.batch, indices)

    def select(self, indices: Tensor) -> ImageSet:
        """The set of the images at `indices`."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (C,) float32, as fractions of 255."""
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in self.images.unbind(1)])
        levels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ levels
        std = (share @ levels.square() - mean.square()).clamp(min=1e-8).sqrt()
        return mean.float(), std.float()


@dataclass(frozen=True)
class FileSet:
    """M images in files, decoded when they are asked for; for sets larger than memory.

    decode: path -> (C,H,W) uint8.
    """

    paths: Sequence[Path]
    labels: Tensor
    class_names: list[str]
    shape: tuple[int, int, int]
    decode: Callable[[Path], Tensor]
    crop: int = 0
    flip: bool = False
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,H,W) uint8 and labels (B,) at `indices` (B,), on the set's device."""
        chosen = indices.tolist()
        with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
            images = torch.stack(list(pool.map(self.decode, [self.paths[i] for i in chosen])))
        return images.to(self.device), self.labels[indices.cpu()].to(self.device)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of each of several indices (B,), in order."""
        return map(self.batch, indices)

    def select(self, indices: Tensor) -> FileSet:
        return replace(self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels[indices])

    def to(self, device: torch.device) -> FileSet:
        return replace(self, device=device)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """ImageNet's mean and standard deviation: counting these pixels would mean decoding all files."""
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)


AnyImageSet = ImageSet | FileSet


def subset_indices(labels: Tensor, options: DataOptions, class_names: Sequence[str]) -> Tensor:
    """Indices of `options.subset` images per class, by class in file order or drawn.

    labels: (M,). In file order they are images subset_start, subset_start + 1, ... of each class; drawn,
    those of a permutation seeded with subset_seed. Returned in the order of the file. Raises UserError
    where a class has too few.
    """
    assert options.subset is not None
    generator = None
    if options.subset_seed is not None:
        generator = torch.Generator().manual_seed(options.subset_seed)
    end = options.subset_start + options.subset
    chosen = []
    for label, name in enumerate(class_names):
        members = (labels == label).nonzero().flatten()
        if generator is not None:
            members = members[torch.randperm(len(members), generator=generator)]
        if len(members) < end:
            raise UserError(
                f"data.subset: class {name!r} has {len(members)} training images, images "
                f"{options.subset_start}..{end - 1} of it were asked for; lower data.subset or data.subset_start"
            )
        chosen.append(members[options.subset_start : end])
    return torch.cat(chosen).sort().values
