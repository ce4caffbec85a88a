"""A backbone with two heads: one for the image, one of its own for every cell of the grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelOptions, UserError
from training.models import MODELS
from training.shelf import open_entry


class PatchModel(nn.Module):
    """images (B,C,H,W) -> image logits (B,K), cell logits (B,G,G,K).

    backbone: a module that maps images to a feature map (B,D,h,w); num_features: D. The image head sees
    the map's mean, the cell head the map pooled to G x G.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int, grid: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.grid = grid
        self.image_head = nn.Linear(num_features, num_classes)
        self.cell_head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)  # (B,D,h,w)
        cells = features
        if features.shape[2:] != (self.grid, self.grid):
            cells = F.adaptive_avg_pool2d(features, self.grid)  # (B,D,G,G)
        return self.image_head(features.mean((2, 3))), self.cell_head(cells.permute(0, 2, 3, 1))

    def features(self, images: Tensor) -> Tensor:
        """The mean of the last feature map, (B,D): what a transfer to other data starts from."""
        return self.backbone(images).mean((2, 3))


def build_model(options: ModelOptions, shape: tuple[int, int, int], num_classes: int) -> PatchModel:
    """The model for images of `shape` (C,H,W).

    Raises UserError where the grid is larger than the backbone's last feature map on such images.
    """
    channels, height, width = shape
    backbone = open_entry(MODELS, options.name, "model")(channels, (height, width), options.width)
    num_features, rows, columns = feature_shape(backbone, shape)
    largest = min(rows, columns)
    if options.grid is not None and options.grid > largest:
        raise UserError(
            f"model.grid={options.grid} is larger than the last feature map of {options.name} on {height}x{width} "
            f"images, {rows}x{columns}; the largest grid that fits is {largest}"
        )
    return PatchModel(backbone, num_features, num_classes, options.grid or largest)


def feature_shape(backbone: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(D,h,w) of the feature map of a backbone for images of `shape` (C,H,W)."""
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, *shape))
    backbone.train(was_training)
    depth, rows, columns = features.shape[1:]
    return depth, rows, columns
