"""Registries: dicts of name -> "module:function". A module is imported only when its entry is used.

The names are needed to check a config, and the modules behind them import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from evo.errors import UserError, did_you_mean


def load_entry(registry: Mapping[str, str], name: str, kind: str) -> Any:
    """Import what an entry of a registry names.

    Args:
        registry: "module:function" by name.
        name: The entry's name.
        kind: What the entries are, for the error, such as `model`.

    Returns:
        The function, or whatever else the module has under that name.

    Raises:
        UserError: There is no such entry. The line says which there are.
    """
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r:.60}{did_you_mean(name, registry)}; there are {', '.join(registry)}")
    module, function = registry[name].split(":")
    return getattr(import_module(module), function)
