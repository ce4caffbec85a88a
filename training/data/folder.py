"""Any tree with a folder per class, such as ImageNet's: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

Images are resized so that the shorter side fits and cropped to a centred square. Sets that fit in
MEMORY_LIMIT live in memory as uint8; larger ones are decoded batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.config import DataOptions, UserError
from training.data.image_set import AnyImageSet, FileSet, ImageSet

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
TEST_FOLDERS = ("val", "validation", "test")


def load(options: DataOptions, root: Path) -> tuple[AnyImageSet, AnyImageSet]:
    """Training and test images of a folder-per-class tree; images 3 x image_size x image_size."""
    training = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not training.is_dir() or test is None:
        raise UserError(
            f"data.name=folder: looked for {root}/train/CLASS/*.jpg and {root}/val/CLASS/*.jpg and found "
            f"{'no ' + str(training) if not training.is_dir() else 'neither val, validation nor test'}; "
            "name the tree with data.root"
        )
    class_names = sorted(entry.name for entry in training.iterdir() if entry.is_dir())
    size = options.image_size or 224
    return image_set(files_by_class(training, class_names), class_names, size), image_set(
        files_by_class(test, class_names), class_names, size
    )


def files_by_class(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """(file, label) of every image below folder/CLASS, in order. Raises UserError where a class has none."""
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(class_names):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS)
        if not files:
            raise UserError(f"data: no images in {folder / name}; every class folder needs at least one, or remove it")
        found += [(path, label) for path in files]
    if not found:
        raise UserError(f"data: no class folders in {folder}; expected {folder}/CLASS/*.jpg")
    return found


def image_set(files: Sequence[tuple[Path, int]], class_names: list[str], size: int) -> AnyImageSet:
    """An image set of `files` (file, label) as 3 x size x size, in memory where it fits."""
    paths = [path for path, _ in files]
    labels = torch.tensor([label for _, label in files])
    crop = max(1, size // 8)  # 4 of 32 pixels, as for CIFAR
    lazy = FileSet(paths, labels, class_names, (3, size, size), _Decoder(size), crop=crop, flip=True)
    if len(paths) * 3 * size * size > MEMORY_LIMIT:
        return lazy
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lazy.decode, paths)):
            images[index] = image
    return ImageSet(images, labels, class_names, crop=crop, flip=True)


class _Decoder:
    """path -> (3,size,size) uint8: shorter side resized to `size`, then the centred square."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.BILINEAR)
        except OSError as error:
            raise UserError(f"data: {path} cannot be read as an image ({error}); repair or remove it") from None
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
