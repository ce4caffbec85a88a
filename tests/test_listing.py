"""`./run list` and `./run show`: states, columns, filters, order, JSON, damaged folders, estimates."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from analysis.states import State
from analysis.time_left import seconds_left
from evo.errors import UserError
from runs.card import run_show
from runs.listing import SORTS, WIDTH, human, in_order, run_list, shortened
from runs.standing import last_records, row_of, run_folders

KEYS = {
    "name", "path", "kind", "state", "reason", "data", "model", "mix", "seed", "epoch", "epochs", "generation",
    "generations", "accuracy", "started", "last_event", "age_seconds",
}  # fmt: skip


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in ({"schema": 2}, *records))


def write_run(
    folder: Path, *, epochs=2, of=4, last=None, data="digits", model="resnet-small", mix="plain", age=60, seconds=10,
    accuracy=50.0, search=False, generations=3, seed=0,
):  # fmt: skip
    """A run folder of version 2 with `epochs` epochs logged, `seconds` each, the last event `age` seconds ago."""
    folder.mkdir(parents=True)
    config = {
        "schema": 2,
        "data": {"name": data},
        "model": {"name": model},
        "mix": {"name": mix},
        "search": {"generations": 5, "objective": "hard"},
        "train": {"epochs": of},
        "run": {"seed": seed},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"schema": 2, "command": "./run train digits"}))
    end = age + (seconds * epochs)
    start = {"event": "start", "time": ago(end), "test_images": 100}
    events = [start | {"model": "elsewhere"} if search else start]
    for epoch in range(1, (0 if search else epochs) + 1):
        event = {"event": "epoch", "time": ago(end - seconds * epoch), "epoch": epoch, "step": 7 * epoch}
        events.append(event | {"accuracy": accuracy + epoch, "image_forwards": 10 * epoch, "search_forwards": 0})
    events += [{"time": ago(age), **last}] if last else []
    (folder / "log.jsonl").write_text(lines(*events))
    if search or mix == "evolved":
        found = [generation(number) for number in range(1, generations + 1)]
        (folder / "generations.jsonl").write_text(lines(*found))
    return folder


def generation(number, search=1):
    return {
        "epoch": 1, "step": 1, "search": search, "images": 4, "generation": number, "new_rows": 4, "full_rows": 8,
        "forwards": 4 * number, "nonfinite": 0, "best": 1.0 + number / 8, "mean": 1.0, "median": 1.0, "std": 0.1,
        "min": 0.5, "diversity": 0.5,
    }  # fmt: skip


END = {
    "event": "end", "last_accuracy": 61.5, "median10_accuracy": 60.5, "test_images": 100, "steps": 28, "seconds": 5.0,
    "search_seconds": 1.0, "image_forwards": 1200, "search_forwards": 200,
}  # fmt: skip
FAILED = {"event": "failed", "reason": "the loss is not finite at step 3"}


@pytest.fixture
def runs(out):
    """One run of every state."""
    write_run(out / "done", epochs=4, last=END, mix="evolved", age=3 * 3600)
    write_run(out / "failed", last=FAILED, data="cifar10", age=200)
    write_run(out / "group" / "stopped", last={"event": "stopped", "step": 9}, age=5 * 86400)
    write_run(out / "killed", age=90)
    write_run(out / "search", search=True, mix="evolved")
    (write_run(out / "damaged") / "config.json").write_text("{")
    return out


@pytest.fixture
def held(out):
    """A run that this process holds."""
    folder = write_run(out / "running", age=4, model="vit")
    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def listed(capsys, **options):
    base = {"states": [], "data": None, "model": None, "mix": None, "sort": "name", "reverse": False, "as_json": True}
    run_list(**(base | options))
    text = capsys.readouterr().out
    return json.loads(text) if (base | options)["as_json"] else text


def test_every_state_is_told(runs, held, capsys):
    rows = {row["name"]: row for row in listed(capsys)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "done", "failed": "failed", "group/stopped": "stopped", "killed": "killed", "search": "killed",
        "damaged": "damaged", "running": "running",
    }  # fmt: skip
    assert all(set(row) == KEYS for row in rows.values())
    assert rows["failed"]["reason"] == FAILED["reason"]
    assert (rows["done"]["epoch"], rows["done"]["epochs"], rows["done"]["accuracy"]) == (4, 4, 61.5)
    assert (rows["killed"]["epoch"], rows["killed"]["epochs"], rows["killed"]["accuracy"]) == (2, 4, 52.0)
    search = rows["search"]
    assert (search["kind"], search["epoch"], search["generation"], search["generations"]) == ("search", None, 3, 5)


def test_states_are_those_of_the_run_folder(runs, held):
    for path in run_folders(runs):
        if path.name != "damaged":
            assert row_of(path)["state"] == RunFolder(path).state
    folder = write_run(runs / "odd", last={"event": "stopped", "step": 9})
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "epoch", "time": ago(1), "epoch": 3, "step": 21}) + "\n")
    assert row_of(folder)["state"] == RunFolder(folder).state == "killed"  # the last event decides, whatever it is


def test_looking_disturbs_no_run(held, capsys):
    """The lock can be taken at any moment by who has a right to it, and stays with its holder."""
    listed(capsys)
    with open(held / ".lock", "a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_resumed_run_is_no_longer_stopped(out):
    folder = write_run(out / "a", last={"event": "stopped", "step": 9})
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resume", "time": ago(1)}) + "\n")
    assert row_of(folder)["state"] == "killed"
    assert row_of(folder)["epoch"] == 2


def test_version_1_is_read(out):
    folder = write_run(out / "old", last=END)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"schema": 1}))
    text = (folder / "log.jsonl").read_text()
    (folder / "log.jsonl").write_text(text.split("\n", 1)[1])
    row = row_of(folder)
    assert (row["state"], row["accuracy"], row["started"] is not None) == ("done", 61.5, True)


def test_the_last_accuracy_may_lie_some_epochs_back(out):
    folder = write_run(out / "a", epochs=3)
    with (folder / "log.jsonl").open("a") as file:
        for epoch in range(4, 40):
            file.write(json.dumps({"event": "epoch", "time": ago(1), "epoch": epoch, "step": epoch}) + "\n")
    assert (row_of(folder)["accuracy"], row_of(folder)["epoch"]) == (53.0, 39)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "config.json cannot be read: FileNotFoundError"),
        ("config.json", b"[1]", "config.json cannot be read"),
        ("config.json", b'{"schema": 2}', "KeyError: 'data'"),
        ("config.json", b'{"schema": 3}', "schema 3"),
        ("config.json", b"\xff\xfe\x00", "config.json cannot be read"),
        ("log.jsonl", b"what is this\nnothing\n", "a line is damaged: 'nothing'"),
        ("log.jsonl", b'{"schema": 9}\n', "schema 9"),
        ("log.jsonl", b'{"event": "epoch", "time": "once", "epoch": 1}\n', "ValueError"),
        ("log.jsonl", b'{"no": "event"}\n', "KeyError"),
        ("log.jsonl", b'{"event": "epoch", "epoch": Infinity}\n', "OverflowError"),
        ("log.jsonl", b'{"event": "epoch", "epoch": 1, "accuracy": 1%b}\n' % (b"0" * 400), "OverflowError"),
        pytest.param("log.jsonl", b"[" * 100_000 + b"\n", "RecursionError", id="deep-log"),
        pytest.param("config.json", b"[" * 100_000, "RecursionError", id="deep-config"),
    ],
)
def test_a_damaged_folder_is_a_row_that_says_so(runs, capsys, name, content, says):
    path = runs / "killed" / name
    path.unlink() if content is None else path.write_bytes(content)
    rows = {row["name"]: row for row in listed(capsys)}
    assert rows["killed"]["state"] == "damaged"
    assert says in rows["killed"]["reason"]
    assert len(rows) == 6
    line = next(line for line in listed(capsys, as_json=False).splitlines() if line.startswith("killed"))
    assert "damaged" in line
    assert len(line) <= WIDTH


def test_a_torn_last_line_is_no_damage(out):
    folder = write_run(out / "a")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"event": "epoch", "ti')
    assert (row_of(folder)["state"], row_of(folder)["epoch"]) == ("killed", 2)


def test_a_run_without_an_event_yet_is_there(out):
    folder = write_run(out / "a")
    (folder / "log.jsonl").unlink()
    row = row_of(folder)
    assert (row["state"], row["epoch"], row["accuracy"]) == ("killed", 0, None)
    assert row["age_seconds"] < 60


def test_filters(runs, held, capsys):
    def names(**options):
        return [row["name"] for row in listed(capsys, **options)]

    assert names(states=["failed", "done"]) == ["done", "failed"]
    assert names(states=["failed,done"]) == ["done", "failed"]
    assert names(data="cifar10") == ["failed"]
    assert names(model="vit") == ["running"]
    assert names(mix="evolved", states=["done"]) == ["done"]
    assert names(mix="cutmix") == []


def test_what_is_unknown_is_refused_with_what_there_is(runs, capsys):
    with pytest.raises(UserError, match="--state: expected one of waiting, running, done.*, got 'ended'"):
        listed(capsys, states=["ended"])
    with pytest.raises(UserError, match="--sort size: expected one of age, name"):
        listed(capsys, sort="size")
    assert listed(capsys, mix="cutmix", as_json=False) == (
        "none of 6 runs has --mix cutmix; there are mix: evolved, plain\n"
    )


def test_no_runs_yet(out, capsys):
    assert listed(capsys) == []
    assert "no runs in" in listed(capsys, as_json=False)


@pytest.mark.parametrize("sort", SORTS)
def test_order(runs, held, capsys, sort):
    key, largest = SORTS[sort]
    rows = listed(capsys, sort=sort)
    known = [key(row) for row in rows if key(row) is not None]
    assert known == sorted(known, reverse=largest)
    assert all(key(row) is None for row in rows[len(known) :])
    value = {row["name"]: key(row) for row in rows}  # ages have grown by the next call
    back = listed(capsys, sort=sort, reverse=True)
    assert [value[row["name"]] for row in back][: len(known)] == known[::-1]


def test_the_youngest_and_the_most_accurate_come_first(runs, held, capsys):
    assert listed(capsys, sort="age")[0]["name"] in ("running", "search")  # a search's age is its file's
    assert listed(capsys, sort="accuracy")[0]["name"] == "done"


def test_names_in_order_of_their_numbers():
    rows = [{"name": f"a-s{number}"} for number in (10, 9, 1)]
    assert [row["name"] for row in in_order(rows, "name", False)] == ["a-s1", "a-s9", "a-s10"]


def test_a_table_fits_100_characters_and_columns_stand_below_their_heads(runs, held, capsys):
    write_run(runs / ("long" * 12) / "of-a-long-name-s0", data="tiny-imagenet", model="timm:vit_small_patch16_224")
    text = listed(capsys, as_json=False)
    head, *rest = text.splitlines()
    assert head.split() == ["name", "state", "data", "model", "mix", "epoch", "accuracy", "age"]
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert any(line.startswith("long") and "…" in line and "name-s0 " in line for line in rest)
    column = head.index("state")
    assert all(line[column - 2 : column] == "  " and line[column:].split()[0] in set(State) for line in rest)
    assert listed(capsys)[-3]["name"] == f"{'long' * 12}/of-a-long-name-s0"  # whole in JSON


def test_control_characters_do_not_reach_the_terminal(out, capsys):
    write_run(out / "a\x1b[31m", mix="x\ny")
    assert "\x1b" not in listed(capsys, as_json=False)
    assert len(listed(capsys, as_json=False).splitlines()) == 2


@given(st.text(min_size=0, max_size=40), st.integers(3, 50))
def test_a_shortened_text_keeps_both_ends(text, width):
    short = shortened(text, width)
    assert len(short) <= width
    assert short == text or (short[0] == text[0] and short[-1] == text[-1] and "…" in short)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (172799, "47 h"),
     (172800, "2 d"), (1e9, "11,574 d")],
)  # fmt: skip
def test_ages(seconds, text):
    assert human(seconds) == text


@given(st.integers(0, 3000), st.integers(0, 60))
def test_records_from_the_end_are_the_last_ones(tmp_path_factory, count, torn):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    whole = [{"event": "epoch", "epoch": number, "filling": "x" * 40} for number in range(count)]
    path.write_text(lines(*whole) + '{"event": "epoch", "epoch": 1, "filling": "xxxxxxxxxxxxxxxxxxxxx"'[:torn])
    found = list(last_records(path))
    assert found == whole[::-1][: len(found)]
    assert len(found) == count or len(found) > 500


def test_folders_within_a_run_are_no_runs_and_links_are_followed_once(out, tmp_path):
    outer = write_run(out / "a")
    write_run(outer / "checkpoint" / "x")
    write_run(outer / "more" / "b")
    write_run(tmp_path / "elsewhere" / "c")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    (out / "loop").symlink_to(out)
    names = sorted(path.relative_to(out).as_posix() for path in run_folders(out))
    assert names == ["a", "a/more/b", "link/c"]


def test_a_thousand_runs_open_only_the_ends_of_logs(out, monkeypatch):
    """Whatever a log's length, 64 kB of it are read."""
    folder = write_run(out / "a")
    with (folder / "log.jsonl").open("a") as file:
        for epoch in range(5000):
            file.write(json.dumps({"event": "epoch", "time": ago(9), "epoch": epoch, "step": 1, "x": "y" * 100}) + "\n")
    read = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: read.append(len(text)) or real(text, **options))
    assert row_of(folder)["epoch"] == 4999
    assert sum(read) < 80 * 1024


