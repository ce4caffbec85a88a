"""Checkpoints without pickle: tensors as safetensors, arrays as npz, the rest as JSON, written atomically.

A checkpoint NAME in a folder is NAME.json, which names its two data files and the sha256 of everything. The
data files are written first, under names that carry step and content, so that none in use is ever written to;
replacing NAME.json is the moment the new checkpoint counts. All are flushed to the disk before. A crash at
any point leaves the old one or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evo.arrays import Array
from evo.errors import UserError
from evo.storage import naming, removing, replacing

SCHEMA = 1
SUFFIXES = {"tensors": "safetensors", "arrays": "npz"}


@dataclass(frozen=True)
class Checkpoint:
    """tensors: model and optimizer. arrays: random states and the mix's. meta: numbers and names, as JSON."""

    tensors: dict[str, Tensor]
    arrays: dict[str, Array]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, names: Sequence[str], step: int, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under each of `names`, in order, then remove the data files of those it replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.tensors.items()}
    unfinished = {"tensors": folder / ".tensors.tmp", "arrays": folder / ".arrays.tmp"}
    with removing(*unfinished.values()):
        with naming(folder):
            _write_tensors(plain, unfinished["tensors"])
            with open(unfinished["arrays"], "wb") as file:
                np.savez(file, **checkpoint.arrays)  # type: ignore[arg-type]
            for path in unfinished.values():
                flush(path)
        sums = {kind: sha256_of(path) for kind, path in unfinished.items()}
        sums["meta"] = _meta_sha256(checkpoint.meta)
        for name in names:
            _put(folder, name, step, unfinished, {"sha256": sums, "meta": checkpoint.meta})
    for path in unfinished.values():
        path.unlink()


def _put(folder: Path, name: str, step: int, unfinished: dict[str, Path], rest: dict[str, Any]) -> None:
    """Make the data files and `rest` the checkpoint NAME, in the place of the one there was."""
    files = {kind: f"{name}-{step:08d}-{rest['sha256'][kind][:8]}.{SUFFIXES[kind]}" for kind in unfinished}
    for kind, path in unfinished.items():
        _link(path, folder / files[kind])
    write_atomically(folder / f"{name}.json", json.dumps({"schema": SCHEMA, "files": files, **rest}, indent=1) + "\n")
    for old in folder.glob(f"{name}-*"):
        if old.name not in files.values():
            old.unlink()


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a .safetensors file. Raises OSError where the disk does not take it, which safetensors tells in words."""
    try:
        save_file(tensors, str(path))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read checkpoint NAME. Raises UserError where it is missing, damaged or of another version."""
    index_file = folder / f"{name}.json"
    if not index_file.is_file():
        raise UserError(f"no checkpoint {name!r} in {folder}; the run stopped before its first one")
    try:
        index = _read_index(index_file)
        if not _files_are_there(folder, index):  # replaced between two looks, by a run that goes on
            index = _read_index(index_file)
        files, sums, meta = index["files"], index["sha256"], index["meta"]
        for kind in ("tensors", "arrays"):
            path = folder / Path(files[kind]).name
            if not path.is_file() or sha256_of(path) != sums[kind]:
                raise UserError(
                    f"{path} is missing or altered (its sha256 is not the recorded one); the run cannot go on from it"
                )
        if sums.get("meta", _meta_sha256(meta)) != _meta_sha256(meta):  # older ones have none
            raise UserError(f"{index_file} is altered (its sha256 is not the recorded one); restore it")
        tensors = load_file(str(folder / Path(files["tensors"]).name))
        with np.load(folder / Path(files["arrays"]).name, allow_pickle=False) as data:
            arrays = dict(data)
        return Checkpoint(tensors, arrays, {key: meta[key] for key in meta})
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"{index_file} is not a checkpoint: {type(error).__name__}: {error}") from None


def _read_index(path: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if index["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {index['schema']!r}, this version reads {SCHEMA}; update Evomix")
    return index


def _files_are_there(folder: Path, index: dict[str, Any]) -> bool:
    return all((folder / Path(file).name).is_file() for file in index["files"].values())


def _link(path: Path, other: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    other.unlink(missing_ok=True)  # of the same content: left behind by a crash, or in use and as good
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
        flush(other)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file so that a reader sees the old or the new one, whole."""
    with replacing(path) as file:
        file.write(text.encode())
    flush(path.parent)


def flush(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _meta_sha256(meta: Any) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
