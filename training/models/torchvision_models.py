"""torchvision's networks: their published weights for ours, and theirs without the classifier."""

from __future__ import annotations

from itertools import takewhile

import torch
from torch import Tensor, nn

from evo.errors import UserError
from training.models.resnet import SMALL

PUBLISHED = {"resnet18": "resnet18", "resnet50": "resnet50", "resnext50": "resnext50_32x4d"}
CLASSIFIERS = {"avgpool", "fc", "classifier", "head", "heads"}  # names of what follows the last map


def load_published(backbone: nn.Module, name: str) -> None:
    """Put the ImageNet weights that torchvision publishes for `name` into our backbone of that name.

    Raises UserError where there are none, or the backbone is of another shape.
    """
    if name not in PUBLISHED:
        raise UserError(
            f"model.pretrained: no weights are published for {name}; take one of {', '.join(PUBLISHED)}, or timm:NAME"
        )
    from torchvision.models import get_model_weights  # 5 s to import

    try:
        state = get_model_weights(PUBLISHED[name]).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"model.pretrained: {name}'s weights could not be fetched ({error!s:.120})") from None
    load_in_order(backbone, [tensor for key, tensor in state.items() if not key.startswith("fc.")])


def load_in_order(backbone: nn.Module, tensors: list[Tensor]) -> None:
    """Load a state whose names are others, and whose layers are the same in the same order."""
    own = backbone.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in tensors]:
        raise UserError(
            f"model.pretrained: published weights are for images of 3 channels and more than {SMALL} pixels a side, "
            "and no model.width"
        )
    backbone.load_state_dict(dict(zip(own, tensors, strict=True)))


def without_classifier(network: nn.Module) -> nn.Module:
    """A torchvision classifier up to its last feature map: images (B,C,H,W) -> (B,D,h,w)."""
    if hasattr(network, "conv_proj") and hasattr(network, "encoder"):
        return TokenMap(network)
    children = takewhile(lambda child: child[0] not in CLASSIFIERS, network.named_children())
    layers = [module for _, module in children]
    if type(network).__name__ == "DenseNet":  # its forward activates the last map
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class TokenMap(nn.Module):
    """torchvision's VisionTransformer as a backbone: the patches' last tokens as a map."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        transformer.heads = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.transformer._process_input(images)  # type: ignore[operator]  # (B,h*w,D)
        first = self.transformer.class_token.expand(len(tokens), -1, -1)  # type: ignore[operator]
        tokens = self.transformer.encoder(torch.cat([first, tokens], 1))[:, 1:]  # type: ignore[operator]
        height, width = images.shape[2:]
        patch = self.transformer.patch_size
        return tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))  # type: ignore[operator]
