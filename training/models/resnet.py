"""Residual networks for small images: 3x3 stem, no max pool. Each returns its last feature map.

He et al., Deep Residual Learning, CVPR 2016 (ResNet) and Identity Mappings, ECCV 2016 (pre-activation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to a 1x1 projection where the shape changes, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, stride, size=1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, added to a 1x1 projection of the activated input where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, stride, size=1) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + passed


class ResNet(nn.Sequential):
    """Stem, then stages of blocks: the stage's width, its number of blocks and its stride."""

    def __init__(self, channels: int, block: type[nn.Module], stages: Sequence[tuple[int, int, int]]) -> None:
        width = stages[0][0]
        layers: list[nn.Module] = [_conv(channels, width)]
        if block is BasicBlock:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        for outputs, blocks, stride in stages:
            for index in range(blocks):
                layers.append(block(width, outputs, stride if index == 0 else 1))
                width = outputs
        if block is PreActBlock:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _four_stages(width: int | None) -> list[tuple[int, int, int]]:
    first = width or 64
    return [(first, 2, 1), (2 * first, 2, 2), (4 * first, 2, 2), (8 * first, 2, 2)]


def resnet18(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """ResNet-18 for small images: 11.2 M parameters at width 64; a map of 4x4 at 32 px."""
    return ResNet(channels, BasicBlock, _four_stages(width))


def preact_resnet18(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """PreActResNet-18 for small images: 11.2 M parameters at width 64; a map of 4x4 at 32 px."""
    return ResNet(channels, PreActBlock, _four_stages(width))


def resnet_small(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """Three blocks for CPU work, 0.3 M parameters at width 32.

    A stage halves the map only while at least 4x4 remain: 8x8 at 32 px, 4x4 at 8 px.
    """
    first, side, stages = width or 32, min(size), []
    for stage in range(3):
        stride = 2 if stage and side >= 8 else 1
        side = -(-side // stride)
        stages.append((first * 2**stage, 1, stride))
    return ResNet(channels, BasicBlock, stages)
