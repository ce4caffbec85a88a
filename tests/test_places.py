"""Places: each run has a folder of its own, each set of runs a file of its own, and a name means the same everywhere."""

import multiprocessing
import os
import shlex
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs.train_command
from analysis.files import joined_name
from analysis.report import default_path
from analysis.run_folder import RunFolder, out_root
from analysis.run_format import RunFolderError
from evo.errors import UserError
from evo.locks import take_lock
from runs.ablation.file import read_ablation
from runs.folders import TAKEN, new_run_folder, numbered
from training.config import make_config
from training.places import data_root, spoken
from training.run_log import RunLog

NAMES = st.lists(st.text(min_size=1, max_size=90), min_size=1, max_size=6)


def take_one(stem):
    with numbered(stem) as folder:
        (folder / "config.json").write_text("{}")
    return folder.name


# One folder each


def test_commands_started_at_once_have_a_folder_each(out):
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(take_one, ["plain"] * 64))
    assert sorted(found) == sorted(f"plain-{number}" for number in range(1, 65))


def test_so_have_processes(out):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(take_one, ["demo"] * 40, chunksize=1)
    assert len(set(found)) == 40 and len(list(out.iterdir())) == 40


def test_a_named_folder_is_taken_once(out):
    config = make_config({}, ["run.name=own"])
    with new_run_folder(config, "digits") as folder:
        assert folder.is_dir()
        with pytest.raises(UserError, match="is there already, empty: another run is about to begin"):
            new_run_folder(config, "digits").__enter__()
        (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is there already; choose another run.name.*--resume"):
        new_run_folder(config, "digits").__enter__()


def test_a_folder_that_nothing_was_written_to_goes_again(out):
    with pytest.raises(UserError), numbered("x"):
        raise UserError("the data are not there")
    assert list(out.iterdir()) == []


def test_a_place_that_is_none_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    for place, words in (("file", "is a file"), ("file/below", "cannot be made"), ("dangling", "cannot be made")):
        monkeypatch.setenv("EVOMIX_OUT", str(tmp_path / place))
        if place == "dangling":
            (tmp_path / "nowhere").write_text("")
        with pytest.raises((UserError, RunFolderError), match=words):
            numbered("x").__enter__()


def test_a_run_begins_in_the_empty_folder_that_was_made_for_it_and_in_no_other(tmp_path):
    import torch

    config, device = make_config({}), torch.device("cpu")
    (tmp_path / "made").mkdir()
    first, second = RunLog(tmp_path / "made"), RunLog(tmp_path / "made")
    first.begin(config, device, "./run")
    for _ in range(2):  # while the first one writes, and when it has ended
        with pytest.raises(UserError, match="is there already"):
            second.begin(config, device, "./run")
        first.close()
    (tmp_path / "held").mkdir()
    with take_lock(tmp_path / "held"), pytest.raises(UserError, match="another process is writing this run"):
        RunLog(tmp_path / "held").begin(config, device, "./run")


def test_only_the_first_of_several_processes_makes_the_folder(out, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with numbered("x") as folder:
        assert not folder.exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(TAKEN, str(out / "made by the launcher"))
    with new_run_folder(make_config({}), "x") as folder:
        assert folder == out / "made by the launcher"


# One file for each set


@given(NAMES, NAMES)
def test_different_lists_have_different_files(one, other):
    def on_disk(names):  # as the least discerning file system sees it
        return unicodedata.normalize("NFC", joined_name(names)).casefold()

    assert (on_disk(one) == on_disk(other)) == (one == other)
    assert "/" not in joined_name(one) and len(os.fsencode(joined_name(one))) < 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a/b c"], ["a-b c"]),
        (["a/b", "c"], ["a-b", "c"]),
        (["a+b", "c"], ["a", "b+c"]),
        (["A", "b"], ["a", "b"]),
        (["a-b", "c"], ["a", "b-c"]),
        (["caf\u00e9"], ["cafe\u0301"]),
        (["x" * 200, "a"], ["x" * 200, "b"]),
        ([f"run-{n}" for n in range(40)], [f"run-{n}" for n in range(41)]),
    ],
)
def test_flattened_and_shortened_names_do_not_collide(one, other):
    assert joined_name(one).casefold() != joined_name(other).casefold()


