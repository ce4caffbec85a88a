"""One trial of an ablation: its files, how it stands, and running it in this process.

runs/out/ABLATION/VARIANT-sS/           the run folder
runs/out/ABLATION/.trials/VARIANT-sS/   .lock held while a process is at it, output.txt of that process,
                                        failed.json where the last attempt failed
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from analysis.run_folder import RunFolder
from analysis.run_format import as_today
from analysis.run_settings import RESULT_FILES
from evo.errors import UserError
from evo.locks import LOCK, is_locked, take_lock
from evo.storage import replacing
from runs.folders import known_config
from training import removed
from training.config import Config, make_config
from training.options import idle_options

SCHEMA = 1  # of failed.json
LEFT = (LOCK, ".config.json.*tmp")  # in a run folder before its config.json

State = Literal["new", "started", "done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a trial ended.

    done; failed: its own fault, with the reason in a line and the last lines of its output; stopped: by a signal, to be
    gone on with; busy: another process is at it; lost: the machine it ran on, or the process that watched it, is gone.
    """

    kind: Literal["done", "failed", "stopped", "busy", "lost"]
    reason: str = ""
    output: str = ""


@dataclass(frozen=True)
class Trial:
    """folder: its run folder. needs: names of the trials whose results it uses. cpus, gpus: what Ray reserves for it;
    None where the file says nothing. published: the result that is kept of it with the code, which stands for its run
    folder where that is gone. gone: options it was made with that were removed, with their values; it cannot be run anew.
    """

    variant: str
    seed: int
    config: Config
    folder: Path
    needs: tuple[str, ...] = ()
    cpus: float | None = None
    gpus: float | None = None
    command: tuple[str, ...] = ()  # what environment.json tells
    published: dict[str, Any] | None = field(default=None, compare=False)
    gone: Mapping[str, Any] = field(default_factory=dict)
    _ended: dict[object, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.variant}-s{self.seed}"

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def result(self) -> dict[str, Any] | None:
        """The `end` event of a trial that is done, or what is published of it. Raises as `state` does."""
        if self.state() != "done":
            return None
        return next(iter(self._ended.values())) if self._ended else self.published

    @property
    def notes(self) -> Path:
        """The folder of what is known of it besides its run folder."""
        return self.folder.parent / ".trials" / self.folder.name

    @property
    def output(self) -> Path:
        """What the process that was last at it printed as errors and progress."""
        return self.notes / "output.txt"

    def as_json(self) -> str:
        return json.dumps(
            {
                "variant": self.variant,
                "seed": self.seed,
                "config": self.config.model_dump(),
                "folder": str(self.folder),
                "command": self.command,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """The trial of `as_json`, without what only a scheduler needs."""
        given = json.loads(text)
        config = make_config(given["config"], source=given["folder"])
        return cls(given["variant"], given["seed"], config, Path(given["folder"]), command=tuple(given["command"]))

    def state(self) -> State:
        """new, started (it has a checkpoint to go on from), done or failed. Whether another process is at it: see is_busy.

        Raises UserError where the folder is of other settings, or is not a run's.
        """
        version = self._version()
        if version in self._ended:  # many ask: the files of a trial that is done are read once
            return "done"
        if not (self.folder / "config.json").is_file():
            if self.folder.is_dir() and not _cut_off_at_once(self.folder):
                raise UserError(
                    f"{self.folder} is in the way and is not a run's; move it, or rename the ablation's file"
                )
            if self.published is not None:
                return "done"
            return "new" if self.failure() is None else "failed"
        self._check_settings()
        run = self.run
        events = run.events if (self.folder / "log.jsonl").is_file() else []
        if events and (end := run.result) is not None:
            self._ended.clear()
            self._ended[version] = end
            return "done"
        if self.published is not None:
            return "done"
        if self.failure() is not None or (events and events[-1]["event"] == "failed"):
            return "failed"
        return self.onward()

    def _version(self) -> object:
        """What differs once its config or its log has been written again."""
        try:
            found = [(self.folder / name).stat() for name in ("config.json", "log.jsonl")]
        except OSError:
            return None
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)

    def onward(self) -> Literal["new", "started"]:
        """Whether another attempt begins anew or goes on from a checkpoint."""
        return "started" if (self.folder / "checkpoint" / "latest.json").is_file() else "new"

    def failure(self) -> str | None:
        """Why the last attempt failed, where that is recorded and was with these settings."""
        try:
            record = json.loads((self.notes / "failed.json").read_text(encoding="utf-8"))
            return str(record["reason"]) if as_today(record["config"]) == told_apart_by(self.config) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def why_failed(self) -> str:
        """The reason of a trial whose state is failed."""
        return self.failure() or str(self.run.events[-1].get("reason", "its log says no more"))

    def record_failure(self, outcome: Outcome) -> None:
        self.notes.mkdir(parents=True, exist_ok=True)
        record = {
            "schema": SCHEMA,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": outcome.reason,
            "output": outcome.output.splitlines(),
            "config": told_apart_by(self.config),
        }
        with replacing(self.notes / "failed.json") as file:
            file.write(json.dumps(record, indent=1).encode() + b"\n")

    def forget_failure(self) -> None:
        (self.notes / "failed.json").unlink(missing_ok=True)

    def is_busy(self) -> bool:
        """Whether a process is at it, as a trial or by another command."""
        return any(is_locked(folder / LOCK) for folder in (self.notes, self.folder))

    def _check_settings(self) -> None:
        # Options that a run of an older version does not name have their defaults; those of a search count where
        # there is one.
        run = self.run
        made = known_config(run).model_dump()
        wanted = self.config.model_dump()
        idle = idle_options()
        ignored = {"run"} if self.config.searches else {"run", "search"}
        for section in [name for name in wanted if name not in ignored]:
            for key, value in wanted[section].items():
                option = f"{section}.{key}"
                counts = option in RESULT_FILES or option not in idle
                if counts and not self._same(option, made[section][key], value):
                    raise UserError(self._other_setting(option, made[section][key], value))
        departs = removed.departing(run.config) if self.config.searches else {}
        for option in dict.fromkeys((*departs, *self.gone)):
            had, has = (found.get(option, removed.REMOVED[option].value) for found in (departs, self.gone))
            if had != has:
                raise UserError(self._other_setting(option, had, has))

    def _other_setting(self, option: str, made: Any, wanted: Any) -> str:
        return (
            f"{self.folder} was made with {option}={made}, the file now says {wanted}; remove that folder, or rename the "
            "ablation's file"
        )

    def _same(self, option: str, made: Any, wanted: Any) -> bool:
        """Whether two values mean the same, also where the ablation's folder or the data have been moved."""
        place = self.folder.parent
        if option in RESULT_FILES and made and wanted and Path(wanted).is_relative_to(place):
            within = Path(wanted).relative_to(place).parts
            return Path(made).parts[-len(within) :] == within
        return bool(made == wanted)


def check_same_images(trials: Iterable[Trial]) -> None:
    """Raise UserError where trials of the same data options were trained, or tested, on different images.

    trials: done ones. Those of older versions, which kept no digest of their images, are taken on trust.
    """
    seen: dict[str, tuple[Trial, tuple[str, str]]] = {}
    for trial in trials:
        if not (trial.folder / "log.jsonl").is_file():  # its published result stands for it
            continue
        start = next((event for event in trial.run.events if event["event"] == "start"), {})
        if "images" not in start or "test" not in start:
            continue
        of = json.dumps(trial.config.data.model_dump(exclude={"root", "download", "resident"}))
        other, images = seen.setdefault(of, (trial, (start["images"], start["test"])))
        if images != (start["images"], start["test"]):
            raise UserError(
                f"{other.name} and {trial.name} have the same data options and were trained on different images, so that "
                f"they cannot be compared; restore the images and remove the run folder of the other trial: {other.folder} "
                f"or {trial.folder}"
            )


def told_apart_by(config: Config) -> dict[str, Any]:
    """A config as JSON gives it back, without what may differ between attempts: the section `run`, whose seed is the
    trial's, and other options that cannot change a result, but those that name a result.
    """
    sections: dict[str, Any] = json.loads(config.model_dump_json())
    sections.pop("run")
    for option in idle_options():
        section, _, name = option.partition(".")
        if section in sections and option not in RESULT_FILES:
            del sections[section][name]
    return sections


def run_trial(trial: Trial, patience: float = 0, output: Path | None = None) -> Literal["done", "busy"]:
    """Run, or go on with, a trial that nobody else has done or is at. Imports torch.

    patience: seconds to wait for a process that is at it. output: where this process prints to, which becomes the
    trial's. Raises UserError as training.train.train does.
    """
    trial.notes.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while (lock := take_lock(trial.notes)) is None:
        if time.monotonic() > deadline:
            return "busy"
        time.sleep(0.2)
    with lock:
        if output is not None:
            with suppress(FileNotFoundError):  # taken for one of those below, by a process that went before
                os.replace(output, trial.output)
        for left in trial.notes.glob("output-*.txt"):  # of attempts that ended before they had the lock
            left.unlink(missing_ok=True)
        return _run_alone(trial)


def _run_alone(trial: Trial) -> Literal["done", "busy"]:
    if trial.state() == "done":
        return "done"
    onward = trial.onward()
    if trial.folder.is_dir():
        with _held(trial.folder) as mine:
            if not mine:
                return "busy"
            if onward == "new":
                shutil.rmtree(trial.folder)  # cut off before its first checkpoint: nothing to go on from
    from training.train import train

    try:
        train(trial.config, trial.folder, resume=onward == "started")
    except UserError:
        if trial.state() == "done":  # by a command that knows no trials, a moment faster
            return "done"
        if trial.folder.is_dir():
            with _held(trial.folder) as mine:
                if not mine:
                    return "busy"
        raise
    return "done"


def _cut_off_at_once(folder: Path) -> bool:
    """Whether a folder without config.json is what is left of a run that was cut off before it."""
    return all(
        any(map(path.match, LEFT)) or (path.name == "elites" and not any(path.iterdir())) for path in folder.iterdir()
    )


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; False where it is gone, or another process holds its lock or has replaced it."""
    try:
        lock = take_lock(folder)
    except FileNotFoundError:
        lock = None
    if lock is None:
        yield False
        return
    with lock:
        try:
            mine = os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
        except FileNotFoundError:
            mine = False
        yield mine
