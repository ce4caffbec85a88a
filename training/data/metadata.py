"""Images without their metadata: what stands beside the pixels never decides whether they can be read.

Pillow refuses a PNG whose colour profile or comment is broken, or too large, and a JPEG with a broken application
segment. Taken out, such a file is decoded as if the broken part were not there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
KEPT_CHUNKS = {b"tRNS", b"eXIf"}  # besides the critical ones: transparency, and how the image is turned
KEPT_SEGMENTS = {0xE0: b"JFIF\0", 0xE1: b"Exif\0\0", 0xEE: b"Adobe"}  # Adobe's says how colours are coded
LEAST = {0xE0: 14, 0xE1: 14, 0xEE: 12}  # bytes of a sound one of these
START_OF_SCAN = 0xDA
NO_LENGTH = {0x01, *range(0xD0, 0xD9)}  # markers that stand alone


def without_metadata(data: bytes) -> bytes | None:
    """A PNG or JPEG file with only what its pixels need; None for other files."""
    if data.startswith(PNG):
        return PNG + b"".join(_needed_chunks(data))
    if data.startswith(JPEG):
        return JPEG + b"".join(_needed_segments(data))
    return None


def _needed_chunks(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunk = data[place : place + 12 + length]
        kind = chunk[4:8]
        critical = not kind[0] & 0x20
        sound = len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if critical or (sound and kind in KEPT_CHUNKS):
            yield chunk
        place += 12 + length


def _needed_segments(data: bytes) -> Iterator[bytes]:
    place = len(JPEG)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == START_OF_SCAN:
            break
        if marker in NO_LENGTH or marker == 0xFF:  # 0xFF: padding
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : end]
        comment = 0xE0 <= marker <= 0xEF or marker == 0xFE
        sound = marker in KEPT_SEGMENTS and body.startswith(KEPT_SEGMENTS[marker]) and len(body) >= LEAST[marker]
        if not comment or sound:
            yield data[place:end]
        place = end
    yield data[place:]
