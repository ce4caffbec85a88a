"""The reference: the model that a search's objective compares the live one with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from evo.errors import UserError
from evo.objectives import parse_objectives
from training import removed
from training.belonging import checkpoint_digest
from training.config import Config, make_config
from training.models.scaling import Rescaled
from training.models.trained import TrainedModel, load_trained
from training.places import user_path


def reference_digest(reference: str) -> str | None:
    """What tells whether search.reference is still the model it was; None for the weight average."""
    return None if reference == "average" else checkpoint_digest(user_path(reference))


def needs_average(config: Config) -> bool:
    """Whether a search compares the live model with the average of its weights."""
    objectives = parse_objectives(config.search.objective)
    compares = any(objective.needs_reference for objective in objectives)
    return config.search.reference == "average" and compares


def load_reference(config: Config, live: TrainedModel, average: nn.Module | None) -> nn.Module | None:
    """The model that the search's objective compares `live` with, for the same input; None where it does not.

    average: the weight average where `needs_average` says so. Raises UserError where the reference is a run
    without a sound checkpoint, or one of other classes, images or grid.
    """
    objectives = parse_objectives(config.search.objective)
    if not any(objective.needs_reference for objective in objectives):
        return None
    if config.search.reference == "average":
        return average
    option = f"search.reference={config.search.reference}"
    folder = user_path(config.search.reference)
    recorded = _recorded_config(folder, option)
    device = live.prepare.scale.device
    other = load_trained(recorded, folder, device)
    _check_fit(config, recorded, live, other)
    if torch.equal(live.prepare.mean, other.prepare.mean) and torch.equal(live.prepare.std, other.prepare.std):
        return other.model
    return Rescaled(other.model, other.prepare, live.prepare).eval()


def _recorded_config(folder: Path, option: str) -> Config:
    """The config of a run folder. option: what names the folder, for the error."""
    try:
        sections = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sections.pop("schema")
        sections.pop("id", None)
        sections = removed.without(sections)
    except OSError:
        raise UserError(
            f"{option}: no run folder is there; give the path of one that holds config.json, or average"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{option}: {folder / 'config.json'} is not a run's config") from None
    return make_config(sections, source=str(folder / "config.json"), trains=False)


def _check_fit(config: Config, recorded: Config, live: TrainedModel, other: TrainedModel) -> None:
    """Raise UserError where a reference, trained as `recorded`, cannot be compared with the live model."""
    option = f"search.reference={config.search.reference}"
    for what, own, its in (
        ("images", live.image_shape, other.image_shape),
        ("classes", live.class_names, other.class_names),
        ("a grid", live.model.grid, other.model.grid),
    ):
        if own != its:
            raise UserError(
                f"{option}: its model has {what} {its!s:.80}, the live one {own!s:.80}; they must be the same"
            )
    compared = [name for objective in parse_objectives(config.search.objective) for _, name in objective.terms]
    if "reducible" in compared and not recorded.trains_cells:
        raise UserError(
            f"{option}: the run was trained with mix {recorded.mix.name}, patch_weight {recorded.mix.patch_weight:g}: its "
            "cells are untrained and cannot be compared with; take a run with a patch loss or model.head=shared, "
            "or search.objective=image_reducible"
        )
