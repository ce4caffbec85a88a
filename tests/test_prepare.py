"""`./run prepare`: shards of a folder of images, resumed, checked, and read like the folder itself."""

import json
import shutil

import numpy as np
import pytest
import torch

from evo.errors import UserError
from runs.prepare import run_prepare
from tests.test_data import write_images
from training.data import folder, preparing
from training.data.image_set import ImageSet, ShardSet
from training.data.load import load_data
from training.options import DataOptions

SIZE = 8


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_BYTES", 3 * SIZE * SIZE * 4)  # four images a shard
    write_images(tmp_path / "pets" / "train", ["cat", "dog"], count=5)
    write_images(tmp_path / "pets" / "val", ["cat", "dog"], count=2)
    return tmp_path / "pets"


@pytest.fixture
def out(tree):
    return tree.with_name(f"pets-prepared-{SIZE}")


def prepare(tree, **options):
    run_prepare(str(tree), SIZE, workers=2, **options)


def load(root, **options):
    return load_data(DataOptions(name="folder", root=str(root), **options))


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")}


@pytest.mark.parametrize("kind", [ImageSet, ShardSet])
def test_a_prepared_set_is_the_folders(tree, out, kind, monkeypatch, capsys):
    prepare(tree)
    captured = capsys.readouterr()
    assert f"-s data.root={out}" in captured.out and "10 training and 4 test images of 2 classes" in captured.err
    assert sorted(stamps(out)) == ["test-00000.npy", *(f"train-0000{number}.npy" for number in range(3))]
    direct = load(tree, image_size=SIZE)
    if kind is ShardSet:
        monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    for own, expected in zip(load(out), direct, strict=True):
        assert isinstance(own, kind) and own.class_names == ["cat", "dog"] and own.shape == (3, SIZE, SIZE)
        assert (own.crop, own.flip) == (expected.crop, expected.flip)
        assert torch.equal(own.batch(torch.arange(len(own)))[0], expected.images)
        assert torch.equal(own.labels, expected.labels)
        for left, right in zip(own.statistics(), expected.statistics(), strict=True):
            torch.testing.assert_close(left, right)
    subset, four = load(out, subset=2, subset_start=1)[0], torch.arange(4)
    assert torch.equal(subset.batch(four)[0], direct[0].batch(torch.tensor([1, 2, 6, 7]))[0])


def test_shards_are_plain_arrays(tree, out):
    prepare(tree)
    shard = np.load(out / "train-00001.npy", mmap_mode="r")
    assert shard.shape == (4, 3, SIZE, SIZE) and shard.dtype == np.uint8
    assert json.loads((out / "index.json").read_text())["format"] == "evomix-prepared"


