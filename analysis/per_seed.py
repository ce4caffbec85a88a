"""Trials of variants over seeds, one row each: from run folders, and read back from per_seed.csv."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

MEASURES = {  # measure: heading, and how its numbers are written
    "last_accuracy": ("accuracy, %", ".2f"),
    "median10_accuracy": ("median accuracy of the last ten tests, %", ".2f"),
    "image_forwards": ("image forwards", ",.0f"),
    "seconds": ("seconds", ",.0f"),
    "last_test_loss": ("test loss, nats", ".3f"),
    "search_seconds": ("seconds of search", ",.0f"),
}
MISSING = frozenset({"last_test_loss", "search_seconds", "device_name"})  # what older results lack: an empty cell
PER_SEED = ("variant", "seed", *MEASURES, "device_name")
LARGEST_FILE = 10_000_000  # bytes of a per_seed.csv
LONGEST_NAME = 200  # characters of a variant, or of a device


def per_seed(trials: Sequence[tuple[str, int, RunFolder]]) -> pd.DataFrame:
    """One row per finished trial (variant, seed, run): the columns of PER_SEED. Accuracies are percent.

    Raises RunFolderError for a run without tests, such as a search.
    """
    results = []
    for variant, seed, run in trials:
        if run.result is None:
            continue
        if missing := [measure for measure in MEASURES if measure not in run.result and measure not in MISSING]:
            raise RunFolderError(
                f"run {run.name} has no {missing[0]}: expected a run of ./run train or ./run ablate, not a search"
            )
        results.append((variant, seed, {**run.result, "device_name": run.environment.get("device_name")}))
    return per_seed_of(results)


def per_seed_of(results: Sequence[tuple[str, int, Mapping[str, Any]]]) -> pd.DataFrame:
    """The same of (variant, seed, the `end` event of its log with the device_name of its environment)."""
    import pandas as pd

    rows = [
        (variant, seed, *(result.get(measure, math.nan) for measure in MEASURES), result.get("device_name") or "")
        for variant, seed, result in results
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


def read_per_seed(path: Path) -> pd.DataFrame:
    """The columns of PER_SEED of a file that `write_tables` wrote; others are left out.

    Raises RunFolderError, in one line, for a file that is none.
    """
    import pandas as pd

    lines = _lines(path)
    seen: dict[tuple[str, int], int] = {}
    rows = []
    for number, cells in enumerate(lines, 2):
        variant = _name(path, number, "variant", cells["variant"])
        seed = int(_number(path, number, "seed", cells["seed"]))
        if (variant, seed) in seen:
            raise RunFolderError(
                f"{path}: rows {seen[variant, seed]} and {number} are both variant {variant}, seed {seed}; expected one"
            )
        seen[variant, seed] = number
        measured = [_measured_in(path, number, cells, measure) for measure in MEASURES]
        device = cells.get("device_name")
        rows.append((variant, seed, *measured, _name(path, number, "device_name", device) if device else ""))
    return pd.DataFrame(rows, columns=list(PER_SEED))


def _lines(path: Path) -> list[dict[str, str | None]]:
    """A CSV file's rows by column, which are those of PER_SEED at least, but for MISSING."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RunFolderError(f"{path} has more than {LARGEST_FILE:,} bytes; expected a row per variant and seed")
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        lines = list(reader)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path} is not a table of comma-separated values: {error}") from None
    wanted = [column for column in PER_SEED if column not in MISSING]
    if missing := [column for column in wanted if column not in (reader.fieldnames or ())]:
        raise RunFolderError(f"{path} has no column {missing[0]}; expected {', '.join(wanted)}")
    if not lines:
        raise RunFolderError(f"{path} has no rows; expected one per variant and seed")
    return lines


def _name(path: Path, row: int, column: str, text: str | None) -> str:
    if text is None or not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise RunFolderError(
            f"{path}: row {row}: {column}: expected 1 to {LONGEST_NAME} printable characters, got {text!r:.60}"
        )
    return text


def _measured_in(path: Path, row: int, cells: Mapping[str, str | None], measure: str) -> float:
    """A row's number of a measure; NaN where it may be missing and is."""
    text = cells.get(measure)
    return math.nan if measure in MISSING and not text else _number(path, row, measure, text)


def _number(path: Path, row: int, column: str, text: str | None) -> float:
    """A cell's number; whole ones are int, so that they are written again as they were read."""
    if text and re.fullmatch(r"-?[0-9]{1,15}", text):
        return int(text)
    try:
        value = float(text) if text and column != "seed" and re.fullmatch(r"[-+.0-9eE]+", text) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "a whole number" if column == "seed" else "a number"
        raise RunFolderError(f"{path}: row {row}: {column}: expected {kind}, got {text!r:.60}")
    return value
