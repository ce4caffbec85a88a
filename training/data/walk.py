"""Which images a tree of folders holds: each real one once, in finite time, whatever else is in it.

Links are followed, to files and to folders. A folder that leads back to one it lies in is not entered, and what is
reached a second time, by a link or as a hard link, is not counted a second time. Hidden and system entries are skipped.
Nothing is opened here. What was not taken is told in a few lines.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

from evo.errors import UserError
from training.data.names import is_system_entry, listed, printable

# Formats that Pillow recognises and does not decode itself: they need Ghostscript, which runs what a file says, Windows,
# or a handler that Pillow does not come with.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}


@cache
def image_endings() -> frozenset[str]:
    """Endings, in lower case, of the files that the installed Pillow decodes; of animations it is the first frame."""
    from PIL import Image

    Image.init()
    formats = (set(Image.OPEN) | {"MPO"}) - NOT_DECODED  # MPO: several JPEGs in one file, opened as a JPEG
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


@dataclass
class Notes:
    """What a walk met and did not take. Paths are relative to the tree's root."""

    hidden: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # links to, or other names of, what is there already
    no_files: list[str] = field(default_factory=list)  # pipes, sockets, devices
    dead: list[str] = field(default_factory=list)  # links to nothing that do not end as an image does
    classless: list[str] = field(default_factory=list)  # images beside the class folders
    closed: list[str] = field(default_factory=list)  # folders that cannot be read, with the reason
    endings: Counter[str] = field(default_factory=Counter)  # of files that do not end as images do

    def lines(self) -> Iterator[str]:
        """One line for each kind of thing that was met."""
        kinds = (
            (self.hidden, "skipped", "hidden or system entries"),
            (self.repeated, "skipped", "entries that are the same as others: links or further names"),
            (self.no_files, "skipped", "entries that are neither files nor folders"),
            (self.dead, "skipped", "links to what does not exist"),
            (self.classless, "left out", "images that lie beside the class folders, in no class"),
            (self.closed, "left out", "folders that cannot be read"),
        )
        for names, done, what in kinds:
            if names:
                yield f"data: {done} {len(names):,} {what}: {listed(names)}"
        if self.endings:
            yield (
                f"data: left out {self.endings.total():,} files that do not end as images do: {self.by_ending()}; "
                f"endings taken: {' '.join(sorted(image_endings()))}"
            )

    def add(self, other: Notes) -> None:
        """Take over what another walk met."""
        for own in fields(self):
            setattr(self, own.name, getattr(self, own.name) + getattr(other, own.name))

    def by_ending(self) -> str:
        """`3 .txt, 1 without an ending`"""
        counts = [
            f"{count:,} {printable(ending) or 'without an ending'}" for ending, count in self.endings.most_common()
        ]
        return ", ".join(counts[:10]) + (", ..." if len(counts) > 10 else "")


Identity = int | str  # of a file or folder: its device and number; its real path where the file system has no numbers


@dataclass
class _Visit:
    """A walk through one class: folders and links yet to be looked at, each with the folders it lies in."""

    label: str
    folders: deque[tuple[str, frozenset[Identity]]]
    links: deque[tuple[str, frozenset[Identity]]] = field(default_factory=deque)
    entered: set[Identity] = field(default_factory=set)
    found: list[str] = field(default_factory=list)


