"""The searches that a run kept whole, elites/*.npz: read, and checked to be what we write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.run_format import RunFolderError, check_schema
from evo.errors import on_one_line
from evo.storage import UNSOUND


def read_snapshot(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of one elites/*.npz, as training/run_log.py names them; those of version 1 are brought to the
    same form: its gallery is of the last generation, with row -1.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            check_schema(path, data["schema"].item())
            found = dict(data)
        whole = found if "gallery_kind" in found else _from_version_1(found)
        _check_snapshot(whole)
        return whole
    except RunFolderError:
        raise
    except UNSOUND as error:
        what = on_one_line(f"{type(error).__name__}: {error}")
        raise RunFolderError(f"{path} cannot be read: {what}; remove it to leave that search out") from None


ARRAYS = {  # of a snapshot: kinds of numpy, and dimensions; N, R and U as training/run_log.py has them
    "epoch": "iu", "search": "iu", "generation": "iu N", "masks": "b NBGG", "pairings": "iu NB", "labels": "iu B",
    "class_names": "U K", "gallery_kind": "U R", "gallery_generation": "iu R", "gallery_row": "iu R", "gallery_masks": "b RGG",
    "gallery_cell_losses": "f RGG", "gallery_scores": "f R", "gallery_labels": "iu R2", "gallery_own": "iu R",
    "gallery_partner": "iu R", "gallery_pictures": "u UCHW", "gallery_mixed": "u RCHW",
}  # fmt: skip


def _check_snapshot(found: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError or KeyError where an array is missing, or its shape or kind is another than what we write."""
    sizes: dict[str, int] = {"2": 2}
    for name, meant in ARRAYS.items():
        array, (kinds, *letters) = found[name], meant.split()
        shape = letters[0] if letters else ""
        fits = array.dtype.kind in kinds and len(array.shape) == len(shape)
        if not fits or any(sizes.setdefault(key, size) != size for key, size in zip(shape, array.shape, strict=True)):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    for name, below in (("own", "U"), ("partner", "U"), ("labels", "K")):
        values = found[f"gallery_{name}"]
        if values.size and not 0 <= values.min() <= values.max() < sizes[below]:
            raise ValueError(f"gallery_{name} is not within 0 to {sizes[below] - 1}")


def _from_version_1(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    rows = np.arange(len(found["gallery_scores"]))
    return {
        **found,
        "gallery_kind": np.where(rows < (len(rows) + 1) // 2, "best", "worst"),
        "gallery_generation": np.full(len(rows), found["generation"].max()),
        "gallery_row": np.full(len(rows), -1),
        "gallery_pictures": np.concatenate([found["gallery_own"], found["gallery_partner"]]),
        "gallery_own": rows,
        "gallery_partner": rows + len(rows),
    }
