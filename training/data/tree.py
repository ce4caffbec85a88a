"""The parts of a tree of class folders: which folders they are, their classes and files. Nothing here imports torch.

ROOT/train/CLASS/... is trained on, and the first of TEST_FOLDERS with images in class folders is tested on. Instead,
`data.validation` holds out a part of the training images; then a tree without parts, ROOT/CLASS/..., will do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evo.errors import UserError
from training.data.names import listed, one_spelling, printable
from training.data.walk import Notes, Walk, ending_of, folders_in, image_endings, shared_images
from training.progress import speaks

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "valid", "validation", "test", "testing")
HOLD_OUT = "hold out a fifth of each class with -s data.validation=0.2"

Files = list[tuple[Path, int]]
Tests = Literal["needed", "held out", "if any"]


@dataclass(frozen=True)
class Tree:
    """The images of a tree of class folders: (file, label) of both parts. class_names: printable."""

    class_names: list[str]
    training: Files
    test: Files


def read_tree(root: Path, tests: Tests = "needed") -> Tree:
    """The files of ROOT/train, and of ROOT/val or another of TEST_FOLDERS.

    tests: `held out` of the training images reads those alone; `if any` does without test images where there are none.
    Raises UserError where a part, or a class's images, are missing. Says in a line each what was not taken.
    """
    notes = Notes()
    training, others = _parts(root, tests)
    names = _class_names(training, notes)
    walk = Walk(root, notes)
    files = [walk.images(training / name, name) for name in names]
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if not names or (empty and len(empty) == len(names)):
        raise UserError(
            f"data: no images in class folders in {printable(training)}; expected {printable(training)}/CLASS/*.jpg"
            + (f"; it holds {notes.by_ending()}" if notes.endings else "")
        )
    if empty:
        raise _no_images(empty, [training, *others], notes)
    tested: Files = []
    if tests != "held out" and (others or tests == "needed"):
        tested = _test_files(root, training, names, others, walk, notes, tests == "needed")
    tell(notes.lines())
    labelled = [(path, label) for label, found in enumerate(files) for path in found]
    return Tree([printable(name) for name in names], labelled, tested)


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted."""
    return _class_names(folder, Notes())


def files_by_class(folder: Path, class_names: Sequence[str]) -> Files:
    """(file, label) of every image below folder/CLASS, in order. Raises UserError where a class has none."""
    notes = Notes()
    walk = Walk(folder, notes)
    files = [walk.images(folder / name, name) for name in class_names]
    if empty := [name for name, found in zip(class_names, files, strict=True) if not found]:
        raise _no_images(empty, [folder], notes)
    if not files:
        raise UserError(f"data: no class folders in {printable(folder)}; expected {printable(folder)}/CLASS/*.jpg")
    tell(notes.lines())
    return [(path, label) for label, found in enumerate(files) for path in found]


def tell(lines: Iterable[str]) -> None:
    """Print lines about the data on the error output, of several processes the first one's."""
    if speaks():
        for line in lines:
            print(line, file=sys.stderr)


# Parts


def _parts(root: Path, tests: Tests) -> tuple[Path, list[Path]]:
    """The training folder, and the folders that may be tested on, in order."""
    present = {name.casefold(): name for name in reversed(folders_in(root))} if root.is_dir() else {}
    training = next((root / present[name] for name in TRAIN_FOLDERS if name in present), None)
    others = [root / present[name] for name in TEST_FOLDERS if name in present]
    if training is None:
        return _unsplit(root, list(present.values()), others, tests), others
    if not others and tests == "needed":
        raise _not_found(root, f"neither {', '.join(TEST_FOLDERS[:-1])} nor {TEST_FOLDERS[-1]}; {HOLD_OUT}")
    return training, others


def _unsplit(root: Path, folders: list[str], others: list[Path], tests: Tests) -> Path:
    """The root itself, where its folders are classes. Raises UserError where they are not."""
    inner = [name for name in folders if any((root / name / part).is_dir() for part in TRAIN_FOLDERS)]
    if inner:
        raise _not_found(
            root,
            f"no train, but {printable(root / inner[0])}/train",
            f"that tree: data.root={printable(root / inner[0])}",
        )
    if not root.is_dir() or others:
        raise _not_found(root, f"no {printable(root / 'train')}")
    if tests != "needed" and len(folders) > 1:
        return root
    if sum(_holds_an_image(root / name) for name in folders) > 1:
        raise _not_found(root, f"class folders ({listed(sorted(folders))}) without train and val; {HOLD_OUT}")
    raise _not_found(root, f"no {printable(root / 'train')}")


