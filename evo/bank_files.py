"""Pattern banks as files: JSON that people can read, and the same as npz. Nothing in either can run.

A file may come from a stranger. What it says of sizes and types is checked before room is made for it, and whatever is
wrong with it is one BankError of one line.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from evo.arrays import Array
from evo.bank import MAX_CLASSES, MAX_GRID, MAX_PATTERNS, PatternBank
from evo.errors import BankError, UserError, on_one_line
from evo.storage import reading, replacing, unpack

SCHEMA = 1
MAX_NAME = 255  # characters of a class name
MAX_FILE_BYTES = 256 * 2**20
MAX_JSON_BYTES = 128 * 2**20  # a parsed JSON text takes several times its size
MAX_DEPTH = 4  # of a JSON text: an object, its patterns, a pattern, its mask
MEMBERS = ("schema", "masks", "weights", "pairs", "class_names")  # arrays of an npz
# A string, of which the end may be missing, or a bracket. A possessive repeat (++ and *+) keeps no way back: without it
# a string of 16 MiB took 2 GiB.
BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
ABOUT = (
    "evolved PatchMix patterns; # = the cell keeps the row's own image, . = its partner's; weight = rows of elites with "
    "this mask; pairs[a][b] = rows of class a with a partner of class b"
)


def load_bank(path: Path | str) -> PatternBank:
    """Read a pattern file.

    Args:
        path: a .npz file, or one of another ending, which is read as JSON.

    Returns:
        Its bank.

    Raises:
        BankError: there is no such file, or it is not a sound bank.

    Example:
        >>> bank = PatternBank(grid=2, num_classes=2)
        >>> bank.collect(np.array([[[True, False], [True, True]]]), np.array([0]), np.array([1]))
        >>> save_bank(bank, "patterns.json")
        >>> load_bank("patterns.json").weights
        array([1.])
    """
    path = Path(path)
    if not path.is_file():
        raise BankError(f"no pattern bank at {path}; `./run patterns RUN` writes one")
    packed = path.suffix == ".npz"
    limit = MAX_FILE_BYTES if packed else MAX_JSON_BYTES
    with reading(path, "a pattern bank", BankError):
        if path.stat().st_size > limit:
            raise ValueError(f"it is larger than a pattern bank may be ({limit >> 20} MiB)")
        return _from_npz(path) if packed else _from_json(path.read_text(encoding="utf-8"))


def save_bank(bank: PatternBank, path: Path | str) -> None:
    """Write the MAX_PATTERNS heaviest patterns of a bank to a file, whole or not at all.

    Characters of class names that a terminal would obey become `?`, and long names are cut, as `load_bank` refuses them.

    Args:
        bank: the bank.
        path: PATH.json or PATH.npz; the ending gives the format, and folders that are missing are made.

    Raises:
        UserError: the ending is another one.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".json", ".npz"):
        raise UserError(f"a pattern bank is a .json or .npz file, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        if path.suffix == ".json":
            file.write(as_json(bank).encode())
        else:
            np.savez_compressed(
                file,
                schema=np.array(SCHEMA),
                masks=bank.masks[:MAX_PATTERNS],
                weights=bank.weights[:MAX_PATTERNS],
                pairs=bank.pairs,
                class_names=np.array(_clean_names(bank), dtype=np.str_),
            )


def as_json(bank: PatternBank) -> str:
    """Write the MAX_PATTERNS heaviest patterns of a bank as JSON that people can read.

    Args:
        bank: the bank.

    Returns:
        The text of a .json file.
    """

    def pattern(mask: Array, weight: float) -> dict[str, Any]:
        rows = ["".join("#" if cell else "." for cell in row) for row in mask]
        return {"weight": weight, "share": float(mask.mean()), "mask": rows}

    head = {"schema": SCHEMA, "about": ABOUT, "grid": bank.grid, "class_names": _clean_names(bank)}
    heaviest = zip(bank.masks[:MAX_PATTERNS], bank.weights[:MAX_PATTERNS], strict=True)
    lines = [json.dumps(head, indent=1)[:-2] + ',\n "patterns": [']
    lines.append(",\n".join("  " + json.dumps(pattern(mask, float(weight))) for mask, weight in heaviest))
    lines.append(' ],\n "pairs": [')
    lines.append(",\n".join("  " + json.dumps(row) for row in bank.pairs.tolist()))
    return "\n".join([*lines, " ]", "}"]) + "\n"


def _clean_names(bank: PatternBank) -> list[str]:
    """Names that `load_bank` takes; those of folders may be any."""
    return [on_one_line(name)[:MAX_NAME] for name in bank.class_names]


def _from_json(text: str) -> PatternBank:
    _check_depth(text)
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, got {type(data).__name__}")
    _check_schema(data.get("schema"))
    grid = data["grid"]
    patterns = data["patterns"]
    names = data["class_names"]
    pairs = data["pairs"]
    if not isinstance(grid, int) or isinstance(grid, bool) or not isinstance(patterns, list):
        raise ValueError("`grid` must be an integer and `patterns` a list")
    if not 1 <= grid <= MAX_GRID:
        raise ValueError(f"the grid must be 1..{MAX_GRID}, got {grid!r:.60}")
    for number, pattern in enumerate(patterns):
        rows = pattern["mask"]
        if not isinstance(rows, list) or len(rows) != grid or not all(_is_row(row, grid) for row in rows):
            raise ValueError(f"pattern {number} must be {grid} rows of {grid} characters # or ., got {rows!r:.60}")
    cells = np.frombuffer("".join("".join(pattern["mask"]) for pattern in patterns).encode(), np.uint8) == ord("#")
    weights = [_read_number(pattern["weight"], "a weight") for pattern in patterns]
    _check_names(names)
    if not isinstance(pairs, list) or [len(row) for row in pairs] != [len(names)] * len(names):
        raise ValueError(f"pairs must be {(len(names), len(names))}")
    table = np.array([[_read_number(value, "pairs") for value in row] for row in pairs], np.float64)
    return _make_bank(cells.reshape(len(patterns), grid, grid), np.array(weights, np.float64), table, names)


def _from_npz(path: Path) -> PatternBank:
    arrays = unpack(path, MAX_FILE_BYTES, MEMBERS)
    schema = arrays["schema"]
    names = arrays["class_names"]
    if schema.dtype.kind not in "iu" or schema.shape:
        raise ValueError(f"schema must be a whole number, got {schema.dtype!s:.40} {schema.shape!s:.60}")
    _check_schema(schema.item())
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"class_names must be text (K,), got {names.dtype!s:.40} {names.shape!s:.60}")
    if arrays["masks"].ndim != 3:
        raise ValueError(f"masks must be bool (N,G,G), got {arrays['masks'].shape!s:.60}")
    return _make_bank(arrays["masks"], arrays["weights"], arrays["pairs"], [str(name) for name in names])


