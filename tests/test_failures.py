"""What the machine refuses: a full disk, a read-only place, a name too long. One line, status 2, and how to go on."""

import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest
from safetensors import SafetensorError

import training.checkpoint
from analysis.report import SECTIONS
from analysis.run_folder import RunFolder
from evo.locks import LOCK
from runs.failures import REMEDIES, told
from tests.conftest import TINY

SET = [word for override in TINY for word in ("-s", override)]


@pytest.fixture
def tiny(trained, out):
    shutil.copytree(trained, out / "tiny")
    return out / "tiny"


@pytest.fixture(autouse=True)
def drawn_at_once(monkeypatch):
    """What a figure or a page shows is tested elsewhere, and takes seconds."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"drawn"))
    monkeypatch.setattr("analysis.report.render_sections", lambda runs, defaults: dict.fromkeys(SECTIONS, ""))


def one_line(result, *words):
    status, _, error = result
    told = [line for line in error.splitlines() if line.startswith("run: ")]
    assert status == 2 and len(told) == 1 and "Traceback" not in error, error
    for word in words:
        assert word in told[0]


def refusing(monkeypatch, number):
    """Let every file that analysis writes whole meet a refusal at its end."""

    def replace(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("number", REMEDIES)
def test_each_refusal_is_one_line_that_names_the_place_and_what_to_do(number):
    lines = told(OSError(number, os.strerror(number), "/somewhere/report.html"))
    assert lines == [f"/somewhere/report.html: {os.strerror(number)}; {REMEDIES[number]}"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), FileExistsError(errno.EEXIST, "x"), OSError("x")]
)
def test_errors_that_only_our_own_code_can_cause_are_bugs(error):
    assert told(error) is None
    assert told(ValueError("x")) is None


def test_a_refusal_is_found_behind_the_error_it_was_made_into():
    error = RuntimeError("cannot write")
    error.__cause__ = OSError(errno.EROFS, "Read-only file system", "/a")
    assert "/a: Read-only file system" in told(error)[0]


@pytest.mark.parametrize(
    ("arguments", "elsewhere"),
    [
        (("report", "tiny"), "--out FILE writes elsewhere"),
        (("curves", "tiny"), "--out FOLDER writes elsewhere"),
        (("patterns", "tiny"), "--out"),
        (("gallery", "tiny"), "--out FOLDER writes elsewhere"),
        (("lineage", "tiny"), "--out FILE writes elsewhere"),
        (("compare", "tiny", "--out", "{}/there"), "per_seed.csv"),
    ],
)
def test_a_place_that_takes_no_file_is_told_with_another_way_and_keeps_no_half_files(
    cli, tiny, tmp_path, monkeypatch, arguments, elsewhere
):
    number = errno.EROFS
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*") if path.is_file()}
    refusing(monkeypatch, number)
    if arguments == ("patterns", "tiny"):  # which writes by evo/bank_files.py first
        monkeypatch.setattr(
            "runs.patterns.save_bank", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number)))
        )
    one_line(cli(*(word.format(tmp_path) for word in arguments)), os.strerror(number), elsewhere)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*") if path.is_file()} == before


def test_a_lineage_is_told_even_where_it_cannot_be_written_and_goes_where_it_is_to(cli, tiny, tmp_path, monkeypatch):
    status, _, _ = cli("lineage", "tiny", "--out", str(tmp_path / "new" / "table.csv"))
    assert status == 0 and (tmp_path / "new" / "table.csv").read_text().startswith("slot,operator,children")
    assert not (tiny / "patterns" / "operators.csv").exists()
    refusing(monkeypatch, errno.EROFS)
    assert "children" in cli("lineage", "tiny")[1]


def test_a_file_that_is_missing_by_our_own_fault_shows_itself(cli, tiny, monkeypatch):
    refusing(monkeypatch, errno.ENOENT)
    with pytest.raises(FileNotFoundError):
        cli("report", "tiny")


@pytest.fixture
def small_files(monkeypatch):
    """Let no file grow beyond some bytes, as a quota or a full disk does: call it with how many."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_training_without_room_for_its_first_checkpoint_says_so(cli, out, small_files):
    small_files(60_000)
    result = cli("train", "digits", *SET, "-s", "run.name=full")
    one_line(result, "File too large", "before it had a checkpoint", "start it anew")
    assert not list((out / "full").rglob("*.tmp"))


@pytest.mark.parametrize("what", ["tensors", "arrays", "log"])
def test_a_training_whose_disk_fills_up_keeps_its_checkpoint_and_says_how_to_go_on(cli, out, monkeypatch, what):
    calls = []

    def full_from_the_second_on(write, error):
        def filling(*arguments, **options):
            calls.append(1)
            if len(calls) > 1:
                raise error
            return write(*arguments, **options)

        return filling

    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        if what == "tensors":
            error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            patch.setattr(
                training.checkpoint, "save_file", full_from_the_second_on(training.checkpoint.save_file, error)
            )
        elif what == "arrays":
            patch.setattr(training.checkpoint.np, "savez", full_from_the_second_on(np.savez, no_space))
        else:
            event = training.run_log.RunLog.event
            patch.setattr(
                training.run_log.RunLog,
                "event",
                lambda self, name, **values: (full_from_the_second_on(event, no_space) if name == "epoch" else event)(
                    self, name, **values
                ),
            )
        result = cli("train", "digits", *SET, "-s", "run.name=a")
    one_line(result, "No space left on device", "its state is saved after epoch 1, step 10", "./run train --resume a")
    assert not list((out / "a").rglob("*.tmp"))
    assert RunFolder(out / "a").result is None
    assert cli("train", "--resume", "a")[0] == 0
    assert RunFolder(out / "a").result["steps"] == 20


