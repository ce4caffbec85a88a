"""What a run was given may lie elsewhere when it goes on, and options that cannot change its result may be others."""

import json
import re
import shlex
import shutil

import pytest

from analysis.run_folder import RunFolder
from analysis.run_settings import NO_SETTING, RESULT_FILES
from evo.errors import UserError
from runs.ablation.file import read_ablation
from runs.ablation.trials import told_apart_by
from runs.folders import check_unchanged
from tests.conftest import TINY
from tests.test_experiment import MANY, Stopped
from tests.test_resume import OFTEN, At, Killed, die
from training.config import Config, make_config
from training.experiment import Experiment
from training.options import idle_options
from training.progress import Progress

TINY_WORDS = [word for option in TINY for word in ("-s", option)]


@pytest.fixture
def tiny(trained, out):
    shutil.copytree(trained, out / "tiny")
    return out / "tiny"


def advised(error, **places):
    """The words of the command that an error names, with what stands for a place filled in."""
    command = re.search(r"\./run .*", error)[0]
    for word, place in places.items():
        command = command.replace(word, str(place))
    return shlex.split(command)[1:]


def cut_off(cli, monkeypatch, *words):
    """Train until a checkpoint has been written, then die."""
    import training.train

    with monkeypatch.context() as patched:
        patched.setattr(training.train, "Progress", lambda **_: At(5, die))
        with pytest.raises(Killed):
            cli("train", "digits", *TINY_WORDS, "-s", OFTEN, *words)


@pytest.mark.parametrize(
    ("option", "mix", "part"),
    [("mix.bank", "bank", "patterns/bank.npz"), ("search.start", "evolved", "patterns/bank.npz"),
     ("search.reference", "evolved", "")],
)  # fmt: skip
def test_following_the_errors_advice_goes_on(cli, tiny, out, monkeypatch, tmp_path, option, mix, part):
    given = tmp_path / "given"
    shutil.copytree(tiny, given)
    cut_off(cli, monkeypatch, "-s", f"mix.name={mix}", "-s", f"{option}={given / part}", "-s", "run.name=own")
    moved = tmp_path / "it's now here"
    given.rename(moved)
    status, _, error = cli("train", "--resume", "own")
    assert status == 2 and f"{option}: {given / part}".rstrip("/") in error and len(error.splitlines()) == 1
    told = ["train", "--resume", "own", "-s", f"{option}={moved / part}"]
    assert advised(error)[:-1] == told[:-1] and advised(error)[-1] == f"{option}=PLACE"
    status, text, error = cli(*told)
    assert status == 0 and "accuracy" in text, error
    section, name = option.split(".")
    assert RunFolder(out / "own").config[section][name] == str((moved / part).resolve())


def test_other_patterns_at_the_new_place_are_refused(cli, tiny, out, monkeypatch, tmp_path):
    bank = tmp_path / "bank.json"
    assert cli("patterns", "tiny", "--out", str(bank))[0] == 0
    cut_off(cli, monkeypatch, "-s", "mix.name=bank", "-s", f"mix.bank={bank}", "-s", "run.name=own")
    other = tmp_path / "other.json"
    assert cli("patterns", "tiny", "--top", "3", "--out", str(other))[0] == 0
    bank.unlink()
    status, _, error = cli("train", "--resume", "own", "-s", f"mix.bank={other}")
    assert status == 2 and "mix.bank: " in error and "has changed since the run began" in error
    assert RunFolder(out / "own").config["mix"]["bank"] == str(bank)  # as it was recorded


def test_images_may_have_moved(cli, out, monkeypatch, tmp_path, colours):
    folder = next(option.partition("=")[2] for option in colours if option.startswith("data.root="))
    shutil.copytree(folder, tmp_path / "images")
    words = [
        word for option in (*colours, f"data.root={tmp_path / 'images'}", "mix.name=plain") for word in ("-s", option)
    ]
    cut_off(cli, monkeypatch, *words, "-s", "run.name=own")
    (tmp_path / "images").rename(tmp_path / "moved")
    status, _, error = cli("train", "--resume", "own")
    assert status == 2 and "is not there any more" in error
    status, _, error = cli(*advised(error, PLACE=tmp_path / "moved"))
    assert status == 0, error


def test_the_run_that_a_search_asks_may_have_moved(cli, tiny, out, monkeypatch, tmp_path):
    monkeypatch.setattr(Experiment, "SAVE_EVERY", 0)
    monkeypatch.setattr("training.experiment.Progress", lambda: Stopped(3))
    assert cli("search", "tiny", *[word for option in MANY for word in ("-s", option)])[0] == 130
    monkeypatch.setattr("training.experiment.Progress", lambda: Progress(visible=False))
    tiny.rename(tmp_path / "moved")
    status, _, error = cli("search", "--resume", "tiny-search-1")
    assert status == 2 and f"is not at {tiny} any more" in error
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    index = tmp_path / "other" / "checkpoint" / "latest.json"
    index.write_text(index.read_text() + "\n")
    status, _, refused = cli(*advised(error, RUN=tmp_path / "other"))
    assert status == 2 and "has another checkpoint than when tiny-search-1 began" in refused
    status, text, error = cli(*advised(error, RUN=tmp_path / "moved"))
    assert status == 0 and "in the last" in text, error


