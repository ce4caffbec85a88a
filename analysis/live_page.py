"""The live page: the report of runs that go on, renewed as their files grow.

Two threads make sections anew, those whose files have changed, while somebody looks: one the texts, at once; one the
figures and pictures, after the training's own work. Pages ask for changes three times a second.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from analysis.report import SECTIONS, Section, page
from analysis.run_folder import RunFolder, out_root
from analysis.run_format import RunFolderError
from analysis.sections.parts import paragraph, section
from analysis.states import State
from evo.locks import LOCK, is_locked

TICK = 0.2  # seconds between two looks at the files
PERIOD = 1.0  # seconds at least from one making of a section to its next
SHARE = 1.5  # and this many times the processor's time it took, so that none takes all of one core
FORGOTTEN = 12.0  # seconds without a request after which nobody looks; a page in the background asks every 5
LOGS = ("log.jsonl", "generations.jsonl", "config.json", "environment.json")
FILES = (*LOGS, "elites", "patterns")
FOUND = ("config.json", "elites", "patterns")


# What the sections read that take long to make; the others are made anew whenever anything has changed.
READS = {
    "training": ("config.json", "log.jsonl"),
    "search": (*LOGS[:3], "elites"),
    "operators": FOUND,
    "atlas": FOUND,
    "gallery": FOUND,
}
LAST = ("operators", "atlas", "gallery")  # to be made where others wait as well
TEXTS = ("head", "warnings", "how")  # made in milliseconds, without matplotlib, which is for one thread alone
NICE = 5  # of the other sections' thread; at 10 a training that takes all cores leaves it a tenth of one


class Status(NamedTuple):
    """How the runs stand, and a line about them."""

    state: State
    text: str


class Shown(NamedTuple):
    """A section as the page has it; the version is a hash, "" of an empty section."""

    html: str
    version: str


class Made(NamedTuple):
    """Of what files a section was made, when (seconds, monotonic), what processor time that took, and the moment
    (ISO 8601) at which the files were as it shows them.
    """

    of: Any
    began: float
    took: float
    moment: str = ""


EMPTY = Shown("", "")
NEVER = Made(None, float("-inf"), 0.0)


class LivePage:
    """The report's sections as they are now, made by two threads and read by any.

    names: run folders under runs/out, or paths; one that is not there is waited for.
    sections: the report's, each a function of the runs.
    """

    def __init__(self, names: Sequence[str], sections: Mapping[str, Section] = SECTIONS) -> None:
        self.names = list(names)
        self.status = self._next_status = Status(
            State.WAITING, "Reading the runs." if len(names) > 1 else "Reading the run."
        )
        self._makers = dict(sections)
        self._shown = dict.fromkeys(sections, EMPTY)
        self._made: dict[str, Made] = {}
        self._problems: dict[str, str] = {}
        self._runs: list[RunFolder] = []
        self._logs: list[Any] = []
        self._files: list[Any] = []
        self._moment = self._read_at = ""  # of what the page shows in words, and of the files as they were last read
        self._older: dict[str, str] = {}  # sections of an earlier moment than that, and theirs
        self._asked = float("-inf")
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._seen: Any = None
        self._texts = [name for name in sections if name in TEXTS]
        self._reading = threading.Lock()  # held while files are looked at
        self._lock = threading.Lock()  # held for a moment, so that what is shown changes all at once
        others = [name for name in sections if name not in TEXTS]
        self._threads = [
            threading.Thread(target=self._work, args=work, daemon=True) for work in ((self._texts, 0), (others, NICE))
        ]

    def start(self) -> None:
        """Make sections from now on, whenever somebody looks."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Make no more; waits for the section in hand."""
        self._closing.set()
        self._wanted.set()
        for thread in self._threads:
            thread.join()

    def html(self, base: str = "/") -> str:
        """The page with what its sections show now. base: the path it is shown under, which its script asks below."""
        self._look()
        page = whole_page({name: shown.html for name, shown in self._shown.items()}, ", ".join(self.names))
        return page if base == "/" else page.replace("<html ", f'<html data-base="{escape(base)}" ', 1)

    def changes(self, known: Mapping[str, str]) -> dict[str, Any] | None:
        """What differs from the versions that a page has, by id and as `status`; None where nothing does.

        sections: id -> HTML; versions: id -> version, and that of `status`; status: state and text; moment: of what
        the page shows (ISO 8601); older: id -> moment of those sections that are of an earlier one and made anew.
        """
        self._look()
        with self._lock:
            status = self.status
            moment = self._moment
            older = self._older
            shown_now = self._shown
        new = {name: shown for name, shown in shown_now.items() if shown.version != known.get(name, "")}
        status_version = hash_of(repr((status, moment, older)))
        if not new and status_version == known.get("status"):
            return None
        return {
            "sections": {name: shown.html or f'<section id="{name}" hidden></section>' for name, shown in new.items()},
            "versions": {name: shown.version for name, shown in new.items()} | {"status": status_version},
            "status": status._asdict(),
            "moment": moment,
            "older": older,
        }

    def _look(self) -> None:
        self._asked = time.monotonic()
        self._wanted.set()

    def _work(self, names: Sequence[str], nice: int) -> None:
        with suppress(OSError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + nice)
        while not self._closing.is_set():
            self._wanted.clear()
            if time.monotonic() - self._asked > FORGOTTEN:
                self._wanted.wait(1.0)
            elif not self.renew(names):
                self._closing.wait(TICK)

    def renew(self, names: Sequence[str]) -> bool:
        """Make that one of these sections that is due and was made longest ago, of the texts all that are due, which
        are shown together; False where none is. Never raises.
        """
        with self._reading:
            self._read()
            runs = self._runs
            moment = self._read_at
            status = self._next_status
            due = [name for name in names if self._is_due(name)]
            if due:
                first = min(due, key=lambda name: (self._made.get(name, NEVER).began, name in LAST))
                due = [name for name in due if name in TEXTS] if first in TEXTS else [first]
            of = {name: self._reads(name) for name in due}
        made = {name: self._make(name, runs, of[name], moment) for name in due}
        with self._reading, self._lock:
            self._shown = {**self._shown, **{name: shown for name, (shown, _) in made.items()}}
            self._made |= {name: how for name, (_, how) in made.items()}
            if not self._texts or not self._runs:  # no words to wait for
                self._moment = self._read_at
                self.status = self._next_status
            elif due and due[0] in TEXTS:
                self._moment = moment
                self.status = status
            self._older = {
                name: self._made[name].moment
                for name, shown in self._shown.items()
                if shown.html and name not in TEXTS and self._made[name].of != self._reads(name)
            }
        return bool(due)

    def _read(self) -> None:
        """Look at the runs; the same objects stay, with what they have read, where their logs have."""
        paths = [place_of(name) for name in self.names]
        self._files = [path and stats(path, FILES) for path in paths]
        logs = [
            path and (path, is_locked(path / LOCK), [files.get(name) for name in LOGS])
            for path, files in zip(paths, self._files, strict=True)
        ]
        if (logs, self._files) != self._seen:
            self._seen = (logs, self._files)
            self._read_at = datetime.now(UTC).isoformat(timespec="seconds")
        if logs != self._logs:
            # A run that is waited for has its place, so that the others' looks stay when it comes.
            runs = [
                RunFolder(path, place, forgiving=True).read() for place, path in enumerate(paths) if path is not None
            ]
            self._logs = logs
            self._runs = runs
            found = iter(self._runs)
            told = [
                (name, *(told_of(next(found)) if path else WAITING))
                for name, path in zip(self.names, paths, strict=True)
            ]
            self._next_status = summed_up(told)

    def _is_due(self, name: str) -> bool:
        made = self._made.get(name, NEVER)
        pause = max(PERIOD, SHARE * made.took)
        return bool(self._runs) and time.monotonic() - made.began >= pause and made.of != self._reads(name)

    def _reads(self, name: str) -> Any:
        if name not in READS:
            return self._logs, self._files
        return [files and {part: files.get(part) for part in READS[name]} for files in self._files]

    def _make(self, name: str, runs: Sequence[RunFolder], of: Any, moment: str) -> tuple[Shown, Made]:
        began, spent = time.monotonic(), time.thread_time()
        try:
            html = self._makers[name](runs)
        except Exception as error:  # a folder in any state, or one section's mistake: the others go on
            html = section(name, name.capitalize(), paragraph(f"This part could not be drawn: {described(error)}"))
        version = hash_of(html) if html else ""
        tagged = html.replace("<section", f'<section data-version="{version}"', 1)
        return Shown(tagged, version), Made(of, began, time.thread_time() - spent, moment)


