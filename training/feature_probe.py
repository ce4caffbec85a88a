"""The query of the live model without a forward for each row: losses of compositions from the images' own feature maps.

A composed image's last feature map is nearly the composition of its two images' own maps. So the B images of a search
batch are forwarded once, unmixed, and what the heads say of every place of their maps is kept. A row's image logits are
then the mean over places of its own image's logits where the mask keeps the cell, and of its partner's elsewhere; its
cell losses are those of the image that each cell comes from.

What is exact: the labels, shares and targets, the heads (they are linear, so that they may be applied before the mean),
and everything for a network whose places each see one cell alone. What is estimated: a convolution near a border between
two cells sees both images, and attention sees the whole; the maps kept are of images without borders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo.arrays import Array
from evo.errors import UserError
from evo.objectives import RowLosses
from evo.packed import Masks
from evo.proposal import Rows
from evo.row_scores import Function
from training.compose import cell_targets, image_targets
from training.devices import send
from training.distributed import World
from training.kept_maps import MapProbe
from training.losses import cell_losses, image_losses
from training.probe import Losses

Places = Callable[[Tensor], tuple[Tensor, Tensor]]

# Of logits that rows gather at a time: 16 MiB, in float32, for each of an image and its partner.
NUMBERS_AT_ONCE = 2**22


class FeatureProbe(MapProbe["_Maps"]):
    """Estimated losses of rows over one batch of images: `search.tell(*probe(proposal.rows))`.

    The maps are forwarded when the first rows are asked for, in evaluation mode, and anew once the weights have
    changed. Parameters, buffers, gradients, modes and random states of the models stay as they are.

    Args:
        model: A PatchModel, or a module with its `place_logits` and `grid`, on the images' device.
        images: (B,C,H,W), what the model takes, or what `prepare` makes it of.
        labels: (B,) int64.
        reference: Another such model, for the objectives that compare with one.
        prepare: Images -> model input.
        chunk: Images per forward; None: 128 on a CPU, 512 elsewhere.
        autocast: Dtype to forward in.
        channels_last: Memory format of the input; None leaves it as it comes.
        places: Called in the place of the models' `place_logits`, the model's first, e.g. compiled ones.
        world: Processes that each forward their share of the images, and answer their share of the rows, so that all of
            them get the same numbers.

    Attributes:
        forwards: Image forwards so far, the reference's included.

    Raises:
        UserError: A model has no feature map with linear heads.

    Example:
        >>> model = PatchModel(nn.Conv2d(3, 8, 4, stride=4), num_features=8, num_classes=5, grid=2)
        >>> probe = FeatureProbe(model, torch.rand(6, 3, 8, 8), torch.arange(6) % 5)
        >>> search = Search(6, 2, objective="image_hard", generations=3, seed=0)
        >>> search.run(lambda rows: probe(rows)).stopped, probe.forwards
        ('generations', 6)
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        reference: nn.Module | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool | None = None,
        places: Sequence[Places] | None = None,
        world: World | None = None,
    ) -> None:
        models = [model] if reference is None else [model, reference]
        for one in models:
            check_heads(one)
        super().__init__(
            models,
            images,
            labels,
            prepare=prepare,
            chunk=chunk,
            autocast=autocast,
            channels_last=channels_last,
            world=world,
        )
        self.calls: list[Places] = list(places or (one.place_logits for one in models))  # type: ignore[misc]

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Losses:
        """Estimate the losses of R rows.

        Args:
            rows: Of this batch, of the models' grid.

        Returns:
            Float32, nats: cells (R,G,G), images (R,), and the reference's where there is one.
        """
        device, count = self.images.device, len(rows.image)
        mine = self.world.share(count)
        own, partner = (
            send(torch.from_numpy(array[mine].astype(np.int64)), device) for array in (rows.image, rows.partner)
        )
        masks = send(torch.from_numpy(np.require(rows.masks[mine], requirements=["C", "W"])), device)
        found = [part for maps in self.maps for part in maps.losses(self.labels, own, masks, partner)]
        return Losses(*(self.world.gather(part, count).cpu().numpy() for part in found))

    @torch.no_grad()
    def score_pairs(self, objective: Function, images: Array, masks: Array) -> Array:
        """Score every pair of some images under some masks.

        Args:
            objective: With the contract of evo/objectives.py, not relative to a population.
            images: (N,) int, which images of the batch.
            masks: (M,G,G) bool.

        Returns:
            (M,N,N) float32: of image i, which keeps the cells of mask m, the others being image j's.
        """
        chosen = send(torch.from_numpy(images.astype(np.int64)), self.images.device)
        labels = self.labels.index_select(0, chosen)
        known = labels.cpu().numpy()
        own, partner = (index.ravel().astype(np.int32) for index in np.indices((len(images),) * 2))
        reads_cells = getattr(objective, "needs_cells", True)
        of_models = self.maps  # once: whether weights have changed is looked up each time
        # Numbers that a mask takes.
        numbers = max(len(own) * (masks[0].size if reads_cells else 2), 4 * len(images) * of_models[0].classes)
        size = max(1, NUMBERS_AT_ONCE // numbers)
        scores = np.empty((len(masks), len(own)), np.float32)
        for start in range(0, len(masks), size):
            part = masks[start : start + size]
            sent = send(torch.from_numpy(part), self.images.device)
            (cells, wholes), *others = [
                self._pair_losses(maps, chosen, labels, sent, reads_cells) for maps in of_models
            ]
            reference_cells, reference_wholes = others[0] if others else (None, None)
            words = Masks.pack(part).words[:, None]
            scores[start : start + size] = objective(
                RowLosses(
                    cells,
                    wholes,
                    Masks(np.broadcast_to(words, (len(part), len(own), words.shape[2])), part.shape[1]),
                    known[own],
                    np.broadcast_to(known[partner], wholes.shape),
                    np.broadcast_to(partner, wholes.shape),
                    reference_cells,
                    reference_wholes,
                    images=own,
                )
            )
        return scores.reshape(len(masks), len(images), len(images))

    def _pair_losses(
        self, maps: _Maps, chosen: Tensor, labels: Tensor, masks: Tensor, reads_cells: bool
    ) -> tuple[Array, Array]:
        """Cell losses (M,N*N,G,G), unless nobody reads them, and image losses (M,N*N), of one model."""
        count = len(masks)
        mine = masks[self.world.share(count)]
        wholes = self.world.gather(maps.pair_losses(chosen, labels, mine), count).flatten(1).cpu().numpy()
        if not reads_cells:
            return np.broadcast_to(np.float32(0), (*wholes.shape, *masks.shape[1:])), wholes
        cells = self.world.gather(maps.pair_cells(chosen, labels, mine), count)
        return cells.flatten(1, 2).cpu().numpy(), wholes

    def _keep(self, number: int) -> _Maps:
        call = self.calls[number]

        def logits(inputs: Tensor) -> tuple[Tensor, Tensor]:
            image_logits, cell_logits = call(inputs)
            whole = image_logits.float()
            return whole, whole if cell_logits is image_logits else cell_logits.float()

        image_logits, cell_logits = (part.contiguous() for part in self._forward(self.models[number], logits))
        self.forwards += len(self.labels)
        return _Maps(image_logits, cell_logits, self.labels, int(self.models[number].grid))  # type: ignore[arg-type]


class _Maps:
    """What one model's heads say of every place of B images.

    Args:
        image_logits: (B,h,w,K) float32, whose mean over places are the image logits.
        cell_logits: (B,h,w,K) float32.
        labels: (B,) int64.
        grid: G.
    """

    def __init__(self, image_logits: Tensor, cell_logits: Tensor, labels: Tensor, grid: int) -> None:
        rows, columns, classes = image_logits.shape[1:]
        self.logits = image_logits.flatten(1, 2)  # (B,h*w,K)
        self.grid, self.classes = grid, classes
        self.weights: Tensor | None = None  # (h*w,G*G): the share of each place that lies in a cell
        if (rows, columns) == (grid, grid):
            self.cells = cell_losses(cell_logits, labels.view(-1, 1, 1).expand(-1, grid, grid))  # (B,G,G)
        else:
            self.cell_logits = cell_logits.flatten(1, 2)
            self.weights = place_weights(grid, rows, columns).to(image_logits.device)
            self.pooling = pool_weights(grid, rows, columns).to(image_logits.device)

    def losses(self, labels: Tensor, own: Tensor, masks: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (R,G,G), (R,) of R rows, a part of them at a time."""
        cells = torch.empty(len(own), self.grid, self.grid, device=labels.device)
        images = torch.empty(len(own), device=labels.device)
        size = max(1, NUMBERS_AT_ONCE // self.logits[0].numel())
        for start in range(0, len(own), size):
            part = slice(start, start + size)
            of_part = labels, own[part], masks[part], partner[part]
            kept = self.kept_places(masks[part])
            images[part] = self._image_losses(kept, *of_part)
            cells[part] = self._cell_losses(kept, *of_part)
        return cells, images

    def pair_losses(self, chosen: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Image losses (M,N,N) of all pairs of N images `chosen` (N,), of labels (N,), under masks (M,G,G).

        The logits of a pair are a sum of one image's part and the other's. The exponential of a sum is a product, so that
        what the cross-entropy sums over classes is a matrix product for all pairs at once; so is what it subtracts.
        """
        kept = self.kept_places(masks)[:, 0] / self.logits.shape[1]  # (M,h*w)
        logits = self.logits.index_select(0, chosen)
        own = torch.einsum("mp,npk->mnk", kept, logits)
        other = logits.mean(1) - own
        top_own, top_other = own.amax(2, keepdim=True), other.amax(2, keepdim=True)
        sums = torch.bmm((own - top_own).exp(), (other - top_other).exp().transpose(1, 2))

        share = masks.flatten(1).float().mean(1).view(-1, 1, 1)
        classes = F.one_hot(labels, self.classes).float().expand(len(masks), -1, -1)  # (M,N,K)
        alone = top_own - share * (own * classes).sum(2, keepdim=True)  # of an image, whatever its partner
        alone_other = top_other - (1 - share) * (other * classes).sum(2, keepdim=True)
        one = torch.ones_like(alone)
        left = torch.cat([(share - 1) * own, classes, alone, one], dim=2)
        right = torch.cat([classes, -share * other, one, alone_other], dim=2)
        # Of sums this small little is left to the last bit, and 0 has no logarithm: 80 nats between two classes.
        return torch.baddbmm(sums.clamp_(min=torch.finfo(sums.dtype).tiny).log_(), left, right.transpose(1, 2))

    def pair_cells(self, chosen: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Cell losses (M,N,N,G,G) of all pairs of N images `chosen` (N,), of labels (N,), under masks (M,G,G)."""
        if self.weights is None:
            cells = self.cells.index_select(0, chosen)
            return torch.where(masks[:, None, None], cells[:, None], cells)
        place = torch.arange(len(chosen), device=chosen.device)
        mask, own, partner = torch.cartesian_prod(torch.arange(len(masks), device=chosen.device), place, place).T
        every_label = torch.zeros(len(self.logits), dtype=labels.dtype, device=labels.device).index_copy(
            0, chosen, labels
        )
        cells = self.losses(every_label, chosen[own], masks[mask], chosen[partner])[0]
        return cells.unflatten(0, (len(masks), len(chosen), len(chosen)))

    def kept_places(self, masks: Tensor) -> Tensor:
        """(R,1,h*w) float32: the share of each place that rows keep of their own image."""
        kept = masks.flatten(1).float()
        return (kept if self.weights is None else kept @ self.weights.T).unsqueeze(1)

    def _image_losses(self, kept: Tensor, labels: Tensor, own: Tensor, masks: Tensor, partner: Tensor) -> Tensor:
        sums = torch.bmm(kept, self.logits.index_select(0, own))
        sums = torch.baddbmm(sums, 1 - kept, self.logits.index_select(0, partner))
        logits = sums.squeeze(1) / kept.shape[2]
        return image_losses(logits, image_targets(labels, masks, partner, self.classes, rows=own))

    def _cell_losses(self, kept: Tensor, labels: Tensor, own: Tensor, masks: Tensor, partner: Tensor) -> Tensor:
        if self.weights is None:
            return torch.where(masks, self.cells.index_select(0, own), self.cells.index_select(0, partner))
        share = kept.transpose(1, 2)  # (R,h*w,1)
        places = torch.lerp(self.cell_logits.index_select(0, partner), self.cell_logits.index_select(0, own), share)
        pooled = (self.pooling @ places).unflatten(1, (self.grid, self.grid))
        return cell_losses(pooled, cell_targets(labels, masks, partner, rows=own))


def check_heads(model: nn.Module) -> None:
    """Refuse a model whose losses cannot be had from its map.

    Raises:
        UserError: It has no feature map, or heads that are not linear on it.
    """
    instead = "score by forwarding the composed images: search.compose_at=pixels, or training.probe.probe"
    if not hasattr(model, "place_logits"):
        raise UserError(
            f"{type(model).__name__} has no feature map with a linear head for the image and one for its cells, from which "
            f"scores are estimated; wrap the network in PatchModel.wrap(network, num_classes), or {instead}"
        )
    heads = getattr(model, "model", model)
    for name in ("image_head", "cell_head"):
        head = getattr(heads, name, None)
        if head is not None and not isinstance(head, nn.Linear):
            raise UserError(
                f"the {name} of {type(heads).__name__} is a {type(head).__name__}, and scores are estimated from a feature map "
                f"through linear heads alone (nn.Linear); {instead}"
            )


def place_weights(grid: int, rows: int, columns: int) -> Tensor:
    """(h*w,G*G) float32: the share of each place of an h x w map, of the part of the image that it covers, in each cell.

    Example:
        >>> place_weights(2, 2, 3)[1]  # the middle of the upper three
        tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    return torch.kron(_overlap(grid, rows), _overlap(grid, columns))


def pool_weights(grid: int, rows: int, columns: int) -> Tensor:
    """(G*G,h*w) float32: adaptive average pooling of an h x w map to G x G, as a matrix."""
    places = torch.eye(rows * columns).view(-1, 1, rows, columns)
    return F.adaptive_avg_pool2d(places, grid).flatten(1).T.contiguous()


def _overlap(grid: int, places: int) -> Tensor:
    """(places,G): the share of each of so many equal parts of a line that lies in each of G others."""
    ends = torch.arange(1, places + 1).view(-1, 1) * grid, torch.arange(1, grid + 1) * places
    starts = ends[0] - grid, ends[1] - places
    shared = torch.minimum(*ends) - torch.maximum(*starts)  # whole numbers: both lines are places * G long
    return shared.clamp(min=0).float() / grid
