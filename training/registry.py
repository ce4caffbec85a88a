"""What there is to choose from: data sets, models and mixes by name, with the facts that others need of each.

An entry names the function that builds it as "module:function". The module is imported only when the entry is used:
names and facts are needed to check a config, and most of these modules import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from evo.errors import UserError, did_you_mean


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        place: Its load(options: DataOptions, root: Path) -> (training, test), two image sets as data/image_set.py
            describes them. Missing files raise UserError: where it looked and how to get them.
        any_size: Its images are resized to data.image_size, and may have more than 8 bits a channel.
        near_duplicates: The test images with a near-duplicate among the training images are known.
    """

    place: str
    any_size: bool = False
    near_duplicates: bool = False


@dataclass(frozen=True)
class MixKind:
    """A way to mix batches.

    Attributes:
        place: Its build(context: MixContext) -> a Mix, as mixes/batch.py describes them.
        trains_cells: Its batches have a label for each cell, so that unmixed ones get them as well.
        scores: The live model scores compositions before it trains on them; the section `search` counts.
        finds_patterns: A search evolves its compositions, in generations; their patterns are saved for others to use.
        needs_bank: It draws from the pattern file that mix.bank names.
    """

    place: str
    trains_cells: bool = False
    scores: bool = False
    finds_patterns: bool = False
    needs_bank: bool = False

    @property
    def selects(self) -> bool:
        """Whether it scores random compositions and keeps the best, without a search."""
        return self.scores and not self.finds_patterns


DATASETS = {
    "digits": DataSet("training.data.digits:load"),
    "cifar10": DataSet("training.data.torchvision_sets:load_cifar10", near_duplicates=True),
    "cifar100": DataSet("training.data.torchvision_sets:load_cifar100", near_duplicates=True),
    "fashion-mnist": DataSet("training.data.torchvision_sets:load_fashion_mnist"),
    "tiny-imagenet": DataSet("training.data.tiny_imagenet:load", any_size=True),
    "folder": DataSet("training.data.folder:load", any_size=True),
}

# Each is build(channels: int, size: (H, W), width: int | None) -> nn.Module that maps images (B,C,H,W) to a feature map
# (B,D,h,w), every parameter of which takes part; UserError for a size or width it does not have. PatchModel puts the two
# heads on it. Beside these, timm:NAME is any model of timm's (models/timm_models.py).
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

MIXES = {
    "plain": MixKind("training.mixes.baselines:build_plain"),
    "mixup": MixKind("training.mixes.baselines:build_mixup"),
    "cutmix": MixKind("training.mixes.baselines:build_cutmix"),
    "mixup-or-cutmix": MixKind("training.mixes.baselines:build_mixup_or_cutmix"),
    "patchmix": MixKind("training.mixes.drawn:build_random", trains_cells=True),
    "evolved": MixKind("training.mixes.evolved:build", trains_cells=True, scores=True, finds_patterns=True),
    "bank": MixKind("training.mixes.drawn:build_bank", trains_cells=True, needs_bank=True),
    "best-of-k": MixKind("training.mixes.best_of:build", trains_cells=True, scores=True),
}


def load_entry(registry: Mapping[str, str | DataSet | MixKind], name: str, kind: str) -> Any:
    """Import what an entry of a registry names.

    Args:
        registry: Entries by name; one without facts is its "module:function".
        name: The entry's name.
        kind: What the entries are, for the error, such as `model`.

    Returns:
        The function, or whatever else the module has under that name.

    Raises:
        UserError: There is no such entry. The line says which there are.
    """
    if name not in registry:
        raise UserError(f"unknown {kind} {name!r:.60}{did_you_mean(name, registry)}; there are {', '.join(registry)}")
    entry = registry[name]
    module, function = (entry if isinstance(entry, str) else entry.place).split(":")
    return getattr(import_module(module), function)
