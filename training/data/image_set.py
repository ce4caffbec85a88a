"""Labelled images: in memory as uint8, decoded from files batch by batch, or read from memory-mapped shards.

All three answer the same calls: `len`, `labels`, `class_names`, `shape`,
`batch(indices)`, `batches(several indices)`, `select`, `to(device)`, `statistics()` and `identity()`; the trainer does
not know which one it has. Each says how its training images are augmented: `crop`, pixels a crop may move; `flip`,
whether they may be mirrored; `cutout`, pixels a side of the square that is erased.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from training.data.identity import digest_of_files, digest_of_pixels, digests_of
from training.data.names import printable
from training.data.prefetch import decoding_threads, prefetch, prefetch_with_threads
from training.devices import send
from training.options import DataOptions

# Per channel, fractions; those of ImageNet, as in torchvision's references.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

READERS = 16  # parts of a batch that are read at once from shards
CPU = torch.device("cpu")
RESIDENT_SHARE = 0.5  # of a device's free memory that images may take there; the rest is the model's

Resident = Literal["auto", "device", "host"]


@dataclass(frozen=True)
class ImageSet:
    """M images in memory.

    images: (M,C,H,W) uint8. labels: (M,) int64. device: where batches go from images that stay in the host's
    memory; None: they are where the images are.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W)"""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,H,W) uint8 and labels (B,) at `indices` (B,), on the set's device."""
        indices = send(indices, self.images.device)
        if self.device is None:
            return self.images.index_select(0, indices), self.labels.index_select(0, indices)
        images = host_buffer((len(indices), *self.shape), self.device)
        torch.index_select(self.images, 0, indices, out=images)
        return send(images, self.device), send(self.labels.index_select(0, indices), self.device)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of each of several indices (B,), in order."""
        return map(self.batch, indices) if self.device is None else prefetch(self.batch, indices)

    def select(self, indices: Tensor) -> ImageSet:
        """The set of the images at `indices`."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device, resident: Resident = "auto") -> ImageSet:
        """The set with its batches on `device`.

        resident: `device` moves the images there; `host` leaves them in the host's memory; `auto` moves them
        where they take less than half of the device's free memory.
        """
        if device.type != "cpu" and self.images.device.type == "cpu":
            fits = self.images.nbytes < RESIDENT_SHARE * free_memory(device)
            if resident == "host" or (resident == "auto" and not fits):
                return replace(self, device=device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), device=None)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (C,) float32, as fractions of 255."""
        return statistics_of(level_counts(self.images).cpu())

    def identity(self) -> str:
        """What tells these images from others: a digest of their pixels and labels, in order."""
        return digest_of_pixels(self.images, self.labels)


class _InFiles(ABC):
    """How batches come of images that wait in files: made by threads, several batches ahead."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,H,W) uint8 and labels (B,) at `indices` (B,), on the set's device."""
        with ThreadPoolExecutor(decoding_threads()) as pool:
            return self._batch(indices, pool)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of each of several indices (B,), in order, made ahead."""
        return prefetch_with_threads(self._batch, indices)

    @abstractmethod
    def _batch(self, indices: Tensor, pool: Executor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class FileSet(_InFiles):
    """M images in files, decoded when they are asked for; for sets larger than memory.

    decode: path -> (C,H,W) uint8, UnreadableImage where it cannot. An unreadable file's place is taken by the next
    readable one of its class, so that epochs keep their length. max_unreadable: share of the files beyond which
    that is a UserError; `unreadable` holds those met so far with the reason. contents: (M,16) uint8, a digest of each file.
    """

    paths: Sequence[Path]
    labels: Tensor
    class_names: list[str]
    shape: tuple[int, int, int]
    decode: Callable[[Path], Tensor]
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    device: torch.device = CPU
    max_unreadable: float = 0.0
    unreadable: dict[Path, str] = field(default_factory=dict)
    contents: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> FileSet:
        return replace(
            self,
            paths=[self.paths[i] for i in indices.tolist()],
            labels=self.labels[indices],
            contents=None if self.contents is None else self.contents[indices.numpy()],
        )

    def to(self, device: torch.device, resident: Resident = "auto") -> FileSet:
        """The set with its batches on `device`; the images stay in their files."""
        return replace(self, device=device)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """ImageNet's mean and standard deviation: counting these pixels would mean decoding all files."""
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)

    def identity(self) -> str:
        """What tells these images from others: a digest of what their files hold, see identity.py, and their labels."""
        contents = digests_of(self.paths) if self.contents is None else self.contents
        return digest_of_files(contents, self.labels)

    def _batch(self, indices: Tensor, pool: Executor) -> tuple[Tensor, Tensor]:
        indices = indices.cpu()
        images = host_buffer((len(indices), *self.shape), self.device)
        for place, image in enumerate(pool.map(self._decoded, indices.tolist())):
            images[place] = image
        return send(images, self.device), send(self.labels[indices], self.device)

    def _decoded(self, index: int) -> Tensor:
        """The image at `index`, or the next readable one of its class."""
        try:
            return self.decode(self.paths[index])
        except UnreadableImage as error:
            self._note(self.paths[index], error)
        members = (self.labels == self.labels[index]).nonzero().flatten().tolist()
        place = members.index(index)
        for other in members[place + 1 :] + members[:place]:
            try:
                return self.decode(self.paths[other])
            except UnreadableImage as error:
                self._note(self.paths[other], error)
        raise UserError(f"data: no image of class {self.class_names[int(self.labels[index])]!r} can be read")

    def _note(self, path: Path, error: UnreadableImage) -> None:
        if path not in self.unreadable:
            self.unreadable[path] = error.reason
            check_unreadable(self.unreadable, len(self), self.max_unreadable)


