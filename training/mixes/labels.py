"""What labels may be mixed, and their smoothing."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from training.compose import check_label_shape, is_integer


def checked_labels(labels: Tensor, num_classes: int | None) -> tuple[Tensor, int]:
    """Labels that `compose` can mix, (B,) int64 or (B,K) as they are, and K. Raises ValueError for others.

    Values are looked at on the CPU only: on another device this would wait for it, and there torch's own index check
    speaks.
    """
    check_label_shape(labels)
    return _checked_rows(labels, num_classes) if labels.ndim == 2 else _checked_integers(labels, num_classes)


def _checked_rows(labels: Tensor, num_classes: int | None) -> tuple[Tensor, int]:
    if num_classes not in (None, labels.shape[1]):
        raise ValueError(f"num_classes is {num_classes}, labels have {labels.shape[1]} columns")
    if not labels.shape[1]:
        raise ValueError(f"labels (B,K) need a column for each class, got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and len(labels):
        if labels.is_floating_point() and not labels.isfinite().all():
            raise ValueError("soft labels (B,K) must be finite, got NaN or infinity among them")
        if is_integer(labels) and not ((labels == 0) | (labels == 1)).all():
            low, high = _range(labels)
            raise ValueError(f"integer labels (B,K) must be one-hot, of 0 and 1, got {low}..{high}")
    return labels, labels.shape[1]


def _checked_integers(labels: Tensor, num_classes: int | None) -> tuple[Tensor, int]:
    if num_classes is None:
        raise ValueError("integer labels need num_classes: PatchMix(num_classes=...)")
    if labels.device.type == "cpu" and len(labels):
        low, high = _range(labels)
        if not 0 <= low <= high < num_classes:
            hint = "; leave images without a label (an ignore_index) out of the batch" if low < 0 else ""
            raise ValueError(f"labels must be 0..{num_classes - 1}, got {low}..{high}{hint}")
    return labels.long(), num_classes


def _range(labels: Tensor) -> tuple[int, int]:
    low, high = labels.long().aminmax()  # torch has none of uint16 to uint64
    return int(low), int(high)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """(1 - smoothing) x targets + smoothing / K, of targets (B,K).

    Szegedy et al., Rethinking the Inception Architecture, CVPR 2016; what timm's Mixup and torch's cross_entropy do.
    """
    if not smoothing:
        return targets
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def check_share(name: str, value: object, *, below_one: bool = False) -> None:
    """Raises ValueError where an option is not a number 0..1, or is 1 where it has to be below."""
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not number or not 0 <= float(value) <= 1 or (below_one and value == 1):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be 0..1{' and below 1' if below_one else ''}, got {value!r}")
