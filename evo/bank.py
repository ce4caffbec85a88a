"""Pattern banks: the masks a search found, how often, and which classes it paired; saved for reuse.

A bank is data only: a JSON file people can read, and the same as npz. Nothing in either can run.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evo.saved import replacing

Array = NDArray[Any]
Pairing = Literal["random", "affinity", "assignment"]

SCHEMA = 1
FADED = 0.05  # of a row: a pattern that has decayed below this weight is dropped
SMALLEST_LIFT = 1e-3  # what a pair of classes never seen counts as: rare, and not impossible
BLOCK = 128  # rows assigned at once: half a millisecond
SWEEPS = 32  # of B/2 proposed trades each; a random walk by trades forgets its start after about ln B
MAX_PATTERNS = 100_000  # of a file, and of a bank each time as many rows more have been counted in
MAX_GRID = 64
MAX_CLASSES = 50_000
MAX_FILE_BYTES = 256 * 2**20
# What a file that is not a bank makes its readers raise.
UNSOUND = (
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OSError,
    EOFError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)


class BankError(ValueError):
    """A pattern file that is missing or is not a sound bank; told in one line."""


class PatternBank:
    """Masks with weights, and how often each class was paired with which.

    masks: (N,G,G) bool, True = the cell keeps the row's own image. weights: (N,) float64, how many rows
    of elites had this mask. pairs: (K,K) float64, pairs[a, b] = how many rows of class a had a partner of
    class b. class_names: K names, for reading. uncut: rows counted in since the patterns were last cut down to
    the MAX_PATTERNS heaviest, which is done at fixed counts so that it does not depend on who looks when.
    """

    def __init__(self, grid: int, num_classes: int, class_names: list[str] | None = None) -> None:
        if not 1 <= grid <= MAX_GRID:
            raise ValueError(f"a pattern bank's grid must be 1..{MAX_GRID}, got {grid}")
        if not 1 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"a pattern bank's classes must number 1..{MAX_CLASSES}, got {num_classes}")
        self.grid = grid
        self.class_names = class_names or [str(k) for k in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{num_classes} classes need as many names, got {len(self.class_names)}")
        self.pairs: Array = np.zeros((num_classes, num_classes))
        self._masks: Array = np.zeros((0, grid, grid), bool)
        self._weights: Array = np.zeros(0)
        self._pending: list[Array] = []
        self.uncut = 0

    @property
    def num_classes(self) -> int:
        return len(self.pairs)

    @property
    def masks(self) -> Array:
        """(N,G,G) bool, distinct, the heaviest first."""
        self.settle()
        return self._masks

    @property
    def weights(self) -> Array:
        """(N,) float64, in the order of `masks`."""
        self.settle()
        return self._weights

    def __len__(self) -> int:
        return len(self.masks)

    def collect(self, masks: Array, own_labels: Array, partner_labels: Array) -> None:
        """Count in R rows of elites: masks (R,G,G), labels of own images and partners (R,)."""
        if masks.shape[1:] != (self.grid, self.grid):
            raise ValueError(f"this bank's masks are {self.grid}x{self.grid}, got {masks.shape[1:]}")
        self._pending.append(masks)
        np.add.at(self.pairs, (own_labels, partner_labels), 1.0)
        self.uncut += len(masks)
        if self.uncut >= MAX_PATTERNS:
            self._masks, self._weights, self.uncut = self.masks[:MAX_PATTERNS], self.weights[:MAX_PATTERNS], 0

    def decay(self, share: float) -> None:
        """Keep a share (0..1) of all weights and pairs, and drop the patterns that have faded."""
        if not 0 <= share <= 1:
            raise ValueError(f"a bank keeps a share of 0..1 of its weights, got {share}")
        weights = self.weights * share
        kept = weights >= FADED
        self._masks, self._weights = self._masks[kept], weights[kept]
        self.pairs = self.pairs * share

    def settle(self) -> None:
        """Fold pending rows into distinct masks with weights; put off because each fold sorts them all."""
        if not self._pending:
            return
        every = np.concatenate([self._masks, *self._pending]).reshape(-1, self.grid**2)
        weights = np.concatenate([self._weights, np.ones(len(every) - len(self._masks))])
        index, inverse = _distinct(every)
        totals = np.bincount(inverse, weights, minlength=len(index))
        order = np.argsort(-totals, kind="stable")
        self._masks = every[index[order]].reshape(-1, self.grid, self.grid)
        self._weights = totals[order]
        self._pending = []

    def top(self, count: int) -> PatternBank:
        """A bank with the `count` masks of largest weight and the same pairs."""
        kept = PatternBank(self.grid, self.num_classes, self.class_names)
        kept.restore(self.masks[:count], self.weights[:count], self.pairs)
        return kept

    def restore(self, masks: Array, weights: Array, pairs: Array, uncut: int = 0) -> None:
        """Replace the content: masks (N,G,G), weights (N,), pairs (K,K)."""
        self._masks, self._weights, self._pending = masks.copy(), weights.copy(), []
        self.pairs, self.uncut = pairs.copy(), uncut

    def affinity(self) -> Array:
        """(K,K) lift of each pair of classes over chance: 1 = as often as its classes' frequencies say.

        1 as well where a pair was not to be expected at all.
        """
        total = self.pairs.sum()
        expected = np.outer(self.pairs.sum(axis=1), self.pairs.sum(axis=0)) / max(total, 1.0)
        return np.divide(self.pairs, expected, out=np.ones_like(self.pairs), where=expected > 0)

    def draw(self, labels: Array, rng: np.random.Generator, pairing: Pairing = "assignment") -> tuple[Array, Array]:
        """Draw a composition for a batch with `labels` (B,): masks (B,G,G) by weight, a pairing (B,) int32."""
        return self.draw_masks(len(labels), rng), self.draw_pairing(labels, rng, pairing)

    def draw_masks(self, count: int, rng: np.random.Generator) -> Array:
        """Masks (count,G,G) bool, each by the patterns' weights. Raises ValueError where the bank is empty."""
        if not len(self):
            raise ValueError("this pattern bank is empty; collect elites before drawing")
        cumulative = np.cumsum(self.weights)
        chosen = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        drawn: Array = self.masks[np.minimum(chosen, len(cumulative) - 1)]
        return drawn

    def draw_pairing(self, labels: Array, rng: np.random.Generator, pairing: Pairing = "assignment") -> Array:
        """A permutation (B,) int32 for a batch with `labels` (B,), of which `random` needs only the length.

        affinity: with a probability in proportion to the product of its pairs' affinities. assignment: the one of
        largest total of log affinity plus Gumbel noise (perturb-and-maximise, Papandreou and Yuille, ICCV 2011),
        in random blocks of at most BLOCK rows, so that the time grows with B. All are uniform where affinities
        are equal.
        """
        if pairing not in get_args(Pairing):
            raise ValueError(f"unknown pairing {pairing!r}; there are {', '.join(get_args(Pairing))}")
        if pairing == "random":
            return rng.permutation(len(labels)).astype(np.int32)
        if labels.size and (labels.min() < 0 or labels.max() >= self.num_classes):
            raise ValueError(f"this bank knows {self.num_classes} classes, got labels up to {labels.max()}")
        gain = np.log(self.affinity() + SMALLEST_LIFT)
        return _traded(gain, labels, rng) if pairing == "affinity" else _assigned(gain, labels, rng)

    def save(self, path: Path | str) -> None:
        """Write the MAX_PATTERNS heaviest patterns to PATH.json or PATH.npz, by its ending, atomically."""
        path = Path(path)
        if path.suffix not in (".json", ".npz"):
            raise ValueError(f"a pattern bank is a .json or .npz file, got {path.name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            if path.suffix == ".json":
                file.write(self._as_json().encode())
            else:
                np.savez_compressed(
                    file,
                    schema=np.array(SCHEMA),
                    masks=self.masks[:MAX_PATTERNS],
                    weights=self.weights[:MAX_PATTERNS],
                    pairs=self.pairs,
                    class_names=np.array(self.class_names, dtype=np.str_),
                )

    def _as_json(self) -> str:
        def pattern(mask: Array, weight: float) -> dict[str, Any]:
            rows = ["".join("#" if cell else "." for cell in row) for row in mask]
            return {"weight": weight, "share": float(mask.mean()), "mask": rows}

        head = {
            "schema": SCHEMA,
            "about": "evolved PatchMix patterns; # = the cell keeps the row's own image, . = its partner's; "
            "weight = rows of elites with this mask; pairs[a][b] = rows of class a with a partner of class b",
            "grid": self.grid,
            "class_names": self.class_names,
        }
        lines = [json.dumps(head, indent=1)[:-2] + ',\n "patterns": [']
        heaviest = zip(self.masks[:MAX_PATTERNS], self.weights[:MAX_PATTERNS], strict=True)
        lines.append(",\n".join("  " + json.dumps(pattern(m, float(w))) for m, w in heaviest))
        lines.append(' ],\n "pairs": [')
        lines.append(",\n".join("  " + json.dumps(row) for row in self.pairs.tolist()))
        return "\n".join([*lines, " ]", "}"]) + "\n"

    @classmethod
    def load(cls, path: Path | str) -> PatternBank:
        """Read a .json or .npz bank. Raises BankError, a ValueError, where the file is not a sound bank."""
        path = Path(path)
        if not path.is_file():
            raise BankError(f"no pattern bank at {path}; `./run patterns RUN` writes one")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BankError(f"{path} is larger than a pattern bank may be ({MAX_FILE_BYTES >> 20} MiB)")
        try:
            return cls._from_npz(path) if path.suffix == ".npz" else cls._from_json(path)
        except ValueError as error:
            raise BankError(f"{path} is not a pattern bank: {error}") from None
        except UNSOUND as error:
            raise BankError(f"{path} is not a pattern bank: {type(error).__name__}: {error}") from None

    @classmethod
    def _from_json(cls, path: Path) -> PatternBank:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {type(data).__name__}")
        _check_schema(data.get("schema"))
        grid, patterns = data["grid"], data["patterns"]
        if not isinstance(grid, int) or isinstance(grid, bool) or not isinstance(patterns, list):
            raise ValueError("`grid` must be an integer and `patterns` a list")
        if len(patterns) > MAX_PATTERNS:
            raise ValueError(f"{len(patterns)} patterns, at most {MAX_PATTERNS} are read")
        for number, pattern in enumerate(patterns):
            rows = pattern["mask"]
            if len(rows) != grid or any(len(row) != grid or set(row) - set("#.") for row in rows):
                raise ValueError(f"pattern {number} must be {grid} rows of {grid} characters # or ., got {rows!r:.60}")
        masks = np.array([[[c == "#" for c in row] for row in p["mask"]] for p in patterns], dtype=bool)
        weights = np.array([p["weight"] for p in patterns], dtype=np.float64)
        return cls._checked(grid, masks, weights, np.array(data["pairs"], np.float64), data["class_names"])

    @classmethod
    def _from_npz(cls, path: Path) -> PatternBank:
        with zipfile.ZipFile(path) as archive:  # a small zip may hold a huge array: look before unpacking
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to {size >> 20} MiB, at most {MAX_FILE_BYTES >> 20} are read")
        with np.load(path, allow_pickle=False) as data:
            _check_schema(int(data["schema"]))
            masks, names = data["masks"], [str(name) for name in data["class_names"]]
            if masks.ndim != 3 or masks.dtype != np.bool_:
                raise ValueError(f"masks must be bool (N,G,G), got {masks.dtype} {masks.shape}")
            return cls._checked(masks.shape[1], masks, data["weights"], data["pairs"], names)

    @classmethod
    def _checked(cls, grid: int, masks: Array, weights: Array, pairs: Array, names: list[str]) -> PatternBank:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("`class_names` must be a list of strings")
        bank = cls(grid, len(names), names)
        masks = masks.reshape(len(weights), grid, grid) if masks.size or not len(weights) else masks
        for name, array, shape in (
            ("masks", masks, (len(weights), grid, grid)),
            ("weights", weights, (len(masks),)),
            ("pairs", pairs, (len(names), len(names))),
        ):
            if array.shape != shape:
                raise ValueError(f"{name} must be {shape}, got {array.shape}")
        for name, array in (("weights", weights), ("pairs", pairs)):
            if not np.isfinite(array).all() or (array < 0).any():
                raise ValueError(f"{name} must be finite and not negative")
        if len(weights) and not weights.sum() > 0:
            raise ValueError("at least one weight must be above zero")
        bank.restore(masks, weights.astype(np.float64), pairs.astype(np.float64))
        return bank


def _distinct(rows: Array) -> tuple[Array, Array]:
    """Of rows (R,N) bool: where each kind first stands, in lexicographic order, and the kind of each row (R,)."""
    packed = np.packbits(rows, axis=1)
    if packed.shape[1] > 8:
        _, index, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    else:  # one number a row: sorted many times faster
        padded = np.zeros((len(rows), 8), np.uint8)
        padded[:, : packed.shape[1]] = packed
        numbers = padded.view(">u8").ravel().astype(np.uint64)
        _, index, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return index, inverse.ravel()


def _traded(gain: Array, labels: Array, rng: np.random.Generator) -> Array:
    """A permutation (B,) of probability exp(the sum of gain[own class, partner's class]), gain (K,K).

    Metropolis' walk: rows trade partners two by two, each pair of rows by its own odds (Metropolis et al.,
    Journal of Chemical Physics 21, 1953).
    """
    count = len(labels)
    pairing = rng.permutation(count).astype(np.int32)
    half = count // 2
    for _ in range(SWEEPS if half else 0):
        order = rng.permutation(count)
        one, two = order[:half], order[half : 2 * half]
        own_one, own_two, first, second = labels[one], labels[two], labels[pairing[one]], labels[pairing[two]]
        odds = gain[own_one, second] + gain[own_two, first] - gain[own_one, first] - gain[own_two, second]
        trades = np.log(rng.random(half)) < odds
        one, two = one[trades], two[trades]
        pairing[one], pairing[two] = pairing[two], pairing[one]
    return pairing


def _assigned(gain: Array, labels: Array, rng: np.random.Generator) -> Array:
    """The permutation (B,) of largest sum of gain[own class, partner's class] plus Gumbel noise, in random blocks."""
    from scipy.optimize import linear_sum_assignment  # half a second

    count = len(labels)
    pairing = np.empty(count, np.int32)
    rows, partners = rng.permutation(count), rng.permutation(count)
    cuts = np.linspace(0, count, -(-count // BLOCK) + 1).astype(int)
    for start, end in pairwise(cuts):
        mine, theirs = rows[start:end], partners[start:end]
        noisy = gain[labels[mine, None], labels[theirs]] + rng.gumbel(size=(end - start,) * 2)
        pairing[mine] = theirs[linear_sum_assignment(noisy, maximize=True)[1]]
    return pairing


def _check_schema(schema: Any) -> None:
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}, this version reads {SCHEMA}; update Evomix, or export it again")