class Walk:
    """The images of one part of a tree (train, val), class by class. `seen` says what each real image is: its label and
    path, by what identifies the file.
    """

    def __init__(self, root: Path, notes: Notes) -> None:
        self.root = root
        self.notes = notes
        self.seen: dict[Identity, tuple[str, str]] = {}

    def images(self, folder: Path, label: str) -> list[Path]:
        """Every image at or below a folder, sorted; all of them have this label.

        Raises UserError where one is known under another label.
        """
        visit = _Visit(label, deque([(str(folder), _ancestors(str(folder.parent)))]))
        while visit.folders or visit.links:
            if visit.folders:
                self._enter(*visit.folders.popleft(), visit)
            else:  # real files first, so that a link is what is met a second time
                self._follow(*visit.links.popleft(), visit)
        return [Path(path) for path in sorted(visit.found, key=lambda path: path.split(os.sep))]

    def _enter(self, place: str, above: frozenset[Identity], visit: _Visit) -> None:
        try:
            own = _identity(os.stat(place), place)
            if own in visit.entered:
                self.notes.repeated.append(self._short(place))
                return
            visit.entered.add(own)
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.notes.closed.append(f"{self._short(place)} ({error.strerror})")
            return
        above = above | {own}
        for entry in entries:
            if is_system_entry(entry.name):
                self.notes.hidden.append(self._short(entry.path))
            elif entry.is_symlink():
                visit.links.append((entry.path, above))
            elif entry.is_dir(follow_symlinks=False):
                visit.folders.append((entry.path, above))
            elif entry.is_file(follow_symlinks=False):
                self._take(entry.path, entry.stat(follow_symlinks=False), visit)
            else:
                self.notes.no_files.append(self._short(entry.path))

    def _follow(self, path: str, above: frozenset[Identity], visit: _Visit) -> None:
        try:
            status = os.stat(path)
        except OSError:  # it leads nowhere, or to itself
            if ending_of(path) in image_endings():
                visit.found.append(path)  # an image that cannot be read
            else:
                self.notes.dead.append(self._short(path))
            return
        if stat.S_ISDIR(status.st_mode):
            if _identity(status, path) in above:
                self.notes.repeated.append(self._short(path))
            else:
                visit.folders.append((path, above | _ancestors(path)))
        elif stat.S_ISREG(status.st_mode):
            self._take(path, status, visit)
        else:
            self.notes.no_files.append(self._short(path))

    def _take(self, path: str, status: os.stat_result, visit: _Visit) -> None:
        ending = ending_of(path)
        if ending not in image_endings():
            self.notes.endings[ending] += 1
            return
        own = (visit.label, path)
        known = self.seen.setdefault(_identity(status, path), own)
        if known is own:
            visit.found.append(path)
        elif known[0] != visit.label:
            raise two_labels(known, own)
        else:
            self.notes.repeated.append(self._short(path))

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.root)


def shared_images(walk: Walk, other: Walk) -> int:
    """How many images both parts hold. Raises UserError where one has two labels."""
    both = walk.seen.keys() & other.seen.keys()
    for identity in both:
        if walk.seen[identity][0] != other.seen[identity][0]:
            raise two_labels(walk.seen[identity], other.seen[identity])
    return len(both)


def two_labels(one: tuple[str, str], other: tuple[str, str]) -> UserError:
    return UserError(
        f"data: {printable(one[1])} and {printable(other[1])} are the same file under two labels, {printable(one[0])} and "
        f"{printable(other[0])}; remove one of the two links"
    )


def ending_of(path: str) -> str:
    """A path's ending in lower case, with its dot; empty where it has none."""
    return os.path.splitext(path)[1].lower()


def folders_in(place: Path, notes: Notes | None = None) -> list[str]:
    """Names of the folders in `place`, by links too, sorted; hidden and system entries are skipped.

    A link to a folder that `place` lies in is no folder of its own. Images that lie there, beside the folders, are noted.
    Raises UserError where `place` cannot be read.
    """
    try:
        with os.scandir(place) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        skipped = [entry.name for entry in entries if is_system_entry(entry.name)]
        kept = [entry for entry in entries if not is_system_entry(entry.name)]
    except OSError as error:
        raise UserError(f"data: {printable(place)} cannot be read: {error.strerror}") from None
    above = _ancestors(str(place))
    loops = [entry.name for entry in kept if entry.is_symlink() and _leads_to(entry, above)]
    names = [entry.name for entry in kept if entry.name not in loops and _is_folder(entry)]
    if notes is not None:
        beside = [entry.name for entry in kept if entry.name not in {*names, *loops}]
        notes.hidden += [f"{place.name}/{name}" for name in skipped]
        notes.repeated += [f"{place.name}/{name}" for name in loops]
        notes.classless += [f"{place.name}/{name}" for name in beside if ending_of(name) in image_endings()]
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to a place that may not be looked at
        return False


def _leads_to(entry: os.DirEntry[str], places: frozenset[Identity]) -> bool:
    """Whether a link leads to one of `places`."""
    try:
        return _identity(os.stat(entry.path), entry.path) in places
    except OSError:
        return False


def _identity(status: os.stat_result, path: str) -> Identity:
    return status.st_dev << 64 | status.st_ino if status.st_ino else os.path.realpath(path)


def _ancestors(path: str) -> frozenset[Identity]:
    """What identifies a folder and every folder that it really lies in."""
    real = Path(os.path.realpath(path))
    found = set()
    for place in (real, *real.parents):
        with suppress(OSError):
            found.add(_identity(os.stat(place), str(place)))
    return frozenset(found)
