"""The live page: what is made anew and when, what the server answers and refuses, and a browser that looks at it."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.live_page import LivePage, stats, summed_up
from analysis.live_server import Server, content_policy
from analysis.report import SECTIONS
from analysis.run_folder import RunFolder
from tests.test_listing import END, FAILED, generation, write_run

ROOT = Path(__file__).resolve().parent.parent
OLD_RUN = ROOT / "tests" / "data" / "runs-v1" / "evolved"


EVERY = ("gallery", "head", "search")


def counting(calls, name, text="{}"):
    """A section that notes its calls and shows how many lines the logs have."""

    def make(runs):
        calls.append(name)
        seen = sum(len(run.events) + len(run.generations) for run in runs)
        return f'<section id="{name}"><h2>{name}</h2><p>{seen} lines</p>{text.format(seen)}</section>'

    return make


class Clock:
    """Time that passes when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    thread_time = monotonic


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("analysis.live_page.time", found)
    return found


@pytest.fixture
def calls():
    return []


@pytest.fixture
def live(out, calls):
    """A page of the run `a`, whose sections are counted; nothing is made unless `settle` is called."""
    write_run(out / "a", mix="evolved")
    return LivePage(["a"], {name: counting(calls, name) for name in ("gallery", "head", "search")})


def settle(live, names=EVERY):
    while live.renew(names):
        pass


def append(path, record):
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def shown(live, name):
    return live.changes({})["sections"][name]


def test_everything_is_made_once_the_quick_parts_first(live, calls, clock):
    settle(live)
    assert calls == ["head", "search", "gallery"]
    clock.now += 100
    settle(live)
    assert len(calls) == 3


def test_only_what_reads_a_changed_file_is_made_anew(live, calls, clock, out):
    settle(live)
    calls.clear()
    clock.now += 2
    append(out / "a" / "generations.jsonl", generation(4))
    settle(live)
    assert calls == ["head", "search"]
    calls.clear()
    clock.now += 2
    (out / "a" / "elites").mkdir()
    (out / "a" / "elites" / "000001.npz").write_bytes(b"1")
    settle(live)
    assert sorted(calls) == ["gallery", "head", "search"]
    calls.clear()
    clock.now += 2
    append(out / "a" / "log.jsonl", {"event": "epoch", "time": "2026-01-01T00:00:00+00:00", "epoch": 3})
    settle(live)
    assert sorted(calls) == ["head", "search"]  # checks of estimated scores stand in it


def test_at_most_once_a_second(live, calls, clock, out):
    settle(live)
    calls.clear()
    for number in range(30):  # three seconds
        append(out / "a" / "generations.jsonl", generation(4 + number))
        clock.now += 0.1
        settle(live)
    assert calls.count("head") in (2, 3)
    clock.now += 1.1
    settle(live)
    assert f"{3 + 3 + 30} lines" in shown(live, "head")  # the last of them is not missed


def test_a_slow_section_is_made_more_rarely(out, clock, calls):
    write_run(out / "a")

    def slow(runs):
        calls.append(clock.now)
        clock.now += 4.0
        return "<section id='head'></section>"

    live = LivePage(["a"], {"head": slow})
    for number in range(60):
        append(out / "a" / "log.jsonl", {"event": "epoch", "time": "2026-01-01T00:00:00+00:00", "epoch": number})
        live.renew(EVERY)
        clock.now += 1
    assert all(later - earlier >= 6 for earlier, later in pairwise(calls))


def test_a_page_gets_what_it_lacks_and_nothing_else(live, clock, out):
    first = live.changes({})
    assert first["status"]["text"] == "Reading the run."
    settle(live)
    found = live.changes(first["versions"])
    assert set(found["sections"]) == {"gallery", "head", "search"}
    assert found["status"]["state"] == "killed"
    versions = found["versions"]
    assert live.changes(versions) is None
    append(out / "a" / "log.jsonl", {"event": "epoch", "time": "2026-01-01T00:00:00+00:00", "epoch": 3})
    clock.now += 2
    settle(live)
    assert set(live.changes(versions)["sections"]) == {"head", "search"}
    assert set(live.changes({"head": "what?"})["sections"]) == {"gallery", "head", "search"}


def test_versions_stand_in_the_page_and_outlive_the_server(live, clock, out):
    settle(live)
    marks = dict(re.findall(r'<section data-version="(\w+)" id="(\w+)"', live.html()))
    versions = {name: mark for mark, name in marks.items()}
    again = LivePage(["a"], {name: counting([], name) for name in ("gallery", "head", "search")})
    settle(again)
    assert again.changes(versions)["sections"] == {}


