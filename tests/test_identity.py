"""Images are known again by their content: what was made with others is not gone on with, nor used again."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.run_folder import RunFolder
from evo.errors import UserError
from runs import transfer_command as command
from runs.ablation.file import read_ablation
from runs.ablation.trials import run_trial
from tests.conftest import TINY
from tests.test_data import write_images, write_set
from tests.test_resume import At, Killed, die
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import load_config
from training.data import folder
from training.data.identity import SAMPLE, file_digest
from training.data.image_set import ImageSet
from training.data.load import load_data
from training.experiment import search_batch
from training.train import train


@pytest.fixture
def tree(tmp_path):
    write_images(tmp_path / "pets" / "train", ["cat", "dog"], count=16, size=(8, 8))
    write_images(tmp_path / "pets" / "val", ["cat", "dog"], count=4, size=(8, 8))
    return tmp_path / "pets"


def of(root, *overrides):
    data = ("data.name=folder", f"data.root={root}", "data.image_size=8", "data.subset=null")
    return load_config("digits", [*TINY, *data, "train.batch_size=8", "mix.name=patchmix", *overrides])


def repaint(path):
    """Another picture of the same size in a file's place."""
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


@pytest.mark.parametrize("kind", ["memory", "files", "shards"])
def test_an_identity_is_of_pixels_labels_and_order(kind, tmp_path):
    if kind == "files":
        for number in range(12):
            (tmp_path / f"{number}.png").write_bytes(bytes([number]) * 9)
    images = write_set(kind, 12, tmp_path)
    if kind == "files":
        images = type(images)([tmp_path / f"{n}.png" for n in range(12)], images.labels, ["a", "b"], (3, 4, 4), None)
    whole = torch.arange(12)
    assert images.identity() == images.select(whole).identity() == images.to(torch.device("cpu")).identity()
    others = [images.select(whole.flip(0)).identity(), images.select(whole[:-1]).identity()]
    others.append(type(images)(**{**vars(images), "labels": 1 - images.labels}).identity())
    assert len({images.identity(), *others}) == 4


def test_one_pixel_changes_an_identity():
    images, labels = torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    found = {ImageSet(images, labels, ["a"]).identity(), ImageSet(images.view(5, 3, 2, 8), labels, ["a"]).identity()}
    images[3, 1, 2, 2] = 1
    assert len({*found, ImageSet(images, labels, ["a"]).identity()}) == 3
    assert ImageSet(images[:0], labels[:0], ["a"]).identity() not in found


