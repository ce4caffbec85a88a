"""Why searches ended is told in words, in every place; a search without a limit of generations is shown as such."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analysis import time_left
from analysis.endings import ending, reasons
from analysis.run_folder import RunFolder, first_to_last
from analysis.run_format import RunFolderError
from analysis.sections.evolution import search
from analysis.sections.head import head
from analysis.states import State
from evo.ends import ENDS
from runs.listing import as_table
from runs.standing import row_of
from tests.conftest import TINY
from tests.test_damage import drawn_at_once  # noqa: F401 (a fixture for every test here)
from tests.test_listing import END, generation, lines, write_run
from training.config import load_config
from training.train import train

VERSION_1 = Path(__file__).parent / "data" / "runs-v1"


def run_with(folder, reasons, *, search=False, options=None, last=None, generations=None):
    """A run of as many searches as there are reasons, of 2, 3, ... generations; None: the log does not say why."""
    write_run(folder, mix="evolved", search=search, last=last)
    found = []
    for number, reason in enumerate(reasons, 1):
        found += [generation(n, search=number) for n in range(1, 2 + number)]
        found[-1] |= {} if reason is None else {"stopped": reason}
    (folder / "generations.jsonl").write_text(lines(*found))
    config = json.loads((folder / "config.json").read_text())
    config["search"] |= {"generations": generations, **(options or {})}
    (folder / "config.json").write_text(json.dumps(config))
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("stopped", "options", "sentence"),
    [
        (["budget"], {"budget": 4.5}, "The search ended because the image forwards were spent (search.budget=4.5)."),
        (
            ["patience"] * 3,
            {"patience": 5},
            "All 3 searches ended because nothing better was found for a while (search.patience=5).",
        ),
        (
            ["target", "minutes", "minutes", None],
            {"target": 0.25, "minutes": 2.0},
            "Of 3 searches, 2 ended because the time was over (search.minutes=2) and 1 because the target was reached "
            "(search.target=0.25).",
        ),
        (["exhausted"], {}, "The search ended because no new composition was found any more."),
        (
            ["budget, patience"],
            {"budget": 2, "patience": 3},
            "The search ended because the image forwards were spent (search.budget=2), or on other islands because "
            "nothing better was found for a while (search.patience=3).",
        ),
        (["something new"], {}, "The search ended because of 'something new'."),
        ([None, None], {}, ""),
        ([5], {}, ""),
    ],
)
def test_a_sentence_says_why_the_searches_of_a_training_ended(out, stopped, options, sentence):
    assert ending(run_with(out / "run", stopped, options=options)) == sentence


def test_every_end_has_words(out):
    for number, end in enumerate((*ENDS, "exhausted")):
        assert " of '" not in ending(run_with(out / str(number), [end]))


def test_a_search_experiment_says_after_how_many_generations_and_older_ones_by_their_last_event(out):
    run = run_with(out / "new", ["generations"], search=True, generations=2)
    assert (
        ending(run) == "The search ended after 2 generations because all generations were done (search.generations=2)."
    )
    older = run_with(
        out / "old", [None], search=True, last={"event": "end", "stopped": "patience"}, options={"patience": 1}
    )
    assert ending(older).startswith("The search ended after 2 generations because nothing better was found")
    assert reasons(run_with(out / "going", [None], search=True)) == {}
    assert ending(run_with(out / "damaged", [None], search=True, last={"event": "end", "stopped": 5})) == ""


def test_version_1_says_nothing(out):
    assert ending(RunFolder(VERSION_1 / "evolved")) == ""


def test_show_and_the_report_say_why(out, cli):
    run = run_with(out / "run", ["budget", "budget", "patience"], options={"budget": 4, "patience": 2})
    sentence = (
        "Of 3 searches, 2 ended because the image forwards were spent (search.budget=4) and 1 because nothing better was "
        "found for a while (search.patience=2)."
    )
    assert re.search(rf"^ended +{re.escape(sentence)}$", cli("show", "run")[1], re.MULTILINE)
    details = json.loads(cli("show", "run", "--json")[1])
    assert details["stopped"] == {"budget": 2, "patience": 1} and details["ended"] == sentence
    assert sentence in search([run])
    older = run_with(out / "older", [None])
    both = search([run, older])
    assert both.count(" ended because") == 1 and "<h3>run</h3>" in both and "<h3>older</h3>" not in both
    text = cli("show", "older")[1]
    assert "\nended" not in text and json.loads(cli("show", "older", "--json")[1])["stopped"] is None


def test_train_and_search_say_why(trained, out, cli, monkeypatch):
    monkeypatch.setattr("runs.search_experiment._draw", lambda run: {})
    options = [word for option in (*TINY, "search.start_epoch=1", "search.every=1") for word in ("-s", option)]
    status, text, error = cli("train", "digits", *options, "-s", "run.name=tiny")
    assert status == 0, error
    told = [line for line in text.splitlines() if "ended" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"All \d+ searches ended because all generations were done \(search\.generations=2\)\.", told[0]
    )
    shutil.copytree(trained, out / "model")
    options = ("search.generations=null", "search.budget=3", "search.population=6", "search.batch_size=16")
    status, text, error = cli("search", "model", *(word for option in options for word in ("-s", option)))
    assert status == 0, error
    run = RunFolder(out / "model-search-1")
    assert f"{ending(run)}\n" in text and "because the budget of rows scored was spent (search.budget=3)" in ending(run)


# Without a limit of generations


def test_a_search_without_a_limit_of_generations_has_no_such_number_anywhere(out, cli):
    run = run_with(out / "run", ["budget"], search=True, last=END)
    row = row_of(run.path)
    assert (row["state"], row["generation"], row["generations"]) == (State.DONE, 2, None)
    assert "gen. 2 " in as_table([row]) and "None" not in as_table([row])
    text = cli("show", "run")[1]
    assert re.search(r"^progress +generation 2$", text, re.MULTILINE) and "None" not in text
    page = head([run])
    assert "<strong>2</strong> <span>generations</span>" in page and "None" not in page
    for command in ("report", "curves", "list"):
        status, text, error = cli(command, *(["run"] if command != "list" else []))
        assert status == 0 and "Traceback" not in error, error
    assert "None" not in (run.path / "report.html").read_text(encoding="utf-8").partition('id="how"')[0]


def test_a_config_without_the_option_or_with_a_text_is_damaged_still(out):
    run = run_with(out / "run", [None])
    config = json.loads((run.path / "config.json").read_text())
    for generations in ({}, {"generations": "many"}, {"generations": True}):
        config["search"] = {"objective": "hard", **generations}
        (run.path / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunFolderError, match="expected search.generations as a whole number or null"):
            RunFolder(run.path).checked()


@pytest.mark.parametrize(
    ("generations", "minutes", "left"),
    [(None, None, None), (None, 2.0, 45), (12, None, 150), (12, 2.0, 45), (12, 9.0, 150)],
)
def test_the_time_left_is_that_of_the_end_which_comes_first(out, monkeypatch, generations, minutes, left):
    run = run_with(out / "run", [None], search=True, generations=generations, options={"minutes": minutes})
    now = datetime.now(UTC)
    begun = {"event": "resume", "time": (now - timedelta(seconds=30)).isoformat(), "generation": 0, "seconds": 45.0}
    (run.path / "log.jsonl").write_text(lines({"event": "start", "model": "x", "time": begun["time"]}, begun))
    monkeypatch.setattr(RunFolder, "state", State.RUNNING)
    run = RunFolder(run.path)  # two generations in 30 s
    run.read_at = now
    found = time_left.seconds_left(run)
    assert found is None if left is None else found == pytest.approx(left, abs=1)


def test_first_and_last_generations_are_those_of_each_search(out):
    run = run_with(out / "run", [None, None])  # of two and of three generations
    best = {(line["search"], line["generation"]): line["best"] for line in run.generation_lines}
    assert first_to_last(run) == ((best[1, 1] + best[2, 1]) / 2, (best[1, 2] + best[2, 3]) / 2)


def test_a_training_without_a_limit_of_generations_is_read_and_shown(out, cli):
    options = (*TINY, "search.generations=null", "search.budget=3", "search.start_epoch=1", "search.every=1")
    train(load_config("digits", options), out / "run")
    assert set(reasons(RunFolder(out / "run"))) == {"budget"}
    for command in ("show", "list"):
        status, text, error = cli(command, *(["run"] if command == "show" else []))
        assert status == 0 and "None" not in text, error
