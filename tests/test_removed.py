"""Options that were removed: old runs and results with them are read as before, and nothing is trained with them anew."""

import json
import re
import shutil
from pathlib import Path

import pytest

from analysis import run_format
from analysis.run_folder import RunFolder, find_run
from analysis.run_format import as_today
from analysis.run_settings import by_setting, differing, flat, settings_of
from evo.errors import UserError
from runs.ablation.file import read_ablation
from runs.ablation.published import settings, with_published
from runs.ablation.trials import Outcome
from runs.folders import known_config, recorded_config
from training.config import load_config, make_config
from training.places import PROJECT
from training.recipe import RECIPES
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
    assert {option: entry.value for option, entry in REMOVED.items()} == run_format.REMOVED
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
def test_a_run_with_another_value_is_shown_and_compared_as_it_was(option, value, tiny_copy):
    new, old = tiny_copy("new-s0"), tiny_copy("old-s0", mix__name="evolved", **{dotted(option): value})
    rewrite(new.path, mix__name="evolved")
    new, old = RunFolder(new.path), RunFolder(old.path)
    assert flat(old.config)[option] == value
    assert differing(settings_of([new, old])) == {option: [REMOVED[option].value, value]}
    assert known_config(old).search == known_config(new).search


def test_the_pages_show_a_removed_option_with_its_value(tiny_copy, cli):
    tiny_copy("new-s0"), tiny_copy("old-s0", search__rows=0.5)
    for words in (("list",), ("show", "old-s0"), ("compare", "old-s0", "new-s0"), ("report", "old-s0")):
        status, _, error = cli(*words)
        assert status == 0, (words, error)
    page = (find_run("old-s0").path / "report.html").read_text()
    assert re.search(r"search.rows</th><td>0.5</td><td>removed since</td>", page)


def cut_short(run: RunFolder) -> None:
    """As if it had been killed just before its end."""
    log = run.path / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))


def test_an_old_run_with_the_values_of_today_goes_on(tiny_copy, cli):
    run = tiny_copy(
        "old", search__consume="auto", **{f"search__{name}": value for name, value in OLD["search"].items()}
    )
    cut_short(run)
    status, text, error = cli("train", "--resume", "old")
    assert status == 0 and "accuracy" in text, error
    assert RunFolder(run.path).result is not None


