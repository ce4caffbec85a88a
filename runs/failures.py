"""Failures that a person is told in a line: their own mistakes, and what the machine refuses. All others are bugs."""

from __future__ import annotations

import errno
import os

from evo.errors import UserError

# What a file system or the operating system refuses, by the error's number, and what a person can do about it. A file
# that is not there, or is there already, is not among them: nobody but our own code asks for such a file unasked.
REMEDIES = {
    errno.ENOSPC: "free some space there, or name another place",
    errno.EDQUOT: "free some of your quota there, or name another place",
    errno.EFBIG: "the file would be larger than allowed: raise the limit (ulimit -f), or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EIO: "the disk or its connection fails: look at the system's log, or name another place",
    errno.ESTALE: "the network drive has gone away: mount it again, or name another place",
    errno.ENOTCONN: "the network drive has gone away: mount it again, or name another place",
    errno.ETIMEDOUT: "the network drive does not answer: mount it again, or name another place",
    errno.EHOSTDOWN: "the network drive does not answer: mount it again, or name another place",
    errno.ENODEV: "the device has gone away: mount it again, or name another place",
    errno.ENXIO: "the device has gone away: mount it again, or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: remove them, or name another place",
    errno.ENOTDIR: "a file stands where a folder is expected: move it away, or name another place",
    errno.EISDIR: "a folder stands where a file is expected: move it away, or name another place",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: end other programs",
    errno.ENOLCK: "that file system has no locks: name another place",
    errno.ENOTSUP: "that file system lacks what is needed: name another place",
    errno.ENOMEM: "the machine's memory is used up: end other programs",
}
ELSEWHERE = {  # how a command writes somewhere else than into a run folder
    "report": "--out FILE",
    "curves": "--out FOLDER",
    "gallery": "--out FOLDER",
    "lineage": "--out FILE",
    "patterns": "--out FILE.json",
}
GOES_ON = ("ablate", "transfer", "prepare")  # commands that keep what is finished
PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)  # another one would do


def told(error: BaseException, command: str = "") -> list[str] | None:
    """What to tell a person, line by line; None where the error is a bug. command: such as `report`."""
    if isinstance(error, UserError):
        return str(error).splitlines()
    refused = refusal(error)
    return None if refused is None else [_line(error, refused, command)]


def refusal(error: BaseException | None) -> OSError | None:
    """The operating system's refusal that an error is, or was made from; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REMEDIES:
            return error
        error = error.__cause__
    return None


def _line(error: BaseException, refused: OSError, command: str) -> str:
    """Where, what and what to do; then the error's notes, which say what is kept and how to go on."""
    assert refused.errno is not None
    where = f"{refused.filename}: " if isinstance(refused.filename, str | os.PathLike) else ""
    what = f"{where}{refused.strerror or os.strerror(refused.errno)}"
    parts = [what, REMEDIES[refused.errno]]
    if command in ELSEWHERE and refused.errno in PLACES:
        parts.append(f"{ELSEWHERE[command]} writes elsewhere")
    if command in GOES_ON:
        parts.append("what is finished is kept, and the same command goes on with the rest")
    notes = [note for one in dict.fromkeys((error, refused)) for note in getattr(one, "__notes__", [])]
    return "; ".join([*parts, *dict.fromkeys(notes)])
