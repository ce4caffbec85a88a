"""Where a search ends: generations, budget, patience, target, time, or nothing new to find."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from evo.settings import SearchSettings

IDLE = 100  # generations without a new row, after which a search has seen what there is for it
ENDS = ("generations", "budget", "patience", "target", "minutes")
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # losses are float32, and a target is written in decimal digits


def has_end(settings: SearchSettings) -> bool:
    """Whether a search with these settings ends by itself."""
    return any(getattr(settings, end) is not None for end in ENDS)


def reaches(merit: float, target: float) -> bool:
    """Whether a fitness is a target, or above it, but for a float32's rounding."""
    return merit >= target - ROUNDING * abs(target)


@dataclass
class Progress:
    """What the ends of a search look at.

    merit: the best fitness so far, or the hypervolume of the front; improved_at: the generation that raised it last.
    """

    generation: int = 0
    merit: float = -np.inf
    improved_at: int = 0
    idle: int = 0  # generations in a row without a new row

    def reason(self, settings: SearchSettings, seconds: float) -> str | None:
        """Why a search that has lasted `seconds` ends here; None: it does not. The budget is the proposal's matter."""
        if settings.generations is not None and self.generation >= settings.generations:
            return "generations"
        if settings.target is not None and reaches(self.merit, settings.target):
            return "target"
        if settings.patience is not None and self.generation - self.improved_at >= settings.patience:
            return "patience"
        if settings.minutes is not None and self.generation and seconds >= 60 * settings.minutes:
            return "minutes"
        if settings.generations is None and self.idle >= IDLE:
            return "exhausted"
        return None


class Stopwatch:
    """Seconds since a search was first asked, over all processes that worked on it.

    Only the time limit and nothing that is saved in the log looks at it.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self._began: float | None = None

    def start(self) -> None:
        """Begin to count, where it has not begun yet."""
        if self._began is None:
            self._began = time.monotonic()

    def seconds(self) -> float:
        """Those counted so far."""
        return self.before + (0.0 if self._began is None else time.monotonic() - self._began)
