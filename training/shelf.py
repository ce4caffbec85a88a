"""Shelves: dicts of name -> "module:function", opened only when an entry is used.

The names are needed to check a config, the modules behind them import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def open_entry(shelf: dict[str, str], name: str, kind: str) -> Any:
    """The function behind a shelf's entry. Raises ValueError that lists the names there are."""
    if name not in shelf:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(shelf)}")
    module, function = shelf[name].split(":")
    return getattr(import_module(module), function)