def shown_json(capsys, name):
    run_show(name, as_json=True)
    return json.loads(capsys.readouterr().out)


def shown_text(capsys, name):
    run_show(name, as_json=False)
    return capsys.readouterr().out


def test_show_a_finished_run(runs, capsys):
    details = shown_json(capsys, "done")
    assert set(details) > KEYS
    assert details["fitness"] == [1.125, 1.375]
    assert (details["image_forwards"], details["search_seconds"], details["test_images"]) == (1200, 1.0, 100)
    assert details["commands"] == {
        "repeat": "./run train digits", "resume": None, "watch": None, "report": "./run report done",
    }  # fmt: skip
    text = shown_text(capsys, "done")
    for part in (
        "done: it has ended as planned, 3 h ago",
        "epoch 4 of 4",
        "61.50 %",
        "1.125",
        "1.375",
        "1,200 image forwards, 200 of them",
    ):
        assert part in text


def test_show_says_why_and_how_to_go_on(runs, capsys):
    (runs / "failed" / "checkpoint").mkdir()
    (runs / "failed" / "checkpoint" / "latest.json").write_text("{}")
    text = shown_text(capsys, "failed")
    assert FAILED["reason"] in text
    assert "./run train --resume failed" in text
    assert "--resume" not in shown_text(capsys, "killed")  # it has no checkpoint
    (runs / "search" / "checkpoint").mkdir()
    (runs / "search" / "checkpoint" / "search.npz").write_bytes(b"")
    text = shown_text(capsys, "search")
    assert "generation 3 of 5" in text
    assert "./run search --resume search" in text


