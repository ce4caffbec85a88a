"""The only arithmetic of mixing: a composition applied to images and labels.

Masks are (B,G,G) bool, True = the cell keeps the row's own image, False = it takes the partner's.
pairing is (B,) integer: row b's partner is image pairing[b].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from evo.arrays import Array

INDICES_AT_ONCE = 12 * 1024  # 96 KiB: they stay in cache, and malloc asks the system for no fresh pages
WORDS = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}  # by their bytes


def compose(
    images: Tensor, masks: Tensor, pairing: Tensor, *, rows: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Mix images cell by cell.

    images: (B,C,H,W), any dtype, device and memory format; not changed. The result has the same, contiguous
    where the images are neither contiguous nor channels_last. Differentiable in the images, in reverse and forward
    mode; torch.func's transforms, vmap included, torch.compile and torch's tracers take it as they take torch's own
    functions (below vmap the result is contiguous).
    masks: (R,G,G) bool; pairing: (R,) integer. rows: (R,) integer, the own image of each result; without
    it row r's own image is image r, and R is B. out: (R,C,H,W), written to and returned.
    Where G does not divide H or W, cells differ by one pixel: pixel y lies in cell floor(y G / H).
    Raises ValueError where shapes or `out` do not fit; IndexError, on the CPU, where a row or a partner is
    not 0..B-1.
    """
    _check(images, masks, pairing, rows)
    if out is not None:
        _check_out(images, len(masks), out)
    masks, pairing = masks.to(images.device), pairing.to(images.device)
    rows = None if rows is None else rows.to(images.device)
    if _is_followed(images, masks, pairing, rows, out):
        mixed = _compose_by_expression(images, masks, pairing, rows)
        return mixed if out is None else out.copy_(mixed)
    return _compose_into_memory(images.detach(), masks, pairing, rows, out)


def image_targets(
    labels: Tensor, masks: Tensor, pairing: Tensor, num_classes: int, *, rows: Tensor | None = None
) -> Tensor:
    """Soft targets (R,K) float32: each image's label weighs its realised share of cells.

    labels: (B,) integer, or (B,K) one-hot or soft. rows: as for `compose`. Raises ValueError for labels of another
    shape, and for integers (B,1).
    """
    check_label_shape(labels)
    share = masks.flatten(1).mean(1, keepdim=True, dtype=torch.float32)  # (R,1): what the own image keeps
    own = labels if rows is None else _pick(labels, rows)
    other = _pick(labels, pairing)
    if labels.ndim == 2:
        return share * own.float() + (1 - share) * other.float()
    targets = torch.zeros(len(masks), num_classes, dtype=torch.float32, device=labels.device)
    targets = targets.scatter(1, own.long().unsqueeze(1), share)  # not in place, which vmap cannot map
    return targets.scatter_add(1, other.long().unsqueeze(1), 1 - share)


def cell_targets(labels: Tensor, masks: Tensor, pairing: Tensor, *, rows: Tensor | None = None) -> Tensor:
    """Hard targets (R,G,G): the label, of integer labels (B,), of the image each cell came from.

    Raises ValueError for other labels.
    """
    if labels.ndim != 1 or not is_integer(labels):
        raise ValueError(f"labels of cells must be integer (B,), got {labels.dtype} {tuple(labels.shape)}")
    own = labels if rows is None else _pick(labels, rows)
    return torch.where(masks, own.view(-1, 1, 1), _pick(labels, pairing).view(-1, 1, 1))


def check_label_shape(labels: Tensor) -> None:
    """Raises ValueError where labels are neither (B,) integers nor (B,K) one-hot or soft."""
    if labels.ndim == 2 and labels.shape[1] == 1 and not labels.is_floating_point():
        raise ValueError(
            f"labels (B,) must be integers without a second dimension, got {labels.dtype} {tuple(labels.shape)}; "
            "give labels.squeeze(1)"
        )
    if labels.ndim not in (1, 2) or labels.is_complex():
        raise ValueError(
            f"labels must be (B,) integers or (B,K) one-hot or soft, got {labels.dtype} {tuple(labels.shape)}"
        )
    if labels.ndim == 1 and not is_integer(labels):
        raise ValueError(f"labels (B,) must be integers, got {labels.dtype}; give labels.long(), or soft labels (B,K)")


def is_integer(tensor: Tensor) -> bool:
    """Whether its numbers are integers, which bool's are not."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def is_mapped(tensor: Tensor) -> bool:
    """Whether a torch.vmap runs over a dimension of it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return True
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return False


