"""What makes a row worth training on: losses of rows -> row scores, larger is fitter.

Contract, stated here once for all: objective(rows: RowLosses) -> scores (P,B) float32; it raises ValueError where losses
that it reads were not given. A genome's fitness is the mean of its rows' scores. A new objective is a function and an
entry in OBJECTIVES, and in NEEDS_REFERENCE or NEEDS_IMAGES where it reads such losses. `parse_objectives` reads weighted sums
of them, and several at once.

Scores are in nats, but for `diversity`, which is a fraction.

The objectives in RELATIVE score a row against a population, so that a row which has not changed may score
otherwise in the next generation. They take that population as well: objective(rows, context: RowLosses). Without a
context it is the rows' own. A search scores everything that it compares, of whatever generation, against one context.
A function of one's own is relative where it has an attribute `relative` that is true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evo.arrays import Array
from evo.errors import UserError, did_you_mean
from evo.packed import Masks


@dataclass(frozen=True)
class RowLosses:
    """All an objective may look at, for P genomes over one batch of B images.

    Rows of no genome in particular come as P=1 with as many rows as there are, whatever images they are of.

    Attributes:
        cell_losses: (P,B,G,G) float32, nats: each cell's cross-entropy against the label it came from.
        image_losses: (P,B) float32, nats: cross-entropy against the soft target; NaN where not measured.
        packed: (P,B) masks, True = the cell keeps the row's own image.
        own_labels: (B,) int; -1 where labels are not given.
        partner_labels: (P,B) int.
        partners: (P,B) int32: row b is mixed with image partners[p, b].
        reference_cell_losses: (P,B,G,G) float32, nats: the same rows under the reference, or None.
        reference_image_losses: (P,B) float32, nats: the same rows under the reference, or None.
        images: (B,) int: which image of the search batch a row is of; None: row b is of image b.
    """

    cell_losses: Array
    image_losses: Array
    packed: Masks
    own_labels: Array
    partner_labels: Array
    partners: Array
    reference_cell_losses: Array | None = None
    reference_image_losses: Array | None = None
    images: Array | None = None

    @cached_property
    def masks(self) -> Array:
        """(P,B,G,G) bool, True = the cell keeps the row's own image."""
        return self.packed.cells

    @property
    def share(self) -> Array:
        """(P,B) float32: the fraction of cells kept."""
        return (self.packed.kept() / self.packed.grid**2).astype(np.float32)

    @property
    def unmixed(self) -> Array:
        """(P,B) bool: rows whose partner is the row's own image, so that their mask changes nothing."""
        return np.asarray(self.partners == self.own_images)

    @property
    def own_images(self) -> Array:
        """(B,) int: the image that each row is of."""
        return np.arange(self.partners.shape[1]) if self.images is None else self.images


def hard(rows: RowLosses) -> Array:
    """Mean cell loss: prefers compositions the model gets wrong."""
    return rows.cell_losses.mean(axis=(2, 3))


def easy(rows: RowLosses) -> Array:
    """Negative mean cell loss: prefers compositions the model gets right."""
    return -hard(rows)


def learnable(
    rows: RowLosses,
    context: RowLosses | None = None,
    *,
    quantiles: tuple[float, float] = (0.5, 0.9),
    target: float | None = None,
) -> Array:
    """Cell losses in a band: the mean over cells of minus a loss's distance to it.

    The band lies between two quantiles of all the context's cell losses, or is the one value `target`
    (nats). By default it leaves out the lower half, which is learned already or nearly (the gradient of a
    cross-entropy l with respect to its logits is about 1 - exp(-l)), and the top tenth, where cells are that
    show nothing of their image's class or carry a wrong label. A quantile moves with the model; a fixed
    target would be out of reach early in a training and behind it late.
    """
    cells = rows.cell_losses
    among = cells if context is None else context.cell_losses
    finite = among[np.isfinite(among)]
    if target is not None:
        low = high = target
    elif finite.size:
        low, high = (float(bound) for bound in np.quantile(finite, quantiles))
    else:
        return np.full(cells.shape[:2], np.nan, np.float32)
    return -np.abs(cells - cells.clip(low, high)).mean(axis=(2, 3))


