"""The query of the live model: rows of compositions -> their losses. It leaves the model unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evo.arrays import Array
from evo.search import Rows
from training.compose import cell_targets, compose, image_targets
from training.devices import send
from training.distributed import World
from training.losses import cell_losses, image_losses

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]

CPU_CHUNK = 128  # images per forward: 1.2 to 1.8 times faster than 512, whose activations leave the caches
CHECKED = 8  # images of either half of the independence check
# Share of the largest output by which outputs may differ from rounding alone (float32 on a GPU may be TF32).
TOLERANCES = {None: 2e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
INFLUENCE = "samples influence each other in evaluation mode"
RANDOM = "the same input gives different outputs in evaluation mode (dropout left on?)"


class Losses(NamedTuple):
    """Of R rows, float32, nats; what `Search.tell` takes. The reference's are None where none was asked."""

    cells: Array  # (R,G,G)
    images: Array  # (R,)
    reference_cells: Array | None = None
    reference_images: Array | None = None


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rows: Rows,
    *,
    reference: nn.Module | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    chunk: int = 500,
    autocast: torch.dtype | None = None,
    channels_last: bool | None = None,
    forward: Forward | None = None,
) -> Losses:
    """Losses of R rows under the model's present weights, in evaluation mode.

    model: images -> (image logits (B,K), cell logits (B,G,G,K)). images: (B,C,H,W); labels: (B,) int64, on
    the model's device. rows: R rows over this batch. reference: another such model, given the same composed
    rows. prepare: mixed images -> model input (scaling). chunk: images per forward. autocast: dtype to
    compute in. channels_last: the input's memory format; None leaves it as it comes. forward: called in the
    model's place, e.g. torch.compile(model); the last chunk is then filled up, so that one shape is compiled.
    Losses that are not finite are returned as they are. Parameters, buffers, gradients, modes and random
    states of both models are as before.
    """
    device = images.device
    count = len(rows.image)
    grid = rows.masks.shape[1]
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    forwards: list[Forward] = [model if forward is None else forward]  # a compiled model has no truth value
    if reference is not None:
        forwards.append(reference)
    filled = -(-count // chunk) * chunk - count if forward is not None else 0
    own, partner = (_sent(array.astype(np.int64), filled, device) for array in (rows.image, rows.partner))
    masks = _sent(rows.masks, filled, device)
    losses = torch.empty(
        len(forwards), count, grid * grid + 1, dtype=torch.float32, device=device
    )  # cells, then the image
    with evaluating(model), evaluating(reference), torch.no_grad(), no_random_trace(device):
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            mixed = compose(images, masks[part], partner[part], rows=own[part])
            inputs = as_input(mixed, prepare, channels_last)
            cell_labels = cell_targets(labels, masks[part], partner[part], rows=own[part])
            for measured, call in zip(losses[:, part], forwards, strict=True):
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    image_logits, cell_logits = call(inputs)
                targets = image_targets(labels, masks[part], partner[part], image_logits.shape[1], rows=own[part])
                wanted = len(measured)  # without what filled the chunk up
                measured[:, :-1] = cell_losses(cell_logits, cell_labels).flatten(1)[:wanted]
                measured[:, -1] = image_losses(image_logits, targets)[:wanted]
    found = losses.cpu().numpy()  # the one time that the device is waited for
    parts = [
        part
        for whole in found
        for part in (np.ascontiguousarray(whole[:, :-1]).reshape(count, grid, grid), whole[:, -1].copy())
    ]
    return Losses(*parts)


def gather_losses(found: Losses, world: World, count: int, device: torch.device, unit: int = 1) -> Losses:
    """The losses of all rows, from each process's share of them.

    found: those of this process's share. count: how many there are to share, each of `unit` rows. device: where the
    processes exchange tensors.
    """
    if world.size == 1:
        return found
    # One message: (rows of mine, N) with all losses of a row side by side, N = G^2 + 1 for either model.
    parts = [part for part in found if part is not None]
    widths = [math.prod(part.shape[1:]) for part in parts]
    flat = np.concatenate([part.reshape(-1, width) for part, width in zip(parts, widths, strict=True)], axis=1)
    message = torch.from_numpy(flat).to(device).view(len(flat) // unit, unit * sum(widths))
    whole = world.gather(message, count).cpu().numpy().reshape(count * unit, sum(widths))
    columns = np.split(whole, np.cumsum(widths)[:-1], axis=1)
    return Losses(*(column.reshape(-1, *part.shape[1:]) for column, part in zip(columns, parts, strict=True)))


def as_input(images: Tensor, prepare: Callable[[Tensor], Tensor] | None, channels_last: bool | None) -> Tensor:
    """What a model is given for images, in the memory format that is asked for; None leaves it as it comes."""
    inputs = images if prepare is None else prepare(images)
    if channels_last is None:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def check_independence(
    model: nn.Module,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor] | None = None,
    autocast: torch.dtype | None = None,
) -> str | None:
    """Whether a sample's outputs in evaluation mode are its own: None, or a line that says what was seen.

    images: (B,C,H,W), of which a few are forwarded, twice in one company and then in another place and
    company. Losses carried with rows are true only of models that pass. The model and the random states
    are as before.
    """
    half = min(CHECKED, max(1, len(images) // 2))
    some = images[:half]
    company = images[len(images) - half :]
    strangers = company.amax() + company.amin() - company  # as unlike the company as its range allows
    together = torch.cat([some, company])
    parted = torch.cat([strangers, some.flip(0)])

    def outputs(batch: Tensor) -> Tensor:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            logits = model(batch if prepare is None else prepare(batch))
        return torch.cat([part.float().flatten(1) for part in logits], dim=1)

    with evaluating(model), torch.no_grad(), no_random_trace(images.device):
        first, second = outputs(together)[:half], outputs(together)[:half]
        elsewhere = outputs(parted)[half:].flip(0)
    allowed = TOLERANCES[autocast] * first.abs().amax()
    if ((first - second).abs() > allowed).any():
        return RANDOM
    if ((first - elsewhere).abs() > allowed).any():
        return INFLUENCE
    return None


def _sent(array: Array, filled: int, device: torch.device) -> Tensor:
    """An array on the device, with `filled` copies of its first entry at its end."""
    if filled and len(array):
        array = np.concatenate([array, np.broadcast_to(array[:1], (filled, *array.shape[1:]))])
    return send(torch.from_numpy(np.require(array, requirements=["C", "W"])), device)


def no_random_trace(device: torch.device) -> AbstractContextManager[None]:
    """Whatever a model on `device` draws inside, nobody outside notices."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def evaluating(model: nn.Module | None) -> Iterator[None]:
    """Inside, a model is in evaluation mode; behind, each of its modules in its own again."""
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    if model is not None:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
