"""Runs with a damaged file: every page and table without what needs it, one line that names the file, no traceback."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.live_page import LivePage
from analysis.report import write_report
from analysis.run_folder import RunFolder, find_run
from analysis.run_format import RunFolderError
from analysis.snapshots import read_snapshot
from tests.flips import flip_bits

OLD_RUN = Path(__file__).parent / "data" / "runs-v1" / "evolved"
EMPTY_SVG = '<svg xmlns="x" width="1pt" height="1pt" viewBox="0 0 1 1"></svg>'


@pytest.fixture(autouse=True)
def drawn_at_once(monkeypatch):
    """What a figure shows is tested elsewhere, and takes seconds."""

    def save(self, path, **_):
        path.write(EMPTY_SVG if isinstance(path, io.StringIO) else b"drawn")  # an open file

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


@pytest.fixture
def run(out):
    shutil.copytree(OLD_RUN, out / "a")
    return out / "a"


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def tear_line(path, number=3):
    lines = path.read_text().splitlines()
    lines[number - 1] = lines[number - 1][:20]
    path.write_text("\n".join(lines) + "\n")


def alter(path, key, value):
    """Give the first line that has a key another value for it."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    next(record for record in records if key in record)[key] = value
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


def last_search(run):
    return max((run / "elites").glob("*.npz"))


def without_an_array(path):
    with np.load(path) as data:
        arrays = {name: array for name, array in data.items() if name != "masks"}
    np.savez(path, **arrays)


def with_a_shape(path):
    with np.load(path) as data:
        arrays = dict(data)
    np.savez(path, **{**arrays, "pairings": arrays["pairings"][:, :-1]})


