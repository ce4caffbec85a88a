"""Scores of every pair of a batch's images under a few dozen masks, and compositions dealt from them.

Where a row's losses are known without a forward, so is the score of every pair (i, j) under every mask, and a linear
assignment gives the best composition there is with these masks. A temperature leaves it to chance how near to the best a
composition comes: pairs are perturbed before they are assigned.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evo.arrays import Array
from evo.operators.rows import assign
from evo.packed import Masks

ScorePairs = Callable[[Array, Array], Array]  # images (N,), masks (M,G,G) -> scores (M,N,N) of their pairs

COLDEST = 1e-4  # temperatures up to it are 0
TOGETHER = 256  # images that are paired among themselves: the time of an assignment grows with their cube


class PairTable:
    """What a search knows of pairs before it has asked for any row.

    In batches of more than TOGETHER images the pairs are those within random blocks of as many, so that time and memory
    grow with B and not with its square or cube.

    Args:
        score_pairs: Gives the scores (M,N,N), larger is fitter, of N images (their indices) under masks (M,G,G): image i
            keeps the mask's cells, the others are image j's.
        batch_size: B.
        masks: (M,G,G) bool.
        permitted: (B,B) bool, which partners an image may have.
        rng: Chooses the blocks.

    Attributes:
        blocks: Images (N,) and scores (M,N,N) of each block; -inf where a pair has none.
        deviation: The standard deviation of all scores.
    """

    def __init__(
        self, score_pairs: ScorePairs, batch_size: int, masks: Array, permitted: Array, rng: np.random.Generator
    ) -> None:
        self.masks = Masks.pack(masks)
        self.batch_size = batch_size
        count = -(-batch_size // TOGETHER)
        parts = np.array_split(rng.permutation(batch_size), count) if count > 1 else [np.arange(batch_size)]
        self.blocks: list[tuple[Array, Array]] = []
        for images in parts:
            scores = np.asarray(score_pairs(images, masks), np.float32)
            sound = np.isfinite(scores) & permitted[np.ix_(images, images)]
            self.blocks.append((images, np.where(sound, scores, np.float32(-np.inf))))
        finite = [scores[np.isfinite(scores)] for _, scores in self.blocks]
        # In float64: a model that diverges has scores whose squares float32 cannot hold.
        self.deviation = float(np.concatenate(finite).std(dtype=np.float64)) if any(map(len, finite)) else 0.0
        self._values: tuple[float, list[Array]] = (np.nan, [])

    def deal(self, count: int, temperature: float, rng: np.random.Generator) -> tuple[Masks, Array]:
        """Draw compositions.

        A pair's mask is drawn in proportion to exp(score / T). Pairings are the best there are for what pairs are worth,
        T log sum exp(score / T), perturbed by Gumbel noise of scale T (perturb and MAP: Papandreou and Yuille, ICCV
        2011). The larger T, the more alike to masks and partners drawn at random.

        Args:
            count: How many, N.
            temperature: T in standard deviations of the scores; 0: the best composition of all, N times.
            rng: The generator.

        Returns:
            Masks (N,B) and pairings (N,B) int32.
        """
        pairings = np.empty((count, self.batch_size), np.int32)
        chosen = np.empty((count, self.batch_size), np.int64)
        scale = self._scale(temperature)
        for (images, scores), worth in zip(self.blocks, self._worth(scale), strict=True):
            for number in range(count):
                partner = _assign_perturbed(worth, scale, rng)
                pairings[number, images] = images[partner]
                chosen[number, images] = _pick_masks(scores[:, np.arange(len(images)), partner], scale, rng)
        return self.masks[chosen], pairings

    def deal_anew(
        self, masks: Masks, pairings: Array, share: float, temperature: float, rng: np.random.Generator
    ) -> tuple[Masks, Array]:
        """Let some rows of compositions deal their partners and masks anew among themselves, the others staying.

        Args:
            masks: (N,B).
            pairings: (N,B) int32 permutations.
            share: Of the rows, at least two.
            temperature: As `deal` has it.
            rng: The generator.

        Returns:
            Masks (N,B) and pairings (N,B) int32, copies.
        """
        masks, pairings = masks.copy(), pairings.copy()
        scale = self._scale(temperature)
        place = np.full(self.batch_size, -1)
        for (images, scores), worth in zip(self.blocks, self._worth(scale), strict=True):
            place[:] = -1
            place[images] = np.arange(len(images))
            count = min(len(images), max(2, round(share * len(images))))
            for number in range(len(pairings)):
                own = rng.permutation(len(images))[:count]
                partner = place[pairings[number, images[own]]]
                own, partner = own[partner >= 0], partner[partner >= 0]  # some have partners of another block
                if not len(own):
                    continue
                dealt = partner[_assign_perturbed(worth[np.ix_(own, partner)], scale, rng)]
                chosen = _pick_masks(scores[:, own, dealt], scale, rng)
                pairings[number, images[own]] = images[dealt]
                masks[number, images[own]] = self.masks[chosen]
        return masks, pairings

    def _scale(self, temperature: float) -> float:
        """T in the scores' unit; 0 where it is so small that it makes no difference."""
        return temperature * self.deviation if temperature > COLDEST else 0.0

    def _worth(self, scale: float) -> list[Array]:
        """Of each block (N,N) float64, what pairs are worth; what is not permitted is worth less than all else."""
        if self._values[0] != scale:
            found = []
            for _, scores in self.blocks:
                worth = soft_maximum(scores, scale)
                sound = np.isfinite(worth)
                known = worth[sound]
                worth[~sound] = known.min() - 100 * (np.ptp(known) + scale + 1) if known.size else 0
                found.append(worth)
            self._values = scale, found
        return self._values[1]


def _assign_perturbed(worth: Array, scale: float, rng: np.random.Generator) -> Array:
    return assign(worth + scale * rng.gumbel(size=worth.shape) if scale else worth)


def _pick_masks(scores: Array, scale: float, rng: np.random.Generator) -> Array:
    """Of scores (M,N) of N pairs, the mask (N,) of each, drawn in proportion to exp(score / scale)."""
    return np.asarray((scores + scale * rng.gumbel(size=scores.shape) if scale else scores).argmax(axis=0))


def soft_maximum(scores: Array, scale: float) -> Array:
    """Compute scale x log of the mean over masks of exp(score / scale).

    Args:
        scores: (M,...) float32, -inf where there is none.
        scale: In the scores' unit; 0: the maximum.

    Returns:
        (...) float64.
    """
    top = scores.max(axis=0)
    if not scale:
        return np.asarray(top, np.float64)
    safe = np.where(np.isfinite(top), top, np.float32(0))
    with np.errstate(over="ignore"):
        spread = np.exp((scores - safe) * np.float32(1 / scale)).mean(axis=0, dtype=np.float64)
    return np.asarray(safe + scale * np.log(spread, where=spread > 0, out=np.full(spread.shape, -np.inf)))
