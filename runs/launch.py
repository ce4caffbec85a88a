"""`./run train --devices N`: N processes of this machine that train one run together, and what becomes of them.

For several machines start the same command with torchrun on each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from evo.errors import UserError
from runs import LOST
from runs.folders import TAKEN, python_path, shown
from training.cores import usable_cores
from training.places import spoken
from training.stopping import stop_signals

GRACE = 10.0  # seconds that processes get to end by themselves once one has failed
STOPPING = 120.0  # seconds that they get once one has been stopped by a signal: the first writes a checkpoint
STOPPED = 130  # exit status of a process that a signal has stopped
TOLD = (2, STOPPED)  # exit statuses of processes that said why


def launch(arguments: list[str], processes: int, folder: Path) -> int:
    """Run `python -m runs ARGUMENTS` in N processes; return the exit status.

    folder: the run's, for what is said of a process that dies. The first process speaks; what another one
    prints as errors is shown where it is the first to fail.
    """
    if any(name in os.environ for name in ("WORLD_SIZE", "RANK")):
        raise UserError("--devices starts processes itself and is not for use under torchrun; leave it out")
    with tempfile.TemporaryDirectory() as kept:
        outputs = [
            None,
            *(
                open(Path(kept) / str(rank), "w+", encoding="utf-8", errors="replace")  # noqa: SIM115
                for rank in range(1, processes)
            ),
        ]
        running = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "runs", *arguments],
                env={**_environment(rank, processes, port), TAKEN: str(folder)},
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
            )
            for port in [_free_port()]
            for rank, output in enumerate(outputs)
        ]
        try:
            first = _wait(running)
            if first is None:
                return 0
            return _explain(first, [process.wait() for process in running], outputs, folder)
        finally:
            for process in running:
                process.kill()
                process.wait()
            for output in outputs:
                if output is not None:
                    output.close()


def _wait(running: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all, passing signals on; return who failed first, None where nobody did."""
    handlers = {number: signal.getsignal(number) for number in stop_signals()}
    for number in handlers:
        signal.signal(number, lambda number, frame: _send(number, running))
    first = None
    deadline = float("inf")
    try:
        while any(process.poll() is None for process in running):
            statuses = [process.poll() for process in running]
            failed = [rank for rank, status in enumerate(statuses) if status not in (None, 0, STOPPED)]
            if failed and first is None:
                first = failed[0]
                deadline = min(deadline, time.monotonic() + GRACE)
            if STOPPED in statuses:
                deadline = min(deadline, time.monotonic() + STOPPING)
            if time.monotonic() > deadline:
                for process in running:
                    process.kill()
            time.sleep(0.05)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    failed = [rank for rank, process in enumerate(running) if process.returncode != 0]
    failed.sort(key=lambda rank: running[rank].returncode == STOPPED)  # last
    return first if first is not None else (failed[0] if failed else None)


def _send(number: int, running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.send_signal(number)


def _explain(first: int, statuses: list[int], outputs: Sequence[IO[str] | None], folder: Path) -> int:
    """Say what happened where the first process has not; return the exit status."""
    if statuses[0] in TOLD:
        return statuses[0]
    guilty = next((rank for rank in (first, *range(len(statuses))) if statuses[rank] not in (0, LOST)), first)
    status, output = statuses[guilty], outputs[guilty]
    if output is not None:
        output.seek(0)
        sys.stderr.write(output.read())
    if status in TOLD:
        return status
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    index = folder / "checkpoint" / "latest.json"
    kept = (
        "its last checkpoint is kept; go on, with as many processes as you like: "
        + spoken("train", options=("--resume", shown(folder)))
        if index.is_file()
        else "it had no checkpoint yet"
    )
    print(f"run: process {guilty} of {len(statuses)} ended ({how}), and the run with it; {kept}", file=sys.stderr)
    return 1


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    threads = str(max(1, usable_cores() // processes))
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "PYTHONPATH": python_path(),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(processes),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
