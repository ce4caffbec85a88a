"""A run that was killed, or stopped, at any step ends bit for bit as one that was not."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch

from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from tests.test_train import lines
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import load_config
from training.evaluation import evaluate_run
from training.progress import Progress
from training.stopping import Interruption
from training.train import train

OFTEN = "train.save_minutes=1e-9"  # a checkpoint after every group of batches


def tiny(*overrides):
    return load_config("digits", [*TINY, *overrides])


class At(Progress):
    """Does something at one step, in the middle of an epoch."""

    def __init__(self, step, act):
        super().__init__(visible=False)
        self.left, self.act = step, act

    def update(self, line, *, final=False):
        self.left -= not final
        if self.left == 0:
            self.act()


class Killed(Exception):
    pass


def die():
    raise Killed


def assert_same_run(one, two):
    for name in ("log.jsonl", "generations.jsonl"):
        assert lines(one, name) == lines(two, name)
    left, right = (load_checkpoint(folder / "checkpoint", "latest") for folder in (one, two))
    assert left.tensors.keys() == right.tensors.keys() and left.arrays.keys() == right.arrays.keys()
    assert all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())
    for name, array in left.arrays.items():
        if name != "mix.seconds":
            np.testing.assert_array_equal(array, right.arrays[name], err_msg=name)
    for folder in ("elites", "patterns"):
        files = [sorted(path.name for path in (run / folder).glob("*")) for run in (one, two)]
        assert files[0] == files[1]
        for name in files[0]:
            with np.load(one / folder / name) as a, np.load(two / folder / name) as b:
                assert all(np.array_equal(a[key], b[key]) for key in a.files)


CASES = [
    ("mix.name=plain",),
    ("mix.name=mixup", "train.optimizer=adamw", "train.lr=0.001", "train.clip=0.5"),
    ("mix.name=cutmix", "mix.stop_epoch=1", "train.ema=0.9", "train.schedule=step"),
    ("mix.name=patchmix", "train.precision=bfloat16", "train.optimizer=muon", "train.lr=0.02"),
    ("mix.name=patchmix", "train.accumulate=3", "train.schedule=onecycle", "train.label_smoothing=0.1"),
    ("mix.name=evolved",),
    ("mix.name=evolved", "search.objective=image_reducible", "train.ema=0.95", "search.islands=2"),
    ("mix.name=evolved", "mix.probability=1.0", "search.batch_size=16", "search.every=1"),
    ("mix.name=evolved", "search.every=2", "search.consume=each", "search.same_class=false"),
    ("mix.name=evolved", "search.elites=2", "search.stop_epoch=2"),
]


@pytest.mark.parametrize("step", [4, 9])
@pytest.mark.parametrize("options", CASES, ids=[" ".join(case) for case in CASES])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, colours, options, step):
    config = tiny(*colours, *options, OFTEN, "train.epochs=2")  # epochs of six steps
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    with pytest.raises(Killed):
        train(config, cut, progress=At(step, die))
    torch.rand(7), np.random.rand(7)  # what happens meanwhile does not matter
    train(config, cut, resume=True)
    assert_same_run(whole, cut)
    resumed = next(e for e in RunFolder(cut).events if e["event"] == "resume")
    assert resumed["step"] >= step - 1 - (2 if "evolved" in options[0] else 0) or "search" in str(options)


def test_a_bank_run_resumes(tmp_path, trained):
    config = tiny("mix.name=bank", f"mix.bank={trained / 'patterns' / 'bank.npz'}", OFTEN)
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "cut", progress=At(13, die))
    train(config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_behind_a_checkpoint(tmp_path, number):
    config = tiny("mix.name=patchmix", "train.epochs=3")
    train(config, tmp_path / "whole")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", progress=At(14, lambda: os.kill(os.getpid(), number)))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert load_checkpoint(tmp_path / "cut" / "checkpoint", "latest").meta["step"] == 14
    train(config, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_second_signal_stops_at_once():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_torn_log_line_does_not_stop_a_resume(tmp_path):
    config = tiny("mix.name=patchmix", "train.epochs=3")
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=At(15, die))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"event": "epo')
    assert len(RunFolder(tmp_path / "run").epochs) == 1
    train(config, tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").result["steps"] == 30


def test_other_data_is_refused(tmp_path):
    """Also data of the same shape and classes."""
    folder = killed(tmp_path, 12)
    with pytest.raises(
        UserError, match=r"is of 160 training images \[1, 8, 8\] of 10 classes, the data are 200 .*restore"
    ):
        train(tiny("mix.name=plain", OFTEN, "data.subset=20"), folder, resume=True)
    with pytest.raises(UserError, match=r"restore the data it was trained on"):
        train(tiny("mix.name=plain", OFTEN, "data.subset_start=3"), folder, resume=True)


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    folder = killed(tmp_path, 12)
    saved = load_checkpoint(folder / "checkpoint", "latest")
    del saved.meta["position"]
    save_checkpoint(folder / "checkpoint", ["latest"], 12, saved)
    with pytest.raises(UserError, match="made by an older version"):
        train(tiny("mix.name=plain", OFTEN), folder, resume=True)


def test_a_reference_that_went_on_is_refused(tmp_path, trained):
    reference = tmp_path / "reference"
    shutil.copytree(trained, reference)
    config = tiny("mix.name=evolved", "search.objective=reducible", f"search.reference={reference}", OFTEN)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=At(12, die))
    saved = load_checkpoint(reference / "checkpoint", "latest")
    save_checkpoint(reference / "checkpoint", ["latest"], 21, saved)
    with pytest.raises(UserError, match="that run has another checkpoint now than when this one began"):
        train(config, tmp_path / "run", resume=True)


def test_a_reference_that_goes_on_meanwhile_is_refused_too(tmp_path, trained):
    """Checkpoints name the one that the run began with, whatever stands there when they are written."""
    reference = tmp_path / "reference"
    shutil.copytree(trained, reference)
    config = tiny("mix.name=evolved", "search.objective=reducible", f"search.reference={reference}", OFTEN)

    def goes_on():
        saved = load_checkpoint(reference / "checkpoint", "latest")
        save_checkpoint(reference / "checkpoint", ["latest"], 21, saved)
        progress.left, progress.act = 12, die

    progress = At(2, goes_on)
    with pytest.raises(Killed):
        train(config, tmp_path / "run", progress=progress)
    with pytest.raises(UserError, match="that run has another checkpoint now than when this one began"):
        train(config, tmp_path / "run", resume=True)


def killed(tmp_path, step, *options):
    with pytest.raises(Killed):
        train(tiny("mix.name=plain", OFTEN, *options), tmp_path / "run", progress=At(step, die))
    return tmp_path / "run"


def test_logs_that_lost_lines_are_kept_as_far_as_they_go(tmp_path, capsys):
    folder = killed(tmp_path, 15, "mix.name=evolved")
    (folder / "generations.jsonl").unlink()
    whole = "".join((folder / "log.jsonl").read_text().splitlines(keepends=True)[:-1])  # without how it failed
    (folder / "log.jsonl").write_text(whole[: len(whole) - 10])
    train(tiny(OFTEN, "mix.name=evolved"), folder, resume=True)
    assert capsys.readouterr().err.count("has lost lines; what it still holds is kept") == 2
    assert [event["event"] for event in RunFolder(folder).events] == [
        "start",
        "trial",
        "checked",
        "resume",
        "epoch",
        "end",
    ]


def test_a_signal_after_the_last_step_stops_what_would_follow(tmp_path, monkeypatch):

    def interrupted(run):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_run(run)

    monkeypatch.setattr("training.train.evaluate_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny("mix.name=plain", "train.epochs=1"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").result["steps"] == 10


def test_two_processes_do_not_write_one_run(tmp_path):
    config = tiny("mix.name=plain", OFTEN)

    def resume_as_well():
        with pytest.raises(UserError, match="another process is writing this run"):
            train(config, tmp_path / "run", resume=True)

    train(config, tmp_path / "run", progress=At(3, resume_as_well))
    assert RunFolder(tmp_path / "run").result["steps"] == 20


def test_a_loss_gone_bad_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny("mix.name=plain", OFTEN, "train.lr=100", "train.momentum=0.99", "train.epochs=6")
    with pytest.raises(UserError, match="the last checkpoint is kept"):
        train(config, tmp_path / "run")
    saved = load_checkpoint(tmp_path / "run" / "checkpoint", "latest")
    assert saved.meta["step"] >= 1 and np.isfinite(saved.arrays["sums"]).all()
