"""Training that has blown up ends with a line that says where, and keeps the last sound checkpoint."""

from __future__ import annotations

import torch

from evo.errors import UserError
from training.run import Run
from training.sums import Sums


def check_finite(run: Run, sums: Sums | None = None, *, weights: bool = False) -> None:
    """Raise UserError where a loss since the last check, or a weight, is not finite. It waits for the device.

    sums: the epoch's over all processes, where they are at hand.
    """
    finite = (run.state.sums if sums is None else sums).finite
    if weights:
        finite = finite & torch.stack([tensor.isfinite().all() for tensor in run.model.state_dict().values()]).all()
    if not finite:
        steps = f"{run.state.checked + 1}..{run.state.step}"
        raise diverged(run, f"the loss or a weight became NaN or infinite in steps {steps}")
    run.state.checked = run.state.step


def diverged(run: Run, what: str) -> UserError:
    """The error to raise. what: what was found."""
    kept = "; the last checkpoint is kept" if run.state.has_checkpoint else ""
    return UserError(f"{what}; lower train.lr={run.config.train.lr:g}, or set train.clip{kept}")
