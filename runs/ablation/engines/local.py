"""Trials as processes of this machine, a fresh one for each: no trial inherits another's memory or compiled code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from evo.errors import UserError
from runs.ablation.engines.worker import BUSY, STOPPED
from runs.ablation.trials import Outcome, Trial
from runs.folders import python_path
from training.cores import EMULATED, emulates_bfloat16, usable_cores

COMMAND = (sys.executable, "-P", "-m", "runs.ablation.engines.worker")
LAST_LINES = 20  # of a failed trial's output that are kept with the reason
LONGEST = 100_000  # bytes of the output that are looked at for them


class LocalEngine:
    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._gpus = visible_gpus()
        self._running: dict[int, TrialProcess] = {}  # by slot

    def room(self) -> bool:
        return len(self._running) < self.slots

    def running(self) -> int:
        return len(self._running)

    def start(self, trial: Trial) -> None:
        slot = next(slot for slot in range(self.slots) if slot not in self._running)
        self._running[slot] = TrialProcess(trial, self._environment(slot))

    def ended(self) -> list[tuple[str, Outcome]]:
        found = [(slot, process, outcome) for slot, process in self._running.items() if (outcome := process.poll())]
        for slot, _, _ in found:
            del self._running[slot]
        if not found:
            time.sleep(0.1)
        return [(process.trial.name, outcome) for _, process, outcome in found]

    def stop(self) -> None:
        for process in self._running.values():
            process.stop()

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
        self._running.clear()

    def _environment(self, slot: int) -> dict[str, str]:
        """A slot's share of the cores, where nobody has set another, and one GPU in turn."""
        share: dict[str, str] = {}
        if self.slots > 1:
            share["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // self.slots)))
            if len(self._gpus) > 1:
                share["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return share


class TrialProcess:
    """A process at work on a trial.

    environment: variables that differ from this process's. patience: seconds it waits for another process that is
    still at the trial.
    """

    def __init__(self, trial: Trial, environment: Mapping[str, str] | None = None, patience: float = 0) -> None:
        self.trial = trial
        self._asked = False  # to stop
        trial.notes.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until the process holds the trial: another one's output stays.
        handle, name = tempfile.mkstemp(prefix="output-", suffix=".txt", dir=trial.notes)
        self._name = Path(name)
        self._output = os.fdopen(handle, "w+b")
        self._process = subprocess.Popen(
            [*COMMAND, trial.name],
            env={**os.environ, "PYTHONPATH": python_path(), **(environment or {})},
            stdin=subprocess.PIPE,  # while it is open this process lives, see worker.py
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
        )
        order = {"trial": trial.as_json(), "output": name, "patience": patience}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already; poll says how
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs."""
        status = self._process.poll()
        if status is None or self._output.closed:
            return None
        output = self._last_lines()
        self._close(keep=status not in (0, BUSY, STOPPED))
        if status == 0:
            return self._result(output)
        if status == BUSY:
            return Outcome("busy")
        if status == STOPPED or (self._asked and status < 0):
            return Outcome("stopped")
        return Outcome("failed", explain(status, output), output)

    def _result(self, output: str) -> Outcome:
        """Of a process that says it is done."""
        try:
            done = self.trial.state() == "done"
        except UserError as error:
            return Outcome("failed", str(error), output)
        return Outcome("done") if done else Outcome("failed", "its process ended without a result", output)

    def wait(self) -> Outcome:
        while (outcome := self.poll()) is None:
            time.sleep(0.1)
        return outcome

    def stop(self) -> None:
        self._asked = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if not self._output.closed:
            self._close()

    def _last_lines(self) -> str:
        length = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, length - LONGEST))
        lines = self._output.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def _close(self, keep: bool = False) -> None:
        self._output.close()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(FileNotFoundError):  # it is the trial's output already, or another process has cleared it away
            os.replace(self._name, self.trial.output) if keep else self._name.unlink()


def explain(status: int, output: str) -> str:
    """A line on why a process failed, from its exit status and the last lines it printed."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    lines = [line for line in output.splitlines() if line.strip()]
    told = list(takewhile(lambda line: line.startswith("run: "), reversed(lines)))
    if status == 2 and told:
        return "; ".join(line.removeprefix("run: ") for line in reversed(told))
    return f"{lines[-1].strip():.300}" if lines else f"its process ended with exit status {status}"


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, one by one; without importing torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def tell_of_emulation(trials: Iterable[Trial]) -> None:
    """Say before hours are spent where trials would compute in what the CPU emulates: their own output is not shown."""
    asked = {trial.config.run.device for trial in trials if trial.config.train.precision == "bfloat16"}
    if not asked or not emulates_bfloat16():  # before a process is started to ask for GPUs
        return
    if "cpu" in asked or ("auto" in asked and not visible_gpus()):
        print(f"run: {EMULATED}; set train.precision: float32 under common in the file", file=sys.stderr)
