"""Progress: one line that updates on a terminal, plain lines where output is piped."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

PIPED_INTERVAL = 5.0  # seconds between plain lines
TERMINAL_INTERVAL = 0.5


def speaks() -> bool:
    """Whether this process is the one of its run that tells people things: the first, or the only one."""
    return (os.environ.get("RANK") or "0") == "0"


def loss_text(loss: float) -> str:
    """A loss with three decimals, or in scientific notation once it has blown up: 1.23e+24."""
    return f"{loss:.3f}" if not abs(loss) >= 1e5 else f"{loss:.2e}"


class Progress:
    """Shows what runs now. `update` may be called at every step: it draws only so often."""

    def __init__(self, stream: TextIO | None = None, *, visible: bool = True) -> None:
        self.visible = visible
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self._last = 0.0
        self._open = False  # a line stands without its end

    def update(self, line: str | Callable[[], str], *, final: bool = False) -> None:
        """Show a line in place of the last one; a final one stays. A function is called only where it is drawn."""
        now = time.monotonic()
        if not self.visible:
            return
        if not final and now - self._last < (TERMINAL_INTERVAL if self.terminal else PIPED_INTERVAL):
            return
        self._last = now
        text = line if isinstance(line, str) else line()
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[2K" + text[:width] + ("\n" if final else ""))
            self._open = not final
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End an unfinished line, so that what is printed next starts on its own."""
        if self._open:
            self.stream.write("\n")
            self.stream.flush()
            self._open = False
