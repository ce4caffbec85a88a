"""Files to pixels: any image that PIL reads, as a square of uint8, and many of them in threads.

PIL shrinks JPEGs while it decodes them, which takes a quarter of the time at 1600x1200 for 224 pixels, and its
decoders release the interpreter's lock.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.image_set import UnreadableImage
from training.data.levels import Levels, LevelsError, as_bytes
from training.data.metadata import without_metadata
from training.data.reasons import why_unreadable

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 32  # images a thread takes at once


class Decoder:
    """path -> (3,size,size) uint8: shorter side resized to `size`, then the centred square.

    Of several frames or pages the first; turned as its EXIF data says, where these are sound; transparency is dropped;
    more than 8 bits become 8 as `levels` says. Raises UnreadableImage with the reason.
    """

    def __init__(self, size: int, levels: Levels | None = None) -> None:
        self.size = size
        self.levels = levels or Levels()
        _silence()

    def __call__(self, path: Path) -> Tensor:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
                raise UnreadableImage(path, "not a file")
            try:
                pixels = self._decoded(path)
            except LevelsError:
                raise
            except Exception as error:
                pixels = self._again(path, error)
        except (UnreadableImage, LevelsError) as error:
            raise UnreadableImage(path, getattr(error, "reason", str(error))) from None
        except Exception as error:  # broken files make PIL's decoders raise almost anything
            raise UnreadableImage(path, why_unreadable(path, error)) from None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _again(self, path: Path, error: Exception) -> NDArray[np.uint8]:
        """Decoded without metadata, where these were what could not be read; else `error` stands."""
        bare = without_metadata(path.read_bytes())
        if bare is None:
            raise error
        try:
            return self._decoded(io.BytesIO(bare))
        except LevelsError:
            raise
        except Exception:
            raise error from None

    def _decoded(self, file: Path | io.BytesIO) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        square = (self.size, self.size)
        with Image.open(file) as image:
            image.draft("RGB", square)  # JPEG only: decoded at 1/2, 1/4 or 1/8, but no smaller than the square
            whole = as_bytes(image, self.levels)
            upright = turned(whole, image)
            return np.array(ImageOps.fit(_rgb(upright), square, Image.Resampling.BILINEAR))


def turned(image: Image.Image, source: Image.Image) -> Image.Image:
    """An image as the EXIF data of `source` say; unturned where they are broken or say nothing that has a meaning."""
    from PIL import Image

    orientation = None
    with suppress(Exception):  # broken EXIF makes PIL raise almost anything
        orientation = source.getexif().get(0x0112)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if type(orientation) is int else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # its transparency is multiplied in, which only LA undoes
        image = image.convert("LA")
    elif image.mode in ("P", "PA", "RGBa"):  # convert() warns of palettes with transparency otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


def _silence() -> None:
    """PIL warns of broken metadata, image by image; what cannot be read is told by us."""
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_into(
    out: NDArray[np.uint8],
    paths: Sequence[Path],
    decode: Callable[[Path], Tensor],
    pool: ThreadPoolExecutor,
    after: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """Decode `paths` into the rows of `out` (M,C,H,W); returns the rows of unreadable ones with the reasons.

    after: called again and again with how many are done and how many of them failed.
    """

    def work(start: int) -> dict[int, str]:
        failed = {}
        for row, path in enumerate(paths[start : start + CHUNK], start):
            try:
                out[row] = decode(path).numpy()
            except UnreadableImage as error:
                failed[row] = error.reason
        return failed

    failed: dict[int, str] = {}
    chunks = [pool.submit(work, start) for start in range(0, len(paths), CHUNK)]
    try:
        for number, chunk in enumerate(chunks, 1):
            failed |= chunk.result()
            if after is not None:
                after(min(number * CHUNK, len(paths)), len(failed))
    finally:
        for chunk in chunks:
            chunk.cancel()
    return failed
