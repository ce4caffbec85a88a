"""Any tree with a folder per class, such as ImageNet's: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

Images are resized so that the shorter side fits and cropped to a centred square. Sets that fit in
MEMORY_LIMIT live in memory as uint8; larger ones are decoded batch by batch, or read from what `./run prepare`
made of the tree. tree.py says which folders are read, walk.py which of their files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from training.data.decode import Decoder, decode_into
from training.data.image_set import (
    AnyImageSet,
    FileSet,
    ImageSet,
    check_classes,
    check_unreadable,
    unreadable_named,
    with_reasons,
)
from training.data.levels import Levels
from training.data.prefetch import decoding_threads
from training.data.prepared import is_prepared, load_prepared
from training.data.survey import survey
from training.data.tree import Files, read_tree, tell
from training.options import DataOptions

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded pixels
SIZE = 224


def load(options: DataOptions, root: Path) -> tuple[AnyImageSet, AnyImageSet]:
    """Training and test images of a folder-per-class tree, or of a prepared one; images 3 x image_size x image_size.

    With data.validation no test images are read: the set of these is empty.
    """
    if is_prepared(root):
        return load_prepared(options, root, MEMORY_LIMIT)
    tree = read_tree(root, "needed" if options.validation is None else "held out")
    size = options.image_size or SIZE
    limit = options.max_unreadable
    levels = Levels(options.levels)
    training = image_set(tree.training, tree.class_names, size, limit, levels)
    test = image_set(tree.test, tree.class_names, size, limit, levels, tests=True)
    levels.check()
    return training, test


def image_set(
    files: Files,
    class_names: list[str],
    size: int,
    max_unreadable: float = 0.0,
    levels: Levels | None = None,
    *,
    tests: bool = False,
) -> AnyImageSet:
    """An image set of `files` (file, label) as 3 x size x size, in memory where it fits.

    Raises UserError where more than the share max_unreadable cannot be decoded; fewer are left out (in memory, or where
    they are tested on) or replaced (FileSet). What can be told of a file without decoding it is told now, and all of those
    that are tested on are decoded now: nobody is to learn after hours that one of them is broken.
    """
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    crop = max(1, size // 8)  # 4 of 32 pixels, as for CIFAR
    lazy = FileSet(
        [path for path, _ in files],
        labels,
        class_names,
        (3, size, size),
        Decoder(size, levels),
        crop,
        True,
        max_unreadable=max_unreadable,
    )
    if len(files) * 3 * size * size <= MEMORY_LIMIT:
        return in_memory(lazy, tests=tests)
    return survey(lazy, decodes=tests)


def in_memory(files: FileSet, *, tests: bool = False) -> ImageSet:
    """All images of a FileSet, decoded; unreadable ones are left out and named on the error output."""
    images = torch.empty(len(files), *files.shape, dtype=torch.uint8)
    with ThreadPoolExecutor(decoding_threads()) as pool:
        failed = decode_into(images.numpy(), files.paths, files.decode, pool)
    decoded = ImageSet(images, files.labels, files.class_names, files.crop, files.flip)
    if not failed:
        return decoded
    unreadable = {files.paths[row]: failed[row] for row in sorted(failed)}
    check_unreadable(unreadable, len(files), files.max_unreadable)
    tell([f"data: {unreadable_named(with_reasons(unreadable), len(files))}; left out"])
    readable = torch.ones(len(files), dtype=torch.bool)
    readable[list(failed)] = False
    check_classes(files.labels[readable], files.class_names if not tests else [])
    return decoded.select(readable.nonzero().flatten())
