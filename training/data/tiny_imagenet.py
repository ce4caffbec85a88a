"""Tiny ImageNet: 100,000 training and 10,000 validation images, 3x64x64, 200 classes.

Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231n 2015. Its test labels are not
public; the validation images serve as the test set, as everywhere in the field.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from evo.errors import UserError
from evo.locks import alone_in
from training.data.folder import image_set
from training.data.image_set import AnyImageSet
from training.data.levels import Levels
from training.data.names import printable
from training.data.tree import Files, class_folders, files_by_class
from training.options import DataOptions

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"


def load(options: DataOptions, root: Path) -> tuple[AnyImageSet, AnyImageSet]:
    """Training and validation images. Raises UserError where the files are missing."""
    tree = root / FOLDER
    if not (tree / "train").is_dir() and options.download:
        _download(root)
    annotations = tree / "val" / "val_annotations.txt"
    if not (tree / "train").is_dir() or not annotations.is_file():
        raise UserError(
            f"data.name=tiny-imagenet: looked for {tree}/train and {annotations} and did not find both; "
            f"get {URL}, unpack it in {root}, or set -s data.download=true; data.root or EVOMIX_DATA names another "
            "folder"
        )
    class_names = class_folders(tree / "train")
    validation = _validation(tree, annotations, class_names)
    size = options.image_size or 64
    limit = options.max_unreadable
    levels = Levels(options.levels)
    training = image_set(files_by_class(tree / "train", class_names), class_names, size, limit, levels)
    test = image_set(validation, class_names, size, limit, levels, tests=True)
    levels.check()
    return training, test


def _validation(tree: Path, annotations: Path, class_names: list[str]) -> Files:
    """(file, label) of the validation images, as the file of annotations has them, each once."""
    labels = {name: label for label, name in enumerate(class_names)}
    text = annotations.read_text(encoding="utf-8", errors="surrogateescape")
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    unknown = [line for line in lines if len(line) < 2 or line[1] not in labels]
    if unknown:
        raise UserError(
            f"data: {annotations} names a class that {tree / 'train'} has not: {printable(' '.join(unknown[0])):.80}"
        )
    found: dict[str, int] = {}
    for file, name, *_ in lines:
        if found.setdefault(file, labels[name]) != labels[name]:
            raise UserError(f"data: {annotations} gives {printable(file)} two labels; restore the file")
    return [(tree / "val" / "images" / file, label) for file, label in found.items()]


def _download(root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    unpacked = root / f"{FOLDER}.unpacking"
    try:
        with alone_in(root):
            if not (root / FOLDER).is_dir():
                download_and_extract_archive(URL, str(root), str(unpacked), md5=MD5)
                os.replace(unpacked / FOLDER, root / FOLDER)  # all at once: half a tree would look like a whole one
                shutil.rmtree(unpacked)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.name=tiny-imagenet: not in {root / FOLDER}, and {URL} could not be fetched ({reason:.120}); "
            f"check the network, or unpack the archive in {root}"
        ) from None
