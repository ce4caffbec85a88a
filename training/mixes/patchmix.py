"""PatchMix as a batch transform, for anyone's training loop. It needs nothing of our trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from evo.bank import PatternBank
from evo.operators import MASK_SAMPLERS
from training.compose import compose, image_targets
from training.devices import sent


class PatchMix:
    """A batch transform: (images, labels) -> (mixed images, soft labels), like torchvision's CutMix.

    num_classes: K, needed where labels are integers and no bank says it. grid: G, which a bank overrules.
    probability: that a call mixes; other calls return the very images given. sampler: a name in MASK_SAMPLERS.
    bank: a pattern file (or PatternBank) to draw masks and pairings from instead; it pairs by class, wants
    integer labels, and waits for them where they lie on a GPU. generator: a CPU torch.Generator; without one,
    draws follow torch's global generator. In a DataLoader's workers the worker's seed decides beside it, so
    that workers and epochs differ. mixup_enabled: an attribute; False switches mixing off, as timm's loop does.

    Call it with images and labels, or with one pair of them. images: (B,C,H,W), any dtype, device and memory
    format, not changed; H and W of at least G. labels: (B,) integer, or (B,K) one-hot or soft. Returns images
    like the given ones and soft labels (B,K) float32; with return_composition=True also masks (B,G,G) bool,
    True = the cell keeps the row's own image, and the pairing (B,) int64. Raises ValueError where values do not
    fit; whether labels are 0..K-1 is looked at on the CPU only.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        grid: int = 4,
        probability: float = 1.0,
        sampler: str = "box",
        bank: PatternBank | Path | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_count("grid", grid)
        if num_classes is not None:
            _check_count("num_classes", num_classes)
        _check_probability(probability)
        if not isinstance(sampler, str) or sampler not in MASK_SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(MASK_SAMPLERS)}")
        if generator is not None and (not isinstance(generator, torch.Generator) or generator.device.type != "cpu"):
            raise ValueError(f"generator must be a torch.Generator on the CPU, got {generator!r}")
        self.bank = _opened(bank, num_classes)
        self.grid = grid if self.bank is None else self.bank.grid
        self.num_classes = num_classes if self.bank is None else self.bank.num_classes
        self.probability, self.sampler, self.generator = probability, sampler, generator
        self.mixup_enabled = True
        self._worker: tuple[int, torch.Generator] | None = None  # a worker's seed and the generator made of it

    def __call__(
        self,
        images: Tensor | tuple[Tensor, Tensor] | list[Tensor],
        labels: Tensor | None = None,
        return_composition: bool = False,
    ) -> tuple[Tensor, ...]:
        if labels is None and isinstance(images, tuple | list) and len(images) == 2:
            images, labels = images
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(f"expected tensors of images and labels, got {_kind(images)} and {_kind(labels)}")
        num_classes = self._check(images, labels)
        mixes = self.mixup_enabled and len(images) and torch.rand((), generator=self._generator()) < self.probability
        on_cpu = self.draw(labels) if mixes else self._unmixed(len(images))
        masks, pairing = (sent(part, images.device) for part in on_cpu)
        if mixes:
            images = compose(images, masks, pairing)
        same = labels.device == images.device
        kept, partner = (masks, pairing) if same else (sent(part, labels.device) for part in on_cpu)
        targets = image_targets(labels, kept, partner, num_classes)
        return (images, targets, masks, pairing) if return_composition else (images, targets)

    def _unmixed(self, count: int) -> tuple[Tensor, Tensor]:
        return torch.ones(count, self.grid, self.grid, dtype=torch.bool), torch.arange(count)

    def draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A composition for a batch of `labels`: masks (B,G,G) bool and a pairing (B,) int64, on the CPU."""
        seed = torch.randint(2**63 - 1, (), generator=self._generator())
        rng = np.random.default_rng(int(seed))
        if self.bank is None:
            masks = MASK_SAMPLERS[self.sampler](len(labels), self.grid, rng)
            pairing = rng.permutation(len(labels))
        else:
            masks, pairing = self.bank.draw(labels.cpu().numpy(), rng)
        return torch.from_numpy(masks), torch.from_numpy(pairing.astype(np.int64, copy=False))

    def _generator(self) -> torch.Generator | None:
        """The one to draw from: workers begin with equal copies of ours, each epoch anew."""
        worker = get_worker_info()
        if worker is None or self.generator is None:
            return self.generator
        if self._worker is None or self._worker[0] != worker.seed:
            seed = np.random.SeedSequence([self.generator.initial_seed(), worker.seed]).generate_state(1, np.uint64)
            self._worker = worker.seed, torch.Generator().manual_seed(int(seed[0]) >> 1)
        return self._worker[1]

    def _check(self, images: Tensor, labels: Tensor) -> int:
        if images.ndim != 4 or labels.ndim not in (1, 2) or len(images) != len(labels):
            raise ValueError(
                "expected images (B,C,H,W) with labels (B,) or (B,K), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        height, width = images.shape[2:]
        if self.grid > min(height, width):
            raise ValueError(
                f"a grid of {self.grid} does not fit images of {height}x{width}; at most {min(height, width)}"
            )
        return self._check_soft(labels) if labels.ndim == 2 else self._check_integer(labels)

    def _check_soft(self, labels: Tensor) -> int:
        if self.bank is not None:
            raise ValueError(f"a bank pairs by class and needs integer labels (B,), got {tuple(labels.shape)}")
        if self.num_classes not in (None, labels.shape[1]):
            raise ValueError(f"num_classes is {self.num_classes}, labels have {labels.shape[1]} columns")
        return labels.shape[1]

    def _check_integer(self, labels: Tensor) -> int:
        if self.num_classes is None:
            raise ValueError("integer labels need num_classes: PatchMix(num_classes=...)")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels (B,) must be integers, got {labels.dtype}")
        # On another device this look would wait for it; there torch's own index check speaks.
        if labels.device.type == "cpu" and len(labels):
            low, high = (int(bound) for bound in labels.aminmax())
            if not 0 <= low <= high < self.num_classes:
                raise ValueError(f"labels must be 0..{self.num_classes - 1}, got {low}..{high}")
        return self.num_classes


def _check_probability(value: object) -> None:
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not number or not 0 <= float(value) <= 1:  # type: ignore[arg-type]
        raise ValueError(f"probability must be 0..1, got {value!r}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _opened(bank: PatternBank | Path | str | None, num_classes: int | None) -> PatternBank | None:
    if bank is None:
        return None
    if not isinstance(bank, PatternBank | Path | str):
        raise ValueError(f"bank must be a pattern file or a PatternBank, got {_kind(bank)}")
    bank = bank if isinstance(bank, PatternBank) else PatternBank.load(bank)
    if not len(bank):
        raise ValueError("this pattern bank is empty; export a run's with `./run patterns RUN`")
    if num_classes not in (None, bank.num_classes):
        raise ValueError(f"num_classes is {num_classes}, the bank knows {bank.num_classes} classes")
    return bank


def _kind(value: object) -> str:
    return type(value).__name__