def place_of(name: str) -> Path | None:
    """The folder of a run's name or path, as find_run has it; None where there is none yet."""
    places = (out_root() / name, Path(os.path.expanduser(name)))
    return next((place for place in places if (place / "config.json").is_file()), None)


def stats(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Size, time and number of each file named, or of those in a folder named; what is not there is left out."""
    found: dict[str, Any] = {}
    for name in names:
        place = folder / name
        try:
            found[name] = [mark(path) for path in sorted(place.iterdir())] if place.is_dir() else mark(place)
        except OSError:  # not there, or just taken away
            continue
    return found


def mark(path: Path) -> tuple[str, int, int, int]:
    """What is another one once a file has been written."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns, status.st_ino


WAITING = (State.WAITING, State.WAITING.meaning)


def told_of(run: RunFolder) -> tuple[State, str]:
    """A run's state, and a few words about it."""
    try:
        if damage := [line for line in run.checked().damaged() if "log.jsonl" in line]:
            return State.DAMAGED, damage[0]
        state = run.state
        reason = next((event["reason"] for event in reversed(run.events) if event["event"] == "failed"), "")
    except (RunFolderError, OSError, LookupError, TypeError) as error:
        return State.DAMAGED, described(error)
    return state, f"{state.meaning}: {reason}" if state == State.FAILED else state.meaning


# A page of several runs has the first of these states that one of them has.
BY_WEIGHT = (
    State.RUNNING, State.WAITING, State.DAMAGED, State.FAILED, State.KILLED, State.STOPPED, State.DONE,
)  # fmt: skip


def summed_up(told: Sequence[tuple[str, State, str]]) -> Status:
    """One status of names, states and words."""
    state = min((state for _, state, _ in told), key=BY_WEIGHT.index)
    if len(told) == 1:
        name, state, words = told[0]
        text = f"Waiting for {name}: {words}." if state == State.WAITING else f"{state.capitalize()}: {words}."
    else:
        text = " ".join(
            f"{name}: {state}{f', {words}' if state in (State.FAILED, State.DAMAGED) else ''}."
            for name, state, words in told
        )
    return Status(state, text.replace("..", "."))


def described(error: Exception) -> str:
    return str(error) if isinstance(error, RunFolderError) else f"{type(error).__name__}: {error}"


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def whole_page(sections: Mapping[str, str], title: str) -> str:
    """The report's page with the script that keeps it up to date."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return page(sections, title, live=True, script=script)
