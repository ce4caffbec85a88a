"""Locks of folders, held by one process at a time and given back when it ends, also by a crash."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = ".lock"


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Hold the lock of `root`, which is made if it is missing; waits for a process that holds it.

    Look for the files again once inside: another process may have fetched them meanwhile.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_lock(folder: Path) -> TextIO | None:
    """The lock of a folder, held until the file is closed; None where another process holds it.

    Raises FileNotFoundError where the folder is gone, OSError where it cannot be written to or has no locks.
    """
    file = open(folder / LOCK, "a")  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file
