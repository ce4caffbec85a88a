"""Any of timm's networks as a backbone, through `forward_intermediates`: the map of one of its stages.

A stock network ends at 1x1 or 2x2 on small images, too coarse for a grid; what lies behind the chosen stage is cut off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evo.errors import UserError, did_you_mean
from training.options import ModelOptions

PREFIX = "timm:"
LEAST_SIDE = 4  # of the map, where no grid is asked for


class TimmBackbone(nn.Module):
    """images (B,C,H,W) -> the map (B,D,h,w) of stage `stage` of a timm network. Made by `at_stage`."""

    def __init__(self, network: Any, stage: int, last: bool) -> None:
        super().__init__()
        self.network = network
        self.stage = stage
        self.norm = last  # transformers normalise what their head sees

    def forward(self, images: Tensor) -> Tensor:
        maps: list[Tensor] = self.network.forward_intermediates(
            images, indices=[self.stage], norm=self.norm, stop_early=True, intermediates_only=True
        )
        return maps[0]


def build_timm(options: ModelOptions, shape: tuple[int, int, int]) -> nn.Module:
    """The backbone that model.name=timm:NAME asks for, for images of `shape` (C,H,W).

    Raises UserError where timm is missing, has no such network, or the network does not take such images.
    """
    name = options.name.removeprefix(PREFIX)
    if options.width is not None:
        raise UserError(f"model.width={options.width}: {options.name} has one width; leave it out")
    network = _create(name, options.pretrained, shape)
    try:
        return at_stage(network, shape, options.grid)
    except (ValueError, RuntimeError, AssertionError, TypeError, IndexError) as error:
        raise UserError(f"model.name={options.name}: {_first(error)}; take another network or size") from None


def _create(name: str, pretrained: bool, shape: tuple[int, int, int]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"model.name={PREFIX}{name}: timm is not installed; install it with `uv pip install timm` or "
            "`pip install 'evomix[timm]'`"
        ) from None
    if not timm.is_model(name):
        hint = did_you_mean(name.split(".")[0], timm.list_models(), most=5)
        raise UserError(f"model.name={PREFIX}{name}: timm {timm.__version__} has no such network{hint}")
    channels, height, width = shape
    try:
        known = timm.get_pretrained_cfg(name)
        sized = {"img_size": (height, width)} if known is not None and known.fixed_input_size else {}
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **sized)
    except Exception as error:  # each of a thousand networks, and the download, fails in its own way
        what = f"images of {channels}x{height}x{width}" + (", pretrained" if pretrained else "")
        raise UserError(f"model.name={PREFIX}{name}: cannot be made for {what} ({_first(error)})") from None


def at_stage(network: nn.Module, shape: tuple[int, int, int], grid: int | None) -> TimmBackbone:
    """A timm network cut behind its deepest stage whose map still holds `grid` cells a side, else LEAST_SIDE.

    Where no map does, the last one is taken; where a grid is asked for, the largest. Raises ValueError where the
    network gives no maps.
    """
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"{type(network).__name__} has no forward_intermediates, which gives its feature maps")
    was_training = network.training
    images = torch.zeros(1, *shape, device=next(network.parameters()).device)
    with torch.no_grad():
        maps = network.eval().forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    sides = [min(features.shape[2:]) for features in maps]
    needed = min(grid, max(sides)) if grid is not None else LEAST_SIDE
    last = len(sides) - 1
    stage = max((number for number, side in enumerate(sides) if side >= needed), default=last)
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers([stage], prune_norm=stage < last)  # type: ignore[operator]
    backbone = TimmBackbone(network, stage, last=stage == last)
    _freeze_unused(backbone, images)
    return backbone.train(was_training)


def _freeze_unused(backbone: nn.Module, images: Tensor) -> None:
    """Parameters without a part in the map get no gradient, for which DistributedDataParallel would wait."""
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        total = backbone(images).float().sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _first(error: Exception) -> str:
    """An error's message on one line, as far as it helps."""
    return f"{' '.join(str(error).split()):.160}"
