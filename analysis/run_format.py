"""The versions of a run folder's format, and what options that came or went since mean in older runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evo.errors import UserError

SCHEMA = 2  # version 1 is read as well
ADDED: dict[str, Any] = {  # options since version 1, with what runs did before
    "model.head": "own",
    "mix.draws": 4,
    "mix.keep": "rows",
    "mix.alpha": 1.0,
    "mix.stop_epoch": None,
    "data.validation": None,
    "data.levels": None,
    "data.exclude_near_duplicates": False,
    "search.stop_epoch": None,
    "search.consume": "each",
    "search.sampler": None,
    "search.start_share": 0.5,
    "search.minutes": None,
    "search.compose_at": "pixels",
    "search.pair_masks": None,
    "search.verify": 0,
    "search.temperature": 0.5,
}
REMOVED: dict[str, Any] = {  # options that are gone, with the value that does as runs do now; see training/removed.py
    "search.rows": 1.0,
    "search.weights": "live",
    "search.carry": False,
    "search.bank_pairing": "random",
    "search.rescore": "hold",
}

FORMER_NAMES = {  # of options, with today's; see training/removed.py
    "train.batch": "batch_size",
    "train.eval_batch": "eval_batch_size",
    "train.optimiser": "optimizer",
    "search.batch": "batch_size",
    "search.forward_batch": "forward_batch_size",
}


class RunFolderError(UserError):
    """A run folder that is missing, damaged or of another version; told in one line."""


def as_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config as one of today says the same, so that equal settings are equal whatever version wrote them.

    Options have today's names. Those of ADDED are there also where the config is older than they are. Those of REMOVED are
    left out where they have the value given there; with another one they stay, to be shown and compared.
    """
    found = {name: dict(keys) if isinstance(keys, Mapping) else keys for name, keys in config.items()}
    for option, today in FORMER_NAMES.items():
        section, name = option.split(".")
        keys = found.get(section)
        if isinstance(keys, dict) and name in keys:
            found[section] = {today if key == name else key: value for key, value in keys.items()}
    for option, value in ADDED.items():
        section, name = option.split(".")
        if isinstance(found.get(section), dict):
            found[section].setdefault(name, value)
    for option, value in REMOVED.items():
        section, name = option.split(".")
        if isinstance(found.get(section), dict) and found[section].get(name) == value:
            del found[section][name]
    search = found.get("search")
    if isinstance(search, dict) and search.get("consume") == "auto" and "rescore" not in search:
        search["consume"] = "last"  # with `rescore` it meant each
    return found


def check_schema(path: Path, schema: Any) -> None:
    """Raise RunFolderError where this version does not read a file's schema."""
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise RunFolderError(f"{path} has schema {schema!r:.20}, this version reads 1 to {SCHEMA}; update Evomix")