def test_a_files_digest_is_of_its_content_not_of_its_name_or_date(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for size in (0, 10, 3 * SAMPLE, 3 * SAMPLE + 1, 100_000):
        data = bytearray(np.random.default_rng(size).bytes(size))
        one.write_bytes(data)
        two.write_bytes(data)
        os.utime(two, (1, 1))
        assert file_digest(one) == file_digest(two)
        for place in (0, size // 2, size - 1) if size else ():
            changed = data.copy()
            changed[place] ^= 1
            two.write_bytes(changed)
            assert file_digest(one) != file_digest(two)
        two.write_bytes(data + b"x")
        assert file_digest(one) != file_digest(two)
    assert file_digest(tmp_path / "gone") == bytes(16)


@pytest.mark.parametrize("memory", [True, False])
def test_a_moved_set_is_the_same_and_a_changed_one_is_not(tree, monkeypatch, memory):
    if not memory:
        monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    before = [part.identity() for part in load_data(of(tree).data)]
    moved = tree.rename(tree.with_name("moved"))
    (moved / "train" / "cat" / "15.png").rename(moved / "train" / "cat" / "2z.png")
    os.utime(moved / "train" / "dog" / "3.png", (1, 1))
    assert [part.identity() for part in load_data(of(moved).data)] != before  # the order of files is part of it
    (moved / "train" / "cat" / "2z.png").rename(moved / "train" / "cat" / "15.png")
    assert [part.identity() for part in load_data(of(moved).data)] == before
    repaint(moved / "val" / "dog" / "3.png")
    after = [part.identity() for part in load_data(of(moved).data)]
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.parametrize(("part", "what"), [("train", "training images"), ("val", "test images")])
def test_a_resumed_training_refuses_changed_images_and_takes_restored_ones(tree, tmp_path, part, what):
    config, run = of(tree, "train.save_minutes=1e-9"), tmp_path / "run"
    with pytest.raises(Killed):
        train(config, run, progress=At(6, die))
    path = tree / part / "dog" / "1.png"
    kept = path.read_bytes()
    repaint(path)
    mean = load_checkpoint(run / "checkpoint", "latest").tensors["input.mean"]
    with pytest.raises(UserError, match=f"run: the {what} have changed since it was made") as caught:
        train(config, run, resume=True)
    assert "\n" not in str(caught.value)
    assert torch.equal(mean, load_checkpoint(run / "checkpoint", "latest").tensors["input.mean"])
    path.write_bytes(kept)
    assert train(config, run, resume=True)["steps"] == 8


def test_a_checkpoint_of_an_older_version_is_gone_on_with_and_a_line_says_so(tree, tmp_path, capsys):
    config, run = of(tree, "train.save_minutes=1e-9"), tmp_path / "run"
    with pytest.raises(Killed):
        train(config, run, progress=At(6, die))
    saved = load_checkpoint(run / "checkpoint", "latest")
    del saved.meta["images"], saved.meta["test"]
    save_checkpoint(run / "checkpoint", ["latest"], saved.meta["step"], saved)
    capsys.readouterr()
    assert train(config, run, resume=True)["steps"] == 8
    assert "an older version, which kept no digest of its training images" in capsys.readouterr().err


def test_a_search_refuses_images_that_are_not_the_runs(tree, tmp_path):
    config, run = of(tree, "train.epochs=1"), tmp_path / "run"
    train(config, run)
    wanted = of(tree, "mix.name=evolved", "search.objective=hard", "search.batch_size=8")
    assert search_batch(wanted, tmp_path / "whole", run, config)["generations"] == 2
    repaint(tree / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match="run: the training images have changed since it was made"):
        search_batch(wanted, tmp_path / "search", run, config)
    assert not (tmp_path / "search").exists()
    others = of(tree, "mix.name=evolved", "search.objective=hard", "search.batch_size=8", "data.subset=8")
    assert search_batch(others, tmp_path / "others", run, config)["generations"] == 2  # chosen by the user
    assert RunFolder(tmp_path / "others").events[0]["images"] != RunFolder(tmp_path / "whole").events[0]["images"]
    with pytest.raises(UserError, match="whole: the training images have changed since it was made"):
        search_batch(of(tree, "mix.name=evolved", "search.objective=hard", "search.batch_size=8", "data.subset=8"),
                     tmp_path / "whole", run, config, resume=True)  # fmt: skip


def test_transfers_outcomes_are_of_the_images_wherever_they_lie(tree, trained, out, capsys):
    shutil.copytree(trained, out / "tiny-s0")
    overrides = ["data.image_size=8", "run.threads=1"]

    def reused(root):
        command.run_transfer(["tiny-s0"], [f"folder:{root}"], overrides, methods="knn")
        return "2 of 2 outcomes are of earlier calls" in capsys.readouterr().err

    assert not reused(tree) and reused(tree)
    moved = tree.rename(tree.with_name("moved"))
    assert reused(moved)
    repaint(moved / "val" / "cat" / "0.png")
    assert not reused(moved)


def test_an_ablation_refuses_trials_that_were_trained_on_other_images(tree, out, cli, tmp_path):
    file = tmp_path / "small.yaml"
    options = [override for override in of(tree).model_dump()["data"].items() if override[1] is not None]
    recipe = {"data": dict(options), "model": {"width": 8}, "mix": {"name": "patchmix"},
              "train": {"batch": 8, "epochs": 1, "warmup": 0}, "run": {"threads": 1}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    text = {"recipe": str(tmp_path / "recipe.yaml"), "seeds": 1, "variants": {"a": {}, "b": {"mix.name": "plain"}}}
    file.write_text(json.dumps(text))
    first, second = read_ablation(file)
    run_trial(first)
    repaint(tree / "train" / "cat" / "0.png")
    run_trial(second)
    status, _, said = cli("ablate", str(file))
    assert status == 2 and "a-s0 and b-s0 have the same data options and were trained on different images" in said
