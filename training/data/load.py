"""One call from options to the two image sets a run works with."""

from __future__ import annotations

from training.config import DataOptions, data_root
from training.data import DATASETS
from training.data.image_set import AnyImageSet, subset_indices
from training.shelf import open_entry


def load_data(options: DataOptions) -> tuple[AnyImageSet, AnyImageSet]:
    """Training (its subset, if one is asked for) and test images. Raises UserError where files are missing."""
    training, test = open_entry(DATASETS, options.name, "data set")(options, data_root(options))
    if options.subset is not None:
        training = training.select(subset_indices(training.labels, options, training.class_names))
    return training, test
