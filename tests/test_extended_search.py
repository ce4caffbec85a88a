"""A search experiment that has ended and is given a later end: as if it had had that one from the start."""

import json
import shutil

import numpy as np
import pytest

from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from tests.test_experiment import MANY, Stopped, checks
from training.config import load_config
from training.experiment import Experiment, search_batch
from training.progress import Progress

TIMED = ("time", "seconds", "search_seconds", "id")


def search(folder, trained, *options, resume=False, progress=None):
    """Search, or go on with other ends, in this process."""
    config = load_config("digits", [*TINY, *MANY, *options])
    progress = progress or Progress(visible=False)
    again = {"resume": resume, "other_ends": options if resume else ()}
    return search_batch(config, folder, trained, load_config("digits", TINY), progress, **again)


def log(folder, name="generations.jsonl"):
    """The lines of a log as they were written, without the first."""
    return (folder / name).read_bytes().splitlines()[1:]


def without_times(record):
    return {key: value for key, value in record.items() if key not in TIMED}


def same(one, other):
    """Whether two folders hold the same search: its log to the byte, elites, lineage, bank and result."""
    assert log(one) == log(other) and checks(one) == checks(other)
    for name in ("elites/000001.npz", "patterns/bank.npz"):
        with np.load(one / name) as ours, np.load(other / name) as theirs:
            assert ours.files == theirs.files
            for key in ours.files:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    results = [RunFolder(folder).result for folder in (one, other)]
    assert without_times(results[0]) == without_times(results[1])
    assert [event["event"] for event in RunFolder(one).events].count("end") == 1


@pytest.mark.parametrize("options", [(), ("search.islands=2",), ("search.evaluation=full",), ("search.verify=4",)])
def test_raised_twice_it_equals_one_that_had_the_last_number_of_generations_from_the_start(trained, tmp_path, options):
    search(tmp_path / "whole", trained, *options)
    ours = tmp_path / "ours"
    search(ours, trained, *options, "search.generations=3")
    assert json.loads(log(ours)[-1])["stopped"] == "generations"
    for generations in (5, 7):
        result = search(ours, trained, *options, f"search.generations={generations}", resume=True)
        assert result["generations"] == generations and result["stopped"] == "generations"
        assert json.loads((ours / "config.json").read_text())["search"]["generations"] == generations
    same(ours, tmp_path / "whole")
    command = json.loads((ours / "environment.json").read_text())["command"]  # which makes it once more
    assert command.endswith("-s search.generations=7")
    assert sum(b"stopped" in line for line in log(ours)) == 1


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (("search.budget=2.4",), ("search.budget=4.7",), ("budget", "budget")),  # cut short in a generation
        (("search.budget=7.5",), ("search.budget=9.1",), ("budget", "budget")),
        (("search.budget=2.4",), ("search.budget=99", "search.generations=4"), ("budget", "generations")),
        (("search.patience=1",), ("search.patience=3",), ("patience", "patience")),
        (("search.patience=1",), ("search.generations=40",), ("patience", "generations")),
        (("search.target=-9",), ("search.generations=4",), ("target", "generations")),
        (("search.generations=3",), ("search.budget=20",), ("generations", "budget")),
    ],
)
def test_any_end_may_be_raised_removed_or_replaced_by_another(trained, tmp_path, before, after, reasons):
    often = ("search.generations=null", "search.population=5", "search.objective=hard")
    found = search(tmp_path / "ours", trained, *often, *before)
    assert found["stopped"] == reasons[0]
    whole = search(tmp_path / "whole", trained, *often, *after)
    extended = search(tmp_path / "ours", trained, *often, *after, resume=True)
    assert extended["scored"] > found["scored"] and whole["stopped"] == reasons[1]
    same(tmp_path / "ours", tmp_path / "whole")


@pytest.mark.parametrize("every", [0, 3600])
def test_cut_off_while_it_is_extended_it_is_gone_on_with(trained, tmp_path, monkeypatch, every):
    monkeypatch.setattr(Experiment, "SAVE_EVERY", every)
    search(tmp_path / "whole", trained)
    ours = tmp_path / "ours"
    search(ours, trained, "search.generations=3")
    with pytest.raises(KeyboardInterrupt):
        search(ours, trained, "search.generations=7", resume=True, progress=Stopped(2))
    assert RunFolder(ours).result is None and RunFolder(ours).config["search"]["generations"] == 7
    config, trained_config = load_config("digits", [*TINY, *MANY]), load_config("digits", TINY)
    search_batch(config, ours, trained, trained_config, Progress(visible=False), resume=True)
    same(ours, tmp_path / "whole")


