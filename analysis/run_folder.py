"""The only reader of a run folder's format (training/run_log.py writes it)."""

from __future__ import annotations

import difflib
import json
import os
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


class RunFolderError(ValueError):
    """A run folder that is missing, damaged or of another version; told in one line."""


def out_root() -> Path:
    """Where run folders lie: $EVOMIX_OUT, else runs/out."""
    return Path(os.environ.get("EVOMIX_OUT") or Path(__file__).resolve().parent.parent / "runs" / "out")


def find_run(name: str) -> RunFolder:
    """The run folder of a name under runs/out, or of a path."""
    for path in (out_root() / name, Path(name)):
        if (path / "config.json").is_file():
            return RunFolder(path)
    names = sorted(str(p.parent.relative_to(out_root())) for p in out_root().glob("**/config.json"))
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = f" Runs: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}." if names else ""
    raise RunFolderError(f"no run {name!r} in {out_root()}, nor is it a run folder{hint}.{known}")


class RunFolder:
    """One run, read when asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Its name under runs/out, or the folder's own."""
        try:
            return str(self.path.resolve().relative_to(out_root().resolve()))
        except ValueError:
            return self.path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl."""
        return read_lines(self.path / "log.jsonl")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch: epoch, step, image_loss, cell_loss, training_accuracy, accuracy, ..."""
        return _table([event for event in self.events if event["event"] == "epoch"])

    @cached_property
    def generations(self) -> pd.DataFrame:
        """One row a generation: epoch, step, search, images, generation, new_rows, forwards, best, mean, ..."""
        path = self.path / "generations.jsonl"
        return _table(read_lines(path) if path.is_file() else [])

    @property
    def start(self) -> dict[str, Any]:
        """The `start` event."""
        return self._event("start") or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """The `end` event; None where the run has not ended."""
        return self._event("end")

    @property
    def mix(self) -> str:
        return str(self.config["mix"]["name"])

    def snapshots(self) -> list[dict[str, NDArray[Any]]]:
        """The searches written whole, in order; the arrays that training/run_log.py names."""
        return [read_snapshot(path) for path in sorted((self.path / "elites").glob("*.npz"))]

    def bank_file(self) -> Path:
        """The masks the run trained on. Raises RunFolderError where it has none."""
        path = self.path / "patterns" / "bank.npz"
        if not path.is_file():
            raise RunFolderError(
                f"run {self.name} has no patterns: its mix is {self.mix!r}; only `evolved` runs and `./run search` find some"
            )
        return path

    def figures(self) -> Path:
        """Its folder for figures, made if it is missing."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def _event(self, name: str) -> dict[str, Any] | None:
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            schema = data["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        if schema != SCHEMA:
            raise RunFolderError(f"{path} has schema {schema!r}, this version reads {SCHEMA}; update Evomix")
        return dict(data)


def first_to_last(run: RunFolder) -> tuple[float, float]:
    """Best fitness of the first and of the last generation, means over the run's searches (nats). No pandas."""
    lines = read_lines(run.path / "generations.jsonl")
    ends = min(line["generation"] for line in lines), max(line["generation"] for line in lines)
    first, last = (fmean(line["best"] for line in lines if line["generation"] == end) for end in ends)
    return first, last


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. A torn last line, as a crash leaves it, is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise RunFolderError(f"{path}: line {number} is damaged: {line!r:.60}") from None
        records.append(record)
    return records


def read_snapshot(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one elites/*.npz."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return dict(data)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # 1.4 s to import

    return pd.DataFrame(records)