def test_a_section_that_fails_says_so_and_the_others_go_on(out, clock):
    write_run(out / "a")

    def broken(runs):
        raise KeyError("<b>best</b>")

    live = LivePage(["a"], {"head": broken, "search": counting([], "search")})
    settle(live)
    assert "3 lines" in shown(live, "search")
    assert "could not be drawn: KeyError: &#x27;&lt;b&gt;best" in shown(live, "head")
    assert 'id="head"' in shown(live, "head")


def test_an_empty_section_keeps_its_place(out, clock):
    write_run(out / "a")
    live = LivePage(["a"], {"head": lambda runs: "" if len(runs[0].events) > 3 else "<section id='head'>x</section>"})
    settle(live)
    versions = live.changes({})["versions"]
    append(out / "a" / "log.jsonl", {"event": "epoch", "time": "2026-01-01T00:00:00+00:00", "epoch": 3})
    clock.now += 2
    settle(live)
    assert live.changes(versions)["sections"] == {"head": '<section id="head" hidden></section>'}


def test_a_run_that_is_not_there_yet_is_waited_for(out, clock, calls):
    live = LivePage(["later", "a"], {"head": counting(calls, "head")})
    settle(live)
    assert (live.status.state, calls) == ("waiting", [])
    write_run(out / "later")
    settle(live)
    assert "3 lines" in shown(live, "head")
    assert "later: killed. a: waiting." in live.status.text
    write_run(out / "a")
    clock.now += 2
    settle(live)
    assert "6 lines" in shown(live, "head")


def test_a_run_that_is_removed_stays_shown_and_one_made_anew_is_followed(live, clock, out):
    settle(live)
    before = shown(live, "head")
    shutil.rmtree(out / "a")
    clock.now += 2
    settle(live)
    assert shown(live, "head") == before
    assert live.status == ("waiting", "Waiting for a: there is no such run yet.")
    write_run(out / "a", epochs=1)
    clock.now += 2
    settle(live)
    assert "2 lines" in shown(live, "head")


def test_logs_that_get_shorter_are_read_anew(live, clock, out):
    """As a resumed run leaves them, which goes back to its checkpoint."""
    settle(live)
    for name, keep in (("log.jsonl", 3), ("generations.jsonl", 2)):
        path = out / "a" / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    clock.now += 2
    settle(live)
    assert "3 lines" in shown(live, "head")


def test_a_torn_line_is_left_out_until_it_is_whole(live, clock, out):
    settle(live)
    text = json.dumps(generation(4)) + "\n"
    for part, lines in ((text[:20], 6), (text[20:], 7)):
        with (out / "a" / "generations.jsonl").open("a") as file:
            file.write(part)
        clock.now += 2
        settle(live)
        assert f"{lines} lines" in shown(live, "head")


def test_a_damaged_log_is_told_and_gets_well(live, clock, out):
    settle(live)
    path = out / "a" / "log.jsonl"
    text = path.read_text()
    path.write_text("nonsense\n" + text)
    clock.now += 2
    settle(live)
    assert live.status.state == "damaged"
    assert "line 1 is damaged" in live.status.text
    path.write_text(text)
    clock.now += 2
    settle(live)
    assert live.status.state == "killed"
    assert "6 lines" in shown(live, "head")


def test_words_and_status_change_together_and_older_figures_say_of_when_they_are(out, clock, monkeypatch):
    """What a page gets in any one answer is of one moment, or says that it is not."""
    moments = iter(range(60))
    fixed = SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, 0, 0, next(moments), tzinfo=zone))
    monkeypatch.setattr("analysis.live_page.datetime", fixed)
    folder = write_run(out / "a")
    names = ("head", "warnings", "training", "gallery")
    live = LivePage(["a"], {name: counting([], name) for name in names})
    settle(live, names)
    first = live.changes({})
    assert (first["moment"], first["older"]) == ("2026-01-01T00:00:00+00:00", {})
    append(folder / "log.jsonl", END | {"time": "2026-01-01T00:00:00+00:00"})
    clock.now += 2
    assert live.renew(("head", "warnings"))  # the texts' thread alone
    now = live.changes(first["versions"])
    assert set(now["sections"]) == {"head", "warnings"} and now["status"]["state"] == "done"
    assert now["moment"] == "2026-01-01T00:00:01+00:00"
    assert now["older"] == {"training": first["moment"]}  # the gallery reads no log, and is of now
    assert live.renew(("training", "gallery"))
    last = live.changes(first["versions"] | now["versions"])
    assert (set(last["sections"]), last["older"], last["moment"]) == ({"training"}, {}, now["moment"])