def is_traced() -> bool:
    """Whether torch.jit.trace writes down what is computed."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _is_followed(images: Tensor, *others: Tensor | None) -> bool:
    """Whether something follows what is computed, and would not see numbers that are moved in memory.

    That is autograd in either mode, torch.func's transforms, a compiler, a tracer, or tensors that hold no numbers.
    """
    if torch.compiler.is_compiling() or is_traced() or torch._C._len_torch_dispatch_stack():
        return True
    if images.requires_grad and torch.is_grad_enabled():
        return True
    return any(_is_wrapped(tensor) for tensor in (images, *others) if tensor is not None)


def _is_wrapped(tensor: Tensor) -> bool:
    return (
        torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.index_select(0, index if index.dtype in (torch.int32, torch.int64) else index.long())


def _check(images: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be (B,C,H,W), got {tuple(images.shape)}")
    if rows is not None and (rows.ndim != 1 or not is_integer(rows)):
        raise ValueError(f"rows must be integer (R,), got {rows.dtype} {tuple(rows.shape)}")
    count = len(images) if rows is None else len(rows)
    if masks.dtype != torch.bool or masks.ndim != 3 or masks.shape[1] != masks.shape[2] or len(masks) != count:
        raise ValueError(f"masks must be bool ({count},G,G), got {masks.dtype} {tuple(masks.shape)}")
    if pairing.shape != (count,) or not is_integer(pairing):
        raise ValueError(f"pairing must be integer ({count},), got {pairing.dtype} {tuple(pairing.shape)}")
    if not 1 <= masks.shape[1] <= min(images.shape[2:]):
        raise ValueError(
            f"a grid of {masks.shape[1]} does not fit images of {images.shape[2]}x{images.shape[3]}; "
            f"at least 1, at most {min(images.shape[2:])}"
        )


def _check_out(images: Tensor, count: int, out: Tensor) -> None:
    shape = (count, *images.shape[1:])
    if out.shape != shape or out.dtype != images.dtype or out.device != images.device:
        raise ValueError(
            f"out must be {tuple(shape)} {images.dtype} on {images.device}, "
            f"got {tuple(out.shape)} {out.dtype} on {out.device}"
        )
    if not _is_followed(images, out) and _overlap(images, out):
        raise ValueError("out shares memory with images, which are not to be changed; give it memory of its own")


def _overlap(first: Tensor, second: Tensor) -> bool:
    """Whether the spans of memory from first to last element meet."""

    def span(tensor: Tensor) -> tuple[int, int]:
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size() * bool(tensor.numel())

    (start, end), (other_start, other_end) = span(first), span(second)
    return start < other_end and other_start < end


def _starts(masks: Tensor, pairing: Tensor, rows: Tensor | None, count: int, step: int, dtype: torch.dtype) -> Tensor:
    """(R,G,G): where, in pieces, the image begins that each cell is taken from; `step` pieces make an image."""
    starts = torch.arange(0, count * step, step, dtype=dtype, device=masks.device)
    own = starts if rows is None else _pick(starts, rows)
    return torch.where(masks, own.view(-1, 1, 1), _pick(starts, pairing).view(-1, 1, 1))


def _cells(size: int, grid: int, device: torch.device) -> Tensor:
    """(size,): the cell of each pixel along a side."""
    return torch.arange(size, device=device) * grid // size


def _memory_format(images: Tensor, *others: Tensor | None) -> torch.memory_format:
    """That of the images; contiguous below vmap, where none can be told."""
    if not torch.compiler.is_compiling() and any(is_mapped(t) for t in (images, *others) if t is not None):
        return torch.contiguous_format
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _lines(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A view (B,L,H,X): the lines of pixels as they lie in memory, L = C, or 1 with the channels in X."""
    if memory_format == torch.contiguous_format:
        return images
    return images.permute(0, 2, 3, 1).flatten(2).unsqueeze(1)


def _images(lines: Tensor, shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    """Undo `_lines`: a view (R,C,H,W)."""
    if memory_format == torch.contiguous_format:
        return lines
    return lines.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)


def _compose_by_expression(images: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None) -> Tensor:
    """Differentiable and, compiled, one kernel: where G divides W, each pixel is read and written once."""
    grid = masks.shape[1]
    memory_format = _memory_format(images, masks, pairing, rows)
    if images.shape[3] % grid:
        return _select_pixels(images, masks, pairing, rows).contiguous(memory_format=memory_format)
    lines = _lines(images.contiguous(memory_format=memory_format), memory_format)
    index = _piece_index(lines.shape, masks, pairing, rows)
    pieces = lines.reshape(len(images) * (index.shape[1] * index.shape[2]), lines.shape[3] // grid)
    mixed = pieces.index_select(0, index.flatten()).view(len(masks), *lines.shape[1:])
    return _images(mixed, (len(masks), *images.shape[1:]), memory_format)


def _compose_into_memory(
    images: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None, out: Tensor | None
) -> Tensor:
    memory_format = _memory_format(images)
    images = images.contiguous(memory_format=memory_format)
    if out is not None and not out.requires_grad and out.is_contiguous(memory_format=memory_format):
        result = out
    else:
        shape = (len(masks), *images.shape[1:])
        result = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=memory_format)
    if result.numel():
        lines, result_lines = _lines(images, memory_format), _lines(result, memory_format)
        if images.shape[3] % masks.shape[1] == 0:
            _take_pieces(lines, masks, pairing, rows, result_lines)
        elif images.device.type == "cpu":
            _blend_bits(lines, masks, pairing, rows, result_lines, images.shape[3])
        else:
            result.copy_(_select_pixels(images, masks, pairing, rows))
    if out is None:
        return result
    if result is not out:
        return out.copy_(result)
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # numpy wrote to it, which a backward pass must learn
    return out


