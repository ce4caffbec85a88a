"""Writing files whole, and naming them after what they show."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evo.storage import naming, removing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` when the block ends; its folder is made. A reader never
    meets half of it, nor does another process take it away unfinished. Where writing fails nothing is left of it, and an
    OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident():x}.tmp")
    with naming(path, unfinished), removing(unfinished):
        yield unfinished
        os.replace(unfinished, path)


def replace_text(path: Path, text: str) -> Path:
    """Write a text file whole; return its path."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
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