def balanced(rows: RowLosses) -> Array:
    """Minus |what the own image's cells add to the mean cell loss - what the partner's add|.

    A row that is not mixed has no partner's cells: its score is minus its mean cell loss.
    """
    own = rows.masks | rows.unmixed[..., None, None]
    return -np.abs(np.where(own, rows.cell_losses, -rows.cell_losses).mean(axis=(2, 3)))


def contrast(rows: RowLosses) -> Array:
    """Standard deviation of a row's cell losses: some cells told, others not."""
    return rows.cell_losses.std(axis=(2, 3))


def reducible(rows: RowLosses) -> Array:
    """Mean cell loss less the reference's: what is left to learn, without what is noise to any model.

    RHO-LOSS, Mindermann et al. 2022, arXiv 2206.07137, on cells.
    """
    reference = _require(rows.reference_cell_losses, "reducible", "the reference's cell losses")
    return rows.cell_losses.mean(axis=(2, 3)) - reference.mean(axis=(2, 3))


def image_hard(rows: RowLosses) -> Array:
    """Image loss less the entropy of its soft target: the divergence of the prediction from the target.

    The entropy is 0 where both images have one label. Labels that are not given count as different.
    """
    losses = _require_images(rows, "image_hard")
    share = rows.share
    one_label = (rows.partner_labels == rows.own_labels) & (rows.own_labels >= 0) | rows.unmixed
    share = np.where(one_label, np.float32(1), share)
    return losses - _minus_x_log_x(share) - _minus_x_log_x(1 - share)


def image_easy(rows: RowLosses) -> Array:
    """Minus `image_hard`: prefers compositions whose labels and shares the model predicts."""
    _require_images(rows, "image_easy")
    return -image_hard(rows)


def image_reducible(rows: RowLosses) -> Array:
    """Image loss less the reference's; the target's entropy cancels. See `reducible`."""
    reference = _require(rows.reference_image_losses, "image_reducible", "the reference's image losses")
    return _require_images(rows, "image_reducible") - reference


def diversity(rows: RowLosses, context: RowLosses | None = None) -> Array:
    """How unlike a population's genomes' a row is, 0..1; not of losses.

    The mean over the genomes of half the share of cells in which their masks of the same image differ, and half of
    whether their partners do. By counting, so that time and memory grow linearly. Without a context the genomes are
    the others of the rows' own population, of which a lone one scores 0.
    """
    among, others = (rows, len(rows.partners) - 1) if context is None else (context, len(context.partners))
    if not others:
        return np.zeros(rows.partners.shape, np.float32)
    masks = rows.masks
    grid = rows.packed.grid
    genomes = len(among.partners)
    keeping = among.masks.sum(axis=0, dtype=np.int32)[rows.own_images]  # (B,G,G): genomes that keep the cell
    differing = np.where(masks, genomes - keeping, keeping).sum(axis=(2, 3)) / grid**2  # (P,B), of all genomes
    unlike = genomes - _count_alike(rows, among)
    return ((differing + unlike) / (2 * others)).astype(np.float32)


def _count_alike(rows: RowLosses, among: RowLosses) -> Array:
    """(P,B) int64: how many genomes of `among` have a row's partner for its image."""
    genomes, batch = among.partners.shape
    alike = np.empty(rows.partners.shape, np.int64)
    for start in range(0, batch, genomes):  # so many images at once that the table has P x B entries
        count = min(genomes, batch - start)
        partners = among.partners[:, start : start + count]
        table = np.bincount((np.arange(count) * batch + partners).ravel(), minlength=count * batch)
        chosen = np.flatnonzero((rows.own_images >= start) & (rows.own_images < start + count))
        alike[:, chosen] = table[(rows.own_images[chosen] - start) * batch + rows.partners[:, chosen]]
    return alike


OBJECTIVES: dict[str, Callable[..., Array]] = {
    "hard": hard,
    "easy": easy,
    "learnable": learnable,
    "balanced": balanced,
    "contrast": contrast,
    "reducible": reducible,
    "image_hard": image_hard,
    "image_easy": image_easy,
    "image_reducible": image_reducible,
    "diversity": diversity,
}
NEEDS_REFERENCE = frozenset({"reducible", "image_reducible"})
NEEDS_IMAGES = frozenset({"image_hard", "image_easy", "image_reducible"})
RELATIVE = frozenset({"learnable", "diversity"})