def test_a_run_that_could_not_even_begin_leaves_its_name_free(cli, out, monkeypatch):
    def write(path, text):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(training.run_log, "write_atomically", write)
        one_line(cli("train", "digits", *SET, "-s", "run.name=a"), "quota", "start it anew")
    assert not (out / "a").exists()


def test_a_run_that_cannot_be_written_to_is_not_resumed_and_says_what_is_kept(cli, tiny, monkeypatch):
    events = (tiny / "log.jsonl").read_text().splitlines()
    (tiny / "log.jsonl").write_text("\n".join(events[:-1]) + "\n")
    (tiny / LOCK).unlink()
    (tiny / LOCK).mkdir()  # no file can be opened there
    one_line(cli("train", "--resume", "tiny"), f"{LOCK}: Is a directory", "its state is saved after epoch 2")


def test_a_failed_close_of_one_log_closes_the_others(tmp_path):
    log = training.run_log.RunLog(tmp_path)

    class Full:
        closed = False

        def close(self):
            self.closed = True
            raise OSError(errno.ENOSPC, "No space left on device")

    one, other = Full(), Full()
    log._files = {"log.jsonl": one, "generations.jsonl": other}
    with pytest.raises(OSError, match="No space left") as caught:
        log.close()
    assert one.closed and other.closed and caught.value.filename == str(tmp_path)
    log.close()


def test_a_trial_of_an_ablation_hands_its_refusal_on(monkeypatch, capsys):
    from runs.ablation.engines import worker
    from runs.ablation.engines.local import explain

    monkeypatch.setattr(worker, "_first_line", lambda: json.dumps({"trial": "", "patience": 0, "output": ""}))
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    monkeypatch.setattr(worker.faulthandler, "enable", lambda: None)
    monkeypatch.setattr(worker.Trial, "from_json", lambda text: type("Trial", (), {"command": ()}))

    def run_trial(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/latest.json")

    monkeypatch.setattr(worker, "run_trial", run_trial)
    monkeypatch.setattr(worker.sys, "argv", ["worker"])
    assert worker.main() == 2
    assert explain(2, capsys.readouterr().err).startswith("/x/latest.json: No space left on device")


# Where to write


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("report", "tiny"), "--out"),
        (("lineage", "tiny"), "--out"),
        (("patterns", "tiny"), "--out"),
        (("transfer", "tiny"), "--csv"),
    ],
)
def test_a_folder_is_no_place_for_a_file(cli, tiny, tmp_path, arguments, option):
    one_line(cli(*arguments, option, str(tmp_path)), f"{option} {tmp_path}: expected a file, and this is a folder")
    (tmp_path / "file").touch()
    one_line(cli(*arguments, option, str(tmp_path / "file" / "x.json")), f"and {tmp_path / 'file'} is a file")


@pytest.mark.parametrize(
    "arguments",
    [("curves", "tiny"), ("gallery", "tiny"), ("compare", "tiny"), ("prepare", "{}"), ("curves", "tiny", "tiny")],
)
def test_a_file_is_no_place_for_a_folder(cli, tiny, tmp_path, arguments):
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    for place in ("file", "file/below"):
        words = [word.format(tmp_path) for word in arguments]
        which = "this" if place == "file" else tmp_path / "file"
        one_line(cli(*words, "--out", str(tmp_path / place)), f"--out {tmp_path / place}", f"and {which} is a file")
    one_line(
        cli(*[w.format(tmp_path) for w in arguments], "--out", str(tmp_path / "dead")), "a link that leads nowhere"
    )


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (("report", "tiny", "--out", "{}/new/deep/page.html"), "new/deep/page.html"),
        (("curves", "tiny", "--out", "{}/new/deep"), "new/deep/curves.png"),
        (("gallery", "tiny", "--out", "{}/new/deep"), "new/deep/gallery.png"),
        (("patterns", "tiny", "--out", "{}/new/deep/p.json"), "new/deep/p.json"),
        (("compare", "tiny", "--out", "{}/new/deep"), "new/deep/per_seed.csv"),
    ],
)
def test_folders_on_the_way_are_made(cli, tiny, tmp_path, arguments, made):
    status, _, error = cli(*(word.format(tmp_path) for word in arguments))
    assert status == 0, error
    assert (tmp_path / made).is_file()


def test_a_home_folder_is_understood(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("report", "tiny", "--out", "~/page.html")[0] == 0
    assert (tmp_path / "home" / "page.html").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("show", "a"),
        ("report", "a"),
        ("train", "digits"),
        ("search", "a"),
        ("compare", "a"),
        ("watch", "a"),
        ("demo",),
    ],
)
def test_a_file_is_no_place_for_run_folders(cli, tmp_path, monkeypatch, arguments):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVOMIX_OUT", str(tmp_path / "file"))
    one_line(cli(*arguments), f"{tmp_path / 'file'} is a file", "set EVOMIX_OUT to a folder")
