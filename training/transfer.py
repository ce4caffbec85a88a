"""Transfer: how good a trained backbone's features are on other data, by a linear probe.

Features are computed once; a softmax regression is fitted on them with L-BFGS, its weight decay chosen on
a fifth of the training images (Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Config, UserError
from training.data.image_set import AnyImageSet
from training.models.patch_model import PatchModel, build_model
from training.models.trained import Prepare, load_trained

WEIGHT_DECAYS = tuple(10.0**power for power in range(-6, 1))
ITERATIONS = 200


@dataclass(frozen=True)
class ProbeResult:
    """accuracy: percent, on the test images. weight_decay: the one chosen."""

    accuracy: float
    weight_decay: float


def transfer(
    config: Config, folder: Path, data: tuple[AnyImageSet, AnyImageSet], device: torch.device
) -> dict[str, ProbeResult]:
    """Probe a run's backbone on (training, test) images, and beside it the same network untrained.

    config: the run's. Returns results by "trained" and "untrained". Raises UserError where the run has no
    sound checkpoint.
    """
    source = load_trained(config, folder, device)
    torch.manual_seed(config.run.seed)
    untrained = build_model(config.model, source.image_shape, len(source.class_names)).to(device)
    results = {}
    for name, model in (("trained", source.model), ("untrained", untrained)):
        training, test = (backbone_features(model, source.prepare, part, source.image_shape) for part in data)
        results[name] = linear_probe(training, test, len(data[0].class_names))
    return results


@torch.no_grad()
def backbone_features(
    model: PatchModel, prepare: Prepare, images: AnyImageSet, shape: tuple[int, int, int], batch: int = 500
) -> tuple[Tensor, Tensor]:
    """Features (M,D) float32 and labels (M,) of a whole set.

    shape: (C,H,W) the model was trained on; images are resized to it, grey ones repeated, colours averaged.
    """
    model.eval()
    features, labels = [], []
    for indices in torch.arange(len(images)).split(batch):
        pixels, classes = images.batch(indices)
        features.append(model.features(prepare(_fitted(pixels.float(), shape))).float())
        labels.append(classes)
    return torch.cat(features), torch.cat(labels)


def linear_probe(
    training: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int, seed: int = 0
) -> ProbeResult:
    """Fit a linear classifier on features (M,D) with labels (M,); test it."""
    features, labels = training
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    features, test_features = (features - mean) / std, (test[0] - mean) / std
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    if len(order) < 5:
        raise UserError(f"a linear probe needs at least 5 training images, got {len(order)}")
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    scores = {
        decay: _accuracy(_fit(features[kept], labels[kept], num_classes, decay), features[held], labels[held])
        for decay in WEIGHT_DECAYS
    }
    chosen = max(scores, key=lambda decay: (scores[decay], decay))  # of equals the simplest
    final = _fit(features, labels, num_classes, chosen)
    return ProbeResult(_accuracy(final, test_features, test[1]), chosen)


def _fit(features: Tensor, labels: Tensor, num_classes: int, weight_decay: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(num_classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=features.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weight.detach(), bias.detach()


def _accuracy(classifier: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> float:
    weight, bias = classifier
    return 100 * int(((features @ weight.T + bias).argmax(1) == labels).sum()) / len(labels)


def _fitted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    if images.shape[1] != channels:
        images = images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images.mean(1, keepdim=True)
        images = images.expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images
