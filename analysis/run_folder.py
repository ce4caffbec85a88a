"""The only reader of a run folder's format (training/run_log.py writes it)."""

from __future__ import annotations

import difflib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.states import State, state_of_event

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2  # version 1 is read as well
ADDED: dict[str, Any] = {  # options since version 1, with what runs did before
    "model.head": "own",
    "mix.draws": 4,
    "mix.keep": "rows",
    "mix.alpha": 1.0,
    "mix.stop_epoch": None,
    "data.validation": None,
    "data.levels": None,
    "data.exclude_near_duplicates": False,
    "search.stop_epoch": None,
    "search.rows": 1.0,
    "search.weights": "live",
    "search.consume": "each",
}
LOCK = ".lock"  # held by the process that writes a run, see training/locks.py


class RunFolderError(ValueError):
    """A run folder that is missing, damaged or of another version; told in one line."""


def out_root() -> Path:
    """Where run folders lie: $EVOMIX_OUT, else runs/out."""
    given = os.environ.get("EVOMIX_OUT")
    return Path(os.path.expanduser(given)) if given else Path(__file__).resolve().parent.parent / "runs" / "out"


def run_names() -> list[str]:
    """Of all runs under runs/out."""
    return sorted(str(path.parent.relative_to(out_root())) for path in out_root().glob("**/config.json"))


def find_run(name: str) -> RunFolder:
    """The run folder of a name under runs/out, or of a path."""
    for path in (out_root() / name, Path(os.path.expanduser(name))):
        if (path / "config.json").is_file():
            return RunFolder(path)
    names = run_names()
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = f" Runs: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}." if names else ""
    raise RunFolderError(f"no run {name!r} in {out_root()}, nor is it a run folder{hint}.{known}")