def test_until_the_words_are_made_the_status_is_the_one_they_were_made_with(out, clock):
    folder = write_run(out / "a")
    live = LivePage(["a"], {name: counting([], name) for name in ("head", "training")})
    settle(live, ("head", "training"))
    before = shown(live, "training")
    append(folder / "log.jsonl", END | {"time": "2026-01-01T00:00:00+00:00"})
    clock.now += 2
    assert live.renew(("training",)) and live.status.state == "killed" and shown(live, "training") != before
    assert live.renew(("head",)) and live.status.state == "done"


@pytest.mark.parametrize(
    ("last", "state", "words"),
    [
        (END, "done", "it has ended"),
        (FAILED, "failed", "an error ended it: the loss is not finite at step 3"),
        ({"event": "stopped", "step": 1}, "stopped", "it was stopped"),
        (None, "killed", "no process is writing it"),
    ],
)
def test_how_a_run_stands_is_told(out, clock, last, state, words):
    write_run(out / "a", last=last)
    live = LivePage(["a"], {})
    live.renew(EVERY)
    assert live.status.state == state
    assert words in live.status.text


def test_a_run_that_is_held_runs_and_its_end_is_seen_without_a_changed_file(out, clock):
    import fcntl

    folder = write_run(out / "a")
    live = LivePage(["a"], {})
    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        live.renew(EVERY)
        assert live.status == ("running", "Running: a process is writing it.")
    live.renew(EVERY)
    assert live.status.state == "killed"


def test_several_runs_are_summed_up():
    told = [("a", "done", "it has ended"), ("b", "running", "it goes on"), ("c", "failed", "it failed: why")]
    assert summed_up(told) == ("running", "a: done. b: running. c: failed, it failed: why.")


def test_signatures_see_size_time_and_files(tmp_path):
    def now():
        return stats(tmp_path, ("log", "elites"))

    seen = [now()]
    (tmp_path / "log").write_text("1")
    seen.append(now())
    (tmp_path / "log").write_text("12")
    seen.append(now())
    os.utime(tmp_path / "log", (1, 1))
    seen.append(now())
    (tmp_path / "elites").mkdir()
    (tmp_path / "elites" / "1").write_text("1")
    seen.append(now())
    assert len({str(one) for one in seen}) == 5


# The server


@contextmanager
def serving(live, *reached):
    """The server of a page, both at work. reached: how it is, as Server takes it."""
    with Server(live, 0, *reached) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        live.start()
        yield made
        made.shutdown()
        thread.join()
        live.close()


@pytest.fixture
def server(out, calls):
    """Of a page of the run `a`, at work; requests by `ask`."""
    write_run(out / "a", mix="evolved")
    makers = dict.fromkeys(SECTIONS, lambda runs: "") | {"head": counting(calls, "head")}
    with serving(LivePage(["a"], makers)) as made:
        yield made


def ask(server, path="/", method="GET", **headers):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def changes(server, versions, seconds=60.0):
    """The first answer that has changes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        query = "&".join(f"{name}={mark}" for name, mark in versions.items())
        status, _, text = ask(server, f"/changes?{query}")
        if status == 200:
            return json.loads(text)
        assert (status, text) == (204, "")
        time.sleep(0.02)
    raise AssertionError("no change came")


def until(server, seconds, condition):
    """Changes put together until a section's text meets a condition."""
    versions, head, end = {}, "", time.monotonic() + seconds
    while not condition(head):
        found = changes(server, versions, end - time.monotonic())
        versions |= found["versions"]
        head = found["sections"].get("head", head)
    return versions


def test_a_generation_is_shown(server, out):
    versions = until(server, 60, lambda head: "6 lines" in head)
    append(out / "a" / "generations.jsonl", generation(4))
    found = changes(server, versions)
    assert "7 lines" in found["sections"]["head"]