@pytest.mark.parametrize(("option", "value"), OTHER.items())
def test_an_old_run_with_another_value_does_not_go_on_and_says_why_in_a_line(option, value, tiny_copy, cli):
    run = tiny_copy("old", **{dotted(option): value})
    cut_short(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    status, _, error = cli("train", "--resume", "old")
    assert status == 2 and f"{option}=" in error and "this option was removed, because" in error
    assert len(error.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_where_no_search_runs_a_removed_option_does_not_stand_in_the_way(tiny_copy):
    run = tiny_copy("plain", mix__name="plain", **{dotted(option): value for option, value in OTHER.items()})
    assert recorded_config(run).mix.name == "plain"


def test_the_model_of_an_old_run_is_of_use_as_before(tiny_copy, cli, monkeypatch):
    monkeypatch.setattr("runs.search_experiment._draw", lambda run: {})
    tiny_copy("old", search__rows=0.5)
    few = ("-s", "search.generations=1", "-s", "search.population=2", "-s", "search.batch_size=8")
    status, _, error = cli("search", "old", *few, "-s", "search.reference=old")
    assert (
        status == 0 and "search: old was trained with search.rows=0.5, removed since; the search does without" in error
    )
    status, _, error = cli("search", "old", *few, "-s", "search.rows=0.5")
    assert status == 2 and "search.rows=0.5: this option was removed" in error


# Ablations


def an_ablation(file: Path, **keys):
    data = {
        "recipe": "digits",
        "seeds": [0],
        "common": {"mix.name": "evolved", "search.every": 1},
        "variants": {"whole": {}, "half": {"search.rows": 0.5}},
        **keys,
    }
    file.write_text(json.dumps(data))
    return file


def finish(trial, **options):
    trial.folder.mkdir(parents=True)
    (trial.folder / "config.json").write_text(json.dumps({"schema": 2, **trial.config.model_dump()}))
    rewrite(trial.folder, **options)
    end = {"event": "end", "last_accuracy": 50.0, "median10_accuracy": 50.0, "image_forwards": 1, "seconds": 10.0}
    lines = [{"event": "start"}, {"event": "epoch", "accuracy": 50.0, "test_loss": 1.25}, end]
    (trial.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trial.folder / "environment.json").write_text(json.dumps({"schema": 2}))


def test_a_variant_with_a_removed_option_is_refused(tmp_path, out, cli):
    status, _, error = cli("ablate", str(an_ablation(tmp_path / "abl.yaml")))
    assert status == 2 and "abl.yaml: half: search.rows=0.5: this option was removed" in error
    assert len(error.splitlines()) == 1 and not out.exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"removed": ["whole"]}, "removed: no option of variant whole was removed"),
        ({"removed": ["other"]}, r"removed: expected a list of variants \(of whole, half\), got \['other'\]"),
        ({"removed": "half"}, "removed: expected a list of variants"),
        ({"removed": [1]}, "removed: expected a list of variants"),
        (
            {"variants": {"half": {"search.rows": 0.5}, "replay": {"mix.name": "bank", "mix.bank": "trial:half"}},
             "removed": ["half"]},
            "replay: mix.bank: variant half has options that were removed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_marked_as_removed_is_refused(tmp_path, keys, words):
    with pytest.raises(UserError, match=words):
        read_ablation(an_ablation(tmp_path / "abl.yaml", **keys))


def test_old_trials_count_as_done_where_the_option_had_todays_value(tmp_path, out):
    (trial,) = read_ablation(an_ablation(tmp_path / "abl.yaml", variants={"whole": {}}))
    finish(trial, search__consume="auto", **{f"search__{name}": value for name, value in OLD["search"].items()})
    assert trial.state() == "done"
    rewrite(trial.folder, search__rows=0.5)
    with pytest.raises(UserError, match=r"was made with search.rows=0.5, the file now says 1.0"):
        trial.state()


def test_results_of_a_removed_variant_are_kept_and_what_is_not_done_is_not_run(tmp_path, out, cli):
    file = an_ablation(tmp_path / "abl.yaml", seeds=[0, 1], removed=["half"])
    trials = {trial.name: trial for trial in read_ablation(file)}
    assert trials["half-s0"].gone == {"search.rows": 0.5} and not trials["whole-s0"].gone
    status, _, error = cli("ablate", str(file), "--only", "half")
    assert status == 2 and "abl: half cannot be run any more: search.rows=0.5 was removed" in error
    finish(trials["half-s0"], search__rows=0.5)
    finish(trials["whole-s0"])
    status, text, error = cli("ablate", str(file), "--dry-run")
    assert status == 0 and re.search(r"half, seed 0 +done", text) and "half, seed 1" not in text
    assert "half cannot be run any more: search.rows=0.5 was removed; its results are kept" in error
    assert "whole, seed 1" in text
    status, text, error = cli("ablate", str(file), "--tables")
    assert status == 0 and "half" in text, error
    rewrite(trials["half-s0"].folder, search__rows=0.25)
    with pytest.raises(UserError, match=r"was made with search.rows=0.25, the file now says 0.5"):
        read_ablation(file)[1].state()


def test_what_is_published_of_a_removed_variant_stands_for_it(monkeypatch):
    monkeypatch.chdir(PROJECT)
    trials = with_published(EVIDENCE, read_ablation(EVIDENCE))
    gone = {trial.name: trial for trial in trials if trial.gone}
    assert {trial.variant for trial in gone.values()} == {"evolved-hard-rows.5", "evolved-hard-average"}
    assert gone["evolved-hard-rows.5-s0"].state() == "done"
    assert settings(gone["evolved-hard-rows.5-s0"])["search"]["rows"] == 0.5


def test_a_published_line_with_a_removed_option_is_no_result_of_a_variant_without(tmp_path, monkeypatch):
    text = (
        EVIDENCE.read_text()
        .replace("removed: [evolved-hard-rows.5, ", "removed: [")
        .replace(", search.rows: 0.5}", "}")
    )
    file = tmp_path / EVIDENCE.name
    file.write_text(text)
    monkeypatch.chdir(PROJECT)
    with pytest.raises(
        UserError, match=r"evolved-hard-rows.5, seed 0 was made with search.rows=0.5, the file now says 1.0"
    ):
        with_published(file, read_ablation(file))


def test_a_failure_that_an_older_version_recorded_still_counts(tmp_path, out):
    (trial,) = read_ablation(an_ablation(tmp_path / "abl.yaml", variants={"whole": {}}))
    trial.record_failure(Outcome("failed", "no memory"))
    record = trial.notes / "failed.json"
    data = json.loads(record.read_text())
    data["config"]["search"] |= OLD["search"]
    record.write_text(json.dumps(data))
    assert trial.failure() == "no memory"
    data["config"]["search"]["rows"] = 0.5
    record.write_text(json.dumps(data))
    assert trial.failure() is None


def test_a_shipped_file_names_a_removed_option_only_where_it_is_marked():
    for file in (*RECIPES.glob("*.yaml"), *(RECIPES.parent / "ablations").glob("*.yaml")):
        assert not [option for option in REMOVED if option in file.read_text()], file