@dataclass(frozen=True)
class ShardSet(_InFiles):
    """M images in memory-mapped arrays, for sets larger than memory that `./run prepare` decoded once.

    shards: arrays (n,C,H,W) uint8. rows: (M,) int64, each image's row in the shards put end to end. scaling: what
    `statistics` answers, of the whole set. sums: each shard's SHA-256.
    """

    shards: Sequence[NDArray[np.uint8]]
    rows: Tensor
    labels: Tensor
    class_names: list[str]
    scaling: tuple[Tensor, Tensor]
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    device: torch.device = CPU
    sums: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W)"""
        channels, height, width = self.shards[0].shape[1:]
        return channels, height, width

    def select(self, indices: Tensor) -> ShardSet:
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def to(self, device: torch.device, resident: Resident = "auto") -> ShardSet:
        """The set with its batches on `device`; the images stay in their files."""
        return replace(self, device=device)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (C,) float32, as fractions of 255."""
        return self.scaling

    def identity(self) -> str:
        """What tells these images from others: a digest of the shards' recorded ones, of rows and labels."""
        rows = self.rows.numpy().view(np.uint8).reshape(len(self), 8)
        return digest_of_files(rows, self.labels, *self.sums)

    def _batch(self, indices: Tensor, pool: Executor) -> tuple[Tensor, Tensor]:
        indices = indices.cpu()
        images = host_buffer((len(indices), *self.shape), self.device)
        out = images.numpy()
        rows = self.rows[indices].numpy()
        ends = np.cumsum([len(shard) for shard in self.shards])
        number = np.searchsorted(ends, rows, side="right")
        starts = ends - [len(shard) for shard in self.shards]

        def read(places: NDArray[np.int64]) -> None:  # several at a time: a disk answers many threads sooner
            for place in places:
                out[place] = self.shards[number[place]][rows[place] - starts[number[place]]]

        list(pool.map(read, np.array_split(np.arange(len(rows)), READERS)))
        return send(images, self.device), send(self.labels[indices], self.device)


AnyImageSet = ImageSet | FileSet | ShardSet


class UnreadableImage(UserError):
    """A file that cannot be decoded, with the reason in a few words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.reason = reason


def check_unreadable(unreadable: Mapping[Path, str], total: int, limit: float) -> None:
    """Raise UserError where more than the share `limit` of `total` files is unreadable, naming the first ten.

    unreadable: the reason of each.
    """
    if len(unreadable) > limit * total:
        raise UserError(
            f"data: {unreadable_named(with_reasons(unreadable), total)}; repair or remove them, or raise "
            f"data.max_unreadable={limit:g}"
        )


def with_reasons(unreadable: Mapping[Path, str]) -> list[str]:
    """`a.jpg (an empty file, 0 bytes)` of each unreadable file."""
    return [f"{printable(path)} ({reason})" for path, reason in unreadable.items()]


def unreadable_named(named: Sequence[str], total: int) -> str:
    """`3 of 1,000 images cannot be read: a.jpg (why), b.jpg (why), ...`"""
    names = ", ".join(named[:10]) + (", ..." if len(named) > 10 else "")
    return f"{len(named):,} of {total:,} images cannot be read: {names}"


def check_classes(labels: Tensor, class_names: Sequence[str]) -> None:
    """Raise UserError where a class has no image left."""
    bare = [name for label, name in enumerate(class_names) if not (labels == label).any()]
    if bare:
        raise UserError(f"data: no image that can be read is left of {len(bare)} classes: {', '.join(bare[:10])}")


def host_buffer(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Empty uint8 in the host's memory, pinned where it will be copied to a GPU without waiting."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")


def free_memory(device: torch.device) -> float:
    """Bytes that may still be allocated on a device, as far as it tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return float("inf")


def level_counts(images: Tensor) -> Tensor:
    """(C,256): how often each level occurs in each channel of images (M,C,H,W) uint8."""
    return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])


def statistics_of(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel as fractions of 255, (C,) float32, from how often each level occurs, (C,256)."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    std = (share @ levels.square() - mean.square()).clamp(min=1e-8).sqrt()
    return mean.float(), std.float()


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
