"""Images of more than 8 bits a channel: one rule for a whole set says which levels become black and white.

16 bits: 0 is black and 65,535 white, as PNG, TIFF and PGM define it; 12 bits in a 12-bit TIFF: 4,095. Levels of 32 bits,
signed or with a fraction, have no agreed white. `data.levels=[BLACK,WHITE]` says what is meant, also for 12-bit levels
that are kept in 16 bits. An image with levels outside of these is refused by name, and so is a whole set of 16 bits that
nowhere reaches half of their range: it would come out nearly black.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo.errors import UserError
from training.data.names import printable

if TYPE_CHECKING:
    from PIL import Image

SIXTEEN_BITS = (0.0, 65535.0)
DARK = 2**15  # a 16-bit set whose largest level is below has bits to spare
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262  # TIFF tags
SIGNED = 2
UNSIGNED = 1
WHITE_IS_ZERO = 0
COLOUR_OF_16_BITS = re.compile(r"[A-Za-z]+;16[BLN]")


class LevelsError(UserError):
    """An image whose levels cannot become 8 bits, with the reason."""


@dataclass
class Levels:
    """What becomes black and white; None: as the format says. Also what 16-bit images were seen to hold so far."""

    given: tuple[float, float] | None = None
    images: int = 0
    largest: int = 0
    example: str = ""
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def seen(self, largest: int, name: str) -> None:
        """Note the largest level of an image of 16 bits."""
        with self._lock:
            self.images += 1
            if largest >= self.largest:
                self.largest = largest
                self.example = name

    def check(self) -> None:
        """Raise UserError where the 16-bit images that were seen hold too few levels to be meant as 16 bits."""
        if self.given is None and self.images and self.largest < DARK:
            white = 2 ** max(8, self.largest.bit_length()) - 1
            raise UserError(
                f"data: the levels of {self.images:,} images of 16 bits go up to {self.largest:,} only "
                f"({printable(self.example)}), so that they would come out nearly black; set data.levels=[0,{white}] if "
                f"they hold {white.bit_length()} bits, or data.levels=[0,65535] if they are that dark"
            )


def as_bytes(image: Image.Image, levels: Levels) -> Image.Image:
    """Load an image; of more than 8 bits a channel it becomes grey of 8 bits. Raises LevelsError where it cannot."""
    from PIL import Image

    coded = _coding(image)
    name = str(getattr(image, "filename", "") or "")
    image.load()
    found = _deep_values(image, coded)
    if found is None:
        if any(COLOUR_OF_16_BITS.fullmatch(code) for code in coded):
            _check_colour(image, levels, name)
        return image
    values, declared = found
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise LevelsError("levels that are not finite")
    span = levels.given or declared
    if span is None:
        raise LevelsError(
            f"{_kind(image, coded)}, here from {low:g} to {high:g}, have no agreed white; set data.levels=[BLACK,WHITE]"
        )
    if low < span[0] or high > span[1]:
        raise LevelsError(f"levels from {low:g} to {high:g}, outside data.levels=[{span[0]:g},{span[1]:g}]")
    if span == SIXTEEN_BITS:
        levels.seen(int(high), name)
    scaled = (values.astype(np.float64) - span[0]) * (255 / (span[1] - span[0]))
    grey = np.rint(scaled).astype(np.uint8)
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey)


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is opened, and not yet loaded, has more than 8 bits a channel."""
    coded = _coding(image)
    deep_mode = image.mode.startswith(("I", "F"))
    return deep_mode or any(COLOUR_OF_16_BITS.fullmatch(code) for code in coded)


def _coding(image: Image.Image) -> list[str]:
    """How the file codes its pixels, in PIL's words, e.g. `I;16B`."""
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    return [str(args[0] if isinstance(args, tuple) and args else args) for args in arguments]


def _deep_values(image: Image.Image, coded: list[str]) -> tuple[NDArray[Any], tuple[float, float] | None] | None:
    """The levels of a grey image of more than 8 bits, with what its format calls black and white; else None."""
    if image.mode.startswith("I;16"):
        return np.asarray(image), (0.0, 4095.0) if "I;12" in coded else SIXTEEN_BITS
    if image.mode == "I":
        values = np.asarray(image)
        if image.format == "PPM":  # PIL stretches what the file declares to 16 bits
            return values, SIXTEEN_BITS
        if image.format == "TIFF" and _tag(image, SAMPLE_FORMAT) in (None, UNSIGNED) and any("32" in c for c in coded):
            values = values.view(np.uint32)  # PIL reads these as signed
        return values, None
    if image.mode == "F":
        return np.asarray(image), None
    if image.mode == "L" and image.format == "TIFF" and _tag(image, SAMPLE_FORMAT) == SIGNED:
        return np.asarray(image).view(np.int8), None
    return None


def _check_colour(image: Image.Image, levels: Levels, name: str) -> None:
    """PIL keeps the high byte of 16-bit colours, which is right for 16 bits only."""
    if levels.given not in (None, SIXTEEN_BITS):
        raise LevelsError("colours of 16 bits, of which Pillow reads the high byte alone; convert them to 8 bits first")
    if levels.given is None:
        colours = image.getbands()[: 1 if image.mode[0] == "L" else 3]
        largest = int(max(np.asarray(image.getchannel(band)).max() for band in colours))
        levels.seen(257 * largest, name)


def _kind(image: Image.Image, coded: list[str]) -> str:
    if image.mode == "F":
        return "levels with a fraction"
    if image.mode == "L":
        return "signed levels of 8 bits"
    return "signed levels of 16 bits" if "I;16S" in coded else "levels of 32 bits"


def _tag(image: Image.Image, number: int) -> Any:
    """A number that a TIFF file's tag holds; of several the first."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value
