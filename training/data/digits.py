"""Handwritten digits: 1,797 real 8x8 images that come inside scikit-learn, so nothing is downloaded.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. The file runs writer by writer;
its last 360 images are the test set, so that test writers are mostly not training writers.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from evo.errors import UserError
from training.data.image_set import ImageSet
from training.options import DataOptions

TEST_IMAGES = 360


def load(options: DataOptions, root: Path) -> tuple[ImageSet, ImageSet]:
    """Training (1,437) and test (360) digits. `root` plays no part."""
    # Reading the package's file takes 0.02 s, importing sklearn 4 s.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("data.name=digits: scikit-learn is not installed; run `./run` once to install it")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    grey = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
    images = torch.from_numpy(grey.reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(table[:, -1])
    names = [str(digit) for digit in range(10)]
    return (
        ImageSet(images[:-TEST_IMAGES], labels[:-TEST_IMAGES], names),
        ImageSet(images[-TEST_IMAGES:], labels[-TEST_IMAGES:], names),
    )
