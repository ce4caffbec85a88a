"""Files to pixels: any image that PIL reads, as a square of uint8, and many of them in threads.

PIL shrinks JPEGs while it decodes them, which takes a quarter of the time at 1600x1200 for 224 pixels, and its
decoders release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.image_set import UnreadableImage

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 32  # images a thread takes at once


class Decoder:
    """path -> (3,size,size) uint8: shorter side resized to `size`, then the centred square.

    Turned as its EXIF data says; transparency is dropped; 16 bits become 8. Raises UnreadableImage.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        square = (self.size, self.size)
        try:
            with Image.open(path) as image:
                image.draft("RGB", square)  # JPEG only: decoded at 1/2, 1/4 or 1/8, but no smaller than the square
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.array(ImageOps.fit(_rgb(image), square, Image.Resampling.BILINEAR))
        except Exception as error:  # broken files make PIL's decoders raise almost anything
            raise UnreadableImage(f"{path}: {' '.join(str(error).split())}") from None
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":  # convert() warns of palettes with transparency otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


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
                failed[row] = str(error)
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
