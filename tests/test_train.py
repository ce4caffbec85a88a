"""Training: what it writes, that seeds decide, that an interrupted run ends as an uninterrupted one."""

import json
import re
import subprocess
import time

import numpy as np
import pytest
import torch

from analysis.run_folder import RunFolder
from evo.errors import UserError
from tests.conftest import TINY
from training import run_events, run_log
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.mixes.grouping import group_batches
from training.models.patch_model import PatchModel
from training.progress import Progress
from training.registry import MIXES
from training.run import set_up, snapshot_epochs
from training.saving import Saver
from training.train import train

CLOCKS = {"time", "seconds", "search_seconds", "id"}  # and what is drawn anew for each run


def tiny(*overrides):
    return load_config("digits", [*TINY, *overrides])


def lines(folder, name):
    """A log without what a clock wrote."""
    records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in CLOCKS}
        for record in records
        if record.get("event") != "resume"
    ]


def test_a_run_folder_is_as_the_design_says(trained):
    assert {path.name for path in trained.iterdir()} >= {
        "config.json", "environment.json", "log.jsonl", "generations.jsonl", "elites", "checkpoint", "patterns",
    }  # fmt: skip
    assert not list(trained.rglob("*.tmp*")) and not list(trained.rglob("*.pkl"))
    run = RunFolder(trained)
    assert run.config["schema"] == 2 and run.config["train"]["epochs"] == 2
    assert run.environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert [event["event"] for event in run.events] == ["start", "trial", "checked", "epoch", "epoch", "end"]
    result = run.result
    assert result["steps"] == 20 and result["test_images"] == 360
    assert result["image_forwards"] == 20 * 16 + result["search_forwards"]
    (check,) = (event["forwards"] for event in run.events if event["event"] == "checked")
    of_searches = run.generations.groupby("search")["forwards"].max().sum()
    assert of_searches + 2 * check == result["search_forwards"]  # the trial before the first search takes as many
    assert run.epochs["accuracy"].iloc[-1] == result["last_accuracy"]


def test_it_learns(tmp_path):
    result = train(
        load_config("digits", ["mix.name=patchmix", "model.width=16", "train.epochs=4", "run.threads=1"]),
        tmp_path / "run",
    )
    assert result["last_accuracy"] > 80


@pytest.mark.parametrize("mix", ["plain", "cutmix", "patchmix", "evolved"])
def test_same_seed_same_log(tmp_path, mix):
    for name in ("one", "two"):
        train(tiny(f"mix.name={mix}"), tmp_path / name)
    train(tiny(f"mix.name={mix}", "run.seed=1"), tmp_path / "other")
    assert lines(tmp_path / "one", "log.jsonl") == lines(tmp_path / "two", "log.jsonl")
    assert lines(tmp_path / "one", "log.jsonl") != lines(tmp_path / "other", "log.jsonl")
    if mix == "evolved":
        assert lines(tmp_path / "one", "generations.jsonl") == lines(tmp_path / "two", "generations.jsonl")


@pytest.mark.parametrize(
    ("mixes", "patch_weight"), [(("plain", "mixup", "patchmix"), 0.0), (("patchmix", "evolved"), 1.0)]
)
def test_runs_of_one_seed_share_weights_order_and_crops(tmp_path, mixes, patch_weight):
    """With mixing switched off by p = 0, mixes of the same losses train the same model."""
    results = {}
    for mix in mixes:
        options = f"mix.name={mix}", "mix.probability=0.0", f"mix.patch_weight={patch_weight}", "train.epochs=1"
        train(tiny(*options), tmp_path / mix)
        saved = load_checkpoint(tmp_path / mix / "checkpoint", "latest").tensors
        results[mix] = {name: tensor for name, tensor in saved.items() if name.startswith("model.")}
    for mix in mixes[1:]:
        assert all(torch.equal(tensor, results[mixes[0]][name]) for name, tensor in results[mix].items()), mix


def test_after_its_stop_epoch_no_step_is_mixed(tmp_path):
    ends = {"never": None, "first": 1, "second": 2}
    configs = {name: tiny("mix.name=patchmix", f"mix.stop_epoch={end or 'null'}") for name, end in ends.items()}
    shares = {name: [config.mix.probability_in(epoch) for epoch in (1, 2, 3)] for name, config in configs.items()}
    assert shares == {"never": [0.5, 0.5, 0.5], "first": [0.5, 0, 0], "second": [0.5, 0.5, 0]}
    for name, config in configs.items():
        train(config, tmp_path / name)
    never, first, second = (RunFolder(tmp_path / name).epochs["image_loss"].tolist() for name in ends)
    assert never == second and never[0] == first[0] and never[1] != first[1]


