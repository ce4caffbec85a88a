"""The query of the live model from the maps of one of its stages: between a forward of each row, and none at all.

The B images of a search batch are forwarded once, unmixed, up to the end of a stage. A row's map is composed of the maps of
its two images there, cell by cell, and only the rest of the network is forwarded for it. The earlier the stage, the more
of the network sees the composed image, and the nearer are losses to the exact ones.

What is exact: all that lies behind the stage, and everything for a network whose places each see one cell alone up to
there. What is estimated: up to there, a convolution near a border between two cells would see both images, and attention
would see the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evo.errors import UserError
from evo.proposal import Rows
from training.distributed import World
from training.kept_maps import MapProbe
from training.models.stages import Layer, cut_backbone
from training.probe import Forward, Losses, gather_losses, probe


@dataclass(frozen=True)
class CutModel:
    """A model in two parts, which share its weights. Made by `cut_model`.

    first: model input (N,C,H,W) -> the map (N,D,h,w) behind a stage. rest: such maps -> image logits (N,K), cell logits
    (N,G,G,K). share: of the multiplications of a whole forward, those of `first`. compiled: called in the place of `rest`.
    """

    model: nn.Module
    first: Layer
    rest: nn.Module
    share: float
    compiled: Forward | None = None


class StageProbe(MapProbe[Tensor]):
    """Losses of rows whose images are composed behind a stage of the network: `search.tell(*probe(proposal.rows))`.

    The maps are forwarded when the first rows are asked for, in evaluation mode, and anew once the weights have
    changed. Parameters, buffers, gradients, modes and random states of the models stay as they are. In memory lie the
    maps of the B images, and of `chunk` rows at a time.

    Args:
        model: A PatchModel, on the images' device.
        images: (B,C,H,W), what the model takes, or what `prepare` makes it of.
        labels: (B,) int64.
        depth: Behind which stage maps are composed, from 1.
        reference: Another such model, for the objectives that compare with one; it is cut behind its own stage `depth`.
        prepare: Images -> model input.
        chunk: Images, or rows, per forward; None: 128 on a CPU, 512 elsewhere.
        autocast: Dtype to forward in.
        channels_last: Memory format of images and maps; None leaves them as they come.
        cuts: The models as `cut_model` has cut them before, the live one first; `depth` is not read then.
        world: Processes that each forward their share of the images, and of the rows.

    Attributes:
        forwards: What was forwarded so far, the reference's included, in forwards of whole images: an image up to the
            stage, and a row behind it, count as the share of a network's multiplications that lies there.

    Raises:
        UserError: A model cannot be cut at that depth; the line says where it can be.

    Example:
        >>> layers = nn.Conv2d(3, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2)
        >>> model = PatchModel(nn.Sequential(*layers), num_features=8, num_classes=5, grid=2)
        >>> probe = StageProbe(model, torch.rand(6, 3, 8, 8), torch.arange(6) % 5, depth=1)
        >>> search = Search(6, 2, objective="image_hard", generations=3, seed=0)
        >>> search.run(lambda rows: probe(rows)).stopped
        'generations'
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        depth: int | None = None,
        *,
        reference: nn.Module | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
        cuts: Sequence[CutModel] | None = None,
        world: World | None = None,
    ) -> None:
        if cuts is None:
            if depth is None:
                raise ValueError("expected a depth, or models that are cut already; got neither")
            shape = _shape(images if prepare is None else prepare(images[:1]))
            cuts = [cut_model(one, depth, shape) for one in (model, reference) if one is not None]
        super().__init__(
            [cut.model for cut in cuts],
            images,
            labels,
            prepare=prepare,
            chunk=chunk,
            autocast=autocast,
            channels_last=channels_last,
            world=world,
        )
        self.cuts = cuts
        self._work = 0.0

    def __call__(self, rows: Rows) -> Losses:
        """Losses of R rows.

        Args:
            rows: Of this batch, of the models' grid.

        Returns:
            Float32, nats: cells (R,G,G), images (R,), and the reference's where there is one.
        """
        count = len(rows.image)
        mine = Rows(*(array[self.world.share(count)] for array in rows))
        found: list[Any] = []
        for cut, maps in zip(self.cuts, self.maps, strict=True):
            losses = probe(
                cut.rest,
                maps,
                self.labels,
                mine,
                chunk=self.chunk,
                autocast=self.autocast,
                channels_last=self.channels_last,
                forward=cut.compiled,
            )
            found += [losses.cells, losses.images]
            self._count(count * (1 - cut.share))
        return gather_losses(Losses(*found), self.world, count, self.images.device)

    def _keep(self, number: int) -> Tensor:
        cut = self.cuts[number]
        (maps,) = self._forward(cut.model, lambda inputs: (cut.first(inputs),))
        self._count(len(self.labels) * cut.share)
        return maps

    def _count(self, work: float) -> None:
        self._work += work
        self.forwards = round(self._work)


class _Rest(nn.Module):
    """A PatchModel behind one of its stages: maps -> image logits, cell logits."""

    def __init__(self, model: nn.Module, rest: Layer) -> None:
        super().__init__()
        self.model, self.rest = model, rest

    def forward(self, maps: Tensor) -> Any:
        return self.model.classify(self.rest(maps))  # type: ignore[operator]


def cut_model(
    model: nn.Module, depth: int, shape: tuple[int, int, int], name: str = "this network", compiled: bool = False
) -> CutModel:
    """Cut a PatchModel, or one of the same input that is scaled otherwise (Rescaled), behind stage `depth`.

    shape: (C,H,W) of its input. name: of the network, for errors. compiled: whether rows go through torch.compile.
    Raises UserError where it cannot be cut so.
    """
    whole: Any = getattr(model, "model", model)
    if not (hasattr(whole, "backbone") and hasattr(whole, "classify")):
        raise UserError(
            f"{type(model).__name__} has no backbone to compose behind a stage of; wrap the network in "
            "PatchModel.wrap(network, num_classes), or score by forwarding the composed images: search.compose_at=pixels, or "
            "training.probe.probe"
        )
    cut = cut_backbone(whole.backbone, depth, shape, name)
    first = cut.first
    if whole is not model:
        scaled: Any = model

        def first(inputs: Tensor) -> Tensor:
            return cut.first(scaled.rescale(inputs))

    rest = _Rest(whole, cut.rest)
    return CutModel(model, first, rest, cut.share, torch.compile(rest, dynamic=False) if compiled else None)


def _shape(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    return channels, height, width
