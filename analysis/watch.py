"""The live page: the report of runs that go on, on 127.0.0.1 alone, renewed as their files grow.

Two threads make sections anew, those whose files have changed, while somebody looks: one the texts, at once; one the
figures and pictures, after the training's own work. Pages ask for changes three times a second. Nothing in a request
ever names a file.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import socketserver
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from analysis.report import SECTIONS, Section, page
from analysis.run_folder import LOCK, RunFolder, RunFolderError, is_locked, out_root
from analysis.sections.parts import paragraph, section
from analysis.states import State

ADDRESS = "127.0.0.1"
PORTS_TRIED = 100
TICK = 0.2  # seconds between two looks at the files
PERIOD = 1.0  # seconds at least from one making of a section to its next
SHARE = 1.5  # and this many times the processor's time it took, so that none takes all of one core
FORGOTTEN = 12.0  # seconds without a request after which nobody looks; a page in the background asks every 5
IDLE = 30.0  # seconds after which a silent connection is closed

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?)(?::([0-9]{1,5}))?")
PATH = re.compile(r"[A-Za-z0-9/._~%!$&'()*+,;=:@-]+")

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


def content_policy() -> str:
    """A Content-Security-Policy under which the page's own script and style run, and its pictures show; nothing else.

    They are told by their hashes in a page without content, so that nothing which a section might hold can run.
    Figures have style attributes.
    """
    own = whole_page({}, "")
    hashes = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{kind}[^>]*>(.*?)</{kind}>", own, re.DOTALL)
        )
        for kind in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src-elem {hashes['style']}; "
        "style-src-attr 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class Host(NamedTuple):
    """A name that a browser may have for this server; port: None stands for any."""

    name: str
    port: int | None

    def fits(self, header: str, own: int) -> bool:
        """Whether a Host header is of it. own: the port that a header without one stands for, where it is 80 or 443."""
        given = parsed_host(header)
        if given is None or given.name != self.name:
            return False
        if given.port is None:
            return self.port in (None, 80, 443) or (self.port == own and own in (80, 443))
        return self.port in (None, given.port)


def parsed_host(text: str) -> Host | None:
    """HOST or HOST:PORT, an IPv6 address in brackets; None where it is neither."""
    found = HOST.fullmatch(text.lower())
    if found is None or int(found[2] or 0) > 65535:
        return None
    return Host(found[1], int(found[2]) if found[2] else None)


def base_of(text: str) -> str | None:
    """A path under which a proxy shows the page, with a slash at either end; None where it is no plain path."""
    path = f"/{text.strip('/')}/" if text.strip("/") else "/"
    plain = all(part not in ("", ".", "..") for part in path.strip("/").split("/")) or path == "/"
    return path if plain and PATH.fullmatch(path) else None


class Server(ThreadingHTTPServer):
    """Serves a LivePage on 127.0.0.1 at `port`, or the next one that is free; 0 stands for any.

    allowed: what browsers elsewhere may call this server, where an SSH tunnel or a proxy leads to it. base: the path that
    the proxy shows the page under; requests are answered with it and without it, for some proxies take it away.
    Raises OSError where none of 100 is free.
    """

    daemon_threads = True  # a page that never reads its answer keeps nobody waiting

    def __init__(self, live: LivePage, port: int, allowed: Sequence[Host] = (), base: str = "/") -> None:
        self.live = live
        self.allowed = tuple(allowed)
        self.base = base
        last = min(port + PORTS_TRIED - 1, 65535)
        for tried in range(port, last + 1):
            try:
                super().__init__((ADDRESS, tried), Handler)
                return
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES) or tried == last:
                    raise

    def server_bind(self) -> None:
        """HTTPServer's asks for the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name = ADDRESS
        self.server_port = int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}{self.base}"

    def knows(self, header: str) -> bool:
        """Whether a Host header is what a browser on this machine says, or was allowed. Another name that leads here may
        be somebody's trick, by which a foreign page would read this one.
        """
        own = self.server_port
        known = (Host(ADDRESS, own), Host("localhost", own), *self.allowed)
        return any(host.fits(header, own) for host in known)

    def refusal(self, header: str) -> str:
        """What to tell who comes by another name, and how to allow it."""
        name = header if parsed_host(header) is not None else "HOST:PORT"
        return (
            f"This page is at {self.url} alone.\nIf you came here on purpose, through an SSH tunnel or a proxy of your own, "
            f"start it so: ./run watch ... --allow-host {name}\n"
            "Behind a proxy that adds a path, such as Jupyter's, also give --base-path /THE/PATH/.\n"
        )

    def place(self, path: str) -> str | None:
        """A request's path without the base; None of the base without its slash, from which links would lead astray."""
        if path + "/" == self.base:
            return None
        return path.removeprefix(self.base[:-1]) if path.startswith(self.base) else path

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):  # those: a page was closed while it was answered
            print(f"run: the live page could not answer: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """`/` is the page, `/changes?id=version&...` what a page that has these versions lacks: JSON, or 204."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Evomix", ""
    timeout = IDLE

    def do_GET(self) -> None:
        asked, _, query = self.path.partition("?")
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(hosts[0]):
            return self._answer(HTTPStatus.FORBIDDEN, self.server.refusal(hosts[0] if hosts else ""))
        path = self.server.place(asked)
        if path is None:
            return self._answer(HTTPStatus.PERMANENT_REDIRECT, location=self.server.base)
        if path == "/":
            return self._answer(HTTPStatus.OK, self.server.live.html(self.server.base), "text/html")
        if path == "/changes" and self._asks_for_itself():
            changes = self.server.live.changes(dict(parse_qsl(query)))
            if changes is None:
                return self._answer(HTTPStatus.NO_CONTENT)
            return self._answer(HTTPStatus.OK, json.dumps(changes), "application/json")
        return self._answer(HTTPStatus.NOT_FOUND, f"There is nothing here but {self.server.url}\n")

    do_HEAD = do_GET

    def _asks_for_itself(self) -> bool:
        """Whether a request is the page's own, or typed by hand: none of another site's."""
        _, _, origin = self.headers.get("Origin", "").rpartition("//")
        own = not origin or self.server.knows(origin)
        return own and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For requests that are none, and methods other than GET and HEAD."""
        self.close_connection = True
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(status, f"{status.phrase}\n")

    def log_message(self, *_: Any) -> None:
        """Three requests a second are not worth a line."""

    def _answer(self, status: HTTPStatus, text: str = "", kind: str = "text/plain", location: str = "") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", content_policy() if kind == "text/html" else "default-src 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
