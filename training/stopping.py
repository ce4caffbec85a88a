"""Stopping a run from outside: Ctrl-C, the SIGTERM of a cluster that wants its machine back, a closed terminal."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def stop_signals() -> tuple[int, ...]:
    """The signals that stop a run; under nohup a closed terminal does not."""
    return tuple(
        number for number in SIGNALS if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    )


class Interruption:
    """While open, a first signal sets `asked`, so that work ends where it can be gone on with; a second one
    raises KeyboardInterrupt at once. Outside the main thread, where Python hears no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