class RunFolder:
    """One run, read when asked.

    place: its number among the runs shown together, from 0, which gives its look in every figure; None for one alone.
    """

    def __init__(self, path: Path, place: int | None = None) -> None:
        self.path = path
        self.place = place
        self.read_at = datetime.now(UTC)

    def read(self) -> RunFolder:
        """Read its logs now, as of `read_at`, and not when each is asked for; what is wrong with them is told then."""
        for part in ("events", "generations", "state"):
            with suppress(RunFolderError, OSError, LookupError, TypeError):
                getattr(self, part)
        return self

    @property
    def name(self) -> str:
        """Its name under runs/out, or the folder's own."""
        try:
            return str(self.path.resolve().relative_to(out_root().resolve()))
        except ValueError:
            return self.path.name

    @property
    def whole_name(self) -> str:
        """Its name under runs/out, or its whole path where it lies elsewhere: no other run has it."""
        place = self.path.resolve()
        return self.name if place.is_relative_to(out_root().resolve()) else str(place)

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        return self._json("config.json")

    @property
    def id(self) -> str | None:
        """Drawn when the run began; its logs and checkpoints carry it. None of runs of older versions."""
        return self._recorded.get("id")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Sections of options, those of ADDED also where the run is older than they are."""
        found = {key: value for key, value in self._recorded.items() if key != "id"}
        for name, default in ADDED.items():
            section, option = name.split(".")
            if isinstance(found.get(section), dict):
                found[section].setdefault(option, default)
        return found

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl."""
        return self.lines("log.jsonl")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch: epoch, step, image_loss, cell_loss, training_accuracy, accuracy, ..."""
        return _table([event for event in self.events if event["event"] == "epoch"])

    @cached_property
    def generations(self) -> pd.DataFrame:
        """One row a generation: epoch, step, search, images, generation, new_rows, full_rows, forwards, best, mean,
        median, diversity, ...
        """
        return _table(self.generation_lines)

    @cached_property
    def generation_lines(self) -> list[dict[str, Any]]:
        """The lines of generations.jsonl; none where there is no such file."""
        path = self.path / "generations.jsonl"
        return self.lines(path.name) if path.is_file() else []

    @property
    def start(self) -> dict[str, Any]:
        """The `start` event."""
        return self._event("start") or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """The `end` event, with the test loss of the last epoch that was tested; None where the run has not ended."""
        end = self._event("end")
        tested = [event["test_loss"] for event in self.events if event["event"] == "epoch" and "test_loss" in event]
        return {**end, "last_test_loss": tested[-1]} if end and tested else end

    @cached_property
    def state(self) -> State:
        """As state_of says."""
        return state_of(self.path, self.events[-1] if self.events else {})

    @property
    def wall_seconds(self) -> float | None:
        """From the first event to the last, whatever lay between; None before the first."""
        times = [datetime.fromisoformat(event["time"]) for event in (self.events[:1] + self.events[-1:])]
        return (times[-1] - times[0]).total_seconds() if times else None

    @property
    def mix(self) -> str:
        return str(self.config["mix"]["name"])

    def snapshots(self) -> list[dict[str, NDArray[Any]]]:
        """The searches written whole, in order; see `read_snapshot`."""
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

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of one of its logs. Raises RunFolderError where it is another run's."""
        head: dict[str, Any] = {}
        found = read_lines(self.path / name, head)
        if "id" in head and head["id"] != self.id:  # the folder was replaced while it was read, or copied in part
            raise RunFolderError(
                f"{self.path / name} is of another run than config.json; restore the whole folder, or look again"
            )
        return found

    def _event(self, name: str) -> dict[str, Any] | None:
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            schema = data["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        check_schema(path, schema)
        return dict(data)


def in_places(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs to be shown together, each once, in their order; every one learns its place among them."""
    found = list({run.path.resolve(): run for run in runs}.values())
    for place, run in enumerate(found):
        run.place = place
    return found


def places_of(runs: Sequence[RunFolder]) -> list[int]:
    """The runs' places, which a part that shows only some of them keeps; their order where they were given none."""
    places = [run.place for run in runs if run.place is not None]
    return places if len(set(places)) == len(runs) else list(range(len(runs)))


def state_of(folder: Path, last: Mapping[str, Any]) -> State:
    """Whether a process is writing it, else by the last event of the log, {} where there is none yet."""
    return State.RUNNING if is_locked(folder / LOCK) else state_of_event(last.get("event"))


def first_to_last(run: RunFolder) -> tuple[float, float]:
    """Best fitness of the first and of the last generation, means over the run's searches (nats). No pandas."""
    lines = run.generation_lines
    ends = min(line["generation"] for line in lines), max(line["generation"] for line in lines)
    first, last = (fmean(line["best"] for line in lines if line["generation"] == end) for end in ends)
    return first, last


def check_schema(path: Path, schema: Any) -> None:
    """Raise RunFolderError where this version does not read a file's schema."""
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise RunFolderError(f"{path} has schema {schema!r:.20}, this version reads 1 to {SCHEMA}; update Evomix")


def read_lines(path: Path, head: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, but for the first line, of schema and the run's id, which goes into `head`. A torn
    last line, as a crash leaves it, is left out.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    records = parsed(path, lines)
    if records and is_head(records[0]):
        check_schema(path, records[0]["schema"])
        (head if head is not None else {}).update(records.pop(0))
    return records


def is_head(record: Mapping[str, Any]) -> bool:
    """Whether it is the first line of a log."""
    return "schema" in record and record.keys() <= {"schema", "id"}


def parsed(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """The objects that lines of JSON stand for, all at once, which takes half the time of one by one."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
        if len(found) == len(lines) and all(type(record) is dict for record in found):
            return list(found)
    except ValueError:
        pass
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if type(record) is not dict:
            if number == len(lines):
                break
            raise RunFolderError(f"{path}: line {number} is damaged: {line.decode(errors='replace')!r:.60}")
        found.append(record)
    return found


def read_snapshot(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one elites/*.npz, as training/run_log.py names them; those of version 1 are brought to the
    same form: its gallery is of the last generation, with row -1.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            check_schema(path, data["schema"].item())
            found = dict(data)
        return found if "gallery_kind" in found else _from_version_1(found)
    except RunFolderError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _from_version_1(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    rows = np.arange(len(found["gallery_scores"]))
    return {
        **found,
        "gallery_kind": np.where(rows < (len(rows) + 1) // 2, "best", "worst"),
        "gallery_generation": np.full(len(rows), found["generation"].max()),
        "gallery_row": np.full(len(rows), -1),
        "gallery_pictures": np.concatenate([found["gallery_own"], found["gallery_partner"]]),
        "gallery_own": rows,
        "gallery_partner": rows + len(rows),
    }


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file. Looks where Linux lists them, which disturbs nobody; where there is
    no such list, and on file systems without a device of their own (NFS, btrfs, ...), it tries the lock for a moment.
    It does not see a process of another container.
    """
    try:
        status = path.stat()
    except OSError:
        return False
    try:
        held = Path("/proc/locks").read_text()
    except OSError:
        return _try_lock(path)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    listed = any(place in line.split() for line in held.splitlines())
    return listed or (os.major(status.st_dev) == 0 and _try_lock(path))


def _try_lock(path: Path) -> bool:
    import fcntl

    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # 1.4 s to import

    return pd.DataFrame(records)
