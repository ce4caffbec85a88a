"""Trials as tasks of a Ray cluster: the one at RAY_ADDRESS, else one that is started on this machine.

Every node needs this code and its requirements, at the same path or installed. A task runs the same process as
local.py does. Where a node shares the disk with runs/out, its trials write there; from other nodes the
finished run folder comes back as an archive. A cluster that asks for a token is given that of RAY_AUTH_TOKEN, by Ray.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.locks import take_lock
from runs.ablation.engines.local import TrialProcess
from runs.ablation.engines.packed_folder import ArchiveError, pack, unpack
from runs.ablation.trials import Outcome, Trial
from runs.folders import python_path
from training.cores import usable_cores

PATIENCE = 150.0  # seconds a task waits for the process of a lost worker, which writes a checkpoint
WAIT = 0.2
REACHED = 10.0  # seconds within which a cluster answers
LOST = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError", "OwnerDiedError")


class RayEngine:
    """trials: those that may be started. Raises UserError where Ray is missing or has no room for them."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("--engine ray needs the package ray, which is missing; pip install 'evomix[ray]' or ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
        self._ray: Any = importlib.import_module("ray")
        self._connect()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._has_gpus = any(node.get("GPU", 0) for node in nodes)
        self._running: dict[Any, Trial] = {}  # by reference
        try:
            self.slots = min(self._fitting(trial, nodes) for trial in trials)
            self._marker = mark(trials[0].folder.parent)
        except BaseException:
            self._ray.shutdown()
            raise

    def room(self) -> bool:
        return len(self._running) < self.slots  # more would only wait there, where nobody sees them

    def running(self) -> int:
        return len(self._running)

    def start(self, trial: Trial) -> None:
        cpus, gpus = self._resources(trial)
        # A lost worker is the schedule's to judge, so that it is told; max_calls: no process serves two trials.
        task = self._ray.remote(max_retries=0, max_calls=1)(run_on_node)
        options = task.options(num_cpus=cpus, num_gpus=gpus, name=trial.name)
        needed = {name: pack(folder, below=_used(trial, folder)) for name, folder in _folders(trial).items()}
        self._running[options.remote(trial.as_json(), *self._marker, needed, max(1, int(cpus)))] = trial

    def ended(self) -> list[tuple[str, Outcome]]:
        if not self._running:
            time.sleep(WAIT)
            return []
        references, _ = self._ray.wait(list(self._running), num_returns=1, timeout=WAIT)
        ended = [(reference, self._running.pop(reference)) for reference in references]
        return [(trial.name, self._outcome(reference, trial)) for reference, trial in ended]

    def stop(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        self._ray.shutdown()

    def _connect(self) -> None:
        common = {
            "log_to_driver": False,
            "logging_level": "error",
            "runtime_env": {"env_vars": {"PYTHONPATH": python_path()}},
        }
        address = os.environ.get("RAY_ADDRESS")
        try:
            if address:
                _check_reachable(address)
                self._ray.init(address, **common)
            else:
                self._ray.init("local", num_cpus=usable_cores(), include_dashboard=False, **common)
        except (self._ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
            where = f"the cluster at RAY_ADDRESS={address} is not reached" if address else "no local cluster starts"
            raise UserError(f"--engine ray: {where}: {' '.join(str(error).split())[:300]}") from None

    def _resources(self, trial: Trial) -> tuple[float, float]:
        """CPUs and GPUs a trial reserves."""
        cpus = trial.cpus if trial.cpus is not None else trial.config.run.threads or 1
        if trial.gpus is not None:
            return cpus, trial.gpus
        return cpus, float(self._has_gpus and trial.config.run.device not in ("cpu", "mps"))

    def _fitting(self, trial: Trial, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many such trials the cluster holds at once."""
        cpus, gpus = self._resources(trial)
        each = [
            int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else float("inf"))) for node in nodes
        ]
        if not any(each):
            most = [max(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")]
            raise UserError(
                f"{trial.title} takes {cpus:g} CPUs and {gpus:g} GPUs, and no node has as many (the most are {most[0]:g} "
                f"and {most[1]:g}); lower resources in the ablation's file"
            )
        return sum(each)

    def _outcome(self, reference: Any, trial: Trial) -> Outcome:
        try:
            outcome, packed = self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("stopped")
        except self._ray.exceptions.OutOfMemoryError as error:
            return Outcome("failed", "Ray ended its worker, for the node ran out of memory", str(error))
        except self._ray.exceptions.RayError as error:
            name = type(error).__name__
            lines = str(error).strip().splitlines()
            if name in LOST:
                return Outcome("lost", f"its worker was lost ({name})", str(error))
            return Outcome("failed", f"{name}: {lines[-1] if lines else ''}", str(error))
        return receive(trial, Outcome(*outcome), packed)


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT or ray://HOST:PORT: Ray would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=REACHED).close()


def mark(folder: Path) -> tuple[str, str]:
    """A file below an ablation's folder and its content, by which a node knows whether it shares the disk."""
    path = folder / ".trials" / "shared"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        file.write(secrets.token_hex(16))
    return str(path), path.read_text(encoding="utf-8")


def receive(trial: Trial, outcome: Outcome, packed: bytes | None) -> Outcome:
    """Put a run folder that came from a node without our disk into place; the outcome where that went well."""
    if packed is None:
        return outcome
    trial.notes.mkdir(parents=True, exist_ok=True)
    lock = take_lock(trial.notes)
    if lock is None:
        return Outcome("busy")
    with lock:
        if trial.state() == "done":
            return Outcome("done")
        try:
            unpack(packed, trial.folder)
        except (ArchiveError, OSError) as error:
            return Outcome("failed", f"its run folder did not arrive: {error}")
    return outcome


def _folders(trial: Trial) -> dict[str, Path]:
    """The run folders of the trials it needs, by name."""
    return {name: trial.folder.parent / name for name in trial.needs}


def _used(trial: Trial, folder: Path) -> str:
    """What it uses of the run folder of a trial it needs: all of a reference, whose model is loaded; else its patterns."""
    return "" if Path(trial.config.search.reference) == folder else "patterns"


# On the node


def run_on_node(
    trial: str, marker: str, content: str, needed: Mapping[str, bytes], threads: int
) -> tuple[tuple[str, str, str], bytes | None]:
    """Run a trial (JSON); return its outcome, and its run folder where this node does not share the marker's disk.

    needed: run folders it uses, packed, by name.
    """
    here = Trial.from_json(trial)
    with suppress(OSError):
        if content and Path(marker).read_text(encoding="utf-8") == content:
            return _attempt(here, threads), None
    with tempfile.TemporaryDirectory(prefix="evomix-") as place:
        there = str(here.folder.parent)
        moved = Trial.from_json(_moved(trial, there, place))
        for name, packed in needed.items():
            unpack(packed, moved.folder.with_name(name))
        outcome = _attempt(moved, threads)
        if outcome[0] != "done":
            return outcome, None
        config = moved.folder / "config.json"  # results of other trials are named as on the disk it goes to
        config.write_text(_moved(config.read_text(encoding="utf-8"), place, there), encoding="utf-8")
        return outcome, pack(moved.folder)


def _moved(text: str, old: str, new: str) -> str:
    """JSON in which the paths below `old` are below `new`."""
    return text.replace(f'"{json.dumps(old)[1:-1]}/', f'"{json.dumps(new)[1:-1]}/')


def _attempt(trial: Trial, threads: int) -> tuple[str, str, str]:
    process = TrialProcess(trial, {"OMP_NUM_THREADS": str(threads)}, PATIENCE)
    try:
        outcome = process.wait()
    except KeyboardInterrupt:  # cancelled
        process.stop()
        outcome = process.wait()
    finally:
        process.kill()
    return outcome.kind, outcome.reason, outcome.output