def test_the_time_left_is_the_pace_since_the_run_was_gone_on_with(held, capsys):
    details = shown_json(capsys, "running")
    assert details["left_seconds"] == pytest.approx(2 * 10 - 4, abs=3)  # two epochs of 10 s, 4 s of them gone
    with (held / "log.jsonl").open("a") as file:
        for record in (
            {"event": "resume", "time": ago(3)},
            {"event": "epoch", "time": ago(1), "epoch": 3, "step": 21},
        ):
            file.write(json.dumps(record) + "\n")
    assert shown_json(capsys, "running")["left_seconds"] == pytest.approx(1, abs=2)
    assert "left" in shown_text(capsys, "running")


def test_a_search_that_was_gone_on_with_counts_its_generations_since(out):
    folder = write_run(out / "search", search=True, mix="evolved")  # three of five generations
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resume", "time": ago(10), "generation": 2}) + "\n")
    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert seconds_left(RunFolder(folder)) == pytest.approx(2 * 10, abs=3)  # one in 10 s


def test_a_run_that_does_not_run_has_no_time_left(runs, capsys):
    assert shown_json(capsys, "killed")["left_seconds"] is None


def test_show_a_damaged_or_missing_run_is_one_line(runs, capsys):
    with pytest.raises(RunFolderError, match="run damaged is damaged: config.json cannot be read"):
        run_show("damaged", as_json=False)
    with pytest.raises(RunFolderError, match="did you mean 'done'"):
        run_show("don", as_json=False)


def test_show_survives_a_damaged_environment(runs, capsys):
    (runs / "done" / "environment.json").unlink()
    text = shown_text(capsys, "done")
    assert "61.50 %" in text
    assert "repeat" not in text


def test_neither_needs_pandas_nor_torch(runs):
    import subprocess

    code = (
        "import sys; from runs.card import run_show; from runs.listing import run_list;"
        "run_list(states=[],data=None,model=None,mix=None,sort='age',reverse=False,as_json=False);"
        "run_show('done',as_json=True);"
        "assert not {'pandas', 'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True
    )