def test_plain_names_stay_readable():
    assert joined_name(["digits-plain-1", "digits-evolved-1"]) == "digits-plain-1+digits-evolved-1"
    assert joined_name(["A b", "c"]).startswith("A-b+c~")


def test_runs_outside_have_their_whole_path(tmp_path, out):
    sets = [[tmp_path / place / name for name in "ab"] for place in ("x", "y", "out")]
    pages = {default_path([RunFolder(path) for path in paths]) for paths in sets}
    assert len(pages) == 3 and all(page.parent == out for page in pages)


def test_variants_that_differ_in_capitals_alone_are_refused(tmp_path):
    file = tmp_path / "abl.yaml"
    file.write_text("recipe: digits\nseeds: 1\nvariants: {a: {mix.name: plain}, A: {mix.name: cutmix}}\n")
    with pytest.raises(UserError, match="variants a and A differ in capital letters alone"):
        read_ablation(file)


# Names mean the same everywhere

RECIPES = ["my recipe", "a=b", "2024", "1e3", "größe", "it's", '"q"', "-dash", "$HOME", "a;b", "*"]


@pytest.mark.parametrize("stem", RECIPES)
def test_processes_of_one_run_get_the_words_that_were_typed(tmp_path, out, monkeypatch, cli, stem):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / f"{stem}.yaml"
    recipe.write_text("model: {width: 8}\n")
    given = []
    monkeypatch.setattr(runs.train_command, "launch", lambda *words: given.append(words) or 0)
    options = ("-s", "mix.name=plain", "-s", "data.root=a b=c")
    assert cli("train", *options, "--devices", "2", "--", recipe.name)[0] == 0
    words, count, folder = given[0]
    assert count == 2 and folder == out / f"{stem}-plain-1"

    trained = []
    monkeypatch.setattr(runs.train_command, "call_train", lambda *words, **_: trained.append(words) or {})
    monkeypatch.setattr(runs.train_command, "print_result", lambda *_: None)
    monkeypatch.setenv(TAKEN, str(folder))
    assert cli(*words)[0] == 0  # what the processes are started with
    monkeypatch.delenv(TAKEN)
    assert cli("train", *options, "--", recipe.name)[0] == 0  # without --devices
    (config, place), (alone, _) = trained
    assert place == folder and config == alone and config.run.name is None


@pytest.mark.parametrize("name", ["my run", "a=b", "2024", "größe", "it's", "-dash", "$HOME"])
def test_hints_can_be_typed_as_they_are(name):
    words = shlex.split(spoken("report", name))
    assert words[:2] == ["./run", "report"] and words[-1] == name and len(words) == (4 if name == "-dash" else 3)
    assert shlex.split(spoken("train", options=("--resume", name))) == ["./run", "train", "--resume", name]


def test_hints_of_list_and_show_are_quoted(cli, trained, out):
    import shutil

    shutil.copytree(trained, out / "it's my run")
    status, text, _ = cli("show", "it's my run")
    assert status == 0 and spoken("report", "it's my run") in text


# Home folders


def test_the_home_folder_is_understood_wherever_a_path_is_given(tmp_path, monkeypatch, cli):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EVOMIX_OUT", "~/results")
    monkeypatch.setenv("EVOMIX_DATA", "~/data")
    assert out_root() == tmp_path / "results"
    assert data_root(make_config({}).data.root) == tmp_path / "data"
    assert data_root(make_config({}, ["data.root=~/x"]).data.root) == tmp_path / "x"
    (tmp_path / "own.yaml").write_text("train: {epochs: 3}\n")
    assert runs.train_command.load_config("~/own.yaml").train.epochs == 3
    assert (
        "no pattern bank at " + str(tmp_path / "none.json")
        in cli("train", "digits", "-s", "mix.name=bank", "-s", "mix.bank=~/none.json")[2]
    )
    assert Path("~").exists() is False


def test_written_pages_go_to_the_home_folder(tmp_path, monkeypatch, cli, trained):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, text, error = cli("report", str(trained), "--out", "~/page.html")
    assert status == 0, error
    assert (tmp_path / "page.html").is_file() and str(tmp_path / "page.html") in text
    (tmp_path / "linked").symlink_to(trained)
    assert cli("show", "~/linked")[0] == 0


def test_an_interrupted_or_refused_training_leaves_no_folder(out, cli):
    assert cli("train", "digits", "-s", "train.batch_size=5000")[0] == 2
    assert not any(out.rglob("*")) if out.exists() else True
