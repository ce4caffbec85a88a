"""The only reader of a run folder's format (training/run_log.py writes it)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.states import State, state_of_event
from evo.errors import UserError, did_you_mean, on_one_line
from evo.storage import UNSOUND

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
    "search.consume": "each",
    "search.sampler": None,
    "search.start_share": 0.5,
    "search.minutes": None,
    "search.compose_at": "pixels",
    "search.pair_masks": None,
    "search.verify": 0,
    "search.temperature": 0.5,
}
REMOVED: dict[str, Any] = {  # options that are gone, with the value that does as runs do now; see training/removed.py
    "search.rows": 1.0,
    "search.weights": "live",
    "search.carry": False,
    "search.bank_pairing": "random",
    "search.rescore": "hold",
}
KINDS = {(str,): "a text", (int,): "a whole number", (int, NoneType): "a whole number or null"}
NEEDED = (  # options that every config has
    ("data", "name", (str,)), ("model", "name", (str,)), ("mix", "name", (str,)), ("run", "seed", (int,)),
    ("train", "epochs", (int,)), ("search", "generations", (int, NoneType)), ("search", "objective", (str,)),
)  # fmt: skip
LOCK = ".lock"  # held by the process that writes a run, see training/locks.py


class RunFolderError(UserError):
    """A run folder that is missing, damaged or of another version; told in one line."""


def out_root() -> Path:
    """Where run folders lie: $EVOMIX_OUT, else runs/out. Raises RunFolderError where that is a file."""
    given = os.environ.get("EVOMIX_OUT")
    root = Path(os.path.expanduser(given)) if given else Path(__file__).resolve().parent.parent / "runs" / "out"
    if root.is_file():
        raise RunFolderError(f"{root} is a file, and run folders are to lie there; set EVOMIX_OUT to a folder")
    return root


def run_names() -> list[str]:
    """Of all runs under runs/out."""
    return sorted(str(path.parent.relative_to(out_root())) for path in out_root().glob("**/config.json"))


def find_run(name: str, *, forgiving: bool = False) -> RunFolder:
    """The run folder of a name under runs/out, or of a path. forgiving: as RunFolder has it."""
    for path in (out_root() / name, Path(os.path.expanduser(name))):
        if (path / "config.json").is_file():
            return RunFolder(path, forgiving=forgiving)
    names = run_names()
    hint = did_you_mean(name, names)
    known = f" Runs: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}." if names else ""
    raise RunFolderError(f"no run {name!r} in {out_root()}, nor is it a run folder{hint}.{known}")


class RunFolder:
    """One run, read when asked.

    place: its number among the runs shown together, from 0, which gives its look in every figure; None for one alone.
    forgiving: what is damaged of its logs counts as not there, for a page that shows the rest; `damaged` tells of it.
    """

    def __init__(self, path: Path, place: int | None = None, *, forgiving: bool = False) -> None:
        self.path = path
        self.place = place
        self.forgiving = forgiving
        self._damage: dict[str, list[str]] = {}  # what is wrong with a file, and what follows from it
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
        """Sections of options, as `as_today` gives them."""
        return as_today({key: value for key, value in self._recorded.items() if key != "id"})

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What the run was made with; {} where that is not known, since nothing else depends on it."""
        try:
            found = self._json("environment.json")
            if not isinstance(found.get("packages", {}), dict):
                raise RunFolderError(f"{self.path / 'environment.json'} is damaged: its packages are no object")
            return found
        except RunFolderError as error:
            self.note_damage(error, "how it was run is not known")
            return {}

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl."""
        path = self.path / "log.jsonl"
        try:
            return checked_events(path, self.lines(path.name))
        except RunFolderError as error:
            if not self.forgiving:
                raise
            self.note_damage(error, "what else it holds is shown")
            return [record for record in whole_lines(path) if wrong_in_event(record) is None]

    def note_damage(self, error: Exception, follows: str) -> None:
        """Keep for `damaged` what is wrong with a file, and what follows from it for what is shown."""
        found = self._damage.setdefault(str(error), [])
        if follows not in found:
            found.append(follows)

    def damaged(self) -> list[str]:
        """A line for each of its logs that cannot be read, or not wholly, and what else was noted. Of a forgiving one."""
        _ = self.environment, self.events, self.generation_lines
        return [f"{error}; {', '.join(follows)}" for error, follows in self._damage.items()]

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch: epoch, step, image_loss, cell_loss, training_accuracy, accuracy, ..."""
        return _table([event for event in self.events if event["event"] == "epoch"])

    @cached_property
    def generations(self) -> pd.DataFrame:
        """One row a generation: epoch, step, search, images, generation, new_rows, full_rows, forwards, scored, best,
        mean, median, diversity, ...; see `training/mixes/evolved.py` on `scored`, which runs without estimates lack.
        """
        return _table(self.generation_lines)

    @cached_property
    def generation_lines(self) -> list[dict[str, Any]]:
        """The lines of generations.jsonl; none where there is no such file."""
        path = self.path / "generations.jsonl"
        try:
            return checked_generations(path, self.lines(path.name)) if path.is_file() else []
        except RunFolderError as error:
            if not self.forgiving:
                raise
            self.note_damage(error, "what is of its generations is left out")
            return []

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
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFolderError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        check_schema(path, schema)
        return dict(data)

    def checked(self) -> RunFolder:
        """Itself. Raises RunFolderError where its config lacks what every page is of, or has it of another kind."""
        for section, option, kinds in NEEDED:
            options = self.config.get(section)
            if not isinstance(options, dict) or option not in options or type(options[option]) not in kinds:
                raise RunFolderError(
                    f"{self.path / 'config.json'} is damaged: expected {section}.{option} as {KINDS[kinds]}; restore it"
                )
        return self