def _piece_index(shape: torch.Size, masks: Tensor, pairing: Tensor, rows: Tensor | None) -> Tensor:
    """(R,L,HG): for each piece of the result's lines, which of the (BLHG,X/G) pieces of lines (B,L,H,X) it is."""
    count, planes, height, _ = shape
    grid = masks.shape[1]
    per_image = planes * height * grid
    dtype = torch.int32 if count * per_image < 2**31 else torch.int64
    starts = _starts(masks, pairing, rows, count, per_image, dtype)
    if height % grid == 0:
        starts = starts.repeat_interleave(height // grid, 1)
    else:
        starts = starts.index_select(1, _cells(height, grid, masks.device))
    offsets = torch.arange(per_image, dtype=dtype, device=masks.device).view(planes, height * grid)
    return starts.view(-1, 1, height * grid) + offsets


def _take_pieces(lines: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None, result: Tensor) -> None:
    """Gather the pieces of lines that lie in one cell: memory is read and written once.

    lines: (B,L,H,X); result: (R,L,H,X). On the CPU this is several times faster than torch.where over pixels;
    on a GPU torch.where would read both images.
    """
    count, planes, height, _ = lines.shape
    per_image = planes * height * masks.shape[1]
    pieces = lines.reshape(count * per_image, -1)
    result_pieces = result.view(len(masks) * per_image, -1)
    if lines.device.type != "mps":  # it has no numbers of 16 bytes
        pieces, result_pieces = _in_large_words(pieces, result_pieces)
    # Alone, on one thread, numpy copies pieces of several words up to a quarter faster than torch does.
    alone = lines.device.type == "cpu" and torch.get_num_threads() == 1
    if not alone or pieces.ndim == 1:
        index = _piece_index(lines.shape, masks, pairing, rows).flatten()
        torch.index_select(pieces, 0, index, out=result_pieces)
    else:
        starts = _starts(masks, pairing, rows, count, per_image, torch.int64).numpy()
        starts = starts.take(np.arange(height) * masks.shape[1] // height, axis=1)
        _take_in_parts(pieces.numpy(), starts.reshape(len(masks), 1, -1), planes, result_pieces.numpy())


def _take_in_parts(pieces: Array, starts: Array, planes: int, result: Array) -> None:
    """starts: (R,1,HG) int64, of each piece of a result's first plane. result: (RLHG,w), written to."""
    per_image = planes * starts.shape[2]
    offsets = np.arange(per_image).reshape(planes, -1)
    at_once = max(1, INDICES_AT_ONCE // per_image)
    index = np.empty((at_once, *offsets.shape), np.int64)
    for first in range(0, len(starts), at_once):
        part = starts[first : first + at_once]
        np.add(part, offsets, out=index[: len(part)])
        into = result[first * per_image : (first + len(part)) * per_image]
        # mode="clip" because numpy would buffer what it may have to take back; `_starts` has checked the index.
        np.take(pieces, index[: len(part)].ravel(), axis=0, out=into, mode="clip")


def _select_pixels(images: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None) -> Tensor:
    """Any H and W of at least G."""
    height, width = images.shape[2:]
    pixels = masks.index_select(2, _cells(width, masks.shape[1], images.device))
    pixels = pixels.index_select(1, _cells(height, masks.shape[1], images.device)).unsqueeze(1)  # (R,1,H,W)
    own = images if rows is None else _pick(images, rows)
    return torch.where(pixels, own, _pick(images, pairing))


def _in_large_words(*pieces: Tensor) -> list[Tensor]:
    """The same memory (N,w) seen as fewer and larger numbers, which are copied faster."""
    width = pieces[0].shape[1] * pieces[0].element_size()
    starts = [piece.storage_offset() * piece.element_size() for piece in pieces]
    size = next(size for size in WORDS if not any(number % size for number in (width, *starts)))
    words = [piece.view(WORDS[size]) for piece in pieces]
    return [word.view(-1) for word in words] if width == size else words


def _blend_bits(lines: Tensor, masks: Tensor, pairing: Tensor, rows: Tensor | None, result: Tensor, width: int) -> None:
    """Cells of uneven width: own ^ ((own ^ other) & taken), bit by bit, 2 to 4 times faster than torch.where.

    lines: (B,L,H,X) with X a multiple of width; result: (R,L,H,X).
    """
    height, grid = lines.shape[2], masks.shape[1]
    word = WORDS[min(lines.element_size(), 8)]
    lines, result = lines.flatten(2).view(word), result.flatten(2).view(word)  # (B,L,HX)
    columns = _cells(width, grid, masks.device).repeat_interleave(lines.shape[2] // (height * width))
    taken = masks.to(torch.int8) - 1  # all bits set where the partner's pixels are taken
    taken = taken.index_select(2, columns).to(word).index_select(1, _cells(height, grid, masks.device))
    own = lines if rows is None else _pick(lines, rows)
    torch.index_select(lines, 0, pairing.long(), out=result)
    result.bitwise_xor_(own).bitwise_and_(taken.flatten(1).unsqueeze(1)).bitwise_xor_(own)
