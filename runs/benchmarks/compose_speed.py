"""`./run bench compose`: mixing a batch, with soft labels, against copying it and against the peers.

Milliseconds; medians and minima of rounds over all contestants, in another order each round. On a GPU where
there is one, else on the CPU with one thread and with two. Except for the row PatchMix ours draws nothing: masks
and pairings are given, as the peers' draws of one box cost microseconds.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor

from runs.benchmarks import package_version, row
from training.compose import compose, image_targets
from training.mixes.patchmix import PatchMix

SHAPES = {"128x3x32x32": (128, 3, 32, 32), "128x3x64x64": (128, 3, 64, 64), "64x3x224x224": (64, 3, 224, 224)}
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}
CLASSES = 100
OURS, FLOOR = "compose(out=)", "out.copy_(x)"
# Names of peers and the packages they need; kornia's PatchMix (one pasted square) makes no labels.
PEERS = {
    "torchvision CutMix": "torchvision",
    "torchvision MixUp": "torchvision",
    "timm CutMix (batch)": "timm",
    "timm CutMix (elem)": "timm",
    "timm Mixup (batch)": "timm",
    "kornia RandomCutMixV2": "kornia",
    "kornia PatchMix, no labels": "kornia",
}
FLOATS_ONLY = ("torchvision MixUp", "timm Mixup (batch)", "kornia RandomCutMixV2", "kornia PatchMix, no labels")
COPIES = {"cpu": 3.0, "cuda": 1.5}  # the time of how many copies compose(out=) may take


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}")
    rows, ratios = [], []
    for threads in (1, 2) if device.type == "cpu" and (os.cpu_count() or 1) > 1 else (1,):
        where = "GPU" if device.type == "cuda" else f"{threads} thread" + "s" * (threads > 1)
        with _threads(threads):
            for name, shape in SHAPES.items():
                for dtype in DTYPES:
                    case = f"{name} {dtype}, {where}"
                    times = _interleaved(_contestants(shape, DTYPES[dtype], device), seconds=0.5 if quick else 8.0)
                    rows += [row(case, peer, values, "ms", PEERS.get(peer, "torch")) for peer, values in times.items()]
                    rows += [row(case, peer, None, "ms", PEERS[peer]) for peer in _missing(dtype)]
                    targets = _targets(shape, dtype, device)
                    ours = median(times[OURS])
                    ratios += [
                        {"case": case, "over": peer, "value": median(values) / ours, "target": targets.get(peer)}
                        for peer, values in times.items()
                        if peer != OURS
                    ]
    return rows, ratios


def _targets(shape: tuple[int, ...], dtype: str, device: torch.device) -> dict[str, float]:
    """What is asked of float32 images, with their soft labels: peer -> its time over ours."""
    if dtype != "float32":
        return {}
    copies = {FLOOR: 1 / COPIES[device.type]} if shape[2] >= 224 or device.type == "cuda" else {}
    return copies | {"torchvision CutMix" if shape[2] < 64 else "timm CutMix (batch)": 1.0}


def _missing(dtype: str) -> list[str]:
    wanted = [peer for peer in PEERS if dtype == "float32" or peer not in FLOATS_ONLY]
    return [peer for peer in wanted if package_version(PEERS[peer]) is None]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _contestants(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Any]]:
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(shape, generator=generator)).to(dtype).to(device)
    labels = torch.randint(CLASSES, (shape[0],), generator=generator).to(device)
    grid = 7 if shape[2] == 224 else 4
    masks = (torch.rand(shape[0], grid, grid, generator=generator) < 0.5).to(device)
    pairing = torch.randperm(shape[0], generator=generator).to(device)
    out = torch.empty_like(images)
    patchmix = PatchMix(num_classes=CLASSES, grid=grid)

    def ours(into: Tensor | None = None, mix: Callable[..., Tensor] = compose) -> None:
        mix(images, masks, pairing, out=into)
        image_targets(labels, masks, pairing, CLASSES)

    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(out),
        "compose": ours,
        "PatchMix": lambda: patchmix(images, labels),
        FLOOR: lambda: out.copy_(images),
        "x.clone()": images.clone,
    }
    if device.type == "cuda":  # compiling takes its time, and on the CPU wins nothing
        compiled = torch.compile(compose, fullgraph=True, dynamic=False)
        found["compose(out=), compiled"] = lambda: ours(out, compiled)
    name = "float32" if dtype == torch.float32 else "uint8"
    left_out = (*_missing(name), *(() if name == "float32" else FLOATS_ONLY))
    found |= {peer: call for peer, call in _peers(images, labels).items() if peer not in left_out}
    return {peer: _awaited(call, device) for peer, call in found.items()}


def _peers(images: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    from torchvision.transforms import v2

    cutmix, mixup = v2.CutMix(num_classes=CLASSES), v2.MixUp(num_classes=CLASSES)
    peers: dict[str, Callable[[], Any]] = {
        "torchvision CutMix": lambda: cutmix(images, labels),
        "torchvision MixUp": lambda: mixup(images, labels),
    }
    if package_version("timm") is not None:
        from timm.data import Mixup

        spare = images.clone()  # timm writes into its input
        batch, element = (
            Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, mode=mode, label_smoothing=0.0, num_classes=CLASSES)
            for mode in ("batch", "elem")
        )
        blend = Mixup(mixup_alpha=1.0, mode="batch", label_smoothing=0.0, num_classes=CLASSES)
        peers["timm CutMix (batch)"] = lambda: batch(spare, labels)
        peers["timm CutMix (elem)"] = lambda: element(spare, labels)
        peers["timm Mixup (batch)"] = lambda: blend(spare, labels)
    if package_version("kornia") is not None:
        from kornia.augmentation import PatchMix as Square
        from kornia.augmentation import RandomCutMixV2

        boxes = RandomCutMixV2(data_keys=["input", "class"], use_correct_lambda=True)
        square = Square(patch_size=min(16, images.shape[2]))
        peers["kornia RandomCutMixV2"] = lambda: boxes(images, labels)
        peers["kornia PatchMix, no labels"] = lambda: square(images)
    return peers


def _awaited(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    if device.type != "cuda":
        return call

    def awaited() -> None:
        call()
        torch.cuda.synchronize()

    return awaited


def _interleaved(contestants: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each, in rounds, for about `seconds` in all and at least five rounds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    shuffle = random.Random(0).shuffle
    for call in contestants.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[OURS]) < 5:
        shuffle(order)
        for name in order:
            contestants[name]()  # or a time would depend on who came before, and on which peers are installed
            began = time.perf_counter()
            contestants[name]()
            times[name].append(1000 * (time.perf_counter() - began))
    return times
