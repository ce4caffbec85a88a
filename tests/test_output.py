"""What the command line prints: any terminal and any encoding takes it, nothing in it steers a terminal, and a reader may leave."""

import errno
import io
import json
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.__main__ import main
from runs.output import CLOSED, Output

EVIL = "a\x1b]0;owned\x07\x1b[2J\u202eb\udcff"


@pytest.fixture
def tiny(trained, out):
    shutil.copytree(trained, out / "tiny")
    return out / "tiny"


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


class Full(io.StringIO):
    """A file on a full disk, which says so only when it is flushed."""

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


@given(st.text(), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "koi8-r"]))
def test_any_text_goes_through_any_encoding_and_holds_no_control_characters(text, encoding):
    target = stream(encoding)
    Output(target).write(text)
    shown = target.buffer.getvalue().decode(encoding)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown.replace("\r\n", "\n"))
    if text.isascii() and text.isprintable():
        assert shown == text


def test_signs_that_an_encoding_lacks_are_spelt():
    target = stream("ascii")
    Output(target).write("2 → 3 ± 1 × 4 … é\n")
    assert target.buffer.getvalue() == b"2 -> 3 +/- 1 x 4 ... \\xe9\n"


def test_escapes_are_shown_instead_of_obeyed_but_progress_may_overwrite_its_line():
    for silent in (False, True):
        target = io.StringIO()
        Output(target, silent).write(EVIL)
        assert target.getvalue() == r"a\x1b]0;owned\x07\x1b[2J\u202eb\udcff"
    messages, results = io.StringIO(), io.StringIO()
    Output(messages, silent=True).write("\r\x1b[2Kepoch 1 \x1b[31m")
    Output(results).write("\r\x1b[2Kname")
    assert messages.getvalue() == "\r\x1b[2Kepoch 1 \\x1b[31m" and results.getvalue() == r"\r\x1b[2Kname"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", [("list",), ("show", "ténor → ±"), ("--help",), ("report", "n→ne")])
def test_commands_speak_every_encoding(tiny, out, monkeypatch, encoding, command):
    tiny.rename(out / "ténor → ±")
    streams = {name: stream(encoding) for name in ("stdout", "stderr")}
    for name, one in streams.items():
        monkeypatch.setattr(sys, name, one)
    status = main(list(command))
    shown = "".join(one.buffer.getvalue().decode(encoding) for one in streams.values())
    assert status == (2 if command[0] == "report" else 0), shown
    assert shown and all(
        sys_stream is streams[name] for name, sys_stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
    )


def test_a_hostile_name_or_reason_reaches_no_terminal(cli, tiny, out):
    config = json.loads((tiny / "config.json").read_text())
    config["data"]["name"] = "d\x1b[31m"
    (tiny / "config.json").write_text(json.dumps(config))
    log = (tiny / "log.jsonl").read_text().splitlines()[:-1]
    (tiny / "log.jsonl").write_text("\n".join([*log, json.dumps({"event": "failed", "reason": EVIL})]) + "\n")
    tiny.rename(out / "a\x1b[2Jb")
    for command in (
        ("list",),
        ("show", "a\x1b[2Jb"),
        ("train", "--resume", "a\x1b[2Jc"),
        ("compare", "a\x1b[2Jb"),
        ("report", "\x9b2J"),
    ):
        _, text, error = cli(*command)
        assert not set("\x1b\x07\x9b\u202e") & set(text + error)


def test_a_reader_that_leaves_ends_a_command_without_a_word(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["list"]) == CLOSED and main(["show", "tiny"]) == CLOSED and main(["--help"]) == CLOSED
    assert capsys.readouterr().err == ""


def test_a_full_disk_behind_standard_output_is_one_line(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith("run: standard output: No space left on device; ")


def test_messages_that_nobody_reads_stop_no_work(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Closed())
    assert main(["show", "none"]) == 2
    assert main(["show", "tiny"]) == 0 and "tiny" in capsys.readouterr().out


def test_streams_that_are_closed_from_the_start_are_no_error(tiny, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list"]) == 0 and main(["show", "none"]) == 2
