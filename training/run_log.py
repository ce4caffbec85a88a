"""Writing a run folder: config, environment, the two logs and the elites.

    config.json        the resolved config, with schema version
    environment.json   versions, commit, device, threads, the command
    log.jsonl          append-only, one event a line: start, resume, trial, epoch, checked, end, failed, stopped
    generations.jsonl  append-only, one generation of one search a line
    elites/*.npz       some searches whole, with composed images for the gallery
    checkpoint/        latest and best
    patterns/bank.npz  masks trained on, with weights, and class pairs

The first line of both logs is their schema and the run's id. A line is written in one call and flushed; a reader forgives a torn
last one. analysis/run_folder.py reads all of it, and version 1.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evo.arrays import Array
from evo.errors import UserError
from evo.locks import LOCK, take_lock
from evo.records import spread
from evo.storage import naming, replacing
from training.belonging import id_of, new_id
from training.checkpoint import write_atomically
from training.compose import compose
from training.config import Config
from training.mixes.evolved import SearchRecord
from training.places import PROJECT, taken
from training.tensorboard import CHECKED, GENERATION, Board

SCHEMA = 2
LOGS = ("log.jsonl", "generations.jsonl")
GALLERY_ROWS = 4  # best ones of a generation, and as many worst
GALLERY_GENERATIONS = 12
PICTURE = 96  # pixels a side, at most, of a picture in the gallery
PACKAGES = ("torch", "torchvision", "numpy", "deap", "scipy", "pydantic", "safetensors")


class RunLog:
    """Writes into a run folder. `epoch` and `step` are where the trainer stands; generations carry them.

    writes: False in all but one of several processes that train together; then every call does nothing.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.epoch = 0
        self.step = 0
        self.snapshots: set[int] = set()  # epochs whose first search is yet to be written whole
        self.id: str | None = None  # of the run, see belonging.py; None of runs of older versions
        self._files: dict[str, TextIO] = {}
        self._written: dict[str, int] = {}  # bytes, by file
        self._looked = float("-inf")  # at the folder, seconds
        self._lock: TextIO | None = None
        self.board: Board | None = None
        self._generations = 0  # of all searches of the run

    def begin(self, config: Config, device: torch.device, command: str) -> None:
        """Begin the folder, with config.json and environment.json. It may be there, empty: made for this run.

        Raises UserError where it is another run's, or cannot be made.
        """
        if not self.writes:
            return
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            if not _is_free(self.folder):
                raise UserError(taken(self.folder)) from None
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be made: {error.strerror}; choose another run.name or EVOMIX_OUT"
            ) from None
        self.claim()
        if not _is_free(self.folder):  # another process had it for a moment, and has begun a run
            self.close()
            raise UserError(taken(self.folder))
        self.id = new_id()
        try:
            (self.folder / "elites").mkdir()
            self.record(config)
            found = environment(device, command)
            write_atomically(self.folder / "environment.json", json.dumps(found, indent=1) + "\n")
        except OSError:  # as on a full disk: the name is free again, and what is no run yet is in nobody's way
            self.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def record(self, config: Config) -> None:
        """Write config.json; once more where a run goes on with another value of an option that cannot change its result,
        so that the next time it is found at the new place.
        """
        if not self.writes:
            return
        recorded = {"schema": SCHEMA} | ({"id": self.id} if self.id else {}) | config.model_dump()
        text = json.dumps(recorded, indent=1) + "\n"
        path = self.folder / "config.json"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def repeat_with(self, overrides: Sequence[str]) -> None:
        """Add overrides to the command in environment.json, for a run that goes on as if it had had them from the start."""
        path = self.folder / "environment.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            words = shlex.split(found["command"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return  # nothing else depends on it
        place = words.index("--") if "--" in words else len(words)
        words[place:place] = [word for override in overrides for word in ("-s", override)]
        write_atomically(path, json.dumps({**found, "command": shlex.join(words)}, indent=1) + "\n")

    def claim(self) -> None:
        """Make this process the folder's one writer, until it ends. Raises UserError where there is another."""
        if not self.writes:
            return
        try:
            self._lock = take_lock(self.folder)
        except FileNotFoundError:
            raise UserError(f"{self.folder} has been removed or moved; nothing is written") from None
        if self._lock is None:
            raise UserError(f"{self.folder}: another process is writing this run; wait for it, or stop it")
        self.id = id_of(self.folder)

    def check_place(self, *, every: float = 0.0) -> None:
        """Raise UserError where what was written is no longer there for others: the folder removed, moved or replaced, a
        log removed or cut. Else hours would go into files that nobody finds.

        every: seconds within which it does not look again.
        """
        if self._lock is None or time.monotonic() - self._looked < every:
            return
        self._looked = time.monotonic()
        for name, file in {LOCK: self._lock, **self._files}.items():
            try:
                there = os.stat(self.folder / name)
                ours = os.fstat(file.fileno())
            except OSError:
                what = f"its {name}" if self.folder.is_dir() else "the folder"
                raise UserError(
                    f"{self.folder}: {what} was removed or moved while the run wrote it; it stops"
                ) from None
            # Some network file systems give a file another number in time, so that alone says nothing.
            if not os.path.samestat(there, ours) and id_of(self.folder) != self.id:
                raise UserError(f"{self.folder}: the folder was replaced while the run wrote it; it stops")
            if there.st_size < self._written.get(name, 0):
                raise UserError(f"{self.folder}: its {name} was cut or replaced while the run wrote it; it stops")

    def watch(self, config: Config, results: Sequence[str], kept: int | None = None) -> None:
        """Tell a TensorBoard what is logged from now on, if the config asks for one.

        results: the numbers of the `end` event that runs are compared by. kept: see Board.
        """
        if not (config.run.tensorboard and self.writes):
            return
        self.board = Board(self.folder, kept)
        with suppress(FileNotFoundError):
            self._generations = (self.folder / "generations.jsonl").read_bytes().count(b"\n") - 1  # and the schema
        if not kept:
            self.board.begin(config.model_dump(), [f"final/{name}" for name in results])

    def event(self, name: str, **values: Any) -> None:
        self._append("log.jsonl", {"event": name, "time": now(), **values})
        if self.board is not None and name == "epoch":
            self.board.add(values["step"], values)
        if self.board is not None and name == "end":
            self.board.end(values["steps"] if "steps" in values else values["generations"], values)

    @contextmanager
    def telling_failure(self) -> Iterator[None]:
        """Log how the work within ended where it did not end well: stopped by a person, or failed, and why."""
        try:
            yield
        except KeyboardInterrupt:
            self._ended("stopped", step=self.step)
            raise
        except Exception as error:
            if isinstance(error, OSError):
                self._explain_lost_place(error)
            self._ended(
                "failed", reason=str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            raise

    def _explain_lost_place(self, error: OSError) -> None:
        """Raise UserError, which is logged, where an error comes of a folder that is gone."""
        try:
            self.check_place()
        except UserError as found:
            self._ended("failed", reason=str(found))
            raise found from error

    def _ended(self, name: str, **values: Any) -> None:
        if self._lock is None:  # the folder is not ours: it was never made, or another process writes it
            return
        with suppress(OSError):  # a full disk is what the caller is to hear of
            try:
                self.event(name, **values)
            except UserError:  # the folder is gone from its place; where it was moved, its log goes with it
                if (file := self._files.get("log.jsonl")) is not None:
                    file.write(json.dumps({"event": name, "time": now(), **values}) + "\n")
                    file.flush()

    def generation(self, record: Mapping[str, Any]) -> int:
        """Log a generation; return the bytes of its line."""
        written = self._append("generations.jsonl", {"epoch": self.epoch, "step": self.step, **record})
        self._generations += 1
        if self.board is not None:
            self.board.add(self._generations, {f"search/{name}": record[name] for name in GENERATION if name in record})
        return written

    def check(self, record: Mapping[str, Any], event: Literal["checked", "trial"] = "checked") -> None:
        """Log estimated scores beside the truth, of a check or of the trial before the first search (mixes/estimates.py)."""
        self._append("log.jsonl", {"event": event, "time": now(), "epoch": self.epoch, "step": self.step, **record})
        if self.board is not None and event == "checked":
            step = self.step or record.get("generation", 0)  # of a search experiment
            self.board.add(step, {f"search/{name}": record[name] for name in CHECKED})

    def search_ended(self, record: SearchRecord) -> None:
        """Tell the TensorBoard what a search has come to."""
        if self.board is not None:
            self.board.add(record.number, {"search/final_best": float(record.elites[-1].fitness[0])})

    def search(self, record: SearchRecord, class_names: list[str]) -> None:
        """Write a search's elites, and rows of its fittest genome as images: the best and the worst."""
        self.snapshots.discard(self.epoch)
        if not self.writes:
            return
        self.check_place()
        sizes = [len(elites.fitness) for elites in record.elites]
        arrays: dict[str, Any] = {
            "schema": np.array(SCHEMA),
            "epoch": np.array(self.epoch),
            "search": np.array(record.number),
            "generation": np.repeat(np.arange(1, len(sizes) + 1), sizes),  # (N,) of each elite
            "fitness": np.concatenate([elites.fitness for elites in record.elites]),  # (N,)
            "masks": np.concatenate([elites.masks for elites in record.elites]),  # (N,B,G,G), True = own image
            "pairings": np.concatenate([elites.pairings for elites in record.elites]),  # (N,B)
            "ids": np.concatenate([elites.ids for elites in record.elites]),  # (N,) numbers in the lineage
            **{f"lineage_{name}": array for name, array in record.lineage.items()},
            "labels": record.labels.cpu().numpy(),  # (B,)
            "class_names": np.array(class_names, dtype=np.str_),
            **{f"gallery_{name}": array for name, array in gallery(record).items()},
        }
        (self.folder / "elites").mkdir(exist_ok=True)  # a person may have made room
        with replacing(self.folder / "elites" / f"{record.number:06d}.npz") as file:
            np.savez_compressed(file, **arrays)

    def lengths(self) -> dict[str, int]:
        """Bytes of each log, all on the disk, and of TensorBoard's file: what a checkpoint remembers, to cut off what came
        after it.
        """
        self.check_place()
        files = {name: self._open(name) for name in LOGS}
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
        board = {} if self.board is None else {"tensorboard": self.board.length()}
        return {name: file.tell() for name, file in files.items()} | board

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Drop the lines written after a checkpoint; the resumed run writes them again."""
        if not self.writes:
            return
        for name in LOGS:
            with open(self.folder / name, "a+b") as file:
                length = file.seek(0, os.SEEK_END)
                if length < lengths[name]:
                    print(f"run: {file.name} has lost lines; what it still holds is kept", file=sys.stderr)
                file.truncate(min(length, lengths[name]))

    def close(self) -> None:
        """Close all files, each also where another cannot be written to the end any more."""
        files = [self._lock, *self._files.values(), self.board]
        self._files = {}
        self._lock = None
        self.board = None
        with naming(self.folder), ExitStack() as stack:
            for file in files:
                if file is not None:
                    stack.callback(file.close)

    def _append(self, name: str, record: Mapping[str, Any]) -> int:
        if not self.writes:
            return 0
        self.check_place()
        with naming(self.folder / name):
            file = self._open(name)
            before = self._written[name]
            file.write(json.dumps(record, default=float) + "\n")
            file.flush()
            self._written[name] = file.tell()
            return self._written[name] - before

    def _open(self, name: str) -> TextIO:
        if name not in self._files:
            drop_torn_line(self.folder / name)
            file = open(self.folder / name, "a", encoding="utf-8")  # noqa: SIM115 (close() closes it)
            if not file.tell():
                file.write(json.dumps({"schema": SCHEMA} | ({"id": self.id} if self.id else {})) + "\n")
                file.flush()
            self._files[name] = file
            self._written[name] = file.tell()
        return self._files[name]


def _is_free(folder: Path) -> bool:
    """Whether nothing but a lock lies in a folder."""
    try:
        return not {entry.name for entry in os.scandir(folder)} - {LOCK}
    except OSError:
        return False


def drop_torn_line(path: Path) -> None:
    """Cut off what a crash has left of a line at a file's end, lest the next one be written behind it."""
    with suppress(FileNotFoundError), open(path, "r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def gallery(record: SearchRecord) -> dict[str, Array]:
    """Rows of the fittest genome of up to GALLERY_GENERATIONS generations, R in all: its best and its worst ones by
    score, and one row's way through the generations: the row whose score rose most.

    kind: (R,) best, worst or way. generation: (R,). row: (R,) of the batch. masks: (R,G,G). cell_losses: (R,G,G)
    nats. scores: (R,). labels: (R,2) of own image and partner. pictures: (U,C,h,w) uint8. own, partner: (R,) indices
    into pictures. mixed: (R,C,h,w).
    """
    shown = spread(len(record.elites), GALLERY_GENERATIONS)
    scores = np.stack([record.elites[i].scores[0] for i in (0, -1)])
    risen = int(np.nan_to_num(scores[1] - scores[0], nan=-np.inf).argmax())
    parts: list[tuple[str, int, Array]] = []
    for number in shown:
        order = np.argsort(-record.elites[number].scores[0], kind="stable")
        half = min(GALLERY_ROWS, len(order) // 2)
        rows = {"best": order[:half], "worst": order[len(order) - half :], "way": np.array([risen])}
        parts += [(kind, number, found) for kind, found in rows.items()]
    take = {
        name: np.concatenate([getattr(record.elites[number], name)[0][rows] for _, number, rows in parts])
        for name in ("masks", "cell_losses", "scores", "pairings")
    }
    row = np.concatenate([rows for _, _, rows in parts])
    partner = take.pop("pairings").astype(np.int64)
    device = record.images.device
    labels = record.labels.cpu().numpy()
    mixed = compose(
        record.images,
        torch.from_numpy(take["masks"]),
        torch.from_numpy(partner).to(device),
        rows=torch.from_numpy(row).to(device),
    )
    sources, place = np.unique(np.concatenate([row, partner]), return_inverse=True)
    return {
        **take,
        "kind": np.array([kind for kind, _, rows in parts for _ in rows], dtype=np.str_),
        "generation": np.array([number + 1 for _, number, rows in parts for _ in rows]),
        "row": row,
        "labels": np.stack([labels[row], labels[partner]], axis=1),
        "pictures": as_pictures(record.images[torch.from_numpy(sources).to(device)]),
        "own": place[: len(row)],
        "partner": place[len(row) :],
        "mixed": as_pictures(mixed),
    }


def as_pictures(images: Tensor) -> Array:
    """(R,C,H,W) uint8, reduced to PICTURE pixels a side where they are larger."""
    longest = max(images.shape[2:])
    if longest > PICTURE:
        size = [max(1, round(side * PICTURE / longest)) for side in images.shape[2:]]
        small = F.interpolate(images.float(), size, mode="area")
        images = small.round().to(torch.uint8)
    return images.cpu().numpy()


def now() -> str:
    """The present time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: torch.device, command: str) -> dict[str, Any]:
    """What a result depends on besides its config."""
    return {
        "schema": SCHEMA,
        "date": now(),
        "command": command,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The last commit of the code, with + where files differ from it; None outside a git checkout.

    Results kept in runs/results do not count: they change between the trials of one experiment, and nothing that runs.
    """
    code = ["--", ".", ":(exclude)runs/results"]
    try:
        last = _git("log", "-1", "--format=%H", *code)
        changed = _git("status", "--porcelain", "--untracked-files=no", *code)
    except (OSError, subprocess.SubprocessError):
        return None
    return last + ("+" if changed else "") if last else None


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(PROJECT), *words],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def command_line() -> str:
    """The command the user typed, as it can be repeated."""
    return shlex.join(["./run", *sys.argv[1:]])
