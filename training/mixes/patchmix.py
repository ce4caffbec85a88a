"""PatchMix as a batch transform, for anyone's training loop. It needs nothing of our trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evo.bank import PatternBank
from evo.operators import MASK_SAMPLERS
from training.compose import compose, image_targets


class PatchMix:
    """A batch transform: (images, labels) -> (mixed images, soft labels), like torchvision's CutMix.

    num_classes: K, needed where labels are integers and no bank says it. grid: G. probability: that a call mixes; other calls
    return the images untouched. sampler: a name in MASK_SAMPLERS. bank: a pattern file (or PatternBank) to
    draw masks and pairings from instead; it wants integer labels. generator: a CPU torch.Generator;
    without one, draws follow torch's global generator, so workers and seeds differ as torch's do.

    images: (B,C,H,W), any dtype, device and memory format, not changed; H and W of at least G.
    labels: (B,) integer, or (B,K) floating (one-hot or soft). Returns images like the given ones and soft
    labels (B,K) float32; with return_composition=True also masks (B,G,G) bool, True = the cell keeps the
    row's own image, and the pairing (B,). Raises ValueError where values do not fit.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        grid: int = 4,
        probability: float = 1.0,
        sampler: str = "bernoulli",
        bank: PatternBank | Path | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if grid < 1:
            raise ValueError(f"grid must be at least 1, got {grid}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be 0..1, got {probability}")
        if sampler not in MASK_SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(MASK_SAMPLERS)}")
        self.bank = PatternBank.load(bank) if isinstance(bank, str | Path) else bank
        self.grid = grid if self.bank is None else self.bank.grid
        if num_classes is None and self.bank is not None:
            num_classes = self.bank.num_classes
        self.num_classes, self.probability, self.generator = num_classes, probability, generator
        self.sampler = MASK_SAMPLERS[sampler]

    def __call__(self, images: Tensor, labels: Tensor, return_composition: bool = False) -> tuple[Tensor, ...]:
        num_classes = self._check(images, labels)
        mixes = bool(torch.rand((), generator=self.generator) < self.probability)
        if mixes:
            masks, pairing = self.draw(labels)
            masks, pairing = masks.to(images.device), pairing.to(images.device)
            images = compose(images, masks, pairing)
        else:
            masks = torch.ones(len(images), self.grid, self.grid, dtype=torch.bool, device=images.device)
            pairing = torch.arange(len(images), device=images.device)
        targets = image_targets(labels, masks, pairing, num_classes)
        return (images, targets, masks, pairing) if return_composition else (images, targets)

    def draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A composition for a batch of `labels`: masks (B,G,G) bool and a pairing (B,) int64, on the CPU."""
        seed = torch.randint(2**63 - 1, (), generator=self.generator)
        rng = np.random.default_rng(int(seed))
        if self.bank is None:
            masks = self.sampler(len(labels), self.grid, rng)
            pairing = rng.permutation(len(labels))
        else:
            masks, pairing = self.bank.draw(labels.cpu().numpy(), rng)
        return torch.from_numpy(masks), torch.from_numpy(pairing.astype(np.int64))

    def _check(self, images: Tensor, labels: Tensor) -> int:
        if images.ndim != 4 or len(images) != len(labels) or labels.ndim not in (1, 2):
            raise ValueError(
                "expected images (B,C,H,W) with labels (B,) or (B,K), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if labels.ndim == 2:
            if self.bank is not None:
                raise ValueError(f"a bank pairs by class and needs integer labels (B,), got {tuple(labels.shape)}")
            if self.num_classes not in (None, labels.shape[1]):
                raise ValueError(f"num_classes is {self.num_classes}, labels have {labels.shape[1]} columns")
            return labels.shape[1]
        if self.num_classes is None:
            raise ValueError("integer labels need num_classes: PatchMix(num_classes=...)")
        if labels.is_floating_point():
            raise ValueError(f"labels (B,) must be integers, got {labels.dtype}")
        # On another device this look would wait for it; there torch's own index check speaks.
        if (
            labels.device.type == "cpu"
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            raise ValueError(f"labels must be 0..{self.num_classes - 1}, got {int(labels.min())}..{int(labels.max())}")
        return self.num_classes
