"""Progress: one line that updates on a terminal, plain lines where output is piped."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

PIPED_INTERVAL = 5.0  # seconds between plain lines
TERMINAL_INTERVAL = 0.1


class Progress:
    """Shows what runs now. `update` may be called at every step: it draws only so often."""

    def __init__(self, stream: TextIO | None = None, *, visible: bool = True) -> None:
        self.visible = visible
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self._last = 0.0

    def update(self, line: str, *, final: bool = False) -> None:
        """Show a line in place of the last one; a final one stays."""
        now = time.monotonic()
        if not self.visible:
            return
        if not final and now - self._last < (TERMINAL_INTERVAL if self.terminal else PIPED_INTERVAL):
            return
        self._last = now
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[2K" + line[:width] + ("\n" if final else ""))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