def as_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config as one of today says the same, so that equal settings are equal whatever version wrote them.

    Options of ADDED are there also where the config is older than they are. Those of REMOVED are left out where they
    have the value given there; with another one they stay, to be shown and compared.
    """
    found = {name: dict(keys) if isinstance(keys, Mapping) else keys for name, keys in config.items()}
    for option, value in ADDED.items():
        section, name = option.split(".")
        if isinstance(found.get(section), dict):
            found[section].setdefault(name, value)
    for option, value in REMOVED.items():
        section, name = option.split(".")
        if isinstance(found.get(section), dict) and found[section].get(name) == value:
            del found[section][name]
    search = found.get("search")
    if isinstance(search, dict) and search.get("consume") == "auto" and "rescore" not in search:
        search["consume"] = "last"  # with `rescore` it meant each
    return found


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
    """Best fitness of each search's first and last generation, means over the run's searches (nats). No pandas."""
    lines = run.generation_lines
    if not lines:
        raise RunFolderError(f"run {run.name} has no generations")
    ends: dict[Any, list[Mapping[str, Any]]] = {}
    for line in lines:  # searches need not be of one length
        first, last = ends.setdefault(line["search"], [line, line])
        if line["generation"] < first["generation"]:
            first = line
        ends[line["search"]] = [first, line if line["generation"] > last["generation"] else last]
    found = ([pair[place]["best"] for pair in ends.values() if pair[place]["best"] is not None] for place in (0, 1))
    first_mean, last_mean = (fmean(values) if values else float("nan") for values in found)
    return first_mean, last_mean


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
    except (ValueError, RecursionError):
        pass
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if type(record) is not dict:
            if number == len(lines):
                break
            raise RunFolderError(f"{path}: line {number} is damaged: {line.decode(errors='replace')!r:.60}")
        found.append(record)
    return found


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file whose lines are partly damaged, but for its schema."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if type(record) is dict and record.keys() != {"schema"}:
                found.append(record)
    return found


# What lines of the logs hold, where they hold it
TEXTS = ("event", "reason")
COUNTS = (
    "epoch", "step", "steps", "training_images", "test_images", "image_forwards", "search_forwards", "processes", "search",
    "generation", "generations", "forwards", "scored", "verified", "verified_rank",
    "verified_forwards", "checked_rows",
)  # fmt: skip
NUMBERS = (
    "accuracy", "live_accuracy", "test_loss", "image_loss", "training_accuracy", "last_accuracy", "median10_accuracy",
    "best_accuracy", "seconds", "search_seconds", "best", "mean", "first", "last", "verified_fitness", "verified_first",
    "verified_last", "rank_correlation", "bias", "gain_estimated", "gain_true",
)  # fmt: skip
LARGEST = 2**53  # of a count; a larger one, or a number of 400 digits, is none that we wrote


def checked_events(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records. Raises RunFolderError where one is no event, or a value is of another kind than we write."""
    for number, record in enumerate(records, 1):
        if what := wrong_in_event(record):
            raise RunFolderError(f"{path}: event {number} is damaged: it has {what}")
    return records


