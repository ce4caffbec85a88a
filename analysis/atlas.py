"""What a run's search prefers: masks under symmetries, pairings, and how both move; each claim with its test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.run_folder import RunFolder

Array = NDArray[Any]


@dataclass
class Statement:
    """A claim about what evolution prefers. p, p_holm: NaN where it could not be tested."""

    name: str
    text: str
    observed: float
    expected: float
    p: float
    p_holm: float
    null: str  # what the test takes for chance


@dataclass
class Atlas:
    """All that `atlas_of` finds."""

    run: str
    grid: int
    statements: list[Statement] = field(default_factory=list)


def atlas_of(run: RunFolder) -> Atlas:
    """The atlas of a run's patterns. Raises RunFolderError where it has none."""
    run.bank_file()
    return Atlas(run.name, 0)
