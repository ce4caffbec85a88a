"""How many cores a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may use: a cluster's job often has a part of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
