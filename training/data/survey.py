"""A first look at the files of a set that is too large to be decoded at once: before the first epoch, not during the 14th."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.data.identity import DIGEST, file_digest
from training.data.image_set import FileSet, UnreadableImage, check_unreadable, unreadable_named, with_reasons
from training.data.levels import is_deep
from training.data.prefetch import decoding_threads
from training.data.tree import tell
from training.progress import Progress, speaks

CHUNK = 256  # files a thread takes at once
DEEP = 64  # images of more than 8 bits that are decoded to see which levels they hold


class Look(NamedTuple):
    """What is known of a file. reason: why it cannot be read, else None. deep: of more than 8 bits a channel."""

    digest: bytes
    reason: str | None
    deep: bool


def survey(files: FileSet, *, decodes: bool) -> FileSet:
    """The set with a digest of each file, its unreadable ones known.

    decodes: decode every file, else open it only, which finds all faults but those of the pixels themselves; unreadable
    files are then left out, else replaced when they are asked for. Raises UserError where they are too many.
    """
    looks = _looks(files.paths, files.decode, decodes)
    unreadable = {path: look.reason for path, look in zip(files.paths, looks, strict=True) if look.reason is not None}
    check_unreadable(unreadable, len(files), files.max_unreadable)
    deep = [path for path, look in zip(files.paths, looks, strict=True) if look.deep and path not in unreadable]
    if not decodes:
        for path in deep[:: -(-len(deep) // DEEP) or 1]:
            _decoding_fails(path, files.decode)
    contents = np.frombuffer(b"".join(look.digest for look in looks), np.uint8).reshape(-1, DIGEST)
    known = replace(files, contents=contents)
    if not unreadable:
        return known
    tell(
        [
            f"data: {unreadable_named(with_reasons(unreadable), len(files))}; "
            + ("left out" if decodes else "others of their class take their places")
        ]
    )
    if decodes:
        return known.select(torch.tensor([row for row, look in enumerate(looks) if look.reason is None]))
    known.unreadable.update(unreadable)
    return known


def _looks(paths: Sequence[Path], decode: Callable[[Path], Tensor], decodes: bool) -> list[Look]:
    progress = Progress(visible=speaks())
    looks = list[Look]()
    what = "test images decoded" if decodes else "training images opened"

    def line() -> str:
        return f"data: {len(looks):,} of {len(paths):,} {what} to check them"

    with ThreadPoolExecutor(decoding_threads()) as pool:
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        for found in pool.map(lambda chunk: [_look(path, decode, decodes) for path in chunk], chunks):
            looks.extend(found)
            progress.update(line)
    progress.close()
    return looks


def _look(path: Path, decode: Callable[[Path], Tensor], decodes: bool) -> Look:
    from PIL import Image

    digest = file_digest(path)
    if decodes:
        return Look(digest, _decoding_fails(path, decode), False)
    try:
        with Image.open(path) as image:
            return Look(digest, None, is_deep(image))
    except Exception:  # its metadata may be what is broken, which decoding does without
        return Look(digest, _decoding_fails(path, decode), False)


def _decoding_fails(path: Path, decode: Callable[[Path], Tensor]) -> str | None:
    try:
        decode(path)
    except UnreadableImage as error:
        return error.reason
    return None
