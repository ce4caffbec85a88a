"""Any tree with a folder per class, such as ImageNet's: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

Images are resized so that the shorter side fits and cropped to a centred square. Sets that fit in
MEMORY_LIMIT live in memory as uint8; larger ones are decoded batch by batch, or read from what `./run prepare`
made of the tree.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import DataOptions, UserError
from training.data.decode import Decoder, decode_into
from training.data.image_set import AnyImageSet, FileSet, ImageSet, check_classes, check_unreadable, unreadable_named
from training.data.prefetch import decoding_threads
from training.data.prepared import is_prepared, load_prepared

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
TEST_FOLDERS = ("val", "validation", "test")
SIZE = 224

Files = list[tuple[Path, int]]


@dataclass(frozen=True)
class Tree:
    """The images of a folder-per-class tree: (file, label) of both parts."""

    class_names: list[str]
    training: Files
    test: Files


def load(options: DataOptions, root: Path) -> tuple[AnyImageSet, AnyImageSet]:
    """Training and test images of a folder-per-class tree, or of a prepared one; images 3 x image_size x image_size."""
    if is_prepared(root):
        return load_prepared(options, root, MEMORY_LIMIT)
    tree, size, limit = read_tree(root), options.image_size or SIZE, options.max_unreadable
    return (
        image_set(tree.training, tree.class_names, size, limit),
        image_set(tree.test, tree.class_names, size, limit),
    )


def read_tree(root: Path) -> Tree:
    """The files of ROOT/train and ROOT/val. Raises UserError where a part, or a class's images, are missing."""
    training = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not training.is_dir() or test is None:
        raise UserError(
            f"data.name=folder: looked for {root}/train/CLASS/*.jpg and {root}/val/CLASS/*.jpg and found "
            f"{'no ' + str(training) if not training.is_dir() else 'neither val, validation nor test'}; "
            "name the tree with data.root"
        )
    names, test_names = class_folders(training), class_folders(test)
    if names != test_names:
        missing, unknown = sorted({*names} - {*test_names}), sorted({*test_names} - {*names})
        raise UserError(
            f"data: the classes of {test} are not those of {training}: "
            + "; ".join(
                f"{what} {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
                for what, others in (("missing", missing), ("only there", unknown))
                if others
            )
        )
    return Tree(names, files_by_class(training, names), files_by_class(test, names))


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_by_class(folder: Path, class_names: Sequence[str]) -> Files:
    """(file, label) of every image below folder/CLASS, in order. Raises UserError where a class has none."""
    found: Files = []
    for label, name in enumerate(class_names):
        files = sorted(_images_below(folder / name))
        if not files:
            raise UserError(f"data: no images in {folder / name}; every class folder needs at least one, or remove it")
        found += [(path, label) for path in files]
    if not found:
        raise UserError(f"data: no class folders in {folder}; expected {folder}/CLASS/*.jpg")
    return found


def _images_below(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder, followlinks=True):
        yield from (Path(where, name) for name in names if os.path.splitext(name)[1].lower() in ENDINGS)


def image_set(files: Files, class_names: list[str], size: int, max_unreadable: float = 0.0) -> AnyImageSet:
    """An image set of `files` (file, label) as 3 x size x size, in memory where it fits.

    Raises UserError where more than the share max_unreadable cannot be decoded; fewer are left out (in memory)
    or replaced (FileSet).
    """
    paths = [path for path, _ in files]
    labels = torch.tensor([label for _, label in files])
    crop = max(1, size // 8)  # 4 of 32 pixels, as for CIFAR
    lazy = FileSet(
        paths, labels, class_names, (3, size, size), Decoder(size), crop, True, max_unreadable=max_unreadable
    )
    if len(paths) * 3 * size * size > MEMORY_LIMIT:
        return lazy
    return in_memory(lazy)


def in_memory(files: FileSet) -> ImageSet:
    """All images of a FileSet, decoded; unreadable ones are left out and named on the error output."""
    images = torch.empty(len(files), *files.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(decoding_threads()) as pool:
        failed = decode_into(images.numpy(), files.paths, files.decode, pool)
    decoded = ImageSet(images, files.labels, files.class_names, files.crop, files.flip)
    if not failed:
        return decoded
    named = [files.paths[row] for row in sorted(failed)]
    check_unreadable(named, len(files), files.max_unreadable)
    print(f"data: {unreadable_named(named, len(files))}; left out", file=sys.stderr)
    readable = torch.ones(len(files), dtype=torch.bool)
    readable[list(failed)] = False
    check_classes(files.labels[readable], files.class_names)
    return decoded.select(readable.nonzero().flatten())