def test_the_page_is_whole_and_safe(server):
    until(server, 60, lambda head: head)
    status, headers, text = ask(server)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(headers["Content-Length"]) == len(text.encode())
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert policy == content_policy()
    for part in ("default-src 'none'", "img-src data:", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert policy.count("'sha256-") == 3  # two scripts and a style
    assert "<h2>head</h2>" in text
    assert ask(server, method="HEAD")[2] == ""
    assert int(ask(server, method="HEAD")[1]["Content-Length"]) == len(text.encode())


def test_only_this_machine_by_its_own_names(server):
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert ask(server, Host=host)[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port + 1}",
        f"127.0.0.1.evil:{port}",
        "",
    ):
        status, _, text = ask(server, Host=host)
        assert status == 403
        assert "head" not in text
    assert ask(server, "/changes", Host="evil.example")[0] == 403


def test_another_site_cannot_ask(server):
    assert ask(server, "/changes", Sec_Fetch_Site="cross-site")[0] == 404
    assert ask(server, "/changes", Sec_Fetch_Site="same-origin")[0] == 200
    assert "Access-Control-Allow-Origin" not in ask(server, "/changes", Origin="https://evil.example")[1]


@pytest.mark.parametrize(
    "path",
    ["/config.json", "/../config.json", "/..%2f..%2fetc/passwd", "//etc/passwd", "/a/log.jsonl", "/changes/", "/%00",
     "/favicon.ico"],
)  # fmt: skip
def test_nothing_else_is_there(server, path):
    status, headers, text = ask(server, path)
    assert status == 404
    assert headers["Content-Type"].startswith("text/plain")
    assert "There is nothing here" in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "WHAT"])