def test_it_goes_on_after_a_kill_and_keeps_finished_shards(tree, out, monkeypatch):
    prepare(tree)
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    shutil.rmtree(out)
    write = preparing._Work._write

    def dies(self, planned, *rest):
        if planned.file == "train-00002.npy":
            (out / ".train-00002.npy.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        return write(self, planned, *rest)

    monkeypatch.setattr(preparing._Work, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(tree)
    kept = stamps(out)
    assert set(kept) >= {"train-00000.npy", "train-00001.npy"} and "train-00002.npy" not in kept
    with pytest.raises(UserError, match="not fully prepared; run the same `./run prepare` again"):
        load(out)
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "SHARD_BYTES", 3 * SIZE * SIZE * 4)
    prepare(tree)
    assert stamps(out).items() >= kept.items()
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == whole


def test_a_second_run_checks_and_mends(tree, out):
    prepare(tree)
    before, whole = stamps(out), (out / "train-00001.npy").read_bytes()
    prepare(tree)
    assert stamps(out) == before
    altered = bytearray(whole)
    altered[-1] ^= 1
    (out / "train-00001.npy").write_bytes(altered)
    with pytest.raises(UserError, match="train-00001.npy: altered; run the same `./run prepare` again"):
        load(out)
    prepare(tree)
    assert (out / "train-00001.npy").read_bytes() == whole
    load(out)


def test_a_kill_while_mending_leaves_it_unfinished(tree, out, monkeypatch):
    def dies(self, planned, *rest):
        raise KeyboardInterrupt

    prepare(tree)
    whole = (out / "index.json").read_text()
    (out / "train-00001.npy").unlink()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(preparing._Work, "_write", dies)
        prepare(tree)
    with pytest.raises(UserError, match="not fully prepared"):
        load(out)
    prepare(tree)
    assert (out / "index.json").read_text() == whole


@pytest.mark.parametrize("limit", [10, 2**30])
def test_truncated_and_missing_shards_are_named(tree, out, limit, monkeypatch):
    monkeypatch.setattr(folder, "MEMORY_LIMIT", limit)
    prepare(tree)
    shard = out / "train-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-5])
    with pytest.raises(UserError, match="train-00000.npy: 891 bytes, expected 896; run the same"):
        load(out)
    shard.unlink()
    with pytest.raises(UserError, match="train-00000.npy: missing"):
        load(out)
    np.save(shard, np.zeros((4, 3, SIZE, SIZE // 8), np.int64))
    with pytest.raises(UserError, match="train-00000.npy: holds int64"):
        load(out)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "evomix-prepared", "schema": 2}'])
def test_an_unsound_index_is_refused_and_made_anew(tree, out, text):
    prepare(tree)
    whole = (out / "index.json").read_text()
    (out / "index.json").write_text(text)
    with pytest.raises(UserError, match="index.json: (not a sound index|expected evomix-prepared, schema 1)") as caught:
        load(out)
    assert "\n" not in str(caught.value)
    prepare(tree)
    assert (out / "index.json").read_text() == whole


def test_what_changed_in_the_folder_is_made_anew(tree, out):
    prepare(tree)
    before = stamps(out)
    (tree / "train" / "dog" / "4.png").unlink()
    (tree / "train" / "dog" / "3.png").unlink()
    prepare(tree)
    after = stamps(out)
    assert "train-00002.npy" not in after and after["train-00000.npy"] == before["train-00000.npy"]
    assert len(load(out)[0]) == 8
    shutil.copy(tree / "train" / "dog" / "0.png", tree / "train" / "cat" / "0.png")
    prepare(tree)
    assert torch.equal(load(out)[0].images, load(tree, image_size=SIZE)[0].images)
    with pytest.raises(UserError, match="was prepared at 8 pixels; leave it out, or prepare again with --size 16"):
        load(out, image_size=16)


def test_unreadable_images_are_left_out_up_to_a_share(tree, out, capsys):
    (tree / "train" / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(
        UserError, match=r"so far 1 of 4 images cannot be read: train/cat/1.png \(text.*; .*--max-unreadable"
    ):
        prepare(tree)
    prepare(tree, max_unreadable=0.1)
    assert "left out: 1 of 14 images cannot be read: train/cat/1.png" in capsys.readouterr().out
    training = load(out)[0]
    assert training.labels.tolist() == [0] * 4 + [1] * 5
    first = load(tree, image_size=SIZE, max_unreadable=0.1)[0]
    assert torch.equal(training.images, first.images)


def test_a_shard_without_a_readable_image_is_empty(tree, out, monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_BYTES", 1)  # one image a shard
    (tree / "train" / "cat" / "1.png").write_bytes(b"broken")
    prepare(tree, max_unreadable=0.1)
    assert len(load(out)[0]) == 9


def test_what_is_wrong_is_told_before_anything_is_written(tree, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("no copy")
    with pytest.raises(UserError, match="mine is there and was not made by ./run prepare"):
        prepare(tree, out=str(tmp_path / "mine"))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run_prepare(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--size: expected 4 to 1024 pixels, got 2"):
        run_prepare(str(tree), 2)
    with pytest.raises(UserError, match="--workers: expected 1 or more, got 0"):
        run_prepare(str(tree), workers=0)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="GiB will be written and 0.0 GiB are free; take a smaller --size"):
        prepare(tree)
