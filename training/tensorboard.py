"""TensorBoard's event files, for those who watch their runs there. The extra `tensorboard` installs it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.config import UserError


def check_tensorboard() -> None:
    """Raise UserError where the package is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "run.tensorboard=true needs the package tensorboard: install it with `.venv/bin/python -m pip install "
            "tensorboard`, or set -s run.tensorboard=false"
        )


class Board:
    """Writes numbers by optimiser step into FOLDER/tensorboard.

    purge_step: where a resumed run goes on; later points of the folder are hidden.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 2 s

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write every number among `values`."""
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
