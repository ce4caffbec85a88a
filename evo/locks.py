"""Locks of folders, held by one process at a time and given back when it ends, also by a crash.

A run's folder is locked by the process that writes it; whoever reads it may look whether one does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = ".lock"  # the file in a folder


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Hold the lock of `root`, which is made if it is missing; waits for a process that holds it.

    Look for the files again once inside: another process may have fetched them meanwhile.

    Args:
        root: The folder.
    """
    import fcntl  # not on every system; reading runs takes no lock

    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take_lock(folder: Path) -> TextIO | None:
    """Take the lock of a folder.

    Args:
        folder: Which one.

    Returns:
        The lock, held until the file is closed; None where another process holds it.

    Raises:
        FileNotFoundError: The folder is gone.
        OSError: It cannot be written to, or its file system has no locks.
    """
    import fcntl

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


def is_locked(path: Path) -> bool:
    """Say whether a process holds a lock on a file.

    Looks where Linux lists them, which disturbs nobody; where there is no such list, and on file systems without a
    device of their own (NFS, btrfs, ...), it tries the lock for a moment. It does not see a process of another
    container.

    Args:
        path: The file, which need not be there.

    Returns:
        Whether one does.
    """
    try:
        status = path.stat()
    except OSError:
        return False
    try:
        held = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _try_lock(path)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    listed = any(place in line.split() for line in held.splitlines())
    return listed or (os.major(status.st_dev) == 0 and _try_lock(path))


def _try_lock(path: Path) -> bool:
    import fcntl

    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
