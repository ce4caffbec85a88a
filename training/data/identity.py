"""What tells whether images are still those that something was made with: their content, not their path or number.

Of images in memory all pixels count. Of images in files, which would take an epoch to read, each file's length and up to
SAMPLE bytes at its head, middle and end; a shorter file counts whole. Moving or renaming a set, or touching its files,
changes nothing; exchanging, repairing or relabelling an image does.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from training.data.prefetch import decoding_threads
from training.progress import speaks

SAMPLE = 4096
DIGEST = 16  # bytes
BLOCK = 2**26  # bytes of pixels that a thread takes at once


def digest_of_pixels(images: Tensor, labels: Tensor) -> str:
    """A digest of images (M,C,H,W) uint8 and labels (M,) int64, on any device."""
    rows = max(1, BLOCK // max(1, images[:1].nbytes))
    with ThreadPoolExecutor(decoding_threads()) as pool:
        parts = pool.map(_digest_of_tensor, images.split(rows))
        return _digest_of([str(tuple(images.shape)).encode(), *parts, _digest_of_tensor(labels)])


def digest_of_files(contents: NDArray[np.uint8], labels: Tensor, *more: str) -> str:
    """A digest of a digest (or row number) of each file, (M,n) uint8, and of labels (M,) int64."""
    return _digest_of([contents.tobytes(), _digest_of_tensor(labels), *(text.encode() for text in more)])


def digests_of(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """(M,DIGEST): a digest of each file's content; zeros where it cannot be read."""
    with ThreadPoolExecutor(decoding_threads()) as pool:
        found = b"".join(pool.map(file_digest, paths))
    return np.frombuffer(found, np.uint8).reshape(-1, DIGEST)


def file_digest(path: Path) -> bytes:
    """A digest of a file's length and of SAMPLE bytes at its head, middle and end."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            made = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=DIGEST)
            whole = size <= 3 * SAMPLE
            for place in (0,) if whole else (0, size // 2, size - SAMPLE):
                made.update(os.pread(file.fileno(), size if whole else SAMPLE, place))
            return made.digest()
    except OSError:
        return bytes(DIGEST)


def check_images(owner: str, what: str, recorded: str | None, now: str) -> None:
    """Raise UserError where images are not those of the recorded digest; say so where none was recorded.

    owner: what was made with them. what: `training images`, for example.
    """
    if recorded is None:
        if speaks():
            print(
                f"data: {owner} was made by an older version, which kept no digest of its {what}; that they are still the "
                "same is taken on trust",
                file=sys.stderr,
            )
    elif recorded != now:
        raise UserError(
            f"{owner}: the {what} have changed since it was made, though there are as many or their options are the same; "
            "restore the images, or begin anew"
        )


def _digest_of_tensor(values: Tensor) -> bytes:
    return hashlib.blake2b(values.cpu().contiguous().numpy().reshape(-1).data, digest_size=DIGEST).digest()


def _digest_of(parts: Iterable[bytes]) -> str:
    made = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        made.update(part)
    return made.hexdigest()