# Options that cannot change a result


def test_options_that_cannot_change_a_result_are_marked_with_a_reason():
    found = idle_options()
    assert {
        "train.save_minutes",
        "train.eval_batch_size",
        "data.root",
        "run.threads",
        "run.tensorboard",
        "run.name",
    } <= set(found)
    assert all(reason for reason in found.values())
    assert not {
        "run.seed",
        "train.precision",
        "train.batch_size",
        "train.evaluate_every",
        "search.forward_batch_size",
    } & set(found)
    assert set(RESULT_FILES) <= set(found)  # they may lie elsewhere; what is there counts


def test_a_setting_of_runs_leaves_out_the_same_options():
    ours = {option for option in idle_options() if not option.startswith("run.")} - set(RESULT_FILES)
    assert ours == {option for option in NO_SETTING if option != "run."}


def test_a_run_goes_on_with_other_values_of_them(cli, out, monkeypatch):
    cut_off(cli, monkeypatch, "-s", "mix.name=plain", "-s", "run.name=own")
    status, _, error = cli("train", "--resume", "own", "-s", "train.lr=1")
    assert status == 2 and "-s train.lr=1: a run goes on with its own config" in error and "train.save_minutes" in error
    assert "here train.lr=0.1, since another value could change its result: start a run anew for it" in error
    status, _, error = cli("train", "--resume", "own", "-s", "train.batchh=1")
    assert status == 2 and "did you mean 'train.batch_size'?" in error
    assert cli("train", "--resume", "own", "-s", "run.name=other")[0] == 2
    assert cli("train", "--resume", "own", "-s", "train.eval_batch_size=0")[0] == 2
    status, _, error = cli("train", "--resume", "own", "-s", "train.save_minutes=7", "-s", "train.eval_batch_size=50")
    assert status == 0, error
    assert RunFolder(out / "own").config["train"]["save_minutes"] == 7


SCHEDULES = {
    "cosine": "falls along a cosine to 0 at the end of its own 3 epochs",
    "onecycle": "rises and falls in one cycle to 0 at the end of its own 3 epochs",
    "step": r"is lowered after the shares \[0.5, 0.75\] of its own 3 epochs",
    "constant": "is constant, but its last ten tests, .* are those of its own 3 epochs",
}


@pytest.mark.parametrize(("schedule", "words"), SCHEDULES.items())
def test_a_run_keeps_its_number_of_epochs_and_says_why(schedule, words):
    before = make_config({}, [f"train.schedule={schedule}", "train.epochs=3"])
    more = "train.epochs=5"
    after = make_config(before.model_dump(), [more])
    with pytest.raises(
        UserError, match=rf"^-s train.epochs=5: .*schedule={schedule}\) {words}, .*train anew"
    ) as caught:
        check_unchanged(before, after, [more])
    assert "\n" not in str(caught.value)
    check_unchanged(before, make_config(before.model_dump(), ["train.epochs=3"]), ["train.epochs=3"])


def test_a_run_that_has_ended_takes_no_more_epochs_and_says_why(cli, tiny):
    status, _, error = cli("train", "--resume", "tiny", "-s", "train.epochs=9")
    assert status == 2 and len(error.splitlines()) == 1
    assert "run tiny has ended at epoch 2; there is nothing to resume: the run's learning rate" in error
    assert "cosine to 0 at the end of its own 2 epochs" in error and "train anew with -s train.epochs=N" in error


def test_they_do_not_void_finished_trials(tmp_path, out):
    file = tmp_path / "abl.yaml"

    def trial(**common):
        file.write_text(
            f"recipe: digits\nseeds: 1\ncommon: {json.dumps(common)}\nvariants: {{a: {{mix.name: plain}}}}\n"
        )
        return read_ablation(file)[0]

    made = trial()
    made.folder.mkdir(parents=True)
    (made.folder / "config.json").write_text(json.dumps({"schema": 2, **made.config.model_dump()}))
    end = {"event": "end", "last_accuracy": 90.0}
    (made.folder / "log.jsonl").write_text(f'{{"schema": 2}}\n{json.dumps(end)}\n')
    values = {"train.save_minutes": 3, "train.eval_batch_size": 50, "data.resident": "host", "data.download": False}
    for option, value in {**values, "data.root": "/x", "run.threads": 1, "run.device": "cpu"}.items():
        other = trial(**{option: value})
        assert other.state() == "done", option
        assert told_apart_by(other.config) == told_apart_by(made.config)
    with pytest.raises(UserError, match="was made with train.lr"):
        trial(**{"train.lr": 0.7}).state()


def test_every_other_option_tells_two_configs_apart():
    plain = told_apart_by(Config())
    assert told_apart_by(make_config({}, ["train.save_minutes=1", "run.threads=1"])) == plain
    assert told_apart_by(make_config({}, ["train.evaluate_every=2"])) != plain
    assert told_apart_by(make_config({}, ["mix.bank=x"])) != plain
