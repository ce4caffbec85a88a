"""The process of one trial: `python -m runs.ablation.engines.worker NAME`, with its order as JSON on standard input.

The order is one line. The process ends, with a checkpoint, when its standard input is closed: the process that started
it has ended, however that came about.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from runs.ablation.trials import Trial, run_trial
from runs.failures import told

STOPPED = 130  # exit statuses, besides 0 and 2 for what the user can mend
BUSY = 75  # another process is at the trial
STOPPING = 120.0  # seconds for the checkpoint once nobody is there to wait for it


def main() -> int:
    faulthandler.enable()
    order = json.loads(_first_line())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    trial = Trial.from_json(order["trial"])
    sys.argv[1:] = trial.command
    try:
        return {"done": 0, "busy": BUSY}[run_trial(trial, order["patience"], Path(order["output"]))]
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        lines = told(error)
        if lines is None:
            raise
        with suppress(OSError):  # the output is a file on what may be a full disk
            print(*(f"run: {line}" for line in lines), sep="\n", file=sys.stderr)
        return 2


def _first_line() -> bytes:
    """Of standard input, unbuffered: a thread that reads it may not hold a lock when the interpreter ends."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            sys.exit(STOPPED)
        line += part
    return line


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPPING)
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main())
