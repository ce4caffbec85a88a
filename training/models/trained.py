"""What a model needs around it: a device, its input's scaling, its weights from a run, its test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint, load_checkpoint
from training.config import Config, RunOptions, UserError
from training.data.image_set import AnyImageSet
from training.models.patch_model import PatchModel, build_model


class Prepare:
    """Images (B,C,H,W) of 0..255 -> model input: scaled to mean 0 and deviation 1 per channel, channels last.

    mean, std: (C,) float32, as fractions of 255.
    """

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.mean, self.std = mean, std
        self.scale = (1 / (255 * std)).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() * self.scale).add_(self.shift).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it was trained on: its input's scaling, image shape (C,H,W) and classes."""

    model: PatchModel
    prepare: Prepare
    image_shape: tuple[int, int, int]
    class_names: list[str]


def load_trained(config: Config, folder: Path, device: torch.device) -> TrainedModel:
    """The model of a run folder's latest checkpoint, in evaluation mode; config is the run's.

    Raises UserError where there is no sound checkpoint of that model.
    """
    saved = load_checkpoint(folder / "checkpoint", "latest")
    channels, height, width = saved.meta["image_shape"]
    names = saved.meta["class_names"]
    model = build_model(config.model, (channels, height, width), len(names))
    load_weights(model, saved)
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    prepare = Prepare(saved.tensors["input.mean"], saved.tensors["input.std"], device)
    return TrainedModel(model, prepare, (channels, height, width), names)


def load_weights(model: nn.Module, saved: Checkpoint) -> None:
    """Put a checkpoint's weights into a model. Raises UserError where they are another model's."""
    weights = {
        name.removeprefix("model."): tensor for name, tensor in saved.tensors.items() if name.startswith("model.")
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {' '.join(str(error).split()):.200}") from None


@torch.no_grad()
def evaluate(
    model: nn.Module, test_set: AnyImageSet, prepare: Prepare, autocast: torch.dtype | None, batch: int
) -> tuple[float, float]:
    """Top-1 accuracy in percent and mean cross-entropy in nats over a whole set."""
    model.eval()
    correct, loss = [], []
    for indices in torch.arange(len(test_set)).split(batch):
        images, labels = test_set.batch(indices)
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            logits = model(prepare(images))[0]
        correct.append((logits.argmax(1) == labels).sum())
        loss.append(nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
    count = len(test_set)
    return 100 * int(torch.stack(correct).sum()) / count, float(torch.stack(loss).sum()) / count


def pick_device(options: RunOptions) -> torch.device:
    """The device asked for; auto takes CUDA where there is one. Raises UserError where it is absent."""
    if options.device == "auto":
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun numbers the processes of a machine
        return torch.device(own if torch.cuda.is_available() else "cpu")
    device = torch.device(options.device)
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"run.device={options.device} is not there; use -s run.device=cpu or auto")
    return device


def autocast_type(config: Config, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in, None for float32."""
    wanted = config.train.precision
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else None