def test_a_search_that_was_killed_between_its_last_save_and_its_end_ends_as_it_would_have(
    trained, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    search(tmp_path / "whole", trained)
    monkeypatch.setattr(Experiment, "result", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", trained)
    monkeypatch.undo()
    config, trained_config = load_config("digits", [*TINY, *MANY]), load_config("digits", TINY)
    search_batch(config, tmp_path / "cut", trained, trained_config, Progress(visible=False), resume=True)
    same(tmp_path / "cut", tmp_path / "whole")


def test_what_is_refused_leaves_an_ended_search_as_it_was(trained, tmp_path):
    ours = tmp_path / "ours"
    search(ours, trained, "search.generations=3")
    before = {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()}
    for options, words in (
        (("search.generations=2",), r"ends where it is, after generation 3, by search\.generations; give a larger"),
        (("search.generations=3",), "ends where it is, after generation 3"),
        (("search.generations=9", "search.minutes=1e-9"), r"by search\.minutes"),  # the time counts from the start
        (("search.generations=9", "search.target=-1e9"), r"by search\.target"),
        (("search.generations=9", "search.population=5"), "population: 6 there, 5 here"),
    ):
        with pytest.raises(UserError, match=words):
            search(ours, trained, *options, resume=True)
    assert {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()} == before


def test_an_unfinished_search_may_be_given_other_ends(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "SAVE_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "ours", trained, progress=Stopped(3))
    with pytest.raises(UserError, match="ends where it is, after generation 3"):
        search(tmp_path / "ours", trained, "search.generations=3", resume=True)
    search(tmp_path / "ours", trained, "search.generations=4", resume=True)
    search(tmp_path / "whole", trained, "search.generations=4")
    same(tmp_path / "ours", tmp_path / "whole")


def test_the_command_extends_a_search_and_says_how(trained, out, cli, monkeypatch):
    drawn = []  # how many generations there are to be seen; drawing itself takes seconds
    monkeypatch.setattr("runs.search_experiment._draw", lambda run: drawn.append(len(run.generation_lines)) or {})
    shutil.copytree(trained, out / "tiny")
    options = [word for option in MANY for word in ("-s", option)]
    status, text, error = cli("search", "tiny", *options, "-s", "search.generations=2")
    assert status == 0, error
    status, _, error = cli("search", "--resume", "tiny-search-1")
    assert status == 2 and "tiny-search-1 has ended; there is nothing to resume; to extend it" in error
    hint = error.strip().rpartition("for example ./run ")[2]
    assert hint == "search --resume tiny-search-1 -s search.generations=4"
    status, text, error = cli(*hint.split())
    assert status == 0 and "in the first generation" in text, error
    assert len(log(out / "tiny-search-1")) == 4 and drawn == [2, 4]
    for override, words in (
        ("search.generations=4", "ends where it is, after generation 4"),
        ("search.generations=null", "a search needs an end"),
        ("search.elites=1", "search's ends may be given anew as well: search.generations, search.budget"),
        ("run.threads=1", "has ended; there is nothing to resume"),
        ("search.generation=9", "did you mean"),
        ("search.generations=many", "search.generations"),
    ):
        status, _, error = cli("search", "--resume", "tiny-search-1", "-s", override)
        assert status == 2 and words in error and len(error.strip().splitlines()) == 1, (override, error)
    status, _, error = cli("search", "--resume", "tiny-search-1", "-s", "search.generations=9", "-s", "search.elites=1")
    assert status == 2 and "search's ends may be given anew as well: search.generations, search.budget" in error
    assert len(log(out / "tiny-search-1")) == 4 and RunFolder(out / "tiny-search-1").result is not None
    status, _, error = cli("train", "--resume", "tiny", "-s", "search.generations=9")
    assert status == 2 and "has ended" in error  # a search within training ends as it did
