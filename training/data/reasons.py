"""Why a file cannot be read as an image, as far as that can be told. Nothing here imports torch."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from training.data.names import printable

HEAD = 512  # bytes that are looked at
# What files that are no images begin with, where they often lie in the place of one.
BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
)
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}


def why_unreadable(path: Path, error: BaseException) -> str:
    """The reason, in a few words, that `path` could not be decoded; error: what the decoder raised."""
    try:
        status = os.stat(path)
    except OSError as missing:
        return _why_not_there(path, missing)
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if status.st_size == 0:
        return "an empty file, 0 bytes"
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as refused:
        return str(refused.strerror).lower()
    return _kind_of(head) or _words(error) or "of no format that is known"


def _why_not_there(path: Path, error: OSError) -> str:
    if os.path.islink(path):
        if isinstance(error, FileNotFoundError):
            return f"a link to {printable(os.readlink(path))}, which does not exist"
        return f"a link that cannot be followed: {str(error.strerror).lower()}"
    return str(error.strerror).lower()


def _kind_of(head: bytes) -> str | None:
    """What a file is that is no image, by how it begins; None where that is not known."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "a web page (HTML), not an image"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML file, which has no pixels"
    for beginning, what in BEGINNINGS:
        if head.startswith(beginning):
            return what
    if head[4:8] == b"ftyp":
        return (
            None if head[8:12] == b"avif" else f"{BRANDS.get(head[8:12], 'a video (MP4)')}, which is not decoded here"
        )
    if not head.strip(b"\0"):
        return "nothing but zeros where its head should be"
    if _is_text(head):
        return f"text, not an image: {printable(' '.join(head.decode('utf-8', 'ignore').split()))[:40]!r}"
    return None


def _is_text(head: bytes) -> bool:
    if re.match(rb"P[1-7Ff]\s|/\* XPM|#define", head):  # images whose head, or all of them, is written as text
        return False
    try:
        shown = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not only a character that HEAD cuts off
            return False
        shown = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in shown)


def _words(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "damaged at its head, or of no format that is known"
    return printable(" ".join(str(error).split()))
