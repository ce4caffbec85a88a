"""Serves the live page on 127.0.0.1 alone. Nothing in a request ever names a file."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import re
import socketserver
import sys
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from analysis.live_page import LivePage, whole_page

ADDRESS = "127.0.0.1"
PORTS_TRIED = 100
IDLE = 30.0  # seconds after which a silent connection is closed
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?)(?::([0-9]{1,5}))?")
PATH = re.compile(r"[A-Za-z0-9/._~%!$&'()*+,;=:@-]+")


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