CASES = {  # how a run is damaged: the file, and the sections a report then lacks
    "torn search": (lambda run: tear(last_search(run)), "elites/000004.npz", {"operators", "atlas", "gallery"}),
    "empty search": (lambda run: last_search(run).write_bytes(b""), "000004.npz", {"operators", "atlas", "gallery"}),
    "search without an array": (lambda run: without_an_array(last_search(run)), "000004.npz", {"gallery"}),
    "search of another shape": (lambda run: with_a_shape(last_search(run)), "000004.npz", {"gallery"}),
    "torn generation": (lambda run: tear_line(run / "generations.jsonl"), "generations.jsonl", {"search"}),
    "generation of another kind": (lambda run: alter(run / "generations.jsonl", "best", "x"), "generations.jsonl", {"search"}),
    "generation that is none": (lambda run: alter(run / "generations.jsonl", "forwards", None), "generations.jsonl", {"search"}),
    "torn event": (lambda run: tear_line(run / "log.jsonl"), "log.jsonl", set()),
    "accuracy in words": (lambda run: alter(run / "log.jsonl", "accuracy", "high"), "log.jsonl", set()),
    "no time": (lambda run: alter(run / "log.jsonl", "time", 5), "log.jsonl", set()),
    "endless epoch": (lambda run: alter(run / "log.jsonl", "epoch", float("inf")), "log.jsonl", set()),
    "no environment": (lambda run: (run / "environment.json").unlink(), "environment.json", set()),
    "torn environment": (lambda run: tear(run / "environment.json"), "environment.json", set()),
    "packages in a list": (
        lambda run: (run / "environment.json").write_text('{"schema": 1, "packages": [1]}'), "environment.json", set(),
    ),
    "torn bank": (lambda run: tear(run / "patterns" / "bank.npz"), "bank.npz", {"atlas"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_report_lacks_what_is_damaged_and_says_which_file(cli, run, case):
    damage, file, missing = CASES[case]
    damage(run)
    status, text, error = cli("report", "a")
    assert status == 0 and "report.html" in text, error
    page = (run / "report.html").read_text(encoding="utf-8")
    sections = set(re.findall(r'<section id="(\w+)"', page))
    assert {"head", "warnings", "how"} <= sections and not missing & sections
    told = [line for line in error.splitlines() if line.startswith("run: ")]
    assert len(told) == 1 and file in told[0] and told[0].startswith(f"run: {run}")
    assert "Damaged file" in page and page.index("Damaged file") < page.index("What the test images chose")


@pytest.mark.parametrize(
    ("command", "case"),
    [
        *((command, case) for command in ("lineage", "show", "list") for case in CASES),
        *(("gallery", case) for case in ("torn search", "search without an array", "torn event", "torn environment")),
        *(
            (command, case)
            for command in ("curves", "patterns")
            for case in ("torn search", "torn generation", "torn bank")
        ),
    ],
)
def test_no_command_breaks_on_a_damaged_file(cli, run, case, command):
    damage, file, _ = CASES[case]
    damage(run)
    status, text, error = cli(*((command,) if command == "list" else (command, "a")))
    assert status in (0, 2) and len(error.splitlines()) <= 1, error
    if status:
        assert file in error or "kept no lineage" in error
    if command == "show":
        assert status == 0
        assert ("damaged" in text) == (file in ("log.jsonl", "generations.jsonl", "environment.json"))


def test_a_damaged_run_costs_the_others_nothing(cli, run, out):
    shutil.copytree(OLD_RUN, out / "b")
    tear(last_search(run))
    assert cli("report", "a", "b", "--out", str(out / "page.html"))[0] == 0
    page = (out / "page.html").read_text(encoding="utf-8")
    assert '<section id="gallery"' in page and str(last_search(run)) in page and str(out / "b") not in page


def test_curves_of_several_leave_a_damaged_one_out(cli, run, out):
    shutil.copytree(OLD_RUN, out / "b")
    tear_line(run / "generations.jsonl")
    status, _, error = cli("curves", "a", "b")
    assert status == 0 and "a/generations.jsonl: line 3 is damaged" in error
    table = (out / "curves" / "a+b" / "curves.csv").read_text()
    assert "\nb," in table and "\na," not in table


def test_patterns_are_exported_where_only_the_searches_are_damaged(cli, run):
    tear(last_search(run))
    status, text, _ = cli("patterns", "a")
    assert status == 0 and "what evolution prefers is left out: " in text and str(last_search(run)) in text
    assert (run / "patterns" / "patterns.json").is_file()


@pytest.mark.parametrize(
    ("section", "option", "value"), [("run", "seed", "x"), ("data", "name", 3), ("train", None, [1])]
)
def test_a_config_of_another_kind_is_one_line(cli, run, section, option, value):
    config = json.loads((run / "config.json").read_text())
    config[section] = value if option is None else {**config[section], option: value}
    (run / "config.json").write_text(json.dumps(config))
    for command in ("report", "curves", "gallery", "lineage"):
        status, _, error = cli(command, "a")
        assert status == 2 and f"config.json is damaged: expected {section}." in error and len(error.splitlines()) == 1


def test_the_live_page_goes_on_beside_a_damaged_file(run):
    tear_line(run / "generations.jsonl")
    tear(last_search(run))
    live = LivePage(["a"])
    while live.renew(("head", "warnings", "search", "gallery")):
        pass
    sections = live.changes({})["sections"]
    assert "generations.jsonl: line 3 is damaged" in sections["warnings"]
    assert "000004.npz cannot be read" in sections["gallery"] and live.status.state == "done"


def test_what_is_read_to_go_on_with_is_never_forgiven(run):
    tear_line(run / "log.jsonl")
    with pytest.raises(RunFolderError, match="line 3 is damaged"):
        _ = find_run("a").result
    with pytest.raises(RunFolderError, match="remove it to leave that search out"):
        tear(last_search(run))
        read_snapshot(last_search(run))
    assert RunFolder(run, forgiving=True).result is not None


def test_a_bug_in_a_section_still_shows_itself(run, monkeypatch):
    monkeypatch.setitem(__import__("analysis.report").report.SECTIONS, "cost", lambda runs: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        write_report([RunFolder(run, forgiving=True)])


def test_a_bit_that_flipped_anywhere_in_kept_elites_leaves_them_sound_or_one_line(tmp_path):
    path = tmp_path / "000001.npz"
    content = (Path(__file__).parent / "data" / "runs-v1" / "search" / "elites" / path.name).read_bytes()
    end = content.rindex(b"PK\x05\x06")  # the zip's directory before it is where zipfile raises most kinds of errors
    places = [*range(0, end, 1 + end // 150), *range(content.index(b"PK\x01\x02"), len(content), 5)]
    refused = 0
    for flipped in flip_bits(content, places):
        path.write_bytes(flipped)
        try:
            read_snapshot(path)
        except RunFolderError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused > len(places) / 4
