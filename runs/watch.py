"""`./run watch`: the report of runs as a live page."""

from __future__ import annotations

import sys
import threading
import webbrowser
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from analysis.run_folder import out_root, run_names
from evo.errors import UserError, did_you_mean
from runs.folders import shown
from training.config import Config

if TYPE_CHECKING:
    from analysis.live_server import Host


def run_watch(
    names: list[str], *, port: int, open_browser: bool, allow_hosts: Sequence[str] = (), base_path: str = "/"
) -> None:
    """Serve the live page of runs at http://127.0.0.1:PORT/ until Ctrl-C; runs that are not there yet are waited for.

    port: the first to be tried; the next one that is free is taken. allow_hosts: HOST or HOST:PORT by which a browser
    may reach it as well, through a tunnel or a proxy; base_path: where that proxy shows it. Raises UserError where no
    port is free, or a host or the path is none.
    """
    from analysis.live_page import LivePage, place_of
    from analysis.live_server import Server, base_of
    from analysis.report import SECTIONS  # matplotlib
    from analysis.sections.how import how

    allowed = [allowed_host(text) for text in allow_hosts]
    base = base_of(base_path)
    if base is None:
        raise UserError(f"--base-path {base_path!r:.80}: expected a path such as /user/me/proxy/8321/")
    live = LivePage(list(dict.fromkeys(names)), SECTIONS | {"how": partial(how, defaults=Config().model_dump())})
    try:
        server = Server(live, port, allowed, base)
    except OSError as error:
        raise UserError(
            f"--port {port}: neither it nor the ports after it can be used: {error.strerror}; name another"
        ) from None
    for name in live.names:
        if place_of(name) is None:
            print(f"run: {missing(name)}", file=sys.stderr)
    if server.server_port != port:
        print(f"run: port {port} is taken, so it is {server.server_port}", file=sys.stderr)
    print(f"{server.url} shows {', '.join(live.names)} until Ctrl-C", flush=True)
    if allow_hosts:
        print(f"also by the name{'s' * (len(allow_hosts) > 1)} {', '.join(allow_hosts)}", flush=True)
    live.start()
    if open_browser:
        threading.Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        print("\nrun: stopped watching", file=sys.stderr)
        live.close()  # a thread that is drawing when the interpreter ends would make it abort
        raise SystemExit(130) from None


def allowed_host(text: str) -> Host:
    """The host that --allow-host names. Raises UserError where it is none."""
    from analysis.live_server import parsed_host

    host = parsed_host(text)
    if host is None:
        raise UserError(
            f"--allow-host {text!r:.80}: expected one HOST or HOST:PORT as a browser's address line has it, such as "
            "localhost:9999 or hub.example.org, without https:// and path, and no *"
        )
    return host


def missing(name: str) -> str:
    """That a run is waited for, and which there are, for its name may be a slip."""
    hint = did_you_mean(name, run_names())
    return f"no run {name!r} in {shown(out_root())} yet; the page waits for it{hint}"
