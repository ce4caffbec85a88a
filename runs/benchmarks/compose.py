"""`./run bench compose`: mixing a batch, with soft labels, against copying it and against the peers.

One thread, rounds interleaved over all contestants, medians and minima in milliseconds. Ours draws nothing:
masks and pairings are given, as the peers' draws cost microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from runs.benchmarks import package_version, row
from training.compose import compose, image_targets

SHAPES = {"128x3x32x32": (128, 3, 32, 32), "128x3x64x64": (128, 3, 64, 64), "64x3x224x224": (64, 3, 224, 224)}
CLASSES = 100
OURS = "compose(out=)"
TARGETS = {"torchvision CutMix": 1.0, "timm CutMix (batch)": 1.0}


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, ratios = [], []
        for case, shape in SHAPES.items():
            times = _interleaved(_contestants(shape), seconds=1.5 if quick else 8.0)
            rows += [row(case, name, values, "ms", _package(name)) for name, values in times.items()]
            rows += [row(case, name, None, "ms", _package(name)) for name in _missing()]
            ours = median(times[OURS])
            ratios += [
                {"case": case, "over": name, "value": median(values) / ours, "target": TARGETS.get(name)}
                for name, values in times.items()
                if name != OURS
            ]
        return rows, ratios
    finally:
        torch.set_num_threads(threads)


def _contestants(shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    from torchvision.transforms import v2

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator)
    labels = torch.randint(CLASSES, (shape[0],), generator=generator)
    grid = 7 if shape[2] == 224 else 4
    masks = torch.rand(shape[0], grid, grid, generator=generator) < 0.5
    pairing = torch.randperm(shape[0], generator=generator)
    out = torch.empty_like(images)
    cutmix, mixup = v2.CutMix(num_classes=CLASSES), v2.MixUp(num_classes=CLASSES)

    def ours(out: Tensor | None = None) -> None:
        compose(images, masks, pairing, out=out)
        image_targets(labels, masks, pairing, CLASSES)

    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(out),
        "compose": ours,
        "out.copy_(x)": lambda: out.copy_(images),
        "x.clone()": images.clone,
        "torchvision CutMix": lambda: cutmix(images, labels),
        "torchvision MixUp": lambda: mixup(images, labels),
    }
    if not _missing():
        from timm.data import Mixup

        spare = images.clone()  # timm writes into its input
        batch = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, mode="batch", label_smoothing=0.0, num_classes=CLASSES)
        element = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, mode="elem", label_smoothing=0.0, num_classes=CLASSES)
        found["timm CutMix (batch)"] = lambda: batch(spare, labels)
        found["timm CutMix (elem)"] = lambda: element(spare, labels)
    return found


def _interleaved(contestants: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each, in rounds, for about `seconds` in all."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[OURS]) < 5:
        for name, call in contestants.items():
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began))
    return times


def _package(name: str) -> str:
    return name.split()[0] if name.startswith(("torchvision", "timm")) else "torch"


def _missing() -> list[str]:
    return ["timm CutMix (batch)", "timm CutMix (elem)"] if package_version("timm") is None else []
