"""CIFAR-10, CIFAR-100 and Fashion-MNIST, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evo.errors import UserError
from evo.locks import alone_in
from training.data.image_set import ImageSet
from training.options import DataOptions


def load_cifar10(options: DataOptions, root: Path) -> tuple[ImageSet, ImageSet]:
    """50,000 training and 10,000 test images, 3x32x32, 10 classes. Krizhevsky 2009."""
    return _load("CIFAR10", "cifar-10-batches-py", options, root)


def load_cifar100(options: DataOptions, root: Path) -> tuple[ImageSet, ImageSet]:
    """50,000 training and 10,000 test images, 3x32x32, 100 classes. Krizhevsky 2009."""
    return _load("CIFAR100", "cifar-100-python", options, root)


def load_fashion_mnist(options: DataOptions, root: Path) -> tuple[ImageSet, ImageSet]:
    """60,000 training and 10,000 test images, 1x28x28, 10 classes. Xiao et al., arXiv 1708.07747."""
    return _load("FashionMNIST", "FashionMNIST/raw", options, root)


def _load(name: str, folder: str, options: DataOptions, root: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision import datasets  # 5 s to import

    kind = getattr(datasets, name)

    def read(download: bool) -> list[Any]:
        return [kind(str(root), train=train, download=download) for train in (True, False)]

    try:
        try:
            parts = read(download=False)
        except (RuntimeError, OSError):
            if not options.download:
                raise
            with alone_in(root):
                parts = read(download=True)
    except (RuntimeError, OSError) as error:  # torchvision: RuntimeError if missing, URLError is an OSError
        reason = " ".join(str(error).split())
        if options.download:
            tried = f"and could not be downloaded there ({reason:.120}); check the network, or copy the files there"
        else:
            tried = "and data.download is false; set -s data.download=true, or copy the files there"
        raise UserError(
            f"data.name={options.name}: no sound files in {root / folder}, {tried}; "
            "data.root or EVOMIX_DATA names another folder"
        ) from None
    training, test = (_in_memory(part) for part in parts)
    return training, test


def _in_memory(part: Any) -> ImageSet:
    images = torch.as_tensor(part.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(
        images.contiguous(),
        torch.as_tensor(part.targets, dtype=torch.int64),
        [str(name) for name in part.classes],
        crop=4 if images.shape[1] == 3 else 2,
        flip=True,
    )
