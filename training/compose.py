"""The only arithmetic of mixing: a composition applied to images and labels.

Masks are (B,G,G) bool, True = the cell keeps the row's own image, False = it takes the partner's.
pairing is (B,) integer: row b's partner is image pairing[b].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def compose(
    images: Tensor, masks: Tensor, pairing: Tensor, *, rows: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Mix images cell by cell.

    images: (B,C,H,W), any dtype, device and memory format, which the result keeps; not changed.
    masks: (R,G,G) bool; pairing: (R,) integer. rows: (R,) integer, the own image of each result; without
    it row r's own image is image r, and R is B. out: (R,C,H,W), written to and returned.
    Where G does not divide H or W, cells differ by one pixel: pixel y lies in cell floor(y G / H).
    Raises ValueError where shapes do not fit.
    """
    _check(images, masks, pairing, rows)
    own = torch.arange(len(images), device=images.device) if rows is None else rows.to(images.device)
    masks, pairing = masks.to(images.device), pairing.to(images.device)
    grid = masks.shape[1]
    source = torch.where(masks, own.view(-1, 1, 1), pairing.view(-1, 1, 1))  # (R,G,G): the image of each cell
    height, width = images.shape[2:]
    if height % grid == 0 and width % grid == 0:
        # Rows of pixels of one cell lie together in memory: on CPU, gathering such pieces is several times
        # faster than torch.where over pixels.
        if images.is_contiguous():
            return _gather_pieces(images, source, out)
        if images.is_contiguous(memory_format=torch.channels_last):
            return _gather_pieces_channels_last(images, source, out)
    mixed = _select_pixels(images, own, pairing, masks)
    return mixed if out is None else out.copy_(mixed)


def image_targets(
    labels: Tensor, masks: Tensor, pairing: Tensor, num_classes: int, *, rows: Tensor | None = None
) -> Tensor:
    """Soft targets (R,K) float32: each image's label weighs its realised share of cells.

    labels: (B,) integer, or (B,K) floating (one-hot or soft). rows: as for `compose`.
    """
    dense = (labels if labels.ndim == 2 else F.one_hot(labels.long(), num_classes)).float()
    own = dense if rows is None else dense.index_select(0, rows)
    share = masks.flatten(1).float().mean(1, keepdim=True)  # (R,1): what the own image keeps
    return share * own + (1 - share) * dense.index_select(0, pairing)


def cell_targets(labels: Tensor, masks: Tensor, pairing: Tensor, *, rows: Tensor | None = None) -> Tensor:
    """Hard targets (R,G,G): the label, of labels (B,), of the image each cell came from."""
    own = labels if rows is None else labels.index_select(0, rows)
    return torch.where(masks, own.view(-1, 1, 1), labels.index_select(0, pairing).view(-1, 1, 1))


def _check(images: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None) -> None:
    count = len(images) if rows is None else len(rows)
    if images.ndim != 4:
        raise ValueError(f"images must be (B,C,H,W), got {tuple(images.shape)}")
    if masks.dtype != torch.bool or masks.ndim != 3 or masks.shape[1] != masks.shape[2] or len(masks) != count:
        raise ValueError(f"masks must be bool ({count},G,G), got {masks.dtype} {tuple(masks.shape)}")
    if pairing.shape != (count,) or pairing.is_floating_point() or pairing.dtype == torch.bool:
        raise ValueError(f"pairing must be integer ({count},), got {pairing.dtype} {tuple(pairing.shape)}")
    if masks.shape[1] > min(images.shape[2:]):
        raise ValueError(
            f"a grid of {masks.shape[1]} does not fit images of {images.shape[2]}x{images.shape[3]}; "
            f"at most {min(images.shape[2:])}"
        )


def _gather_pieces(images: Tensor, source: Tensor, out: Tensor | None) -> Tensor:
    """images (B,C,H,W) contiguous; source (R,G,G): the image each cell is taken from."""
    channels, height, width = images.shape[1:]
    count, grid = source.shape[:2]
    line = source.repeat_interleave(height // grid, 1).view(count, 1, height, grid)
    plane = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    row = torch.arange(height, device=images.device).view(1, 1, height, 1)
    column = torch.arange(grid, device=images.device)
    piece = ((line * channels + plane) * height + row) * grid + column  # (R,C,H,G)
    result = images.new_empty(count, channels, height, width) if out is None else out
    _index_pieces(images.view(-1, width // grid), piece, result)
    return result


def _gather_pieces_channels_last(images: Tensor, source: Tensor, out: Tensor | None) -> Tensor:
    """The same for images whose channels lie innermost in memory."""
    channels, height, width = images.shape[1:]
    count, grid = source.shape[:2]
    line = source.repeat_interleave(height // grid, 1)  # (R,H,G)
    row = torch.arange(height, device=images.device).view(1, height, 1)
    piece = (line * height + row) * grid + torch.arange(grid, device=images.device)
    result = out
    if result is None:
        result = images.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
    _index_pieces(images.permute(0, 2, 3, 1).reshape(-1, width // grid * channels), piece, result.permute(0, 2, 3, 1))
    return result


def _index_pieces(pieces: Tensor, index: Tensor, result: Tensor) -> None:
    if result.is_contiguous():
        torch.index_select(pieces, 0, index.flatten(), out=result.view(-1, pieces.shape[1]))
    else:
        result.copy_(pieces.index_select(0, index.flatten()).view(result.shape))


def _select_pixels(images: Tensor, own: Tensor, pairing: Tensor, masks: Tensor) -> Tensor:
    """Any H and W of at least G."""
    height, width = images.shape[2:]
    grid = masks.shape[1]
    rows = torch.arange(height, device=images.device) * grid // height
    columns = torch.arange(width, device=images.device) * grid // width
    pixels = masks.index_select(1, rows).index_select(2, columns).unsqueeze(1)  # (R,1,H,W)
    mixed = torch.where(pixels, images.index_select(0, own), images.index_select(0, pairing.long()))
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        return mixed.contiguous(memory_format=torch.channels_last)
    return mixed.contiguous()
