"""Writing files whole, and naming them after what they show."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from evo.storage import replacing


def replace_text(path: Path, text: str) -> Path:
    """Write a text file whole, and its folder if it is missing; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())
    return path


LONGEST = 119  # characters of a name that is made of others; a file name has at most 255 bytes


def joined_name(names: Sequence[str]) -> str:
    """A file's name for a list of names: no other list has it, also where a file system ignores case or normalises text.

    Names of a-z, 0-9, . _ and - stand as they are. Else others could come out alike, so what is readable of them is
    followed by a digest of all.
    """
    joined = "+".join(names)
    if len(joined) <= LONGEST and all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names):
        return joined
    digest = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:12]
    readable = "+".join(re.sub(r"[^A-Za-z0-9._=-]+", "-", name) for name in names)
    return f"{readable[: LONGEST - 13]}~{digest}"
