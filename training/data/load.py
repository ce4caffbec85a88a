"""One call from options to the two image sets a run works with."""

from __future__ import annotations

from dataclasses import replace

import torch

from training.config import DataOptions, UserError, data_root
from training.data import ANY_SIZE, DATASETS
from training.data.image_set import AnyImageSet, subset_indices
from training.shelf import open_entry


def load_data(options: DataOptions) -> tuple[AnyImageSet, AnyImageSet]:
    """Training (its subset, if one is asked for) and test images, in the host's memory.

    Raises UserError where files are missing, and for options that would have no effect.
    """
    _check(options)
    training, test = open_entry(DATASETS, options.name, "data set")(options, data_root(options))
    _check_sizes(options, training)
    if options.subset is not None:
        training = training.select(subset_indices(training.labels, options, training.class_names))
    own = replace(training, cutout=options.cutout)
    if options.crop is not None:
        own = replace(own, crop=options.crop)
    if options.flip is not None:
        own = replace(own, flip=options.flip)
    return own, test


def place(images: AnyImageSet, device: torch.device, options: DataOptions) -> AnyImageSet:
    """The set with its batches on `device`; data.resident says where images in memory wait."""
    return images.to(device, options.resident)


def _check(options: DataOptions) -> None:
    if options.subset is None and (options.subset_start or options.subset_seed is not None):
        key = "subset_start" if options.subset_start else "subset_seed"
        raise UserError(f"data.{key} has no effect without data.subset, the number of training images per class")
    if options.image_size is not None and options.name not in ANY_SIZE:
        raise UserError(
            f"data.image_size={options.image_size}: images of {options.name} have one size; "
            f"leave it out, or take one of {', '.join(ANY_SIZE)}"
        )


def _check_sizes(options: DataOptions, training: AnyImageSet) -> None:
    side = min(training.shape[1:])
    for key, most in (("crop", side - 1), ("cutout", side)):
        value = getattr(options, key)
        if value is not None and value > most:
            raise UserError(f"data.{key}={value} is larger than images of {side} pixels allow; set {most} or less")