def test_the_best_checkpoint_is_the_best_epochs(tmp_path):
    train(tiny("mix.name=plain", "train.epochs=5"), tmp_path / "run")
    accuracies = RunFolder(tmp_path / "run").epochs["accuracy"].tolist()
    best = load_checkpoint(tmp_path / "run" / "checkpoint", "best").meta["epoch"]
    assert accuracies[best - 1] == max(accuracies)
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 6


def test_an_existing_run_is_not_overwritten(trained):
    before = (trained / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match="is there already; choose another run.name"):
        train(tiny(), trained)
    assert (trained / "log.jsonl").read_bytes() == before


def test_a_batch_larger_than_the_set_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="train.batch_size=500 is larger than the training set of 160 images"):
        train(tiny("train.batch_size=500"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(
        UserError, match=r"(NaN or infinite in steps \d+\.\.|test loss became \w+ after step )\d+; lower train.lr=100"
    ):
        train(tiny("mix.name=plain", "train.lr=100", "train.epochs=6", "train.momentum=0.99"), tmp_path / "run")


@pytest.mark.parametrize("compose", ["pixels", "features", "auto"])
def test_a_search_without_a_finite_loss_stops_the_same_way(tmp_path, monkeypatch, compose):
    forward = PatchModel.forward, PatchModel.place_logits

    def lost(number):
        def call(model, images):
            found = forward[number](model, images)
            return found if model.training else tuple(part * float("nan") for part in found)

        return call

    monkeypatch.setattr(PatchModel, "forward", lost(0))
    monkeypatch.setattr(PatchModel, "place_logits", lost(1))
    with pytest.raises(UserError, match=r"search 1, generation 1.*lower the learning rate"):
        train(tiny(f"search.compose_at={compose}", "mix.probability=1.0"), tmp_path / "run")


def test_waiting_for_the_device_at_an_epochs_end_counts(tmp_path, monkeypatch):
    check = run_events.check_finite

    def waits(run, *arguments, **options):
        time.sleep(0.3)
        check(run, *arguments, **options)

    monkeypatch.setattr(run_events, "check_finite", waits)
    monkeypatch.setattr(Saver, "save", lambda saver, best: None)
    result = train(tiny("mix.name=plain", "train.epochs=2"), tmp_path / "run", progress=Progress(visible=False))
    assert result["seconds"] > 0.6


def test_dear_checkpoints_are_written_seldom(tmp_path):
    saver = Saver(set_up(tiny("mix.name=plain"), tmp_path / "run"))
    saver.took = 0.4
    assert saver.pays()
    saver.took, saver.saved = 2.0, time.monotonic() - 30
    assert not saver.pays()
    saver.saved = time.monotonic() - 41
    assert saver.pays()


def test_groups_hold_every_batch_in_order_and_up_to_span_mixed_ones():
    generator = torch.Generator().manual_seed(0)
    groups = list(group_batches(iter([(index, None) for index in range(100)]), 0.4, 3, generator))
    assert [batch[0] for group in groups for batch, _ in group] == list(range(100))
    counts = [sum(mixes for _, mixes in group) for group in groups]
    assert set(counts[:-1]) == {0, 3} and counts[-1] <= 3 and 25 < sum(counts) < 55
    assert all(len(group) == 1 for group, count in zip(groups, counts, strict=True) if count == 0)


def test_groups_stay_short_where_few_batches_are_mixed():
    generator = torch.Generator().manual_seed(0)
    groups = list(group_batches(iter([(index, None) for index in range(500)]), 0.02, 4, generator))
    assert max(map(len, groups)) <= 16 and sum(map(len, groups)) == 500


def test_snapshots_cover_the_run():
    assert snapshot_epochs(3) == {1, 2, 3}
    assert len(snapshot_epochs(200)) == 10 and {1, 200} <= snapshot_epochs(200)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mix", [name for name, kind in MIXES.items() if not kind.needs_bank])
def test_every_mix_trains_in_both_precisions(tmp_path, mix, precision):
    result = train(
        tiny(
            f"mix.name={mix}",
            f"train.precision={precision}",
            "train.epochs=1",
            "mix.probability=1.0",
            "train.label_smoothing=0.1",
        ),
        tmp_path / "run",
    )
    assert result["steps"] == 10 and np.isfinite(result["last_accuracy"])


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    def commit(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        git("add", "-A")
        git("commit", "-qm", name)

    monkeypatch.setattr(run_log, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_log._commit() is None
    git("init", "-q")
    assert run_log._commit() is None
    commit("code.py", "1")
    code = run_log._commit()
    assert re.fullmatch("[0-9a-f]{40}", code)
    commit("runs/results/few/trials.jsonl", "{}")
    (tmp_path / "runs" / "results" / "few" / "trials.jsonl").write_text("{}\n{}")
    assert run_log._commit() == code  # a trial's result, kept or not yet
    (tmp_path / "code.py").write_text("2")
    assert run_log._commit() == f"{code}+"
    commit("code.py", "2")
    assert run_log._commit() not in (code, f"{code}+")