def test_only_get_and_head(server, method):
    status, headers, _ = ask(server, "/", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00",
     b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_the_server_goes_on(server, request_, capfd):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    assert b" 200 " not in answer.split(b"\r\n", 1)[0]
    assert ask(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_page_closed_while_it_is_answered_leaves_no_word(server, capfd):
    import struct

    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", server.server_port), timeout=60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
        client.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode() * 3)
        client.close()
    time.sleep(0.2)
    assert ask(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_many_pages_at_once_cost_one_making(server, out, calls):
    until(server, 60, lambda head: "6 lines" in head)
    calls.clear()
    append(out / "a" / "generations.jsonl", generation(4))
    problems = []

    def look():
        try:
            until(server, 60, lambda head: "7 lines" in head)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=look) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert calls == ["head"]


def test_nothing_is_made_while_nobody_looks(server, out, calls, monkeypatch):
    until(server, 60, lambda head: "6 lines" in head)
    monkeypatch.setattr("analysis.live_page.FORGOTTEN", 0.0)
    time.sleep(0.5)
    calls.clear()
    append(out / "a" / "generations.jsonl", generation(4))
    time.sleep(1.5)
    assert calls == []
    monkeypatch.setattr("analysis.live_page.FORGOTTEN", 10.0)
    until(server, 60, lambda head: "7 lines" in head)


def test_a_taken_port_gives_way_to_the_next(server, out):
    with Server(LivePage(["a"]), server.server_port) as other:
        assert other.server_port > server.server_port
        assert str(other.server_port) in other.url


def test_no_port_left_is_an_error(server, monkeypatch):
    from evo.errors import UserError
    from runs.watch import run_watch

    monkeypatch.setattr("analysis.live_server.PORTS_TRIED", 1)
    with pytest.raises(UserError, match=f"--port {server.server_port}: .*Address already in use; name another"):
        run_watch(["a"], port=server.server_port, open_browser=False)


def test_the_command_ends_at_once_without_a_traceback(out):
    with socket.create_server(("127.0.0.1", 0)) as free:
        asked = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "runs", "watch", "not-there-yet", "--port", str(asked)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            port = int(re.search(r"http://127.0.0.1:(\d+)/ shows not-there-yet until Ctrl-C", line).group(1))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            out_, error = process.communicate(timeout=60)
        finally:
            process.kill()  # where the test has failed
    assert process.returncode == 130
    assert out_ == ""
    assert error.splitlines()[0].startswith("run: no run 'not-there-yet' in ")
    assert [line for line in error.splitlines()[1:] if line] == ["run: stopped watching"]


def test_the_page_needs_no_torch():
    code = "import sys, analysis.live_server, runs.watch; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# A browser


@pytest.fixture
def opened(browser):
    """Opens a page; whatever goes wrong in it is in the list that comes with it."""
    contexts = []

    def open_page(url):
        context = browser.new_context(viewport={"width": 1200, "height": 700})
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"{request.url} {request.failure}"))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.goto(url)
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def growing(out):
    """A run cut off in its middle, and the way to make it go on: more lines, a further search written whole, the end."""
    folder = out / "grown"
    shutil.copytree(OLD_RUN, folder)
    rest = {}
    for name in ("log.jsonl", "generations.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        keep = len(lines) // 2
        (folder / name).write_text("".join(lines[:keep]))
        rest[name] = "".join(lines[keep:])
    last = max((folder / "elites").iterdir())
    kept = last.read_bytes()
    last.unlink()

    def go_on():
        for name, text in rest.items():
            with (folder / name).open("a") as file:
                file.write(text)
        last.with_suffix(".tmp").write_bytes(kept)
        last.with_suffix(".tmp").rename(last)

    return folder, go_on


@pytest.fixture
def served(growing):
    with serving(LivePage(["grown"])) as made:
        yield made


# Of the longest line in a figure; closed shapes are no lines, and those of the grid are short.
POINTS = """() => Math.max(0, ...[...document.querySelectorAll("#training svg path[clip-path]")]
    .map((path) => path.getAttribute("d")).filter((d) => !d.includes("z")).map((d) => (d.match(/L/g) || []).length))"""
LOADED = "() => [...document.querySelectorAll('#gallery img')].map((image) => image.naturalWidth)"
SLIDER = "#gallery input[type=range].search"


def comes(page, condition, seconds=300):  # as a busy machine may take
    """Wait for a condition; the page's policy forbids playwright's own way, which is to evaluate text."""
    end = time.monotonic() + seconds
    while not condition(page):
        assert time.monotonic() < end, "it did not come"
        page.wait_for_timeout(50)


def test_in_a_browser(served, growing, opened):
    folder, go_on = growing
    first, wrong = opened(served.url)
    first.wait_for_selector(SLIDER, timeout=300_000)
    first.wait_for_selector("#training svg", timeout=300_000)
    second, also_wrong = opened(served.url)
    second.wait_for_selector("#training svg", timeout=300_000)
    assert "killed" in first.locator("[role=status]").inner_text().lower()
    assert re.fullmatch(r"As of \d\d:\d\d:\d\d\.", first.locator(".live .soft").inner_text())
    assert first.locator("#training .moment").inner_text().startswith("as of ")
    points, pictures = first.evaluate(POINTS), first.evaluate(LOADED)
    assert pictures and all(width > 0 for width in pictures)

    first.locator(SLIDER).focus()
    first.keyboard.press("Home")
    first.locator("#how details summary").first.click()
    first.locator(SLIDER).focus()
    first.locator(SLIDER).scroll_into_view_if_needed()
    at = first.locator(SLIDER).bounding_box()["y"]
    text = first.locator(SLIDER).get_attribute("aria-valuetext")
    most = int(first.locator(SLIDER).get_attribute("max"))

    go_on()
    for page in (first, second):
        comes(page, lambda page: page.evaluate(POINTS) > points)
        comes(page, lambda page: page.locator(SLIDER).get_attribute("max") == str(most + 1))
        comes(page, lambda page: page.locator("[role=status]").inner_text().startswith("Done"))
    assert first.locator(SLIDER).input_value() == "0"
    assert first.locator(SLIDER).get_attribute("aria-valuetext") == text
    assert first.evaluate(f"() => document.activeElement === document.querySelector('{SLIDER}')")
    assert abs(first.locator(SLIDER).bounding_box()["y"] - at) < 2
    assert first.locator("#how details").first.evaluate("(element) => element.open")
    assert second.locator(SLIDER).input_value() == str(most + 1)  # nobody moved it: it follows
    assert all(width > 0 for width in first.evaluate(LOADED))
    assert wrong == also_wrong == []
    assert RunFolder(folder).state == "done"


# From afar: an SSH tunnel, a proxy with a path


@contextmanager
def served_as(live, allowed=(), base="/"):
    """The server of a page that is told how it is reached, at work."""
    from runs.watch import allowed_host

    with serving(live, [allowed_host(text) for text in allowed], base) as made:
        yield made


def test_a_foreign_name_is_told_how_to_be_allowed(server):
    status, headers, text = ask(server, Host="localhost:9999")
    assert status == 403 and headers["Content-Type"].startswith("text/plain")
    assert "--allow-host localhost:9999" in text and "--base-path" in text
    assert "<" not in ask(server, Host="<script>alert(1)</script>")[2]


@pytest.mark.parametrize(
    ("allowed", "known", "refused"),
    [
        ("localhost:9999", ("localhost:9999", "LocalHost:9999"), ("localhost:9998", "localhost", "evil:9999", "127.0.0.1:9999")),
        ("hub.example.org", ("hub.example.org", "hub.example.org:8000"), ("x.hub.example.org", "hub.example.org.evil", "")),
        ("hub.example.org:443", ("hub.example.org", "hub.example.org:443"), ("hub.example.org:80",)),
        ("[::1]:9999", ("[::1]:9999",), ("[::2]:9999", "::1:9999")),
    ],
)  # fmt: skip
def test_an_allowed_name_is_answered_and_no_other(live, allowed, known, refused):
    with served_as(live, [allowed]) as server:
        for host in (*known, f"127.0.0.1:{server.server_port}"):
            assert ask(server, Host=host)[0] == ask(server, "/changes", Host=host)[0] == 200
        for host in (*refused, "evil.example", f"evil.example:{server.server_port}"):
            assert ask(server, Host=host)[0] == ask(server, "/changes", Host=host)[0] == 403


def test_another_sites_origin_is_refused_and_an_allowed_ones_is_not(live):
    with served_as(live, ["hub.example.org"]) as server:
        name = {"Host": "hub.example.org"}
        assert ask(server, "/changes", Origin="https://hub.example.org", **name)[0] == 200
        for origin in ("https://evil.example", "null", "https://hub.example.org.evil"):
            assert ask(server, "/changes", Origin=origin, **name)[0] == 404
        assert ask(server, "/changes", Sec_Fetch_Site="cross-site", **name)[0] == 404


def test_a_path_is_answered_whether_a_proxy_takes_it_away_or_not(live):
    base = "/user/me/proxy/8321/"
    with served_as(live, base=base) as server:
        for path in ("/", base):
            status, _, text = ask(server, path)
            assert status == 200 and f'data-base="{base}"' in text
            assert ask(server, f"{path}changes")[0] == 200
        status, headers, _ = ask(server, base[:-1])
        assert status == 308 and headers["Location"] == base
        for path in (f"{base}config.json", "/user/me/", "/user/", f"{base}..", f"{base}/"):
            assert ask(server, path)[0] == 404
        assert server.url.endswith(base)


def test_a_page_without_a_path_has_no_trace_of_one(server):
    assert "data-base" not in ask(server)[2].split("<body>")[0].split("<style>")[0]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--allow-host", "https://hub.example.org/", "expected one HOST or HOST:PORT"),
        ("--allow-host", "*", "and no *"),
        ("--allow-host", "a:99999", "expected one HOST"),
        ("--allow-host", "", "expected one HOST"),
        ("--base-path", "/a/../b/", "expected a path"),
        ("--base-path", "https://hub/x", "expected a path"),
        ("--base-path", "/a//b", "expected a path"),
        ("--base-path", '/a"><script>/', "expected a path"),
        ("--base-path", "/a?b", "expected a path"),
    ],
)
def test_what_is_no_host_or_path_is_one_line(cli, option, value, words):
    status, _, error = cli("watch", "a", option, value)
    assert status == 2 and error.startswith(f"run: {option} ") and words in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "base"), [("/", "/"), ("", "/"), ("x", "/x/"), ("/x/y", "/x/y/"), ("/~me/x y", None)]
)
def test_paths_have_a_slash_at_either_end(given, base):
    from analysis.live_server import base_of

    assert base_of(given) == base


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy at PREFIX, which passes the path on as it came, or without the prefix."""

    prefix, strips, target = "/user/me/proxy/8321/", False, 0
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = "/" + self.path.removeprefix(self.prefix).lstrip("/") if self.strips else self.path
        if self.strips and path.strip("/") == self.prefix.strip("/"):
            path = "/"  # as Jupyter's, which shows the page at an address without its last slash as well
        inner = http.client.HTTPConnection("127.0.0.1", self.target, timeout=10)
        inner.request("GET", path, headers=dict(self.headers))
        answer = inner.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        inner.close()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize("address", [Proxy.prefix, Proxy.prefix[:-1]])
def test_in_a_browser_behind_a_proxy(live, out, opened, strips, address):
    kind = type("Kind", (Proxy,), {"strips": strips})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as proxy:
        name = f"localhost:{proxy.server_port}"
        with served_as(live, [name], Proxy.prefix) as server:
            kind.target = server.server_port
            thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            page, wrong = opened(f"http://{name}{address}")
            comes(page, lambda page: "6 lines" in page.locator("#head").inner_text())
            append(out / "a" / "generations.jsonl", generation(4))
            comes(page, lambda page: "7 lines" in page.locator("#head").inner_text())
            assert wrong == []
            page.close()
            proxy.shutdown()
            thread.join()
