"""The shelf of backbones. One function and one entry each.

Contract: build(channels: int, size: (H, W), width: int | None) -> nn.Module that maps images (B,C,H,W)
to a feature map (B,D,h,w). PatchModel puts the two heads on it.
"""

MODELS = {
    "resnet-small": "training.models.resnet:resnet_small",
    "resnet18": "training.models.resnet:resnet18",
    "preactresnet18": "training.models.resnet:preact_resnet18",
    "resnet50": "training.models.torchvision_models:resnet50",
}
