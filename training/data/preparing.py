"""A folder of images to pre-sized shards, in the format of prepared.py: resumable, checked, atomic."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evo.errors import UserError
from evo.locks import LOCK, alone_in
from evo.storage import replacing
from training.checkpoint import sha256_of, write_atomically
from training.data.decode import Decoder, decode_into
from training.data.image_set import check_classes, level_counts, unreadable_named
from training.data.levels import Levels
from training.data.names import printable
from training.data.prefetch import decoding_threads
from training.data.prepared import (
    INDEX,
    PARTS,
    UNFINISHED,
    Index,
    Record,
    index_text,
    is_prepared,
    labels_of,
    read_index,
    record_from,
)
from training.data.tree import Files, read_tree

SHARD_BYTES = 256 * 2**20  # held in memory twice; what a kill costs at most
DECODER = 2  # raised when Decoder's pixels change, so that shards are made anew

Show = Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """A shard to be: its file, and (file, label) of its images."""

    file: str
    part: str
    files: Files


def prepare(
    folder: Path,
    size: int,
    out: Path,
    workers: int | None,
    max_unreadable: float,
    show: Show,
    given: tuple[float, float] | None = None,
) -> Index:
    """Decode FOLDER/train and FOLDER/val to `size` pixels a side into shards in `out`; returns what index.json holds.

    Finished shards whose files have not changed are checked and kept, so that a run that was cut off goes on and a
    second run verifies. A tree without test images is prepared without. show: takes a line that says how far it is.
    given: levels of images with more than 8 bits a channel, as data.levels. Raises UserError where the tree is not sound,
    `out` holds something else, the disk is too small, or more than the share max_unreadable of the files cannot be
    read; finished shards stay.
    """
    if out.exists() and not is_prepared(out) and any(entry.name != LOCK for entry in out.iterdir()):
        raise UserError(f"{out} is there and was not made by ./run prepare; name another folder with --out")
    tree = read_tree(folder, "if any")
    with alone_in(out):
        plan = [
            Planned(f"{part}-{number:05d}.npy", part, files)
            for part, all_files in zip(PARTS, (tree.training, tree.test), strict=True)
            for number, files in enumerate(_shares(all_files, max(1, SHARD_BYTES // (3 * size * size))))
        ]
        digests = {planned.file: _digest(planned, folder, size, tree.class_names, given) for planned in plan}
        kept = dict(_kept(out, plan, digests, show))
        missing = [planned for planned in plan if planned.file not in kept]
        if missing or not (out / INDEX).is_file():
            _check_disk(out, sum(len(planned.files) for planned in missing) * 3 * size * size)
            _reopen(out, kept)
            files = sum(len(planned.files) for planned in plan)
            work = _Work(folder, size, out, kept, show, Levels(given))
            work.make(missing, digests, workers or decoding_threads(), max_unreadable * files)
        return _finish(out, plan, kept, size, tree.class_names)


def _shares(files: Files, length: int) -> Iterator[Files]:
    return (files[start : start + length] for start in range(0, len(files), length))


def _digest(
    planned: Planned, folder: Path, size: int, class_names: list[str], given: tuple[float, float] | None
) -> str:
    """What a shard is made of: it changes with any of its files, the size, the classes and the levels."""
    digest = hashlib.sha256(json.dumps([DECODER, size, class_names, *([given] if given else [])]).encode())
    for path, label in planned.files:
        try:
            status = path.stat()
            found = [status.st_size, status.st_mtime_ns]
        except OSError:  # a link to nothing, say: decoding will tell
            found = []
        digest.update(json.dumps([str(path.relative_to(folder)), label, *found]).encode())
    return digest.hexdigest()


def _kept(out: Path, plan: list[Planned], digests: dict[str, str], show: Show) -> Iterator[tuple[str, Record]]:
    """The records of shards that are there, whole, and made of the same files."""
    known = _known_records(out)
    for number, planned in enumerate(plan, 1):
        record = known.get(planned.file)
        path = out / planned.file
        if record is None or record.made_of != digests[planned.file] or not path.is_file():
            continue
        show(f"checking shard {number:,} of {len(plan):,}")
        if path.stat().st_size == record.bytes and sha256_of(path) == record.sha256:
            yield planned.file, record


def _known_records(out: Path) -> dict[str, Record]:
    known: dict[str, Record] = {}
    if (out / INDEX).is_file():
        try:
            known = {record.file: record for records in read_index(out).parts.values() for record in records}
        except UserError:  # an index that is not sound vouches for nothing
            (out / INDEX).unlink()
    for path in (out / UNFINISHED).glob("*.json"):
        try:
            record = record_from(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            continue
        known[record.file] = record
    return known


def _check_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed + 2 * SHARD_BYTES > free:
        raise UserError(
            f"{out}: {needed / 2**30:,.1f} GiB will be written and {free / 2**30:,.1f} GiB are free; "
            "take a smaller --size, or another disk with --out"
        )


def _reopen(out: Path, kept: dict[str, Record]) -> None:
    """From now on `out` is unfinished, whatever it was."""
    (out / UNFINISHED).mkdir(exist_ok=True)
    for record in kept.values():
        _write_record(out, record)
    (out / INDEX).unlink(missing_ok=True)


def _write_record(out: Path, record: Record) -> None:
    write_atomically(out / UNFINISHED / f"{record.file}.json", json.dumps(asdict(record)))


def _finish(out: Path, plan: list[Planned], kept: dict[str, Record], size: int, class_names: list[str]) -> Index:
    """Write the index, then drop what it replaces."""
    index = Index(size, class_names, {part: [kept[p.file] for p in plan if p.part == part] for part in PARTS})
    check_classes(labels_of(index.parts[PARTS[0]]), class_names)
    write_atomically(out / INDEX, index_text(index))
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    for path in out.iterdir():
        if re.fullmatch(r"\.?(train|test)-\d+\.npy(\.tmp)?", path.name) and path.name not in kept:
            path.unlink()
    return index


class _Work:
    """Decodes shards one after the other, each in many threads; the last one is written meanwhile."""

    def __init__(self, folder: Path, size: int, out: Path, kept: dict[str, Record], show: Show, levels: Levels) -> None:
        self.decode = Decoder(size, levels)
        self.levels = levels
        self.folder = folder
        self.size = size
        self.out = out
        self.kept = kept
        self.show = show
        self.unreadable = [file for record in kept.values() for file in record.unreadable]
        self.writing: list[Future[Record]] = []
        self.before = sum(record.images + len(record.unreadable) for record in kept.values())
        self.left = self.done = 0
        self.began = time.monotonic()

    def make(self, missing: list[Planned], digests: dict[str, str], workers: int, most_unreadable: float) -> None:
        """Make the missing shards, and add their records to those kept. most_unreadable: files of the whole tree."""
        self.left = sum(len(planned.files) for planned in missing)
        with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as writer:
            for planned in missing:
                pixels, failed = self._decode(planned, pool)
                if len(self.unreadable) > most_unreadable:
                    raise UserError(
                        f"so far {unreadable_named(self.unreadable, self.before + self.done)}; repair or remove them, or allow a "
                        "larger share with --max-unreadable; finished shards are kept"
                    )
                self._settle()
                self.writing.append(writer.submit(self._write, planned, pixels, failed, digests[planned.file]))
            self._settle()

    def _decode(self, planned: Planned, pool: ThreadPoolExecutor) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """A shard's pixels, and the rows of those that cannot be read, with their names and the reasons."""
        pixels = np.empty((len(planned.files), 3, self.size, self.size), np.uint8)
        failed = decode_into(pixels, [path for path, _ in planned.files], self.decode, pool, self._tell)
        self.levels.check()
        self.done += len(pixels)
        named = {
            row: f"{printable(planned.files[row][0].relative_to(self.folder))} ({failed[row]})"
            for row in sorted(failed)
        }
        self.unreadable += named.values()
        return pixels, named

    def _settle(self) -> None:
        """Wait until the last shard is written."""
        while self.writing:
            record = self.writing.pop().result()
            self.kept[record.file] = record

    def _tell(self, decoded: int, failed: int) -> None:
        done = self.done + decoded
        bad = len(self.unreadable) + failed
        rate = done / max(time.monotonic() - self.began, 1e-9)
        self.show(
            f"{done:,} of {self.left:,} images  {rate:,.0f}/s  {(self.left - done) / rate / 60:,.0f} min left"
            + (f"  {bad:,} unreadable" if bad else "")
        )

    def _write(self, planned: Planned, pixels: NDArray[np.uint8], failed: dict[int, str], digest: str) -> Record:
        pixels = np.delete(pixels, list(failed), axis=0) if failed else pixels
        path = self.out / planned.file
        with replacing(path) as file:
            np.save(file, pixels, allow_pickle=False)
        labels = [label for row, (_, label) in enumerate(planned.files) if row not in failed]
        record = Record(
            planned.file,
            len(pixels),
            [[label, len(list(run))] for label, run in itertools.groupby(labels)],
            path.stat().st_size,
            sha256_of(path),
            digest,
            list(failed.values()),
            level_counts(torch.from_numpy(pixels)).tolist(),
        )
        _write_record(self.out, record)
        return record
