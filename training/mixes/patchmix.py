"""PatchMix as a batch transform, for anyone's training loop. It needs nothing of our trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from evo.bank import PatternBank
from evo.bank_files import load_bank
from evo.errors import UserError, did_you_mean
from evo.operators import MASK_SAMPLERS
from training.compose import compose, image_targets, is_mapped, is_traced
from training.devices import send
from training.mixes import structure
from training.mixes.draws import MAPPED, Draws
from training.mixes.labels import check_share, checked_labels, smooth
from training.mixes.structure import LabelsGetter

Composition = tuple[Tensor, Tensor]  # masks (B,G,G) bool, pairing (B,) int64


class PatchMix(nn.Module):
    """A batch transform: (images, labels) -> (mixed images, soft labels), like torchvision's CutMix.

    num_classes: K, needed where labels are integers and no bank says it. grid: G, which a bank overrules.
    probability: that a call mixes; other calls return the very images given. sampler: a name in MASK_SAMPLERS.
    bank: a pattern file (or PatternBank) to draw masks from instead; partners are drawn by chance, and the bank may be
    of other classes. label_smoothing: s of at least 0 and below 1; soft
    labels y become (1 - s) y + s / K, as in timm's Mixup (whose default is 0.1). Smooth once: not in the loss as
    well; cells have hard labels, which cell_losses smooths. labels_getter: "default", or a function that returns the
    labels of a batch, as in torchvision; one that can be pickled, like operator.itemgetter("fine_label"), goes to
    workers that are spawned.

    generator: a CPU torch.Generator; without one, draws follow torch's global generator, and nothing else that is
    global. In a DataLoader's workers the worker's seed decides beside it, so that workers and epochs differ.
    Processes that train together and are seeded alike draw alike; with generator="rank" draws follow torch's global
    generator and the process's rank, that of torch.distributed or of a launcher's environment (see Draws.rank), in
    workers as well.

    Call it with images and labels, or with a tuple, list or dictionary that has them: mix(images, labels),
    mix((images, labels, names)), mix({"pixel_values": images, "labels": labels}). images: (B,C,H,W), any dtype,
    device and memory format, not changed; H and W of at least G. labels: (B,) integer, or (B,K) one-hot or soft.
    Returns the same with mixed images like the given ones and soft labels (B,K) float32 in their places. Everything
    else (indices, file names, weights) is passed on, in place and order, and stays that of the row's own image.
    Labels are the second item, or the entry `labels`, or what labels_getter finds; images are torchvision's
    tv_tensors Image and Video, all in the same way, or else the first item, or the only tensor of four dimensions;
    structure.find has the whole rule. With return_composition=True, a keyword, also masks (B,G,G) bool, True = the
    cell keeps the row's own image, and the pairing (B,) int64: (images, soft labels, ..., masks, pairing) of a tuple
    or list, (dictionary, masks, pairing) of a dictionary.

    An nn.Module without parameters: it goes into Sequential, to workers that are spawned (`collate`), and through
    torch.compile, which breaks its graph there and leaves it as it is. In evaluation mode it neither mixes nor
    smooths: it returns the very images, and labels as rows (B,K). mixup_enabled: an attribute; False switches mixing
    off, as timm's loop does. Workers that persist (persistent_workers=True) do not learn of either.

    Raises ValueError where values do not fit, where images and labels cannot be told, below torch.vmap, and where
    torch.export or torch.jit.trace would keep one composition for good; the values of labels are looked at on the
    CPU only.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        grid: int = 4,
        probability: float = 1.0,
        sampler: str = "box",
        bank: PatternBank | Path | str | None = None,
        generator: torch.Generator | Literal["rank"] | None = None,
        label_smoothing: float = 0.0,
        labels_getter: LabelsGetter | Literal["default"] = "default",
    ) -> None:
        super().__init__()
        _check_count("grid", grid)
        if num_classes is not None:
            _check_count("num_classes", num_classes)
        check_share("probability", probability)
        check_share("label_smoothing", label_smoothing, below_one=True)
        if not isinstance(sampler, str) or sampler not in MASK_SAMPLERS:
            hint = did_you_mean(str(sampler), MASK_SAMPLERS)
            raise UserError(f"unknown sampler {sampler!r:.60}{hint}; there are {', '.join(MASK_SAMPLERS)}")
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f'labels_getter must be "default" or a function of the batch, got {labels_getter!r}')
        self.generator = generator
        self.bank = _open_bank(bank)
        self.grid = grid if self.bank is None else self.bank.grid
        self.num_classes = self.bank.num_classes if num_classes is None and self.bank is not None else num_classes
        self.probability = probability
        self.sampler = sampler
        self.label_smoothing = label_smoothing
        self.labels_getter = labels_getter
        self.mixup_enabled = True

    @property
    def generator(self) -> torch.Generator | Literal["rank"] | None:
        """What draws follow; it can be set to another."""
        return "rank" if self._draws.by_rank else self._draws.generator

    @generator.setter
    def generator(self, generator: torch.Generator | Literal["rank"] | None) -> None:
        self._draws = Draws(generator)

    def forward(self, *inputs: Any, return_composition: bool = False, **named: Any) -> Any:
        """Mix a batch, as the class says. named: `images` and `labels`, for those who call them by name."""
        if is_traced() or torch.compiler.is_exporting():
            raise ValueError("PatchMix draws anew at each call, which a traced or exported model cannot; leave it out")
        batch = _one_batch(inputs, named)
        if torch.compiler.is_compiling():  # numpy draws: whoever compiles goes on behind it
            eager = torch.compiler.disable(self._mix, reason="PatchMix draws with numpy's generator")
            return eager(batch, return_composition)
        return self._mix(batch, return_composition)

    def collate(self, samples: list[Any], *, return_composition: bool = False) -> Any:
        """A DataLoader's collate_fn, whose workers then mix: torch's default_collate of the samples, mixed.

        It can be pickled, as workers that are spawned need it.
        """
        return self(default_collate(samples), return_composition=return_composition)

    def draw(self, labels: Tensor) -> Composition:
        """A composition for a batch of `labels`: masks (B,G,G) bool and a pairing (B,) int64, on the CPU."""
        rng = self._draws.rng()
        if self.bank is None:
            masks = MASK_SAMPLERS[self.sampler](len(labels), self.grid, rng)
            pairing = rng.permutation(len(labels))
        else:
            masks, pairing = self.bank.draw(labels, rng)
        return torch.from_numpy(masks), torch.from_numpy(pairing.astype(np.int64, copy=False))

    def extra_repr(self) -> str:
        drawn = f"sampler={self.sampler!r}" if self.bank is None else f"bank of {len(self.bank)} patterns"
        return (
            f"num_classes={self.num_classes}, grid={self.grid}, probability={self.probability:g}, {drawn}, "
            f"label_smoothing={self.label_smoothing:g}"
        )

    def _mix(self, batch: Any, return_composition: bool) -> Any:
        getter = None if self.labels_getter == "default" else self.labels_getter
        paths, labels_path = structure.find(batch, getter)
        images = [structure.at(batch, path) for path in paths]
        given = structure.at(batch, labels_path)
        for part in images:
            self._check(part, given)
        labels, num_classes = checked_labels(given, self.num_classes)
        mixes = self.training and self.mixup_enabled and len(labels) and self._draws.happens(self.probability)
        on_cpu = self.draw(labels) if mixes else self._draw_unmixed(len(labels))
        device = images[0].device
        masks, pairing = (send(part, device) for part in on_cpu)
        same = labels.device == device
        kept, partner = (masks, pairing) if same else (send(part, labels.device) for part in on_cpu)
        targets = image_targets(labels, kept, partner, num_classes)
        values: dict[structure.Path, Any] = {labels_path: smooth(targets, self.label_smoothing if self.training else 0)}
        if mixes:
            values |= {path: _compose(part, masks, pairing) for path, part in zip(paths, images, strict=True)}
        mixed = structure.replace(batch, values)
        if not return_composition:
            return mixed
        return (*mixed, masks, pairing) if isinstance(mixed, tuple | list) else (mixed, masks, pairing)

    def _draw_unmixed(self, count: int) -> Composition:
        masks = torch.ones(count, self.grid, self.grid, dtype=torch.bool, device="cpu")
        return masks, torch.arange(count, device="cpu")

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if is_mapped(images) or is_mapped(labels):
            raise ValueError(MAPPED)
        dimensions = 5 if _is_video(images) else 4
        if images.ndim != dimensions or labels.ndim not in (1, 2) or len(images) != len(labels):
            shape = "(B,T,C,H,W)" if dimensions == 5 else "(B,C,H,W)"
            raise ValueError(
                f"expected images {shape} with labels (B,) or (B,K), "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        height, width = images.shape[-2:]
        if self.grid > min(height, width):
            raise ValueError(
                f"a grid of {self.grid} does not fit images of {height}x{width}; at most {min(height, width)}"
            )


def _one_batch(inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What was given to a call as one batch: its only argument, or all of them."""
    unknown = [name for name in named if name not in ("images", "labels")]
    if unknown or not (inputs or named):
        raise ValueError(
            "expected images and labels, as two arguments or in a tuple, a list or a dictionary, "
            f"got {', '.join(unknown) or 'nothing'}"
        )
    if "images" in named:
        inputs = (named["images"], *inputs)
    if "labels" in named:
        inputs = (*inputs[:1], named["labels"], *inputs[1:])
    return inputs if len(inputs) > 1 else inputs[0]


def _is_column(labels: Tensor) -> bool:
    return labels.shape[1] == 1 and not labels.is_floating_point()


def _is_video(images: Tensor) -> bool:
    """Whether it is torchvision's kind of tensor for videos, which is asked by name: its import takes seconds."""
    return any(kind.__name__ == "Video" and kind.__module__.startswith("torchvision.") for kind in type(images).__mro__)


def _compose(images: Tensor, masks: Tensor, pairing: Tensor) -> Tensor:
    """`compose`, of torchvision's tensors too: an Image stays one, a Video (B,T,C,H,W) is mixed alike in all frames."""
    if not type(images).__module__.startswith("torchvision."):
        return compose(images, masks, pairing)
    from torchvision import tv_tensors

    plain = images.as_subclass(Tensor)
    mixed = compose(plain.flatten(1, -3), masks, pairing).view(plain.shape)
    wrapped: Tensor = tv_tensors.wrap(mixed, like=images)
    return wrapped


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _open_bank(bank: PatternBank | Path | str | None) -> PatternBank | None:
    if bank is None:
        return None
    if not isinstance(bank, PatternBank | Path | str):
        raise ValueError(f"bank must be a pattern file or a PatternBank, got {type(bank).__name__}")
    bank = bank if isinstance(bank, PatternBank) else load_bank(bank)
    if not len(bank):
        raise ValueError("this pattern bank is empty; export a run's with `./run patterns RUN`")
    return bank
