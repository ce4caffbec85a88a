"""Training: what it writes, that seeds decide, that an interrupted run ends as an uninterrupted one."""

import json

import numpy as np
import pytest
import torch

from analysis.run_folder import RunFolder
from tests.conftest import TINY
from training.checkpoint import load_checkpoint
from training.config import UserError, load_config
from training.mixes import MIXES
from training.progress import Progress
from training.run import snapshot_epochs
from training.train import learning_rate, mixed_groups, train

CLOCKS = {"time", "seconds", "search_seconds"}


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
    assert run.config["schema"] == 1 and run.config["train"]["epochs"] == 2
    assert run.environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert [event["event"] for event in run.events] == ["start", "epoch", "epoch", "end"]
    result = run.result
    assert result["steps"] == 20 and result["test_images"] == 360
    assert result["image_forwards"] == 20 * 16 + result["search_forwards"]
    assert run.generations.groupby("search")["forwards"].max().sum() == result["search_forwards"]
    assert run.epochs["accuracy"].iloc[-1] == result["last_accuracy"]


def test_it_learns(tmp_path):
    result = train(
        load_config("digits", ["mix.name=patchmix", "model.width=16", "train.epochs=4", "run.threads=1"]),
        tmp_path / "run",
    )
    assert result["last_accuracy"] > 80


def test_elites_are_kept_with_their_images(trained):
    snapshot = RunFolder(trained).snapshots()[-1]
    rows = len(snapshot["gallery_scores"])
    assert snapshot["gallery_own"].shape == snapshot["gallery_mixed"].shape == (rows, 1, 8, 8)
    assert (np.diff(snapshot["gallery_scores"]) <= 0).all()
    np.testing.assert_allclose(snapshot["gallery_cell_losses"].mean((1, 2)), snapshot["gallery_scores"], rtol=1e-5)
    for row in range(rows):
        pixels = np.kron(snapshot["gallery_masks"][row], np.ones((2, 2), bool))
        expected = np.where(pixels, snapshot["gallery_own"][row, 0], snapshot["gallery_partner"][row, 0])
        assert np.array_equal(snapshot["gallery_mixed"][row, 0], expected)


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


class StopAt(Progress):
    """Interrupts in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def update(self, line, *, final=False):
        self.left -= not final
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("mix", "objective"),
    [("cutmix", "hard"), ("patchmix", "hard"), ("evolved", "hard"), ("evolved", "image_reducible")],
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, mix, objective):
    config = tiny(f"mix.name={mix}", f"search.objective={objective}", "train.epochs=4")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    with pytest.raises(KeyboardInterrupt):
        train(config, cut, progress=StopAt(25))  # in the third epoch of ten steps
    torch.rand(7), np.random.rand(7)  # what happens meanwhile does not matter
    train(config, cut, resume=True)

    assert lines(whole, "log.jsonl") == lines(cut, "log.jsonl")
    one, two = (load_checkpoint(folder / "checkpoint", "latest") for folder in (whole, cut))
    assert one.tensors.keys() == two.tensors.keys()
    assert ("average.image_head.weight" in one.tensors) == (objective == "image_reducible")
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    for name in one.arrays:
        if name != "mix.seconds":
            np.testing.assert_array_equal(one.arrays[name], two.arrays[name])
    if mix == "evolved":
        assert lines(whole, "generations.jsonl") == lines(cut, "generations.jsonl")
        assert sorted(p.name for p in (whole / "elites").iterdir()) == sorted(
            p.name for p in (cut / "elites").iterdir()
        )


def test_a_torn_log_line_does_not_stop_a_resume(tmp_path):
    config = tiny("mix.name=patchmix", "train.epochs=3")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=StopAt(15))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"event": "epo')
    assert len(RunFolder(tmp_path / "run").epochs) == 1
    train(config, tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").result["steps"] == 30


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
    with pytest.raises(UserError, match="train.batch=500 is larger than the training set of 160 images"):
        train(tiny("train.batch=500"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"the loss became nan in steps \d+\.\.\d+ \(epoch \d\); lower train.lr=100"):
        train(tiny("mix.name=plain", "train.lr=100", "train.epochs=6", "train.momentum=0.99"), tmp_path / "run")


def test_a_search_without_a_finite_loss_stops_the_same_way(tmp_path):
    with pytest.raises(UserError, match=r"search \d+, generation \d+.*lower the learning rate"):
        train(tiny("train.lr=100", "train.epochs=6", "train.momentum=0.99", "mix.probability=1.0"), tmp_path / "run")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: next(folder.glob("latest-*.safetensors")).write_bytes(b"x"), "missing or altered"),
        (lambda folder: next(folder.glob("latest-*.npz")).unlink(), "missing or altered"),
        (lambda folder: (folder / "latest.json").write_text("{"), "is not a checkpoint"),
        (lambda folder: (folder / "latest.json").unlink(), "no checkpoint 'latest'"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, damage, words):
    train(tiny("mix.name=plain", "train.epochs=1"), tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint")
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path / "run" / "checkpoint", "latest")


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = tiny("train.lr=0.5", "train.warmup=2.0", "train.epochs=10")
    rates = [learning_rate(step, 100, 10, config) for step in range(100)]
    assert rates[0] < rates[10] < rates[19] < rates[20] == max(rates) == 0.5
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[-1] < 0.001


def test_groups_hold_every_batch_in_order_and_up_to_span_mixed_ones():
    generator = torch.Generator().manual_seed(0)
    groups = list(mixed_groups(iter([(index, None) for index in range(100)]), 0.4, 3, generator))
    assert [batch[0] for group in groups for batch, _ in group] == list(range(100))
    counts = [sum(mixes for _, mixes in group) for group in groups]
    assert set(counts[:-1]) == {0, 3} and counts[-1] <= 3 and 25 < sum(counts) < 55
    assert all(len(group) == 1 for group, count in zip(groups, counts, strict=True) if count == 0)


def test_snapshots_cover_the_run():
    assert snapshot_epochs(3) == {1, 2, 3}
    assert len(snapshot_epochs(200)) == 10 and {1, 200} <= snapshot_epochs(200)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mix", [name for name in MIXES if name != "bank"])
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
