"""What time a run takes: seconds of training, and the pace since a moment."""

from __future__ import annotations

import time
from typing import NamedTuple


class Mark(NamedTuple):
    """A moment of a run: optimizer steps taken and seconds of training until then."""

    step: int
    seconds: float


class Clock:
    """Counts the seconds of training, in `seconds`: searches included, tests and checkpoints left out.

    began: the moment at which this process began or resumed.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.began = Mark(0, 0.0)
        self._read = time.perf_counter()

    def tick(self, *, counts: bool = True) -> None:
        """Read the clock; the time since it was last read counts as training, or not."""
        now = time.perf_counter()
        if counts:
            self.seconds += now - self._read
        self._read = now

    def steps_per_second(self, step: int, since: Mark | None = None) -> float:
        """The pace of training up to `step`, from a moment on, else from when this process began."""
        since = since or self.began
        return (step - since.step) / max(self.seconds - since.seconds, 1e-9)
