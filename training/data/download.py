"""One process downloads, the others wait: a lock in the folder that the files go to."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Hold the lock of `root`, which is made if it is missing; waits for a process that holds it.

    Look for the files again once inside: another process may have fetched them meanwhile.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
        yield
