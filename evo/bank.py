"""Pattern banks: the masks a search found, how often, and which classes it paired; saved for reuse.

A bank is data only: a JSON file people can read, and the same as npz. Nothing in either can run. What a file says of
sizes and types is checked before room is made for it.
"""

from __future__ import annotations

import json
import re
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evo.errors import BankError, did_you_mean
from evo.storage import replacing

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
MAX_NAME = 255  # characters of a class name
MAX_FILE_BYTES = 256 * 2**20
MAX_JSON_BYTES = 128 * 2**20  # a parsed JSON text takes several times its size
MAX_DEPTH = 4  # of a JSON text: an object, its patterns, a pattern, its mask
MAX_HEADER = 10_000  # bytes before an array's values, in an npz
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)
# What a file that is not a bank makes its readers raise.
UNSOUND = (
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OSError,
    EOFError,
    RecursionError,
    SyntaxError,  # of a .npy's header
    tokenize.TokenError,
    NotImplementedError,  # an encrypted or strangely packed zip
    RuntimeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


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
        every = np.concatenate([self._masks, *self._pending])
        weights = np.concatenate([self._weights, np.ones(len(every) - len(self._masks))])
        self._masks, self._weights = _folded(every, weights)
        self._pending = []

    def top(self, count: int) -> PatternBank:
        """A bank with the `count` masks of largest weight and the same pairs."""
        kept = PatternBank(self.grid, self.num_classes, self.class_names)
        kept.restore(self.masks[:count], self.weights[:count], self.pairs)
        return kept

    def heavier_than(self, weight: float) -> PatternBank:
        """A bank with the masks of at least this weight and the same pairs."""
        return self.top(int((self.weights >= weight).sum()))

    def of_classes(self, names: Sequence[str]) -> PatternBank:
        """A bank with the pairs of rows whose own image is of these classes, and all masks: they are not kept by class.

        Raises BankError for a class it does not know.
        """
        chosen = np.isin(np.arange(self.num_classes), [self.class_number(name) for name in names])
        kept = PatternBank(self.grid, self.num_classes, self.class_names)
        kept.restore(self.masks, self.weights, self.pairs * chosen[:, None])
        return kept

    def class_number(self, name: str) -> int:
        """Raises BankError, with the nearest names, where it has no such class."""
        if name in self.class_names:
            return self.class_names.index(name)
        known = ", ".join(self.class_names[:20]) + (", ..." if self.num_classes > 20 else "")
        hint = did_you_mean(name, self.class_names)
        raise BankError(f"there is no class {name!r:.60} among the patterns' classes{hint} (they are {known})")

    def describe(self) -> str:
        """What it holds, in lines for a person."""
        if not len(self):
            return f"no patterns; grid {self.grid}x{self.grid}, {self.num_classes:,} classes"
        total, cells = self.weights.sum(), self.grid**2
        share = float(self.weights @ self.masks.mean((1, 2)) / total)
        kept = self.masks.reshape(len(self), -1).sum(1)
        unmixed = float(self.weights[(kept == 0) | (kept == cells)].sum() / total)
        lines = [
            f"{len(self):,} pattern{'s' * (len(self) != 1)} of {self.grid}x{self.grid} cells, from {total:,.0f} rows of "
            f"{self.num_classes:,} classes",
            f"{100 * share:.1f} % of cells keep the own image; {100 * unmixed:.1f} % of rows are not mixed",
        ]
        if len(self) > 1:
            ten = float(self.weights[:10].sum() / total)
            lines.append(f"the {min(10, len(self))} heaviest patterns have {100 * ten:.1f} % of the weight")
        seen = self.pairs.sum()
        if seen:
            lines.append(
                f"partners of the own class: {100 * float(np.trace(self.pairs) / seen):.1f} % of {seen:,.0f} rows"
            )
        return "\n".join(lines)

    @classmethod
    def merge(cls, banks: Sequence[PatternBank]) -> PatternBank:
        """One bank with the weights and pairs of all. Raises BankError where grids or class names differ."""
        if not banks:
            raise BankError("expected banks to merge, got none")
        first = banks[0]
        for other in banks[1:]:
            if other.grid != first.grid:
                raise BankError(
                    f"expected banks of one grid to merge, got {first.grid}x{first.grid} and {other.grid}x{other.grid}"
                )
            if other.class_names != first.class_names:
                raise BankError(
                    f"expected banks of the same classes to merge, got {_few(first.class_names)} and {_few(other.class_names)}"
                )
        merged = cls(first.grid, first.num_classes, first.class_names)
        every = np.concatenate([bank.masks for bank in banks])
        weights = np.concatenate([bank.weights for bank in banks])
        masks, weights = _folded(every, weights)
        merged.restore(masks[:MAX_PATTERNS], weights[:MAX_PATTERNS], np.sum([bank.pairs for bank in banks], axis=0))
        return merged

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
                    class_names=np.array(self._plain_names(), dtype=np.str_),
                )

    def _plain_names(self) -> list[str]:
        """Names that `load` takes; those of folders may be any."""
        return [_plain(name)[:MAX_NAME] for name in self.class_names]

    def _as_json(self) -> str:
        def pattern(mask: Array, weight: float) -> dict[str, Any]:
            rows = ["".join("#" if cell else "." for cell in row) for row in mask]
            return {"weight": weight, "share": float(mask.mean()), "mask": rows}

        head = {
            "schema": SCHEMA,
            "about": "evolved PatchMix patterns; # = the cell keeps the row's own image, . = its partner's; "
            "weight = rows of elites with this mask; pairs[a][b] = rows of class a with a partner of class b",
            "grid": self.grid,
            "class_names": self._plain_names(),
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
        packed = path.suffix == ".npz"
        limit = MAX_FILE_BYTES if packed else MAX_JSON_BYTES
        try:
            if path.stat().st_size > limit:
                raise ValueError(f"it is larger than a pattern bank may be ({limit >> 20} MiB)")
            return cls._from_npz(path) if packed else cls._from_json(path)
        except ValueError as error:
            raise BankError(f"{path} is not a pattern bank: {_plain(str(error))}") from None
        except UNSOUND as error:
            raise BankError(f"{path} is not a pattern bank: {type(error).__name__}: {_plain(str(error))}") from None

    @classmethod
    def _from_json(cls, path: Path) -> PatternBank:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {type(data).__name__}")
        _check_schema(data.get("schema"))
        grid, patterns, names, pairs = data["grid"], data["patterns"], data["class_names"], data["pairs"]
        if not isinstance(grid, int) or isinstance(grid, bool) or not isinstance(patterns, list):
            raise ValueError("`grid` must be an integer and `patterns` a list")
        _check_sizes(grid, len(patterns))
        for number, pattern in enumerate(patterns):
            rows = pattern["mask"]
            if not isinstance(rows, list) or len(rows) != grid or not all(_is_row(row, grid) for row in rows):
                raise ValueError(f"pattern {number} must be {grid} rows of {grid} characters # or ., got {rows!r:.60}")
        cells = np.frombuffer("".join("".join(p["mask"]) for p in patterns).encode(), np.uint8) == ord("#")
        weights = [_number(pattern["weight"], "a weight") for pattern in patterns]
        _check_names(names)
        if not isinstance(pairs, list) or [len(row) for row in pairs] != [len(names)] * len(names):
            raise ValueError(f"pairs must be {(len(names), len(names))}")
        table = np.array([[_number(value, "pairs") for value in row] for row in pairs], np.float64)
        return cls._checked(grid, cells.reshape(len(patterns), grid, grid), np.array(weights, np.float64), table, names)

    @classmethod
    def _from_npz(cls, path: Path) -> PatternBank:
        with zipfile.ZipFile(path) as archive:  # a small zip may hold a huge array: look before unpacking
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_FILE_BYTES:
                raise ValueError(f"it unpacks to {size >> 20} MiB, at most {MAX_FILE_BYTES >> 20} are read")
            if not isinstance(schema := _member(archive, "schema", "iu", ()).item(), int):
                raise ValueError(f"schema must be a whole number, got {schema!r:.60}")
            _check_schema(schema)
            names = [str(name) for name in _member(archive, "class_names", "U", (MAX_CLASSES,))]
            masks = _member(archive, "masks", "b", (MAX_PATTERNS, MAX_GRID, MAX_GRID))
            weights = _member(archive, "weights", "fiu", (MAX_PATTERNS,))
            pairs = _member(archive, "pairs", "fiu", (len(names), len(names)))
        return cls._checked(masks.shape[1], masks, weights, pairs, names)

    @classmethod
    def _checked(cls, grid: int, masks: Array, weights: Array, pairs: Array, names: list[str]) -> PatternBank:
        _check_names(names)
        _check_sizes(grid, len(masks))
        for name, array, shape in (
            ("masks", masks, (len(weights), grid, grid)),
            ("weights", weights, (len(masks),)),
            ("pairs", pairs, (len(names), len(names))),
        ):
            if array.shape != shape:
                raise ValueError(f"{name} must be {shape}, got {array.shape}")
        weights, pairs = weights.astype(np.float64), pairs.astype(np.float64)
        for name, array in (("weights", weights), ("pairs", pairs)):
            if not np.isfinite(array).all() or (array < 0).any():
                raise ValueError(f"{name} must be finite and not negative")
        if len(weights) and not 0 < weights.sum() < np.inf:
            raise ValueError("at least one weight must be above zero, and their sum finite")
        distinct = len(_distinct(masks.reshape(len(masks), -1))[0]) if len(masks) else 0
        if (np.diff(weights) > 0).any() or distinct < len(masks):  # written by hand
            masks, weights = _folded(masks, weights)
        bank = cls(grid, len(names), names)
        bank.restore(masks, weights, pairs)
        return bank


def random_masks(sampler: str, count: int, grid: int, rng: np.random.Generator, min_cells: int = 0) -> Array:
    """Masks (count,G,G) bool as random PatchMix draws them, made to obey min_cells as a search's first generation is.

    For readers of a bank that ask what is more than chance. Raises ValueError for an unknown sampler.
    """
    from evo.operators import MASK_SAMPLERS  # these bring DEAP along
    from evo.packed import Masks
    from evo.rules import limit_kept

    if sampler not in MASK_SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; there are {', '.join(MASK_SAMPLERS)}")
    drawn: Array = MASK_SAMPLERS[sampler](count, grid, rng)
    if not min_cells:
        return drawn
    return limit_kept(Masks.pack(drawn[None]), min_cells, grid * grid - min_cells, rng).cells[0]


def _folded(masks: Array, weights: Array) -> tuple[Array, Array]:
    """Distinct masks of (R,G,G) with the sums of their weights (R,), the heaviest first."""
    every = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    index, inverse = _distinct(every)
    totals = np.bincount(inverse, weights, minlength=len(index)).astype(np.float64)  # counts where there are none
    order = np.argsort(-totals, kind="stable")
    return masks[index[order]], totals[order]


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
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise ValueError(
            f"schema {schema}, this version reads {SCHEMA}; a newer Evomix made it: update, or export it again"
        )
    if isinstance(schema, bool) or schema != SCHEMA:
        raise ValueError(f"schema {schema!r:.60}, this version reads {SCHEMA}")


def _check_sizes(grid: int, patterns: int) -> None:
    if not 1 <= grid <= MAX_GRID:
        raise ValueError(f"the grid must be 1..{MAX_GRID}, got {grid!r:.60}")
    if patterns > MAX_PATTERNS:
        raise ValueError(f"{patterns} patterns, at most {MAX_PATTERNS} are read")


def _check_names(names: Any) -> None:
    """Names go to terminals and pages: no control characters, nothing that turns the reading direction."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("`class_names` must be a list of strings")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"`class_names` must be 1..{MAX_CLASSES} names, got {len(names)}")
    for name in names:
        if len(name) > MAX_NAME or _plain(name) != name:
            raise ValueError(
                f"a class name must be at most {MAX_NAME} characters without control characters, got {name!a:.60}"
            )


def _plain(text: str) -> str:
    """Text with nothing in it that a terminal would obey: controls, directions, surrogates, line ends."""
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names):,})" if len(names) > 4 else "")


def _is_row(row: Any, grid: int) -> bool:
    return isinstance(row, str) and len(row) == grid and not row.strip("#.")


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} must be numbers, got {value!r:.60}")
    return float(value)


def _check_depth(text: str) -> None:
    """Refuse what is nested deeply, before a parser builds a tree of it; brackets within strings do not count."""
    if text.count("[") + text.count("{") > 2 * MAX_PATTERNS + MAX_CLASSES + 100:
        raise ValueError("it has more lists and objects than a pattern bank may")
    depth = 0
    for token in BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _member(archive: zipfile.ZipFile, name: str, kinds: str, most: tuple[int, ...]) -> Array:
    """One array of an npz, whose kind (of dtype) and shape, at most `most`, are checked before its values are read."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _header(file)  # type: ignore[arg-type]
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.kind not in kinds:
            raise ValueError(f"{name} must be {_KINDS[kinds]}, got {str(dtype)!r:.40} {shape!s:.60}")
        if len(shape) != len(most) or any(side > limit for side, limit in zip(shape, most, strict=True)):
            raise ValueError(f"{name} must be at most {most}, got {shape!s:.60}")
        if size > archive.getinfo(f"{name}.npy").file_size:
            raise ValueError(f"{name} is cut off: it says {shape!s:.60}")
        values = np.frombuffer(file.read(size), dtype)
    return values.reshape(shape, order="F" if fortran else "C").copy()


_KINDS = {"iu": "a whole number", "U": "text", "b": "bool (N,G,G)", "fiu": "numbers"}


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of a .npy, as its header says. Literals only: nothing can run."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"arrays of format {version} are not read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    if any(side < 0 for side in shape):
        raise ValueError(f"a shape cannot be {shape}")
    return shape, fortran, dtype
