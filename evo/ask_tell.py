"""The loop that a search and islands share: ask, evaluate outside, tell, until it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from evo import storage
from evo.arrays import Array
from evo.errors import UserError
from evo.genome import Population
from evo.proposal import Elites, Question, Rows

Evaluate = Callable[[Rows], Sequence[Any]]


class Asked(Protocol):
    """What `ask` proposes: something with rows to evaluate."""

    @property
    def rows(self) -> Rows:
        """The R rows to evaluate."""


class AskTell(ABC):
    """Something that proposes rows, takes their losses, and can be saved."""

    grid: int
    stopped: str | None

    @abstractmethod
    def ask(self) -> Asked | None:
        """Return rows to evaluate; None at the end."""

    @abstractmethod
    def tell(self, *losses: Any) -> dict[str, Any]:
        """Return the log's new line, having taken the losses of the rows last asked for."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Return all that changes, as named arrays."""

    @abstractmethod
    def set_state(self, state: dict[str, Array]) -> None:
        """Undo `state`, whose arrays are copied."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _choose_elites(self, count: int) -> Elites: ...

    @property
    @abstractmethod
    def has_end(self) -> bool:
        """Whether it ends by itself."""

    @property
    def curtailed(self) -> bool:
        """Whether a budget has left genomes out of the open proposal; islands do not tell."""
        return False

    def elites(self, count: int) -> Elites:
        """Choose the best of all genomes alive.

        Args:
            count: E, 1 to the number of genomes alive.

        Returns:
            The fittest first; copies only where kinds are too few.

        Raises:
            RuntimeError: There was no generation yet.
            UserError: There are not so many genomes.
        """
        if not len(self):
            raise RuntimeError("there are no elites before the first generation; ask() and tell() first")
        return self._choose_elites(count)

    def run(self, evaluate: Evaluate, callbacks: Sequence[Callable[[Self, dict[str, Any]], Any]] = ()) -> Self:
        """Ask, evaluate and tell until the search ends.

        Called again after the end it goes on where more is now allowed, or after a callback's end.

        Args:
            evaluate: Rows -> what `tell` takes, e.g. (cell losses, image losses). It is not called for no rows.
            callbacks: Called in order after every generation with the search and the log's new line. Where one returns
                a true value the run ends, as `callback`.

        Returns:
            The search itself.

        Raises:
            UserError: The search has no end, or the evaluator gives something else than losses.
        """
        if not self.has_end and not callbacks:
            raise UserError(
                "this search has no end; give it generations, budget, patience, target, minutes or a callback"
            )
        while (proposal := self.ask()) is not None:
            rows = proposal.rows
            losses = (
                as_losses(evaluate(rows)) if len(rows.image) else (np.zeros((0, self.grid, self.grid), np.float32),)
            )
            record = self.tell(*losses)
            answers = [bool(callback(self, record)) for callback in callbacks]  # all are called
            if any(answers):
                self.stopped = "callback"
                break
        return self

    def save(self, path: Path | str, extra: dict[str, Array] | None = None) -> None:
        """Write the whole state to an .npz file, without pickle, atomically.

        Args:
            path: The file.
            extra: Arrays to keep beside it.
        """
        storage.write(path, self.state(), extra or {})

    def restore(self, path: Path | str) -> dict[str, Array]:
        """Go on from what `save` wrote, in a search made with the same arguments.

        Args:
            path: The file.

        Returns:
            The extra arrays.

        Raises:
            UserError: The file is not sound, or of another search; this one is left as it was.
        """
        state, extra = storage.read(path)
        self.set_state(state)
        return extra


def as_losses(answer: Any) -> Sequence[Any]:
    """Check that an evaluator gave a sequence of arrays.

    Args:
        answer: What it returned.

    Returns:
        The same, one to four arrays or None in the order of `Search.tell`.

    Raises:
        UserError: It is anything else, such as a bare array.

    Example:
        >>> len(as_losses((np.zeros((2, 3, 3)), np.zeros(2))))
        2
    """
    if not isinstance(answer, tuple | list) or not 1 <= len(answer) <= 4:
        came = f"{len(answer)} of them" if isinstance(answer, tuple | list) else f"a bare {type(answer).__name__}"
        raise UserError(
            "an evaluator must return a tuple of one to four arrays: (cell losses, image losses, and both of the "
            f"reference), of which all but the first may be None, got {came}; write `return (losses,)`"
        )
    return answer


def check_losses(given: dict[str, Array], asked: int, grid: int, kinds: tuple[str, ...]) -> None:
    """Refuse losses that are not of the rows asked for, or not those of earlier generations.

    Args:
        given: Arrays by name, of Population.LOSSES.
        asked: R, how many rows were asked for.
        grid: G.
        kinds: The names that were given before; empty: nothing was.

    Raises:
        UserError: Shapes, types or kinds differ.
    """
    for name, array in given.items():
        expected = (asked, grid, grid) if name.endswith("cell_losses") else (asked,)
        if array.shape != expected:
            raise UserError(f"{_words(name)} must be {expected}, one per row asked for, got {array.shape}")
        if array.dtype.kind not in "fiu":
            raise UserError(f"{_words(name)} must be numbers, got {array.dtype}")
    if not asked:
        return
    if "cell_losses" not in given:
        raise UserError("cell losses of every row are needed, and none were given")
    if kinds and tuple(given) != kinds:
        raise UserError(
            f"losses must be of the same kinds in every generation: {', '.join(map(_words, kinds))} were given before, "
            f"{', '.join(map(_words, given))} now"
        )


def store_losses(
    pool: Population, question: Question, losses: Sequence[Any], kinds: tuple[str, ...]
) -> tuple[str, ...]:
    """Write an evaluator's answer into the rows that wait for it.

    Args:
        pool: P genomes, which are changed.
        question: What was asked about them.
        losses: Up to four arrays or None, in the order of Population.LOSSES.
        kinds: The names that were given before; empty: nothing was.

    Returns:
        The names that are given.

    Raises:
        UserError: The answer does not fit; see `check_losses`. Nothing is changed.
    """
    given = {
        name: np.asarray(array) for name, array in zip(Population.LOSSES, losses, strict=False) if array is not None
    }
    check_losses(given, int(question.new.sum()), pool.packed.grid, kinds)
    genome, row = question.unknown
    for name in Population.LOSSES:
        if name in given:
            getattr(pool, name)[genome, row] = given[name][question.source]
        elif name in pool._rows:  # of an answer that was refused
            getattr(pool, name)[genome, row] = np.nan
    return tuple(given)


def _words(name: str) -> str:
    return name.replace("_", " ")
