"""`./run watch`: the report of runs as a live page."""

from __future__ import annotations

import sys
import threading
import webbrowser
from functools import partial

from analysis.run_folder import out_root, run_names
from runs.folders import shown
from training.config import Config, UserError


def run_watch(names: list[str], *, port: int, open_browser: bool) -> None:
    """Serve the live page of runs at http://127.0.0.1:PORT/ until Ctrl-C; runs that are not there yet are waited for.

    port: the first to be tried; the next one that is free is taken. Raises UserError where none is.
    """
    from analysis.report import SECTIONS  # matplotlib
    from analysis.sections.how import how
    from analysis.watch import LivePage, Server, place_of

    live = LivePage(list(dict.fromkeys(names)), SECTIONS | {"how": partial(how, defaults=Config().model_dump())})
    try:
        server = Server(live, port)
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
    live.start()
    if open_browser:
        threading.Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        print("\nrun: stopped watching", file=sys.stderr)
        live.close()  # a thread that is drawing when the interpreter ends would make it abort
        raise SystemExit(130) from None


def missing(name: str) -> str:
    """That a run is waited for, and which there are, for its name may be a slip."""
    import difflib

    close = difflib.get_close_matches(name, run_names(), 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"no run {name!r} in {shown(out_root())} yet; the page waits for it{hint}"
