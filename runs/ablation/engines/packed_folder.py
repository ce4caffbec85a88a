"""A run folder as bytes, for machines that share no disk: a plain tar of regular files, unpacked with care."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from evo.errors import UserError
from evo.locks import LOCK

LARGEST = 2**30  # bytes of a folder; of a larger one the checkpoints stay behind
MOST = 100_000  # files


class ArchiveError(UserError):
    """An archive that is damaged, too large, or would write elsewhere."""


def pack(folder: Path, largest: int = LARGEST, below: str = "") -> bytes:
    """The files below a folder, or below a folder within it. Links, locks and unfinished files are left out, and of a
    folder above `largest` bytes the checkpoints.
    """
    paths = [
        path
        for path in sorted((folder / below).rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != LOCK and path.suffix != ".tmp"
    ]
    if sum(path.stat().st_size for path in paths) > largest:
        paths = [path for path in paths if path.relative_to(folder).parts[0] != "checkpoint"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:  # hard links as files of their own
        for path in paths:
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return packed.getvalue()


def unpack(packed: bytes, folder: Path, largest: int = LARGEST) -> None:
    """Make `folder` of an archive, in place of what is there; it appears whole or not at all.

    Raises ArchiveError, one line, for anything but regular files with sound names, and more than `largest` bytes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as kept:
        whole = Path(kept) / "new"
        whole.mkdir()
        try:
            with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
                _extract(archive, whole, largest)
        except ArchiveError:
            raise
        except (
            tarfile.TarError,
            ValueError,
            EOFError,
            FileExistsError,
            NotADirectoryError,
            IsADirectoryError,
        ) as error:
            raise ArchiveError(f"the archive of {folder.name} is damaged: {error}") from None
        old = Path(kept) / "old"
        if folder.exists():
            folder.rename(old)
        try:
            whole.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise


def _extract(archive: tarfile.TarFile, folder: Path, largest: int) -> None:
    left = largest
    for number, member in enumerate(archive):
        left -= member.size
        if member.size < 0:
            raise ArchiveError(f"the archive is damaged: {member.name!r:.80} has {member.size} bytes")
        if left < 0 or number >= MOST:
            raise ArchiveError(f"the archive holds more than {largest:,} bytes or {MOST:,} files")
        name = PurePosixPath(member.name)
        # Neither .. nor a root, a drive or a backslash of another system.
        sound = name.parts and ".." not in name.parts and not name.is_absolute() and not set(member.name) & set("\\:\0")
        if not member.isreg() or not sound:
            raise ArchiveError(f"the archive holds {member.name!r:.80}, which is not a plain file below the folder")
        content = archive.extractfile(member)
        assert content is not None
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            shutil.copyfileobj(content, file)
