"""Types of the command line's options: numbers as recipes write them, and places of files, where ~ is the user's home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from training.places import user_path


def whole(low: int, high: int | None = None) -> dict[str, Any]:
    """For typer.Option: a whole number in plain decimal digits from `low` to `high`, which is told where it is not one."""
    return {"metavar": "N", "parser": _within(_whole_number, low, high)}


def share(low: float, high: float | None = None) -> dict[str, Any]:
    """For typer.Option: a number such as 0.5 or 1e-3 from `low` to `high`."""
    return {"metavar": "NUMBER", "parser": _within(_number, low, high)}


def place(given: str | Path) -> Path:
    """For typer.Option: the path of a file or folder; `~` and `~name` at its beginning are home folders."""
    return user_path(given)


def _within(read: Callable[[str], Any], low: float, high: float | None) -> Callable[[Any], Any]:
    def number(given: Any) -> Any:
        try:
            value = read(given) if isinstance(given, str) else given  # a default is a number already
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from None
        if value < low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"{low} to {high}"
            raise typer.BadParameter(f"expected {bounds}, got {given}.")
        return value

    return number


def _whole_number(text: str) -> int:
    from training.plain_yaml import whole_number  # PyYAML, which --help does not need

    return whole_number(text)


def _number(text: str) -> float:
    from training.plain_yaml import number

    return number(text)
