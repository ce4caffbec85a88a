"""Names of files and folders: how they are shown, and which are not data. Nothing here imports torch."""

from __future__ import annotations

import unicodedata
from pathlib import Path

# What operating systems, file servers and tools leave in folders, besides names that begin with a dot.
SYSTEM_NAMES = {
    "$recycle.bin", "#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx",
    "__pycache__", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r", "lost+found",
    "network trash folder", "recycler", "system volume information", "temporary items", "thumbs.db",
}  # fmt: skip


def is_system_entry(name: str) -> bool:
    """Whether an entry is hidden, or left there by a system or a tool: no class folder and no image of a data set."""
    return name.startswith((".", "~$")) or name.casefold() in SYSTEM_NAMES


def printable(name: str | Path) -> str:
    r"""A name that any terminal, page and file of ours can hold; different names stay different.

    Bytes that are no UTF-8 become \xNN; control characters, line ends and marks that turn the reading direction become
    escapes such as \n or \u202e; a backslash is doubled.
    """
    return "".join(_shown(character) for character in str(name))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character == "\\" or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def one_spelling(name: str) -> str:
    """What two spellings of one name have in common: an accent may be a character of its own (NFD) or not (NFC)."""
    return unicodedata.normalize("NFC", name)


def listed(names: list[str], most: int = 5) -> str:
    """`a, b, c, ...`: the first few of several names, printable."""
    return ", ".join(printable(name) for name in names[:most]) + (", ..." if len(names) > most else "")
