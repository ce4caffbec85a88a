"""Where a search ends: generations, budget, patience, target, time, or nothing new to find."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from evo.errors import UserError
from evo.settings import SearchSettings

IDLE = 100  # generations without a new row, after which a search has seen what there is for it
ENDS = ("generations", "budget", "patience", "target", "minutes")
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # losses are float32, and a target is written in decimal digits


def has_end(settings: SearchSettings) -> bool:
    """Tell whether a search with these settings ends by itself.

    Args:
        settings: The search's.

    Returns:
        Whether one of ENDS is set.

    Example:
        >>> has_end(SearchSettings()), has_end(SearchSettings(patience=5))
        (False, True)
    """
    return any(getattr(settings, end) is not None for end in ENDS)


def check_budget(budget: float | None, row_cost: int) -> None:
    """Refuse a budget that does not pay for one genome.

    Args:
        budget: Image forwards per image; None: no limit.
        row_cost: Image forwards that a row takes.

    Raises:
        UserError: It does not.
    """
    if budget is not None and budget < row_cost:
        raise UserError(
            f"a budget of {budget:g} image forwards per image does not cover one genome, which takes {row_cost}; give at "
            "least that, or None for no limit"
        )


def reaches(merit: float, target: float) -> bool:
    """Tell whether a fitness is a target, or above it, but for a float32's rounding.

    Args:
        merit: A fitness, or a hypervolume.
        target: What is to be reached.

    Returns:
        Whether it is reached.

    Example:
        >>> reaches(float(np.float32(0.7)), 0.7), reaches(0.699, 0.7)
        (True, False)
    """
    return merit >= target - ROUNDING * abs(target)


@dataclass
class Progress:
    """What the ends of a search look at.

    Attributes:
        generation: How many there were.
        merit: The best fitness so far, or the hypervolume of the front.
        improved_at: The generation that raised it last.
        idle: Generations in a row without a new row.
    """

    generation: int = 0
    merit: float = -np.inf
    improved_at: int = 0
    idle: int = 0

    def reason(self, settings: SearchSettings, seconds: float) -> str | None:
        """Tell why a search ends here. The budget is the proposal's matter.

        Args:
            settings: The search's.
            seconds: How long it has lasted.

        Returns:
            The end's name or `exhausted`; None where it goes on.
        """
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

    Only the time limit looks at it, and nothing that is saved in the log.

    Args:
        before: Seconds that were counted elsewhere.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before = before
        self._began: float | None = None

    def start(self) -> None:
        """Begin to count, where it has not begun yet."""
        if self._began is None:
            self._began = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds counted so far.

        Returns:
            Those before included.
        """
        return self.before + (0.0 if self._began is None else time.monotonic() - self._began)
