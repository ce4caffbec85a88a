"""The format of prepared image folders: pre-sized uint8 shards that are memory-mapped.

FOLDER/index.json    format, schema, size, class names, and of each part its shards
FOLDER/*.npy         shards: (n,3,S,S) uint8
FOLDER/unfinished/   while `./run prepare` works: one record of each finished shard

A record, of index.json as well: the shard's file, its images' labels, its bytes and SHA-256, a digest of the files it
was made of, those that could not be read, and how often each level occurs in each channel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from training.checkpoint import sha256_of
from training.data.image_set import AnyImageSet, ImageSet, ShardSet, statistics_of
from training.data.tree import HOLD_OUT
from training.options import DataOptions

FORMAT = "evomix-prepared"
SCHEMA = 1
INDEX, UNFINISHED = "index.json", "unfinished"
PARTS = ("train", "test")


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard. counts: (3,256), how often each level occurs. labels: runs [label, images]."""

    file: str
    images: int
    labels: list[list[int]]
    bytes: int
    sha256: str
    made_of: str
    unreadable: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Index:
    size: int
    class_names: list[str]
    parts: dict[str, list[Record]]


def is_prepared(root: Path) -> bool:
    """Whether a folder holds, or was to hold, a prepared set."""
    return (root / INDEX).is_file() or (root / UNFINISHED).is_dir()


def load_prepared(options: DataOptions, root: Path, memory_limit: int) -> tuple[AnyImageSet, AnyImageSet]:
    """Training and test images of a prepared folder: in memory up to memory_limit bytes, memory-mapped beyond.

    Sizes of all shards are checked, and the contents of those that are read into memory; the contents of the others
    by running `./run prepare` again, which also decided how many unreadable files were too many. Raises UserError
    where they are not what was written.
    """
    index = read_index(root)
    if options.image_size not in (None, index.size):
        raise UserError(
            f"data.image_size={options.image_size}: {root} was prepared at {index.size} pixels; leave it out, "
            f"or prepare again with --size {options.image_size}"
        )
    if options.levels is not None:
        raise UserError(
            f"data.levels: {root} was prepared with its levels; leave it out, or prepare again with --levels"
        )
    if options.validation is None and not any(record.images for record in index.parts["test"]):
        raise UserError(f"{root} was prepared without test images; {HOLD_OUT}")
    training, test = (_image_set(root, index, part, memory_limit) for part in PARTS)
    return training, test


def read_index(root: Path) -> Index:
    """The index of a prepared folder. Raises UserError where it is missing or not sound."""
    path = root / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["schema"]) != (FORMAT, SCHEMA):
            raise UserError(
                f"{path}: expected {FORMAT}, schema {SCHEMA}, got {content['format']!r:.40}, {content['schema']!r:.10}"
            )
        parts = {part: [record_from(record) for record in content["parts"][part]] for part in PARTS}
        return Index(content["size"], content["class_names"], parts)
    except FileNotFoundError:
        raise UserError(
            f"{root}: not fully prepared; run the same `./run prepare` again, it goes on where it stopped"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a sound index ({error!r:.80}); run `./run prepare` again") from None


def index_text(index: Index) -> str:
    """The index as JSON."""
    return json.dumps({"format": FORMAT, "schema": SCHEMA, **asdict(index)}) + "\n"


def record_from(content: dict[str, Any]) -> Record:
    """A record from its JSON. Raises KeyError, TypeError or ValueError where it is none."""
    record = Record(**{field.name: content[field.name] for field in fields(Record)})
    if sum(count for _, count in record.labels) != record.images or Path(record.file).name != record.file:
        raise ValueError(f"labels of {record.file!r:.40}")
    return record


def open_shard(root: Path, record: Record, size: int) -> NDArray[np.uint8]:
    """A shard, memory-mapped. Raises UserError where its size is not what was written."""
    path = root / record.file
    shape = (record.images, 3, size, size)
    if record.images == 0:  # none of its files could be read; an empty file cannot be mapped
        return np.empty(shape, np.uint8)
    again = "run the same `./run prepare` again, which makes it anew"
    if not path.is_file():
        raise UserError(f"{path}: missing; {again}")
    if path.stat().st_size != record.bytes:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes, expected {record.bytes:,}; {again}")
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: altered ({error!s:.60}); {again}") from None
    if shard.shape != shape or shard.dtype != np.uint8:
        raise UserError(f"{path}: holds {shard.dtype} {shard.shape}, expected uint8 {shape}; {again}")
    return shard


def labels_of(records: list[Record]) -> Tensor:
    """(M,) int64: the labels of the images of all shards."""
    runs = torch.tensor([run for record in records for run in record.labels], dtype=torch.int64).view(-1, 2)
    return runs[:, 0].repeat_interleave(runs[:, 1])


def _image_set(root: Path, index: Index, part: str, memory_limit: int) -> AnyImageSet:
    records = index.parts[part]
    labels = labels_of(records)
    crop = max(1, index.size // 8)  # as for folders
    shards = [open_shard(root, record, index.size) for record in records]
    if sum(shard.nbytes for shard in shards) <= memory_limit:
        _check_contents(root, records)
        images = torch.from_numpy(np.concatenate(shards or [np.empty((0, 3, index.size, index.size), np.uint8)]))
        return ImageSet(images, labels, index.class_names, crop, flip=True)
    counts = torch.tensor([record.counts for record in records]).sum(0)
    return ShardSet(
        shards,
        torch.arange(len(labels)),
        labels,
        index.class_names,
        statistics_of(counts),
        crop,
        flip=True,
        sums=[record.sha256 for record in records],
    )


def _check_contents(root: Path, records: list[Record]) -> None:
    for record in records:
        if sha256_of(root / record.file) != record.sha256:
            raise UserError(f"{root / record.file}: altered; run the same `./run prepare` again, which makes it anew")
