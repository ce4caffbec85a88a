"""Which recipe a benchmark takes, by the images that are at hand."""

from __future__ import annotations

from collections.abc import Sequence

from evo.errors import UserError
from training.config import load_config
from training.data.load import load_data
from training.progress import Progress

WITHOUT_DATA = "digits"  # a recipe whose images come with a package


def recipe_at_hand(wanted: Sequence[str], progress: Progress | None = None) -> str:
    """The first recipe whose images are on this machine; of digits where none is, which `progress` is told."""
    for recipe in wanted:
        try:
            load_data(load_config(recipe, ["data.download=false", "data.subset=1"]).data)
        except UserError as error:
            absent = error
        else:
            return recipe
    if progress is not None and WITHOUT_DATA not in wanted:
        progress.update(f"{absent}; taking {WITHOUT_DATA}", final=True)
    return WITHOUT_DATA
