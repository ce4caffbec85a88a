"""A backbone with a head for the image and one for every cell of the grid, or one head for both."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo.errors import UserError
from training.models.timm_models import PREFIX, at_stage, build_timm
from training.models.torchvision_models import load_published, without_classifier
from training.options import ModelOptions
from training.registry import MODELS, load_entry

Head = Literal["own", "shared"]


class PatchModel(nn.Module):
    """images (B,C,H,W) -> image logits (B,K), cell logits (B,G,G,K).

    backbone: a module that maps images to a feature map (B,D,h,w); num_features: D. The image head sees
    the map's mean, the cell head the map pooled to G x G. head: whether cells have a linear head of their own, or
    are classified by the image's; then cell_head is None, and a state dict has none. Raises ValueError for another.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int, grid: int, head: Head = "own") -> None:
        super().__init__()
        if head not in ("own", "shared"):
            raise ValueError(f"expected head own or shared, got {head!r:.60}")
        self.backbone = backbone
        self.grid = grid
        self.image_head = nn.Linear(num_features, num_classes)
        self.cell_head = nn.Linear(num_features, num_classes) if head == "own" else None

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        num_classes: int,
        grid: int | None = None,
        shape: tuple[int, int, int] = (3, 224, 224),
        head: Head = "own",
    ) -> Self:
        """Any network of torchvision's or timm's, or any module that returns a feature map, with our heads.

        Its classifier is cut off; of timm's also the stages behind the deepest map that holds the grid. network: not
        to be used apart from the result. grid: else the side of the map. shape: (C,H,W) of the images. Raises
        ValueError where it gives no map, or one that is smaller than the grid.
        """
        if hasattr(network, "forward_intermediates"):
            backbone: nn.Module = at_stage(network, shape, grid)
        elif any(hasattr(network, name) for name in ("fc", "classifier", "head", "heads")):
            backbone = without_classifier(network)
        else:
            backbone = network
        num_features, rows, columns = feature_shape(backbone, shape)
        largest = min(rows, columns)
        if grid is not None and not 1 <= grid <= largest:
            raise ValueError(f"expected a grid of 1 to {largest}, the map being {rows}x{columns}, got {grid}")
        device = next(network.parameters()).device
        return cls(backbone, num_features, num_classes, grid or largest, head).to(device).train(network.training)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(self.backbone(images))

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Image logits (B,K) and cell logits (B,G,G,K) of last feature maps (B,D,h,w)."""
        cells = features
        if features.shape[2:] != (self.grid, self.grid):
            cells = F.adaptive_avg_pool2d(features, self.grid)  # (B,D,G,G)
        cell_head = self.image_head if self.cell_head is None else self.cell_head
        return self.image_head(features.mean((2, 3))), cell_head(cells.permute(0, 2, 3, 1))

    def place_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image logits (B,h,w,K) and cell logits (B,h,w,K) of each place of the last feature map by itself.

        The image logits of `forward` are the mean of the first over places; its cell logits are the second, pooled to
        G x G: both heads are linear. Where G divides h and w, places are pooled to the grid's cells first.
        """
        features = self.backbone(images)
        rows, columns = features.shape[2:]
        if (rows, columns) != (self.grid, self.grid) and not (rows % self.grid or columns % self.grid):
            features = F.adaptive_avg_pool2d(features, self.grid)
        places = features.permute(0, 2, 3, 1)
        image_logits = self.image_head(places)
        return image_logits, image_logits if self.cell_head is None else self.cell_head(places)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the last feature map, (B,D): what a transfer to other data starts from."""
        return self.backbone(images).mean((2, 3))


def build_model(options: ModelOptions, shape: tuple[int, int, int], num_classes: int) -> PatchModel:
    """The model for images of `shape` (C,H,W).

    Raises UserError where the grid is larger than the backbone's last feature map on such images, or the backbone
    does not take them.
    """
    _, height, width = shape
    backbone = _backbone(options, shape)
    num_features, rows, columns = feature_shape(backbone, shape)
    largest = min(rows, columns)
    if options.grid is not None and options.grid > largest:
        raise UserError(
            f"model.grid={options.grid} is larger than the last feature map of {options.name} on {height}x{width} "
            f"images, {rows}x{columns}; the largest grid that fits is {largest}"
        )
    return PatchModel(backbone, num_features, num_classes, options.grid or largest, options.head)


def _backbone(options: ModelOptions, shape: tuple[int, int, int]) -> nn.Module:
    if options.name.startswith(PREFIX):
        return build_timm(options, shape)
    backbone: nn.Module = load_entry(MODELS, options.name, "model")(shape[0], shape[1:], options.width)
    if options.pretrained:
        load_published(backbone, options.name)
    return backbone


def feature_shape(backbone: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(D,h,w) of the feature map of a backbone for images of `shape` (C,H,W). Raises ValueError where it is no map."""
    was_training = backbone.training
    device = next((parameter.device for parameter in backbone.parameters()), None)
    backbone.eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, *shape, device=device))
    backbone.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 4:
        got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"expected {type(backbone).__name__} to return a feature map (B,D,h,w), got {got}")
    depth, rows, columns = features.shape[1:]
    return depth, rows, columns
