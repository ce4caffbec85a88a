"""The query of the live model: rows of compositions -> their losses. It leaves the model unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.search import Rows
from training.compose import cell_targets, compose, image_targets
from training.losses import cell_losses, image_losses

Array = NDArray[Any]


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rows: Rows,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    chunk: int = 500,
    autocast: torch.dtype | None = None,
) -> tuple[Array, Array]:
    """Losses of R rows under the model's present weights, in evaluation mode.

    model: images -> (image logits (B,K), cell logits (B,G,G,K)). images: (B,C,H,W); labels: (B,) int64, on
    the model's device. rows: R rows over this batch. prepare: mixed images -> model input (scaling).
    chunk: images per forward. autocast: dtype to compute in.
    Returns cell losses (R,G,G) and image losses (R,), float32, nats. Parameters, buffers, gradients, modes
    and random states are as before.
    """
    device = images.device
    grid = rows.masks.shape[1]
    cells: list[Tensor] = []
    wholes: list[Tensor] = []
    with _evaluation(model), torch.no_grad():
        for start in range(0, len(rows.image), chunk):
            part = slice(start, start + chunk)
            own = torch.from_numpy(rows.image[part].astype(np.int64)).to(device)
            partner = torch.from_numpy(rows.partner[part].astype(np.int64)).to(device)
            masks = torch.from_numpy(rows.masks[part]).to(device)
            mixed = compose(images, masks, partner, rows=own)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                image_logits, cell_logits = model(mixed if prepare is None else prepare(mixed))
            targets = image_targets(labels, masks, partner, image_logits.shape[1], rows=own)
            wholes.append(image_losses(image_logits, targets))
            cells.append(cell_losses(cell_logits, cell_targets(labels, masks, partner, rows=own)))
    if not cells:
        return np.zeros((0, grid, grid), np.float32), np.zeros(0, np.float32)
    return torch.cat(cells).cpu().numpy(), torch.cat(wholes).cpu().numpy()


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
