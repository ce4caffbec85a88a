"""torchvision's networks as backbones: everything before their pooling and classifier."""

from __future__ import annotations

from torch import nn

from training.config import UserError


def resnet50(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """torchvision's ResNet-50, untrained: 23.5 M parameters in the backbone; a map of 7x7 at 224 px."""
    from torchvision.models import resnet50 as build  # 5 s to import

    if channels != 3 or width is not None:
        raise UserError(
            f"model.name=resnet50 takes images of 3 channels and no model.width, got {channels} channels, "
            f"width {width}; use resnet18 or resnet-small"
        )
    network = build(weights=None)
    return nn.Sequential(*(module for name, module in network.named_children() if name not in ("avgpool", "fc")))
