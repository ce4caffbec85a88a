"""A trained model, as a run folder holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from evo.errors import UserError
from training.belonging import check_belonging
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import Config
from training.devices import memory_format_of
from training.models.patch_model import PatchModel, build_model
from training.models.scaling import Prepare
from training.options import ModelOptions


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it was trained on: its input's scaling, image shape (C,H,W), classes, and a digest of the images
    where the checkpoint has one.
    """

    model: PatchModel
    prepare: Prepare
    image_shape: tuple[int, int, int]
    class_names: list[str]
    images: str | None = None


def load_trained(config: Config, folder: Path, device: torch.device, weights: str | None = None) -> TrainedModel:
    """The model of a run folder's latest checkpoint, in evaluation mode; config is the run's.

    weights: `model`; `ema`, the weight average of train.ema; `average`, the one that a search compares with.
    None takes what the run was tested with: the ema where it has one, else the model. Raises UserError where
    there is no sound checkpoint of that model.
    """
    saved = load_checkpoint(folder / "checkpoint", "latest")
    check_belonging(folder, saved.meta)
    if weights is None:
        weights = "model" if config.train.ema is None else "ema"
    if not any(name.startswith(f"{weights}.") for name in saved.tensors):
        raise UserError(
            f"the run {folder} kept no weight average; "
            + (
                "take --weights model, or train with -s train.ema=0.999"
                if weights == "ema"
                else "give search.reference=RUN, the path of a run folder to compare with, or train with an objective "
                "that keeps one (reducible or image_reducible)"
            )
        )
    channels, height, width = saved.meta["image_shape"]
    names = saved.meta["class_names"]
    model = build_model(without_fetching(config), (channels, height, width), len(names))
    load_weights(model, saved, weights)
    model.to(device, memory_format=memory_format_of(model, device)).eval()  # type: ignore[call-overload]
    prepare = Prepare(saved.tensors["input.mean"], saved.tensors["input.std"], device)
    return TrainedModel(model, prepare, (channels, height, width), names, saved.meta.get("images"))


def without_fetching(config: Config) -> ModelOptions:
    """The model's options where a checkpoint's weights follow: published ones need not be fetched again."""
    return config.model.model_copy(update={"pretrained": False})


def load_weights(model: nn.Module, saved: Checkpoint, weights: str = "model") -> None:
    """Put a checkpoint's weights into a model. Raises UserError where they are another model's."""
    prefix = f"{weights}."
    try:
        model.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in saved.tensors.items() if name.startswith(prefix)}
        )
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {' '.join(str(error).split()):.200}") from None
