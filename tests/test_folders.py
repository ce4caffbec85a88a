"""Trees of class folders: whatever they hold, each real image once, under its own label, and the rest told."""

import errno
import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from evo.errors import UserError
from tests.test_data import write_images
from training.config import make_config
from training.data import folder, walk
from training.data.load import load_data
from training.data.names import printable
from training.data.tree import read_tree
from training.options import DataOptions

ODD = [
    b"caf\xe9",
    b"a\nb",
    b"\x1b[31mred",
    b"<script>",
    b"-rf",
    b"50%",
    b'it\'s "so"',
    "right\u202eleft".encode(),
    b"a\\xe9",
]


@pytest.fixture
def tree(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"])
    write_images(tmp_path / "val", ["cat", "dog"], count=2)
    return tmp_path


def load(root, **options):
    return load_data(DataOptions(name="folder", root=str(root), image_size=8, **options))


def names_of(files, root):
    return [f"{label} {path.relative_to(root)}" for path, label in files]


WHOLE = [f"{label} train/{name}/{i}.png" for label, name in enumerate(["cat", "dog"]) for i in range(3)]


def test_links_loops_and_further_names_count_once(tree, capsys, monkeypatch):
    cat, dog = tree / "train" / "cat", tree / "train" / "dog"
    (cat / "up").symlink_to("..")
    (cat / "root").symlink_to(tree)
    (cat / "self").symlink_to(".")
    (tree / "train" / "all").symlink_to(".")
    (cat / "deep").mkdir()
    (cat / "deep" / "again").symlink_to(cat)
    (cat / "copy.png").symlink_to("0.png")
    (cat / "deep" / "0.png").symlink_to("../0.png")
    os.link(dog / "1.png", dog / "zz.png")
    (dog / "round").symlink_to("round")
    os.mkfifo(cat / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(cat)  # a socket's whole path may be too long
        listening.bind("s.png")
    assert names_of(read_tree(tree).training, tree) == WHOLE
    said = capsys.readouterr().err
    assert "8 entries that are the same as others" in said and "2 entries that are neither files nor folders" in said
    assert "1 links to what does not exist: train/dog/round" in said


def test_linked_files_and_folders_from_elsewhere_are_read(tree):
    store = tree / "store"
    write_images(store, ["more"], count=2)
    (tree / "train" / "cat" / "more").symlink_to(store / "more")
    (tree / "train" / "cat" / "twice").symlink_to(store / "more")
    (store / "more" / "loop").symlink_to(store)
    files = read_tree(tree).training
    assert len(files) == 8 and sum(label == 0 for _, label in files) == 5
    (tree / "train" / "dog").rename(tree / "dogs")
    (tree / "train" / "dog").symlink_to(tree / "dogs")
    assert len(read_tree(tree).training) == 8


@pytest.mark.parametrize("kind", ["file", "folder", "hard link", "class", "other part"])
def test_one_image_under_two_labels_is_named(tree, kind):
    cat, dog = tree / "train" / "cat", tree / "train" / "dog"
    if kind == "file":
        (cat / "x.png").symlink_to("../dog/0.png")
    elif kind == "folder":
        (cat / "x").symlink_to("../dog")
    elif kind == "hard link":
        os.link(cat / "0.png", dog / "x.png")
    elif kind == "class":
        (tree / "train" / "kitten").symlink_to("cat")
    else:
        (tree / "val" / "cat" / "x.png").symlink_to(dog / "0.png")
    with pytest.raises(
        UserError, match=r"0\.png.* are the same file under two labels, .*; remove one of the two links"
    ):
        read_tree(tree)


def test_test_images_that_are_training_images_are_told(tree, capsys):
    (tree / "val" / "cat" / "x.png").symlink_to(tree / "train" / "cat" / "0.png")
    read_tree(tree)
    assert "1 images of" in (said := capsys.readouterr().err) and "are images of" in said


def test_folders_named_like_images_are_walked_and_deep_ones_are_found(tree):
    deep = tree / "train" / "cat" / "x.jpg" / "/".join("abcdefgh" * 12)
    deep.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(deep / "y.png")
    assert len(read_tree(tree).training) == 7


def test_a_folder_that_cannot_be_read_is_told(tree, monkeypatch, capsys):
    (tree / "train" / "cat" / "closed").mkdir()
    scandir = os.scandir

    def refused(path):
        if str(path).endswith(("closed", "dog")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", refused)
    with pytest.raises(UserError, match=r"no images in .*dog; cannot be read: .*train/dog \(Permission denied\)"):
        read_tree(tree)
    monkeypatch.setattr(walk.os, "scandir", lambda path: refused(str(path).replace("dog", "dog/")))
    assert len(read_tree(tree).training) == 6
    assert "left out 1 folders that cannot be read: train/cat/closed (Permission denied)" in capsys.readouterr().err


def test_hidden_and_system_entries_are_skipped_at_every_level_and_counted(tree, capsys):
    for part in (tree, tree / "train", tree / "train" / "cat", tree / "val", tree / "val" / "dog"):
        for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trashes", "$RECYCLE.BIN", "System Volume Information",
                     "lost+found", "#recycle", "__pycache__"):  # fmt: skip
            (part / name).mkdir()
            Image.new("RGB", (4, 4)).save(part / name / "x.png")
        for name in ("._x.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (part / name).write_bytes(b"x")
    found = read_tree(tree)
    assert found.class_names == ["cat", "dog"] and len(found.training) == 6 and len(found.test) == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("data: skipped 52 hidden or system entries: train/")


def test_what_is_left_out_is_told_by_ending(tree, capsys):
    cat = tree / "train" / "cat"
    for name in ("notes.txt", "more.TXT", "box.xml", "README"):
        (cat / name).write_text("x")
    Image.new("RGB", (4, 4)).save(cat / "upper.JFIF", "JPEG")
    Image.new("RGB", (4, 4)).save(tree / "train" / "loose.png")
    assert len(read_tree(tree).training) == 7
    said = capsys.readouterr().err
    assert "left out 4 files that do not end as images do: 2 .txt, 1 " in said and "1 without an ending" in said
    assert "endings taken: .apng .avif " in said and " .jfif " in said
    assert "1 images that lie beside the class folders, in no class: train/loose.png" in said


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Val", "TEST", "testing"])
def test_the_part_that_is_tested_on_has_many_names(tree, name, capsys):
    (tree / "val").rename(tree / "part")
    (tree / "part").rename(tree / name)
    assert len(read_tree(tree).test) == 4
    assert (f"tested on {tree / name}" in capsys.readouterr().err) == (name != "val")


def test_the_first_part_with_images_in_class_folders_is_tested_on(tree, capsys):
    (tree / "val").rename(tree / "test")
    (tree / "val" / "cat").mkdir(parents=True)
    (tree / "valid").mkdir()
    Image.new("RGB", (4, 4)).save(tree / "valid" / "flat.png")
    assert names_of(read_tree(tree).test, tree)[0] == "0 test/cat/0.png"
    assert f"tested on {tree / 'test'}, not on val, valid" in capsys.readouterr().err


@pytest.mark.parametrize("unsplit", [True, False])
def test_a_share_of_each_class_is_held_out_where_there_is_no_test_part(tmp_path, unsplit):
    root = tmp_path / "pets"
    write_images(root if unsplit else root / "train", ["cat", "dog"], count=10)
    with pytest.raises(UserError, match=r"hold out a fifth of each class with -s data.validation=0\.2"):
        load(root)
    training, test = load(root, validation=0.2)
    assert training.labels.bincount().tolist() == [8, 8] and test.labels.bincount().tolist() == [2, 2]
    assert not any((training.images == image).flatten(1).all(1).any() for image in test.images)
    again, other = load(root, validation=0.2), load(root, validation=0.2, subset_seed=1)
    assert torch.equal(again[1].images, test.images) and not torch.equal(other[1].images, test.images)
    few, same = load(root, validation=0.2, subset=3)
    assert torch.equal(same.images, test.images) and few.labels.bincount().tolist() == [3, 3]
    counted, after = load(root, validation=2, subset=3)
    assert counted.labels.bincount().tolist() == [3, 3] and after.labels.bincount().tolist() == [2, 2]


def test_a_share_of_any_data_set_is_held_out():
    training, test = load_data(DataOptions(validation=0.1))
    assert len(training) + len(test) == 1437 and test.labels.bincount().min() >= 13


@pytest.mark.parametrize("value", ["0", "1.0", "-0.2", "1.5", "true", "many", "0.0"])
def test_held_out_images_are_a_number_or_a_share(value):
    with pytest.raises(UserError, match="data.validation: expected a number of images per class, or a share") as caught:
        make_config({}, [f"data.validation={value}"])
    assert "\n" not in str(caught.value)


def test_classes_without_test_images_are_told_and_trained_on(tree, capsys):
    for path in (tree / "val" / "dog").iterdir():
        path.unlink()
    training, test = load(tree)
    assert training.labels.unique().tolist() == [0, 1] and test.labels.unique().tolist() == [0]
    assert "1 classes have no images in" in (said := capsys.readouterr().err) and "not tested: dog" in said
    (tree / "val" / "dog").rmdir()
    assert len(load(tree)[1]) == 2


def test_advice_on_classes_leads_to_a_run(tree):
    (tree / "val" / "wolf").mkdir()
    assert len(load(tree)[1]) == 4  # an empty folder says nothing
    Image.new("RGB", (4, 4)).save(tree / "val" / "wolf" / "0.png")
    with pytest.raises(UserError, match=r"only there wolf; rename or remove .*val/wolf"):
        load(tree)
    (tree / "train" / "wolf").mkdir()
    (tree / "train" / "wolf" / "0.txt").write_text("x")
    with pytest.raises(UserError, match=r"no images in .*train/wolf, which hold 1 \.txt; .*remove (.*)$") as caught:
        load(tree)
    for path in str(caught.value).rpartition("remove ")[2].split(", "):
        for file in os.listdir(path):
            os.unlink(f"{path}/{file}")
        os.rmdir(path)
    assert len(load(tree)[1]) == 4


def test_a_place_one_level_too_high_is_named(tree):
    (tree / "above").mkdir()
    for part in ("train", "val"):
        (tree / part).rename(tree / "above" / part)
    with pytest.raises(
        UserError, match=f"found no train, but {tree}/above/train; name that tree: data.root={tree}/above$"
    ):
        load(tree)


@pytest.mark.parametrize("across", [True, False])
def test_two_spellings_of_one_class_are_named(tree, across):
    write_images(tree / "train", ["caf\u00e9"])
    write_images(tree / ("val" if across else "train"), ["cafe\u0301"])
    with pytest.raises(
        UserError, match=r"'caf(e\\u0301|\\xe9)'.* and .*'caf(e\\u0301|\\xe9)'.* two spellings of one class"
    ):
        load(tree)


def test_names_of_any_bytes_are_shown_so_that_they_can_be_told_apart(tmp_path):
    names = [os.fsdecode(name) for name in ODD]
    shown = [printable(name) for name in names]
    assert shown == [
        "caf\\xe9",
        "a\\nb",
        "\\x1b[31mred",
        "<script>",
        "-rf",
        "50%",
        'it\'s "so"',
        "right\\u202eleft",
        "a\\\\xe9",
    ]
    for name in shown:
        name.encode("utf-8")
    write_images(tmp_path / "train", names)
    write_images(tmp_path / "val", names, count=1)
    training, test = load(tmp_path)
    assert sorted(training.class_names) == sorted(shown) and len(training) == 27 and len(test) == 9
    (tmp_path / "train" / names[0] / os.fsdecode(b"\xff\n.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\xe9/\\xff\\n.png \(an empty file, 0 bytes\)") as caught:
        load(tmp_path)
    str(caught.value).encode("utf-8")


def test_broken_files_of_a_streamed_set_are_found_before_it_is_used(tree, monkeypatch, capsys):
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 10)
    (tree / "val" / "cat" / "cut.png").write_bytes((tree / "val" / "cat" / "0.png").read_bytes()[:150])
    (tree / "train" / "dog" / "page.png").write_text("<html>")
    with pytest.raises(UserError, match=r"1 of 7 images cannot be read: .*page.png \(a web page"):
        load(tree)
    (tree / "train" / "dog" / "page.png").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images cannot be read: .*cut.png \("):
        load(tree)
    training, test = load(tree, max_unreadable=0.3)
    assert len(training) == 6 and len(test) == 4
    capsys.readouterr()
    assert np.array_equal(test.batch(torch.arange(4))[1], [0, 0, 1, 1])
