"""What runs the trials of an ablation: processes of this machine, or a Ray cluster. schedule.py says which and when."""

from __future__ import annotations

from typing import Protocol

from runs.ablation.trials import Outcome, Trial


class Engine(Protocol):
    """Starts trials and says how they ended; it decides nothing.

    slots: about how many run at once.
    """

    slots: int

    def room(self) -> bool:
        """Whether another trial may be started now."""

    def running(self) -> int:
        """How many trials run."""

    def start(self, trial: Trial) -> None: ...

    def ended(self) -> list[tuple[str, Outcome]]:
        """The names of trials that have ended since the last call, and how. Waits a moment where there is none."""

    def stop(self) -> None:
        """Ask every trial to write its checkpoint and end; `ended` tells of them."""

    def close(self) -> None:
        """End at once what still runs."""
