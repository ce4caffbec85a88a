"""How searches and populations are stored: an .npz of arrays, with a JSON text for the rest. Never pickle.

Files may come from strangers, and be damaged on the way. What a file says of sizes is checked before room is made for
it, and whatever is wrong with it is told as one error of one line.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evo.arrays import Array
from evo.errors import UserError, on_one_line

SCHEMA = 1
LARGEST = 2 * 2**30  # bytes of all arrays of a file; a population of 10,000 genomes for 1,000 images takes a third
MAX_HEADER = 10_000  # bytes before an array's values
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes, and what can be unpacked up to a given size
# What a file that is unsound makes its readers raise: zipfile, zlib, numpy, json and whoever takes what they return.
UNSOUND = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    RuntimeError,  # with NotImplementedError, of a zip that is encrypted or packed strangely, and RecursionError
    OverflowError,
    MemoryError,
    SyntaxError,  # of an array's header
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(path: Path | str, kind: str, error: type[UserError] = UserError) -> Iterator[None]:
    """Tell whatever an unsound file makes its readers raise as one error of one line; what is a UserError stays it.

    Args:
        path: the file, which the line names.
        kind: what the file should be, with its article, such as `a pattern bank`.
        error: the error to raise.

    Raises:
        UserError: `error`, where the block raises one of UNSOUND.

    Example:
        >>> with reading("bank.json", "a pattern bank"):
        ...     json.loads("{")
        Traceback (most recent call last):
        ...
        evo.errors.UserError: bank.json is not a pattern bank: JSONDecodeError: Expecting property name ...
    """
    try:
        yield
    except UserError:
        raise
    except UNSOUND as unsound:
        told = str(unsound) if type(unsound) is ValueError else f"{type(unsound).__name__}: {unsound}"
        raise error(on_one_line(f"{path} is not {kind}: {told}")) from None


def flatten(meta: dict[str, Any], groups: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """Make one dict of arrays of several.

    Args:
        meta: what JSON can represent.
        groups: arrays by name, by the name of their group.

    Returns:
        Copies of the arrays under `group/name`, and the JSON text of `meta` with the schema under `meta`.
    """
    arrays = {f"{group}/{name}": array.copy() for group, named in groups.items() for name, array in named.items()}
    return {"meta": np.array(json.dumps({"schema": SCHEMA, **meta})), **arrays}


def unflatten(arrays: dict[str, Array]) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """Undo `flatten`. The arrays are those given, not copies.

    Args:
        arrays: what `flatten` returned, or what was read from a file.

    Returns:
        `meta` and `groups` as `flatten` was given them.

    Raises:
        UserError: the arrays are no stored search, or one of another schema.
    """
    with reading("the state", "a saved search"):
        meta = json.loads(str(arrays["meta"]))
        schema = meta["schema"]
    if isinstance(schema, bool) or schema != SCHEMA:
        raise UserError(f"a saved search of schema {schema!r:.60}, this version reads {SCHEMA}; update Evomix")
    groups: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        group, slash, name = key.partition("/")
        if slash:
            groups.setdefault(group, {})[name] = array
    return meta, groups


def write(path: Path | str, state: dict[str, Array], extra: dict[str, Array]) -> None:
    """Write a search's state and extra arrays to one file, whole or not at all.

    Args:
        path: the .npz file.
        state: a search's state, as `flatten` made it.
        extra: arrays by name, for the caller.
    """
    named = {f"state/{name}": array for name, array in state.items()}
    write_arrays(path, named | {f"extra/{name}": array for name, array in extra.items()})


def read(path: Path | str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Read what `write` wrote.

    Args:
        path: the .npz file.

    Returns:
        The state and the extra arrays.

    Raises:
        UserError: there is no such file, or no stored search is in it.
    """
    parts: dict[str, dict[str, Array]] = {"state": {}, "extra": {}}
    for key, array in read_arrays(path, "search").items():
        part, _, name = key.partition("/")
        if part in parts:
            parts[part][name] = array
    return parts["state"], parts["extra"]


def write_arrays(path: Path | str, arrays: dict[str, Array]) -> None:
    """Replace an .npz file so that a reader sees the old or the new one, whole.

    Args:
        path: the .npz file.
        arrays: arrays by name, of any kind but objects.
    """
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path | str, kind: str) -> dict[str, Array]:
    """Read an .npz file; nothing in it can run.

    Args:
        path: the file.
        kind: what should be in it, such as `population`, for the error.

    Returns:
        Its arrays by name.

    Raises:
        UserError: there is no such file, or it is unsound.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a saved {kind}: there is no such file")
    with reading(path, f"a saved {kind}"):
        return unpack(path, LARGEST)


def unpack(path: Path | str, largest: int, names: Collection[str] | None = None) -> dict[str, Array]:
    """Read arrays of an .npz file, whose sizes are checked before room is made for them.

    Args:
        path: the file.
        largest: how many bytes all its arrays may take.
        names: the arrays to read, each of which must be there; all where it is not given.

    Returns:
        The arrays by name.

    Raises:
        Exception: one of UNSOUND; call it within `reading`.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        size = sum(member.file_size for member in members.values())
        if size > largest:  # a huge array may be in a small zip
            raise ValueError(f"it unpacks to {size >> 20:,} MiB, at most {largest >> 20:,} are read")
        for member in members.values():
            stored = member.compress_type == zipfile.ZIP_STORED
            if member.compress_size > os.path.getsize(path) or (stored and member.file_size > member.compress_size):
                raise ValueError(f"{member.filename} is cut off")
        return {name: _read_array(archive, members[name]) for name in (members if names is None else names)}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """The array of a zip's member, of which no more is unpacked than the zip says there is."""
    if member.compress_type not in PACKED:
        raise ValueError(f"{member.filename} is packed in another way than numpy packs arrays")
    with archive.open(member) as packed:
        content = packed.read(member.file_size)  # told how many, it unpacks no more than that
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{member.filename} is of format {version}, 1.0 and 2.0 are read")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file, max_header_size=MAX_HEADER)
    left = len(content) - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 1) > left:
        raise ValueError(
            f"{member.filename} is cut off: it says {str(dtype)!s:.40} {shape!s:.60}, and has {left} bytes"
        )
    file.seek(0)
    array: Array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)
    return array


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file to write to, which takes the place of `path` when the block ends: on the disk first, then at once.

    Of several processes that write one path each has a file of its own until then. Where writing fails nothing is left
    of it.

    Args:
        path: the file that is replaced.

    Yields:
        The open file.

    Raises:
        OSError: writing fails; the error names `path`.

    Example:
        >>> with replacing("bank.json") as file:
        ...     count = file.write(b"{}")
        >>> Path("bank.json").read_text()
        '{}'
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

    Args:
        path: the name to give.
        unfinished: what the file is called until it is whole.

    Raises:
        OSError: the block's own.
    """
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise


@contextmanager
def removing(*unfinished: Path) -> Iterator[None]:
    """Remove files where the block fails: what is half written helps nobody, and may take the last space of a disk.

    Args:
        unfinished: the files, which need not be there.
    """
    try:
        yield
    except BaseException:
        for path in unfinished:
            with suppress(OSError):
                path.unlink()
        raise


def plain(value: Any) -> Any:
    """Turn what may have numpy's arrays and numbers in it into what JSON can represent.

    Args:
        value: nested dicts, tuples, lists, arrays and numbers.

    Returns:
        The same of dicts, lists and Python's own numbers.
    """
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
