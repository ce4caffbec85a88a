"""The registry of backbones. One function and one entry each.

Contract: build(channels: int, size: (H, W), width: int | None) -> nn.Module that maps images (B,C,H,W)
to a feature map (B,D,h,w), every parameter of which takes part; UserError for a size or width it does not have.
PatchModel puts the two heads on it. Beside these, timm:NAME is any model of timm's (timm_models.py).
"""

MODELS = {
    "resnet-small": "training.models.resnet:resnet_small",
    "resnet-mini": "training.models.resnet:resnet_mini",
    "resnet18": "training.models.resnet:resnet18",
    "preactresnet18": "training.models.resnet:preact_resnet18",
    "wrn-16-8": "training.models.resnet:wide_resnet_16_8",
    "wrn-28-10": "training.models.resnet:wide_resnet_28_10",
    "resnet50": "training.models.resnet:resnet50",
    "resnext50": "training.models.resnet:resnext50",
}
