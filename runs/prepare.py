"""`./run prepare FOLDER`: a folder of images decoded once into pre-sized shards, which train much faster."""

from __future__ import annotations

import shlex
from math import inf
from pathlib import Path

from evo.errors import UserError
from runs.folders import folder_to_write
from training.places import user_path
from training.plain_yaml import number
from training.progress import Progress

MAX_UNREADABLE = 0.001


def run_prepare(
    folder: str,
    size: int = 224,
    out: str | None = None,
    workers: int | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    levels: str | None = None,
) -> None:
    """FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg -> shards in `out`, else in FOLDER-prepared-SIZE."""
    if not 4 <= size <= 1024:
        raise UserError(f"--size: expected 4 to 1024 pixels, got {size}")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}")
    if not 0 <= max_unreadable < 1:
        raise UserError(f"--max-unreadable: expected a share from 0 to below 1, got {max_unreadable:g}")
    given = None
    if levels is not None:
        try:
            black, white = map(number, levels.split(","))
        except ValueError:
            black = white = 0.0
        if not -inf < black < white < inf:
            raise UserError(f"--levels: expected BLACK,WHITE such as 0,4095, got {levels!r:.60}")
        given = black, white
    source = user_path(folder).resolve()
    if not source.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with train/CLASS/*.jpg and val/CLASS/*.jpg in it")
    target = folder_to_write(None if out is None else Path(out)) or source.with_name(f"{source.name}-prepared-{size}")

    from training.data.image_set import unreadable_named  # torch: 5 s
    from training.data.preparing import prepare

    progress = Progress()
    index = prepare(source, size, target, workers, max_unreadable, progress.update, given)
    records = [record for part in index.parts.values() for record in part]
    images = {part: sum(record.images for record in own) for part, own in index.parts.items()}
    unreadable = [file for record in records for file in record.unreadable]
    progress.update(
        f"{images['train']:,} training and {images['test']:,} test images of {len(index.class_names):,} classes, "
        f"{sum(record.bytes for record in records) / 2**30:,.1f} GiB, checked",
        final=True,
    )
    if unreadable:
        print(f"left out: {unreadable_named(unreadable, sum(images.values()) + len(unreadable))}")
    held = "" if images["test"] else " -s data.validation=0.2 (it holds no test images)"
    root = shlex.quote(f"data.root={target.absolute()}")
    print(f"{target}\ntrain on it with -s data.name=folder -s {root}{held}")
