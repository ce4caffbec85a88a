"""Paths as people write them, and commands as they can type them again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def user_path(given: str | Path) -> Path:
    """A path a person gave: `~` and `~name` at its beginning are home folders, also where no shell has replaced them."""
    return Path(os.path.expanduser(given))


def spoken(command: str, *names: str | Path, options: tuple[str, ...] = ()) -> str:
    """`./run COMMAND NAMES OPTIONS`, quoted for the shell; names that begin with a dash come last, behind --."""
    dashed = any(str(name).startswith("-") for name in names)
    words = [*options, "--", *map(str, names)] if dashed else [*map(str, names), *options]
    return shlex.join(["./run", command, *words])


def taken(folder: Path) -> str:
    """That a run cannot begin in a folder that is there, and what to do."""
    if folder.is_dir() and not any(folder.iterdir()):
        return f"{folder} is there already, empty: another run is about to begin in it; if none is, remove it"
    return f"{folder} is there already; choose another run.name, or go on with it if it was cut off: " + spoken(
        "train", options=("--resume", str(folder))
    )


def data_root(root: str | None) -> Path:
    """Where data sets are looked for. root: data.root."""
    return user_path(root or os.environ.get("EVOMIX_DATA") or PROJECT / "data")
