"""How searches and populations are saved: an .npz of arrays, with a JSON text for the rest. Never pickle."""

from __future__ import annotations

import json
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SCHEMA = 1


def flatten(meta: dict[str, Any], groups: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """One dict of copies of the arrays, `group/name`, and the JSON of `meta` under `meta`."""
    arrays = {f"{group}/{name}": array.copy() for group, named in groups.items() for name, array in named.items()}
    return {"meta": np.array(json.dumps({"schema": SCHEMA, **meta})), **arrays}


def unflatten(arrays: dict[str, Array]) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """Undo `flatten`. Raises ValueError for another schema or what is no saved search."""
    try:
        meta = json.loads(str(arrays["meta"]))
        schema = meta["schema"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"these arrays are not a saved search: {type(error).__name__}: {error}") from None
    if schema != SCHEMA:
        raise ValueError(f"a saved search of schema {schema!r}, this version reads {SCHEMA}; update Evomix")
    groups: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        group, slash, name = key.partition("/")
        if slash:
            groups.setdefault(group, {})[name] = array
    return meta, groups


def write(path: Path | str, state: dict[str, Array], extra: dict[str, Array]) -> None:
    """Write a state and extra arrays to one file; see write_arrays."""
    named = {f"state/{name}": array for name, array in state.items()}
    write_arrays(path, named | {f"extra/{name}": array for name, array in extra.items()})


def read(path: Path | str) -> tuple[dict[str, Array], dict[str, Array]]:
    """The state and the extra arrays `write` was given. Raises ValueError in one line."""
    parts: dict[str, dict[str, Array]] = {"state": {}, "extra": {}}
    for key, array in read_arrays(path, "search").items():
        part, _, name = key.partition("/")
        if part in parts:
            parts[part][name] = array
    return parts["state"], parts["extra"]


def write_arrays(path: Path | str, arrays: dict[str, Array]) -> None:
    """Replace an .npz file so that a reader sees the old or the new one, whole."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends: on the disk first, then at once.

    Of several processes that write one path each has a file of its own until then. Where writing fails nothing is left of
    it, and an OSError names `path`.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident():x}.tmp")
    with naming(path, unfinished), removing(unfinished):
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)


@contextmanager
def naming(path: Path, unfinished: Path | None = None) -> Iterator[None]:
    """Name the file in an OSError of its writing, for a write to an open file does not say which it was.

    unfinished: what it is called until it is whole.
    """
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise


@contextmanager
def removing(*unfinished: Path) -> Iterator[None]:
    """Remove files where the block fails: what is half written helps nobody, and may take the last space of a disk."""
    try:
        yield
    except BaseException:
        for path in unfinished:
            with suppress(OSError):
                path.unlink()
        raise


def read_arrays(path: Path | str, kind: str) -> dict[str, Array]:
    """The arrays of an .npz file that holds a saved `kind`; never unpickles. Raises ValueError in one line."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return dict(data)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a saved {kind}: {type(error).__name__}: {error}") from None


def plain(value: Any) -> Any:
    """Nested dicts, tuples and arrays as what JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
