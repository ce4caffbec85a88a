"""One run, read when asked: its config, logs, state and files. (training/run_log.py writes them.)"""

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

from numpy.typing import NDArray

from analysis.log_lines import checked_events, checked_generations, read_lines, whole_lines, wrong_in_event
from analysis.run_format import RunFolderError, as_today, check_schema
from analysis.snapshots import read_snapshot
from analysis.states import State, state_of_event
from evo.errors import did_you_mean
from evo.locks import LOCK, is_locked

if TYPE_CHECKING:
    import pandas as pd

KINDS = {(str,): "a text", (int,): "a whole number", (int, NoneType): "a whole number or null"}
NEEDED = (  # options that every config has
    ("data", "name", (str,)), ("model", "name", (str,)), ("mix", "name", (str,)), ("run", "seed", (int,)),
    ("train", "epochs", (int,)), ("search", "generations", (int, NoneType)), ("search", "objective", (str,)),
)  # fmt: skip


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


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd  # 1.4 s to import

    return pd.DataFrame(records)