def _make_bank(masks: Array, weights: Array, pairs: Array, names: Any) -> PatternBank:
    """The bank of a file's arrays, in any order."""
    _check_names(names)
    if len(masks) > MAX_PATTERNS:
        raise ValueError(f"{len(masks)} patterns, at most {MAX_PATTERNS} are read")
    if pairs.shape != (len(names), len(names)):  # before the bank makes room for its own
        raise ValueError(f"pairs must be {(len(names), len(names))}, got {pairs.shape!s:.60}")
    bank = PatternBank(masks.shape[1], len(names), names)
    bank.restore(masks, weights, pairs)
    return bank


def _check_schema(schema: Any) -> None:
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise ValueError(
            f"schema {schema}, this version reads {SCHEMA}; a newer Evomix made it: update, or export it again"
        )
    if isinstance(schema, bool) or schema != SCHEMA:
        raise ValueError(f"schema {schema!r:.60}, this version reads {SCHEMA}")


def _check_names(names: Any) -> None:
    """Names go to terminals and pages: no control characters, nothing that turns the reading direction."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("`class_names` must be a list of strings")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"`class_names` must be 1..{MAX_CLASSES} names, got {len(names)}")
    for name in names:
        if len(name) > MAX_NAME or on_one_line(name) != name:
            raise ValueError(
                f"a class name must be at most {MAX_NAME} characters without control characters, got {name!a:.60}"
            )


def _is_row(row: Any, grid: int) -> bool:
    return isinstance(row, str) and len(row) == grid and not row.strip("#.")


def _read_number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} must be numbers, got {value!r:.60}")
    return float(value)


def _check_depth(text: str) -> None:
    """Refuse what is nested deeply, before a parser builds a tree of it; brackets within strings do not count."""
    if text.count("[") + text.count("{") > 2 * MAX_PATTERNS + MAX_CLASSES + 100:
        raise ValueError("it has more lists and objects than a pattern bank may")
    depth = 0
    for token in BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
