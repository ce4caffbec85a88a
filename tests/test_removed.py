"""Options that were removed: old runs and results with them are read as before, and nothing is trained with them anew."""

import json
import re
import shutil
from pathlib import Path

import pytest

from analysis import run_folder
from analysis.run_folder import RunFolder, as_today
from analysis.settings import by_setting, differing, flat, settings_of
from runs.folders import known_config, recorded_config
from training.config import RECIPES, UserError, load_config, make_config
from training.removed import REMOVED

OLD = {"search": {"rows": 1.0, "weights": "live", "carry": False, "bank_pairing": "random", "rescore": "hold"}}
OTHER = {
    "search.rows": 0.5,
    "search.weights": "average",
    "search.carry": True,
    "search.bank_pairing": "affinity",
    "search.rescore": "survivors",
}
EVIDENCE = RECIPES.parent / "evidence" / "cifar10-1000-search.yaml"


def rewrite(folder: Path, **options) -> RunFolder:
    """Put options, `section__key`, into a run's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for option, value in options.items():
        section, _, key = option.partition("__")
        config[section][key] = value
    path.write_text(json.dumps(config))
    return RunFolder(folder)


def dotted(option: str) -> str:
    return option.replace(".", "__")


def test_what_reads_run_folders_knows_the_same_removed_options():
    assert {option: entry.value for option, entry in REMOVED.items()} == run_folder.REMOVED
    assert OTHER.keys() == REMOVED.keys()
    assert not REMOVED.keys() & flat(load_config("digits").model_dump()).keys()


@pytest.mark.parametrize(("option", "value"), OTHER.items())
def test_a_removed_option_is_refused_in_one_line_that_says_why_and_what_to_do(option, value):
    with pytest.raises(UserError) as caught:
        make_config({}, [f"{option}={json.dumps(value)}"], "here.yaml")
    line = str(caught.value)
    assert re.match(rf"here.yaml: {option}=\w\S*: this option was removed, because .*; ", line) and "\n" not in line
    section, _, name = option.partition(".")
    with pytest.raises(UserError, match="this option was removed"):
        make_config({section: {name: value}})
    with pytest.raises(UserError, match="this option was removed"):
        make_config({}, settings={option: value})


@pytest.mark.parametrize(("option", "gone"), REMOVED.items())
def test_the_value_that_does_what_is_done_today_is_no_error(option, gone):
    assert make_config({}, [f"{option}={json.dumps(gone.value)}"]) == make_config({})
    for value in (None, 0, "x", [1]):
        with pytest.raises(UserError, match="this option was removed"):
            make_config({}, settings={option: value})


def test_mistakes_in_removed_options_are_a_line_each():
    with pytest.raises(UserError) as caught:
        make_config({"search": {"rows": 0.5, "carry": True, "rescore": "hold"}})
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "config: search.rows",
        "config: search.carry",
    ]


def test_consume_auto_of_older_versions_is_last():
    assert make_config({}, ["search.consume=auto"]).search.consume == "last" == make_config({}).search.consume
    assert as_today({"search": {"consume": "auto"}})["search"]["consume"] == "last"
    turns = {"search": {"consume": "auto", "rescore": "all"}}  # it meant each there
    assert as_today(turns)["search"]["consume"] == "auto"
    with pytest.raises(UserError, match="expected 'each' or 'last', got 'first'"):
        make_config({}, ["search.consume=first"])


# Run folders


@pytest.fixture
def tiny_copy(trained, out):
    """Copies of a trained run by name."""

    def made(name, **options):
        shutil.copytree(trained, out / name)
        return rewrite(out / name, **options)

    return made


def test_an_old_run_with_the_values_of_today_is_of_a_new_runs_setting(tiny_copy):
    new = tiny_copy("run-s0")
    old = tiny_copy(
        "run-s1", run__seed=1, search__consume="auto", **{f"search__{k}": v for k, v in OLD["search"].items()}
    )
    assert old.config["search"] == new.config["search"]
    assert [len(group) for group in by_setting([new, old])] == [2]
    assert recorded_config(old).search == recorded_config(new).search == known_config(old).search


@pytest.mark.parametrize(("option", "value"), OTHER.items())
def test_a_run_with_another_value_is_shown_and_compared_as_it_was(option, value, tiny_copy, cli):
    new, old = tiny_copy("new-s0"), tiny_copy("old-s0", mix__name="evolved", **{dotted(option): value})
    rewrite(new.path, mix__name="evolved")
    new, old = RunFolder(new.path), RunFolder(old.path)
    assert flat(old.config)[option] == value
    assert differing(settings_of([new, old])) == {option: [REMOVED[option].value, value]}
    for words in (("list",), ("show", "old-s0"), ("compare", "old-s0", "new-s0"), ("report", "old-s0")):
        status, _, error = cli(*words)
        assert status == 0, (words, error)
    page = next(old.path.glob("**/report.html")).read_text()
    assert option in page and "removed since" in page
    assert known_config(old).search == known_config(new).search