def wrong_in_event(record: Mapping[str, Any]) -> str | None:
    """What is wrong with an event; None where nothing is."""
    if "event" not in record:
        return "no name"
    try:
        if "time" in record:
            datetime.fromisoformat(record["time"])
    except (TypeError, ValueError):
        return f"no time, but {record['time']!r:.40}"
    return wrong_in(record)


def checked_generations(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records. Raises RunFolderError where a value is of another kind than we write."""
    for number, record in enumerate(records, 1):
        if what := wrong_in(record, (*COUNTS, "images")):  # a start event has its images' digest by that name
            raise RunFolderError(f"{path}: generation {number} of the file has {what}")
    return records


def wrong_in(record: Mapping[str, Any], counts: Sequence[str] = COUNTS) -> str | None:
    """The first value of a record that is not of its kind; None where all are."""
    for name in TEXTS:
        if name in record and type(record[name]) is not str:
            return f"no text {name!r}, but {record[name]!r:.40}"
    for name in counts:
        if name in record and not (type(record[name]) in (int, float) and abs(record[name]) <= LARGEST):
            return f"no number {name!r}, but {record[name]!r:.40}"
    for name in NUMBERS:
        value = record.get(name)  # null where it was no finite number
        if value is not None and type(value) is not float and not (type(value) is int and abs(value) <= LARGEST):
            return f"no number {name!r}, but {value!r:.40}"
    return None


def read_snapshot(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one elites/*.npz, as training/run_log.py names them; those of version 1 are brought to the
    same form: its gallery is of the last generation, with row -1.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            check_schema(path, data["schema"].item())
            found = dict(data)
        whole = found if "gallery_kind" in found else _from_version_1(found)
        _check_snapshot(whole)
        return whole
    except RunFolderError:
        raise
    except UNSOUND as error:
        what = on_one_line(f"{type(error).__name__}: {error}")
        raise RunFolderError(f"{path} cannot be read: {what}; remove it to leave that search out") from None


ARRAYS = {  # of a snapshot: kinds of numpy, and dimensions; N, R and U as training/run_log.py has them
    "epoch": "iu", "search": "iu", "generation": "iu N", "masks": "b NBGG", "pairings": "iu NB", "labels": "iu B",
    "class_names": "U K", "gallery_kind": "U R", "gallery_generation": "iu R", "gallery_row": "iu R", "gallery_masks": "b RGG",
    "gallery_cell_losses": "f RGG", "gallery_scores": "f R", "gallery_labels": "iu R2", "gallery_own": "iu R",
    "gallery_partner": "iu R", "gallery_pictures": "u UCHW", "gallery_mixed": "u RCHW",
}  # fmt: skip


def _check_snapshot(found: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError or KeyError where an array is missing, or its shape or kind is another than what we write."""
    sizes: dict[str, int] = {"2": 2}
    for name, meant in ARRAYS.items():
        array, (kinds, *letters) = found[name], meant.split()
        shape = letters[0] if letters else ""
        fits = array.dtype.kind in kinds and len(array.shape) == len(shape)
        if not fits or any(sizes.setdefault(key, size) != size for key, size in zip(shape, array.shape, strict=True)):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    for name, below in (("own", "U"), ("partner", "U"), ("labels", "K")):
        values = found[f"gallery_{name}"]
        if values.size and not 0 <= values.min() <= values.max() < sizes[below]:
            raise ValueError(f"gallery_{name} is not within 0 to {sizes[below] - 1}")


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
        held = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
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
