"""What a run is of, and must be of again when it goes on: its images, classes and reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evo.errors import UserError
from training.data.identity import check_images
from training.data.image_set import AnyImageSet
from training.models.reference import reference_digest

IMAGES = {"images": "training images", "test": "test images"}  # digests; checkpoints of older versions have none


def describe_origin(training_set: AnyImageSet, test_set: AnyImageSet, reference: str) -> dict[str, Any]:
    """As a checkpoint holds it. reference: search.reference."""
    return {
        "image_shape": list(training_set.shape),
        "class_names": training_set.class_names,
        "training_images": len(training_set),
        "labels": hashlib.sha256(training_set.labels.cpu().numpy().tobytes()).hexdigest(),
        "images": training_set.identity(),
        "test": test_set.identity(),
        "reference": reference_digest(reference),
    }


def check_origin(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any], reference: str) -> None:
    """Raise UserError where a run's checkpoint is of other data, or was compared with another model.

    saved, now: what the checkpoint holds, and `describe_origin` says. reference: search.reference.
    """
    if saved["reference"] != now["reference"]:
        raise UserError(
            f"search.reference={reference}: that run has another checkpoint now than when this one began; restore it, or "
            "train anew"
        )
    if any(name in saved and saved[name] != value for name, value in now.items() if name not in IMAGES):
        raise UserError(
            f"{folder}: its checkpoint is of {saved['training_images']} training images {saved['image_shape']} of "
            f"{len(saved['class_names'])} classes, the data are {now['training_images']} {now['image_shape']} of "
            f"{len(now['class_names'])}, or other ones; restore the data it was trained on"
        )
    for name, what in IMAGES.items():
        check_images(str(folder), what, saved.get(name), now[name])
