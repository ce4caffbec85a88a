"""Residual networks, each up to its last feature map. For images up to 64 pixels the stem is a 3x3 convolution.

He et al., Deep Residual Learning, CVPR 2016 (ResNet) and Identity Mappings, ECCV 2016 (pre-activation); Zagoruyko and
Komodakis, Wide Residual Networks, BMVC 2016; Xie et al., Aggregated Residual Transformations, CVPR 2017 (ResNeXt).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from evo.errors import UserError

SMALL = 64  # pixels a side up to which maps are not halved by the stem

Stages = Sequence[tuple[int, int, int]]  # width, blocks, stride


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, stride, size=1), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to a 1x1 projection where the shape changes, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with BN, `inner` channels between them; the 3x3 in groups for ResNeXt."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        inner = outputs // (4 if groups == 1 else 2)
        self.conv1 = _conv(inputs, inner, size=1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, stride, groups=groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, outputs, size=1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, added to a 1x1 projection of the activated input where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, stride, size=1) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + passed


class ResNet(nn.Sequential):
    """A stem of `width` channels, then stages of blocks.

    large: the stem is a 7x7 convolution of stride 2 and a max pool, as for ImageNet, else a 3x3 convolution.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        block: Callable[[int, int, int], nn.Module],
        stages: Stages,
        large: bool = False,
    ) -> None:
        layers: list[nn.Module] = [_conv(channels, width, 2, size=7) if large else _conv(channels, width)]
        if block is not PreActBlock:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if large:
            layers.append(nn.MaxPool2d(3, 2, 1))
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


def _stages(width: int, blocks: Sequence[int]) -> Stages:
    """Stages that double the width and halve the map, but for the first."""
    return [(width * 2**stage, count, 1 if stage == 0 else 2) for stage, count in enumerate(blocks)]


def _refuse_width(name: str, width: int | None) -> None:
    if width is not None:
        raise UserError(f"model.width={width}: {name} has one width; leave it out, or take resnet18 or resnet-small")


def resnet18(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """ResNet-18: 11.2 M parameters at width 64; a map of 4x4 at 32 px, 7x7 at 224 px."""
    first = width or 64
    return ResNet(channels, first, BasicBlock, _stages(first, (2, 2, 2, 2)), large=min(size) > SMALL)


def preact_resnet18(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """PreActResNet-18 for small images: 11.2 M parameters at width 64; a map of 4x4 at 32 px."""
    first = width or 64
    return ResNet(channels, first, PreActBlock, _stages(first, (2, 2, 2, 2)))


def resnet50(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """ResNet-50: 23.5 M parameters; a map of 4x4 at 32 px, 7x7 at 224 px."""
    _refuse_width("resnet50", width)
    return ResNet(channels, 64, Bottleneck, _stages(256, (3, 4, 6, 3)), large=min(size) > SMALL)


def resnext50(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """ResNeXt-50 32x4d: 23.0 M parameters; a map of 4x4 at 32 px, 7x7 at 224 px."""
    _refuse_width("resnext50", width)
    block = partial(Bottleneck, groups=32)
    return ResNet(channels, 64, block, _stages(256, (3, 4, 6, 3)), large=min(size) > SMALL)


def wide_resnet_16_8(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """WideResNet-16-8 for small images, no dropout: 11.0 M parameters at width 128; a map of 8x8 at 32 px."""
    return ResNet(channels, 16, PreActBlock, _stages(width or 128, (2, 2, 2)))


def wide_resnet_28_10(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """WideResNet-28-10 for small images, no dropout: 36.5 M parameters at width 160; a map of 8x8 at 32 px."""
    return ResNet(channels, 16, PreActBlock, _stages(width or 160, (4, 4, 4)))


def resnet_mini(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """Three blocks behind a 4x4 convolution of stride 2, 0.3 M parameters at width 32; a map of 4x4 at 32 px.

    On a CPU a step takes about a third of resnet-small's. Raises UserError for images below 8 pixels a side.
    """
    if min(size) < 8:
        raise UserError(f"resnet-mini needs images of at least 8x8 pixels, got {size[0]}x{size[1]}; take resnet-small")
    first = width or 32
    network = ResNet(channels, first, BasicBlock, _stages(first, (1, 1, 1)))
    network[0] = stem = nn.Conv2d(channels, first, 4, 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return network


def resnet_small(channels: int, size: tuple[int, int], width: int | None) -> nn.Module:
    """Three blocks for CPU work, 0.3 M parameters at width 32.

    A stage halves the map only while at least 4x4 remain: 8x8 at 32 px, 4x4 at 8 px.
    """
    first = width or 32
    side = min(size)
    stages = []
    for stage in range(3):
        stride = 2 if stage and side >= 8 else 1
        side = -(-side // stride)
        stages.append((first * 2**stage, 1, stride))
    return ResNet(channels, first, BasicBlock, stages)
