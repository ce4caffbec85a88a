"""What a model needs around it: a device, its input's scaling, its weights from a run, its test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from evo.errors import UserError
from evo.objectives import parse_objectives
from training import removed
from training.belonging import check_belonging, checkpoint_digest
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import Config, ModelOptions, make_config
from training.data.image_set import AnyImageSet
from training.distributed import World
from training.models.patch_model import PatchModel, build_model
from training.places import user_path


class Prepare:
    """Images (B,C,H,W) of 0..255 -> model input: scaled to mean 0 and deviation 1 per channel, channels last.

    mean, std: (C,) float32, as fractions of 255.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.mean = mean
        self.std = std
        self.scale = (1 / (255 * std)).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() * self.scale).add_(self.shift).contiguous(memory_format=torch.channels_last)


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


class Rescaled(nn.Module):
    """A model whose own input scaling is `own`, for input that was scaled as `given`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: PatchModel, own: Prepare, given: Prepare) -> None:
        super().__init__()
        self.model = model
        device = own.scale.device
        self.register_buffer("scale", (given.std / own.std).view(-1, 1, 1).to(device))
        self.register_buffer("shift", ((given.mean - own.mean) / own.std).view(-1, 1, 1).to(device))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(self.rescale(inputs))

    def rescale(self, inputs: Tensor) -> Tensor:
        """Input that was scaled as `given`, scaled as its own."""
        return inputs * self.scale + self.shift

    def place_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As the model's own, of input that was scaled as `given`."""
        return self.model.place_logits(self.rescale(inputs))


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
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    prepare = Prepare(saved.tensors["input.mean"], saved.tensors["input.std"], device)
    return TrainedModel(model, prepare, (channels, height, width), names, saved.meta.get("images"))


def without_fetching(config: Config) -> ModelOptions:
    """The model's options where a checkpoint's weights follow: published ones need not be fetched again."""
    return config.model.model_copy(update={"pretrained": False})


def reference_digest(reference: str) -> str | None:
    """What tells whether search.reference is still the model it was; None for the weight average."""
    return None if reference == "average" else checkpoint_digest(user_path(reference))


def load_weights(model: nn.Module, saved: Checkpoint, weights: str = "model") -> None:
    """Put a checkpoint's weights into a model. Raises UserError where they are another model's."""
    prefix = f"{weights}."
    try:
        model.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in saved.tensors.items() if name.startswith(prefix)}
        )
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {' '.join(str(error).split()):.200}") from None


def trains_cells(config: Config) -> bool:
    """Whether a run of this config trains what classifies its cells: a shared head learns from every image."""
    patch_loss = config.mix.kind.trains_cells and config.mix.patch_weight > 0
    return patch_loss or config.model.head == "shared"


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
    folder = user_path(config.search.reference)
    option = f"search.reference={config.search.reference}"
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
    recorded = make_config(sections, source=str(folder / "config.json"), trains=False)
    device = live.prepare.scale.device
    other = load_trained(recorded, folder, device)
    for what, own, its in (
        ("images", live.image_shape, other.image_shape),
        ("classes", live.class_names, other.class_names),
        ("a grid", live.model.grid, other.model.grid),
    ):
        if own != its:
            raise UserError(
                f"{option}: its model has {what} {its!s:.80}, the live one {own!s:.80}; they must be the same"
            )
    compared = [name for objective in objectives for _, name in objective.terms]
    if "reducible" in compared and not trains_cells(recorded):
        raise UserError(
            f"{option}: the run was trained with mix {recorded.mix.name}, patch_weight {recorded.mix.patch_weight:g}: its "
            "cells are untrained and cannot be compared with; take a run with a patch loss or model.head=shared, "
            "or search.objective=image_reducible"
        )
    if torch.equal(live.prepare.mean, other.prepare.mean) and torch.equal(live.prepare.std, other.prepare.std):
        return other.model
    return Rescaled(other.model, other.prepare, live.prepare).eval()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    test_set: AnyImageSet,
    prepare: Prepare,
    autocast: torch.dtype | None,
    batch: int,
    world: World | None = None,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[float, float]:
    """Top-1 accuracy in percent and mean cross-entropy in nats over a whole set, which several processes share.

    forward: called in the model's place on whole batches, so that one shape is compiled.
    """
    world = world or World()
    model.eval()
    mine = torch.arange(len(test_set))[world.share(len(test_set))]
    sums = torch.zeros(2, dtype=torch.float64)
    found = []
    for images, labels in test_set.batches(mine.split(batch)):
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            call = forward if forward is not None and len(images) == batch else model
            logits = call(prepare(images))[0]
        loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        found.append(torch.stack([(logits.argmax(1) == labels).sum().float(), loss]))
    if found:
        sums = torch.stack(found).cpu().double().sum(0)  # the one time that the device is waited for
    correct, loss_sum = world.sum(sums.to(prepare.scale.device) if world.size > 1 else sums).tolist()
    return 100 * correct / len(test_set), loss_sum / len(test_set)