@dataclass(frozen=True)
class Objective:
    """A weighted sum of entries of OBJECTIVES.

    Attributes:
        name: The sum as written.
        terms: (weight, name) of each.
    """

    name: str
    terms: tuple[tuple[float, str], ...]

    @property
    def needs_reference(self) -> bool:
        """Whether it reads losses under the reference."""
        return any(name in NEEDS_REFERENCE for _, name in self.terms)

    @property
    def needs_images(self) -> bool:
        """Whether it reads image losses."""
        return any(name in NEEDS_IMAGES for _, name in self.terms)

    @property
    def needs_cells(self) -> bool:
        """Whether it reads cell losses."""
        return any(name not in NEEDS_IMAGES | {"diversity"} for _, name in self.terms)

    @property
    def relative(self) -> bool:
        """Whether it scores rows against a population."""
        return any(name in RELATIVE for _, name in self.terms)

    def __call__(self, rows: RowLosses, context: RowLosses | None = None) -> Array:
        """Score rows.

        Args:
            rows: P genomes' rows of B images.
            context: The population that relative terms score against; None: the rows' own.

        Returns:
            Row scores (P,B) float32, larger is fitter.

        Raises:
            ValueError: Losses that it needs are not there.
        """
        scores = np.zeros(rows.partners.shape, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # such a row is not finite, which the search handles
            for weight, name in self.terms:
                given = (rows, context) if name in RELATIVE else (rows,)
                scores += np.float32(weight) * OBJECTIVES[name](*given)
        return scores


def parse_objectives(text: str) -> list[Objective]:
    """Read what a search is to prefer.

    Args:
        text: A name such as "hard", a weighted sum "hard + 0.5*contrast - 0.1*diversity", or several of these,
            "hard, diversity".

    Returns:
        The objectives in order, one at least.

    Raises:
        ValueError: In one line: a name is unknown or stands twice, a weight is 0, or the text is something else.

    Example:
        >>> [objective.terms for objective in parse_objectives("hard+0.5*contrast, diversity")]
        [((1.0, 'hard'), (0.5, 'contrast')), ((1.0, 'diversity'),)]
    """
    objectives = [_parse_sum(part.strip()) for part in text.split(",")]
    terms = [objective.terms for objective in objectives]
    if len(set(terms)) < len(terms):
        raise ValueError(f"an objective stands twice in {text!r}")
    return objectives


_TERM = re.compile(r"\s*([+-]?)\s*(?:((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*\*\s*)?([A-Za-z_]\w*)\s*")


def _parse_sum(text: str) -> Objective:
    terms: list[tuple[float, str]] = []
    position = 0
    while position < len(text) or not terms:
        match = _TERM.match(text, position)
        if match is None or (terms and not match[1]):
            raise ValueError(
                f"expected objectives such as hard, hard+0.5*contrast (a sum) or hard,diversity (several), got "
                f"{text[position : position + 60]!r}; there are {', '.join(OBJECTIVES)}"
            )
        sign, number, name = match.groups()
        if name not in OBJECTIVES:
            hint = did_you_mean(name, OBJECTIVES)
            raise UserError(f"unknown objective {name!r}{hint} (choose from {', '.join(OBJECTIVES)})")
        if name in (named for _, named in terms):
            raise ValueError(f"{name!r} stands twice in the sum {text!r}")
        weight = float(number or 1) * (-1 if sign == "-" else 1)
        if weight == 0 or not math.isfinite(weight):
            raise ValueError(f"the weight of {name!r} must be a finite number other than 0, got {number}")
        terms.append((weight, name))
        position = match.end()
    return Objective("".join(text.split()), tuple(terms))


def _require(losses: Array | None, objective: str, what: str) -> Array:
    if losses is None:
        raise ValueError(f"objective {objective!r} needs {what}, and none were given; hand them to tell()")
    return losses


def _require_images(rows: RowLosses, objective: str) -> Array:
    """The image losses. Where all are NaN though cell losses are not, nobody measured them."""
    if np.isnan(rows.image_losses).all() and not np.isnan(rows.cell_losses).all():
        raise ValueError(f"objective {objective!r} needs image losses, and none were given; hand them to tell()")
    return rows.image_losses


def _minus_x_log_x(x: Array) -> Array:
    """The share's term of an entropy, nats; 0 at 0."""
    return -x * np.log(np.maximum(x, np.finfo(np.float32).tiny))
