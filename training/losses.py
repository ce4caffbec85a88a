"""The two losses: of images against soft targets, of cells against the label each came from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def image_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (B,) in nats of logits (B,K) against soft targets (B,K)."""
    return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)


def cell_losses(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (B,G,G) in nats of cell logits (B,G,G,K) against hard targets (B,G,G), any integers."""
    flat = F.cross_entropy(
        logits.float().flatten(0, 2), targets.flatten().long(), reduction="none", label_smoothing=label_smoothing
    )
    return flat.view(targets.shape)