def _not_found(root: Path, found: str, tree: str = "the tree with data.root") -> UserError:
    shown = printable(root)
    return UserError(
        f"data.name=folder: looked for {shown}/train/CLASS/*.jpg and {shown}/val/CLASS/*.jpg and found {found}; "
        f"name {tree}"
    )


def _holds_an_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as scan:
            return any(ending_of(entry.name) in image_endings() for entry in scan)
    except OSError:
        return False


def _test_files(
    root: Path, training: Path, names: list[str], others: list[Path], walk: Walk, notes: Notes, needed: bool
) -> Files:
    """The files of the first part that has images in class folders; says which it is where that is not plain."""
    for part in others:
        own = Notes()
        known, tested = _class_names(part, own), Walk(root, own)
        files = {name: tested.images(part / name, name) for name in known}
        if any(files.values()):
            break
        notes.classless += own.classless
    else:
        bare = f"no images in class folders in {listed([part.name for part in others])}"
        if needed:
            raise _not_found(root, f"{bare}; {HOLD_OUT}")
        tell([f"data: {bare}"])
        return []
    notes.add(own)
    if part.name != TEST_FOLDERS[0] or len(others) > 1:
        left = [other.name for other in others if other != part]
        tell([f"data: tested on {printable(part)}" + (f", not on {listed(left)}" if left else "")])
    _check_classes(training, names, part, {name for name, found in files.items() if found})
    if shared := shared_images(walk, tested):
        tell([f"data: {shared:,} images of {printable(part)} are images of {printable(training)} too: the same files"])
    return [(path, label) for label, name in enumerate(names) for path in files.get(name, [])]


# Classes


def _class_names(folder: Path, notes: Notes) -> list[str]:
    """Names of class folders, as the file system has them. Raises UserError where two are spellings of one name."""
    names = folders_in(folder, notes)
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(one_spelling(name), name)
        if other != name:
            raise _two_spellings(folder / other, folder / name)
    return names


def _check_classes(training: Path, names: list[str], part: Path, tested: set[str]) -> None:
    """Every class that is tested must be trained on; the reverse is told only."""
    unknown = sorted(tested - {*names})
    missing = sorted({*names} - tested)
    by_spelling = {one_spelling(name): name for name in names}
    for name in unknown:
        if one_spelling(name) in by_spelling:
            raise _two_spellings(training / by_spelling[one_spelling(name)], part / name)
    if unknown:
        raise UserError(
            f"data: the classes of {printable(part)} are not those of {printable(training)}: "
            + (f"missing {listed(missing)}; " if missing else "")
            + f"only there {listed(unknown)}; rename or remove {listed([str(part / name) for name in unknown])}"
            + ("; mind upper and lower case" if {n.casefold() for n in unknown} & {n.casefold() for n in names} else "")
        )
    if missing:
        tell(
            [f"data: {len(missing)} classes have no images in {printable(part)} and are not tested: {listed(missing)}"]
        )


def _two_spellings(one: Path, other: Path) -> UserError:
    """Of names that look alike: their characters are shown as code points."""

    def spelt(path: Path) -> str:
        return f"{printable(path)} ({path.name!a})"

    return UserError(
        f"data: {spelt(one)} and {spelt(other)} are two spellings of one class: an accent is a character of its own in one "
        "(NFD) and not in the other (NFC); give both folders one name"
    )


def _no_images(empty: list[str], parts: list[Path], notes: Notes) -> UserError:
    """What to remove, in every part, so that the remaining classes can be trained on."""
    there = [str(part / name) for name in empty for part in parts if (part / name).is_dir()]
    held = f", which hold {notes.by_ending()}" if notes.endings else ""
    closed = f"; cannot be read: {listed(notes.closed)}" if notes.closed else ""
    return UserError(
        f"data: no images in {listed([str(parts[0] / name) for name in empty])}{held}{closed}; every class folder needs at "
        f"least one: add images, or remove {listed(there, 10)}"
    )
