"""Whether the parts of a run folder belong together: a folder may be replaced while it is read, or be copied in part.

Each run has an id, drawn when it begins. config.json, both logs and every checkpoint carry it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evo.errors import UserError

TAIL = 1 << 16  # bytes of a log's end in which its last line lies


def new_id() -> str:
    return secrets.token_hex(8)


def id_of(folder: Path) -> str | None:
    """The id in a run's config.json; None of a run of an older version, or where there is no such file."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id")
        return None if found is None else str(found)
    return None


def checkpoint_digest(folder: Path) -> str | None:
    """What tells whether a run's latest checkpoint is still the one it was; None where there is none."""
    try:
        return hashlib.sha256((folder / "checkpoint" / "latest.json").read_bytes()).hexdigest()
    except OSError:
        return None


def check_belonging(folder: Path, meta: Mapping[str, Any]) -> None:
    """Raise UserError where a checkpoint is not of the run in `folder`, or of another moment than its finished log.

    meta: the checkpoint's.
    """
    if meta.get("id") != id_of(folder):
        raise UserError(
            f"{folder}: its checkpoint is of another run than its config.json, as where the folder was replaced or copied in "
            "part; restore the whole folder"
        )
    end = _last_event(folder / "log.jsonl")
    if end.get("event") == "end" and end.get("steps", meta["step"]) != meta["step"]:
        raise UserError(
            f"{folder}: its log ends at step {end['steps']}, its checkpoint is of step {meta['step']}, as where the folder "
            "was copied in part; restore the whole folder"
        )


def _last_event(log: Path) -> dict[str, Any]:
    """The last whole line of a log; {} where there is none."""
    with suppress(OSError, ValueError), open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        lines = file.read().split(b"\n")
        found = json.loads(lines[-2]) if len(lines) > 1 else {}
        return found if isinstance(found, dict) else {}
    return {}
