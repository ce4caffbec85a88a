"""Checkpoints: whole or not there, whatever happens; nothing altered is taken for sound."""

import json

import numpy as np
import pytest
import torch

from evo.errors import UserError
from training import checkpoint
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def made(value):
    return Checkpoint({"w": torch.full((2, 3), float(value))}, {"a": np.array([value])}, {"step": 5, "value": value})


def value(folder, name="latest"):
    found = load_checkpoint(folder, name)
    assert float(found.tensors["w"][0, 0]) == int(found.arrays["a"][0]) == found.meta["value"]
    return found.meta["value"]


def test_what_was_saved_is_loaded_and_old_files_go(tmp_path):
    for number in range(4):
        save_checkpoint(tmp_path, ["best", "latest"] if number == 1 else ["latest"], number, made(number))
    assert value(tmp_path) == 3 and value(tmp_path, "best") == 1
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("names", [["latest"], ["best", "latest"]])
@pytest.mark.parametrize("broken", ["save_file", "flush", "_link", "write_atomically"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_leaves_the_old_or_the_new_also_of_the_same_step(tmp_path, monkeypatch, broken, after, names):
    save_checkpoint(tmp_path, ["best", "latest"], 5, made(1))
    calls, whole = [], getattr(checkpoint, broken)

    def breaks(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError("no space left")
        return whole(*arguments)

    monkeypatch.setattr(checkpoint, broken, breaks)
    try:
        save_checkpoint(tmp_path, names, 5, made(2))
        expected = {2}
    except OSError:
        expected = {1, 2}
    monkeypatch.undo()
    assert value(tmp_path) in expected and value(tmp_path, "best") in {1, 2}
    save_checkpoint(tmp_path, ["best", "latest"], 5, made(3))
    assert value(tmp_path) == value(tmp_path, "best") == 3
    assert len(list(tmp_path.iterdir())) == 6


def test_where_there_are_no_links_files_are_copied(tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError("not supported")

    monkeypatch.setattr(checkpoint.os, "link", refused)
    save_checkpoint(tmp_path, ["best", "latest"], 1, made(4))
    assert value(tmp_path) == value(tmp_path, "best") == 4


def alter_meta(index):
    content = json.loads(index.read_text())
    content["meta"]["step"] = 3
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: next(folder.glob("latest-*.safetensors")).write_bytes(b"x"), "missing or altered"),
        (lambda folder: next(folder.glob("latest-*.npz")).unlink(), "missing or altered"),
        (lambda folder: alter_meta(folder / "latest.json"), "latest.json is altered"),
        (lambda folder: (folder / "latest.json").write_text("{"), "is not a checkpoint"),
        (lambda folder: (folder / "latest.json").write_text("[1]"), "is not a checkpoint"),
        (lambda folder: (folder / "latest.json").write_bytes(b"\xff\x00\x80"), "is not a checkpoint"),
        (lambda folder: (folder / "latest.json").unlink(), "no checkpoint 'latest'.*stopped before its first one"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, damage, words):
    save_checkpoint(tmp_path, ["latest"], 5, made(1))
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path, "latest")


def test_one_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, ["latest"], 5, made(1))
    read = checkpoint._read_index

    def replaced(path):
        index = read(path)
        monkeypatch.setattr(checkpoint, "_read_index", read)
        save_checkpoint(tmp_path, ["latest"], 6, made(2))
        return index

    monkeypatch.setattr(checkpoint, "_read_index", replaced)
    assert value(tmp_path) == 2
