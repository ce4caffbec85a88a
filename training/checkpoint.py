"""Checkpoints without pickle: tensors as safetensors, arrays as npz, the rest as JSON, written atomically.

A checkpoint NAME in a folder is NAME.json, which names its two data files and their sha256. The data files
are written first and carry the step in their names; replacing NAME.json is the moment the new checkpoint
counts. All are flushed to the disk before. A crash at any point leaves the old one or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import UserError

Array = NDArray[Any]
SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """tensors: model and optimiser. arrays: random states and the mix's. meta: numbers and names, as JSON."""

    tensors: dict[str, Tensor]
    arrays: dict[str, Array]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, name: str, step: int, checkpoint: Checkpoint) -> None:
    """Write checkpoint NAME, then remove the data files of the one it replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"tensors": f"{name}-{step:08d}.safetensors", "arrays": f"{name}-{step:08d}.npz"}
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in checkpoint.tensors.items()}
    save_file(plain, str(folder / files["tensors"]))
    _flush(folder / files["tensors"])
    with open(folder / files["arrays"], "wb") as file:
        np.savez(file, **checkpoint.arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    index = {
        "schema": SCHEMA,
        "files": files,
        "sha256": {kind: _sha256(folder / file) for kind, file in files.items()},
        "meta": checkpoint.meta,
    }
    write_atomically(folder / f"{name}.json", json.dumps(index, indent=1) + "\n")
    for old in folder.glob(f"{name}-*"):
        if old.name not in files.values():
            old.unlink()


def load_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read checkpoint NAME. Raises UserError where it is missing, damaged or of another version."""
    index_file = folder / f"{name}.json"
    if not index_file.is_file():
        raise UserError(f"no checkpoint {name!r} in {folder}; the run stopped before its first epoch ended")
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        schema, files, sums = index["schema"], index["files"], index["sha256"]
        if schema != SCHEMA:
            raise UserError(f"{index_file}: schema {schema!r}, this version reads {SCHEMA}; update Evomix")
        for kind in ("tensors", "arrays"):
            path = folder / Path(files[kind]).name
            if not path.is_file() or _sha256(path) != sums[kind]:
                raise UserError(
                    f"{path} is missing or altered (its sha256 is not the recorded one); the run cannot go on from it"
                )
        tensors = load_file(str(folder / Path(files["tensors"]).name))
        with np.load(folder / Path(files["arrays"]).name, allow_pickle=False) as data:
            arrays = dict(data)
        return Checkpoint(tensors, arrays, index["meta"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{index_file} is not a checkpoint: {type(error).__name__}: {error}") from None


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file so that a reader sees the old or the new one, whole."""
    unfinished = path.with_name(f".{path.name}.tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
