"""One call from options to the two image sets a run works with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from evo.errors import UserError
from training.data.image_set import AnyImageSet, subset_indices
from training.options import DataOptions
from training.places import data_root
from training.registry import DATASETS, load_entry

NEAR_DUPLICATES = Path(__file__).with_name("near_duplicates.json")  # its `source` says whose


def load_data(options: DataOptions) -> tuple[AnyImageSet, AnyImageSet]:
    """Training (its subset, if one is asked for) and test images, in the host's memory.

    With data.validation the test images are training images: a share of them, or those that follow the subset.
    Raises UserError where files are missing, and for options that would have no effect.
    """
    _check(options)
    training, test = load_entry(DATASETS, options.name, "data set")(options, data_root(options.root))
    _check_sizes(options, training)
    if options.exclude_near_duplicates:
        test = test.select(without_near_duplicates(options.name, len(test)))
    whole = training
    if isinstance(options.validation, float):
        held, kept = held_out(whole.labels, options.validation, options.subset_seed or 0)
        training, test = whole.select(kept), whole.select(held)
        whole = training
    if options.subset is not None:
        training = whole.select(subset_indices(whole.labels, options, whole.class_names))
        if isinstance(options.validation, int):
            test = whole.select(subset_indices(whole.labels, _validation(options, options.subset), whole.class_names))
    own = replace(training, cutout=options.cutout)
    if options.crop is not None:
        own = replace(own, crop=options.crop)
    if options.flip is not None:
        own = replace(own, flip=options.flip)
    return own, test


def held_out(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (held, kept) in the order of the file: a share of each class, drawn, at least one and not all of it.

    labels: (M,). Raises UserError where no class has two images.
    """
    generator = torch.Generator().manual_seed(seed)
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        number = min(max(1, round(share * len(members))), len(members) - 1)
        is_held[members[: max(0, number)]] = True
    if not is_held.any():
        raise UserError(f"data.validation={share:g}: no class has two training images, of which one could be held out")
    return is_held.nonzero().flatten(), (~is_held).nonzero().flatten()


def without_near_duplicates(name: str, count: int) -> torch.Tensor:
    """Indices of the `count` test images but those that have a near-duplicate among the training images.

    Barz and Denzler, Do We Train on Test Data?, Journal of Imaging 2020: 286 of CIFAR-10, 891 of CIFAR-100. ciFAIR has
    other images in their place, which are not at hand here.
    """
    kept = torch.ones(count, dtype=torch.bool)
    kept[json.loads(NEAR_DUPLICATES.read_text(encoding="utf-8"))[name]] = False
    return kept.nonzero().flatten()


def _validation(options: DataOptions, subset: int) -> DataOptions:
    """What selects the images that follow the subset, in file order or in the order drawn."""
    changes = {"subset": options.validation, "subset_start": options.subset_start + subset}
    return options.model_copy(update=changes)


def place(images: AnyImageSet, device: torch.device, options: DataOptions) -> AnyImageSet:
    """The set with its batches on `device`; data.resident says where images in memory wait."""
    return images.to(device, options.resident)


def _check(options: DataOptions) -> None:
    given = {
        "subset_start": options.subset_start or None,
        "subset_seed": options.subset_seed if not isinstance(options.validation, float) else None,
        "validation": options.validation if isinstance(options.validation, int) else None,
    }
    idle = [key for key, value in given.items() if value is not None]
    if options.subset is None and idle:
        raise UserError(
            f"data.{idle[0]} has no effect without data.subset, the number of training images per class"
            + (", or hold out a share of each class with data.validation=0.2" if idle[0] == "validation" else "")
        )
    if options.levels is not None and not DATASETS[options.name].any_size:
        raise UserError(
            f"data.levels: images of {options.name} have 8 bits; leave it out, or take one of {_having('any_size')}"
        )
    if options.exclude_near_duplicates and not DATASETS[options.name].near_duplicates:
        raise UserError(
            f"data.exclude_near_duplicates=true: the near-duplicates of {options.name} are not known; leave it out, or "
            f"take one of {_having('near_duplicates')}"
        )
    if options.exclude_near_duplicates and options.validation is not None:
        raise UserError(
            "data.validation tests on training images, from which data.exclude_near_duplicates leaves none out"
        )
    if options.image_size is not None and not DATASETS[options.name].any_size:
        raise UserError(
            f"data.image_size={options.image_size}: images of {options.name} have one size; "
            f"leave it out, or take one of {_having('any_size')}"
        )


def _having(fact: str) -> str:
    """The data sets with a fact of the registry, listed."""
    return ", ".join(name for name, one in DATASETS.items() if getattr(one, fact))


def _check_sizes(options: DataOptions, training: AnyImageSet) -> None:
    side = min(training.shape[1:])
    for key, most in (("crop", side - 1), ("cutout", side)):
        value = getattr(options, key)
        if value is not None and value > most:
            raise UserError(f"data.{key}={value} is larger than images of {side} pixels allow; set {most} or less")
