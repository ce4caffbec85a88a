"""The config of a run: a recipe's options, checked before anything is loaded.

A recipe is a YAML file with the sections of options.py; `-s section.key=value` overrides it. Unknown keys, wrong types and
numbers out of bounds are refused, and so are options that contradict one another. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from evo.errors import UserError
from training import removed
from training.checks import check_config
from training.options import Config
from training.recipe import explain, override, put, read_yaml, recipe_path, split_key

__all__ = ["Config", "load_config", "make_config"]


def load_config(recipe: str, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe (a name in runs/recipes or a path) with overrides `section.key=value` applied.

    Raises UserError, one line per mistake.
    """
    path = recipe_path(recipe)
    return make_config(read_yaml(path), overrides, path.name)


def make_config(
    sections: Mapping[str, Any],
    overrides: Iterable[str] = (),
    source: str = "config",
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trains: bool = True,
) -> Config:
    """Check the sections of a recipe, after settings and overrides. Raises UserError, one line per mistake.

    settings: values by `section.key`. overrides: texts `section.key=value`. trains: check what only training needs as
    well.
    """
    merged = removed.with_todays_names(sections)
    for key, value in settings.items():
        put(merged, *split_key(key, f"{source}: {key}"), value)
    written = dict(override(merged, text) for text in overrides)
    if refused := removed.refusals(merged):
        raise UserError("\n".join(f"{source}: {line}" for line in refused))
    merged = removed.without(merged)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise UserError("\n".join(explain(detail, source, written) for detail in error.errors())) from None
    check_config(config, source, trains=trains)
    return config
