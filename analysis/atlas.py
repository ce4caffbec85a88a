"""What a run's search prefers: masks under the grid's symmetries, pairings, how both move; each claim with its test.

Tests are over one row per image of each search that was kept whole: that of the fittest genome of its last
generation. Kin genomes share most rows, so that only one of them is counted. Every test is a permutation test, exact
under its null whatever the numbers of rows:

- Masks: beside each row's mask lie DRAWN masks made as the null says. Where the null holds, which of them is the
  search's own is arbitrary; so each permutation picks one of them for each row. (For the cells' places, one for each of
  BLOCKS groups of rows.)
- Pairings: a permutation deals the partners of one search anew among its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.rounding import significant
from analysis.run_folder import RunFolder
from analysis.statistics import LEVEL, holm
from evo.bank import PatternBank, random_masks
from evo.bank_files import load_bank
from evo.symmetry import canonical, orbits

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
PERMUTATIONS = 2000
DRAWN = 19  # masks of the null beside each row's own
BLOCKS = 64
MOST_ROWS = 8192  # of all searches together; of more, evenly spread ones are tested
MOST_CLASSES = 100  # of more, the kept rows are too few for their pairs
LISTED = 500  # orbits
SAMPLED = 20_000  # masks drawn for a lift that has no formula
FEWEST = 5  # of these an orbit must have for a lift to be told
STEPS = 250  # permutations at once, which bounds memory

RANDOM = "masks drawn at random ({sampler})"
SAME_SHARE = "random masks of the same share"
DEALT = "partners dealt at random within each search"


class Statement(NamedTuple):
    """A claim about what evolution prefers. p, p_holm: NaN where it could not be tested."""

    name: str
    text: str
    observed: float
    expected: float
    unit: str
    p: float
    p_holm: float
    null: str  # what counts as chance
    strength: float = nan  # how far from chance, in standard deviations of what chance gives


class Orbits(NamedTuple):
    """Masks that are alike under rotation, mirroring and complement; the most frequent first, at most LISTED."""

    masks: Array  # (U,G,G) bool, the canonical form
    sizes: Array  # (U,) how many different masks it stands for, 1..16
    frequency: Array  # (U,) share of the rows trained on
    lift: Array  # (U,) over random drawing; NaN where it is too rare to tell
    share: Array  # (U,) of cells kept by the form
    own_pieces: Array  # (U,) 4-connected pieces of kept cells
    partner_pieces: Array  # (U,) and of the others
    boundary: Array  # (U,) edges between a kept cell and one that is not
    number: int  # of orbits found in all

    def table(self) -> pd.DataFrame:
        """One row an orbit."""
        import pandas as pd

        form = ["/".join("".join("#" if cell else "." for cell in row) for row in mask) for mask in self.masks]
        columns = self._asdict()
        return pd.DataFrame({"form": form, **{k: v for k, v in columns.items() if k not in ("masks", "number")}})


class Movement(NamedTuple):
    """One value per search kept whole, beside what chance gives, (S,) each."""

    title: str
    unit: str
    values: Array
    expected: Array


@dataclass
class Atlas:
    """All that `atlas_of` finds. kept (G,G): share of the rows trained on that keep the cell. mattered (G,G): of the
    cell losses at each place of the pictured rows, the share at cells that kept the own image; None without pictures.
    """

    run: str
    grid: int
    sampler: str
    bank: PatternBank
    orbits: Orbits
    kept: Array
    mattered: Array | None
    pictured: int  # rows that `mattered` is of
    epochs: Array  # (S,) of the searches kept whole; search numbers where there are no epochs
    by: str  # what `epochs` counts: epoch or search
    movements: list[Movement]
    statements: list[Statement]  # told from no preference first, of these the strongest first
    notes: list[str]
    tested: int  # rows
    pair_p: (
        Array | None
    )  # (K,K) of pairs of different classes that come more often than by chance; None where not tested


class Rows(NamedTuple):
    """One row per image of the searches kept whole: masks (R,G,G), classes (R,), partners' classes, whether the partner
    is the image itself, the number of the search and of its images.
    """

    masks: Array
    own: Array
    partner: Array
    itself: Array
    search: Array
    images: Array


def atlas_of(run: RunFolder) -> Atlas:
    """The atlas of a run's patterns. Raises RunFolderError where it has none."""
    bank = load_bank(run.bank_file())
    snapshots = run.snapshots()
    mix, search = run.config["mix"], run.config["search"]
    sampler = str(mix["sampler"])
    rng = np.random.default_rng(0)
    found = orbits_of(bank, sampler, rng)
    rows = rows_of_searches(snapshots, bank.grid)
    epochs = np.array([int(s["epoch"]) for s in snapshots], np.int64)
    by = "epoch"
    if not epochs.any():
        epochs = np.array([int(s["search"]) for s in snapshots], np.int64)
        by = "search"
    mattered, pictured = where_it_mattered(snapshots, bank.grid)
    statements: list[Statement] = []
    movements: list[Movement] = []
    pair_p = None
    if len(rows.masks):
        alternatives = _alternatives(rows.masks, sampler, int(search.get("min_cells", 0)), rng)
        statements, pair_p = statements_of(rows, alternatives, sampler, search, bank.class_names, rng)
        movements = _movements(rows, alternatives, found, search)
    return Atlas(
        run.name,
        bank.grid,
        sampler,
        bank,
        found,
        np.tensordot(bank.weights, bank.masks, 1) / bank.weights.sum(),
        mattered,
        pictured,
        epochs,
        by,
        movements,
        statements,
        _notes(search, sampler, len(snapshots)),
        len(rows.masks),
        pair_p,
    )


def chance(mask: Array, sampler: str) -> float | None:
    """The probability that random PatchMix draws this mask (G,G); None for samplers without a formula.

    Bernoulli masks with a share q ~ U(0,1): k of n kept cells have probability 1 / ((n + 1) C(n, k)).
    """
    if sampler != "bernoulli":
        return None
    return 1 / ((mask.size + 1) * comb(mask.size, int(mask.sum())))


def pieces(masks: Array) -> Array:
    """Of masks (N,G,G) bool: how many 4-connected pieces their True cells form, (N,) int64."""
    from scipy.ndimage import label

    if not len(masks):
        return np.zeros(0, np.int64)
    across = np.zeros((3, 3, 3), bool)
    across[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]  # neighbours within a mask only
    numbered = label(masks, across)[0].reshape(len(masks), -1).max(axis=1)
    # Pieces are numbered in reading order, mask after mask; a mask without any has 0.
    reached = np.maximum.accumulate(numbered)
    return np.diff(reached, prepend=0).astype(np.int64)


def boundary(masks: Array) -> Array:
    """Of masks (N,G,G) bool: edges between a kept cell and one that is not, (N,) int64."""
    beside = (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    below = (masks[:, 1:] != masks[:, :-1]).sum((1, 2))
    edges: Array = beside + below
    return edges


def orbits_of(bank: PatternBank, sampler: str, rng: np.random.Generator) -> Orbits:
    """A bank's masks grouped under the 16 symmetries, with their lift over the sampler's random drawing."""
    index, which = orbits(bank.masks)
    weight = np.bincount(which, bank.weights, len(index))
    order = np.argsort(-weight, kind="stable")[:LISTED]
    forms, sizes = canonical(bank.masks[index[order]])
    frequency = weight[order] / weight.sum()
    return Orbits(
        forms,
        sizes,
        frequency,
        frequency / _orbit_chance(forms, sizes, sampler, rng),
        forms.mean((1, 2)),
        pieces(forms),
        pieces(~forms),
        boundary(forms),
        len(index),
    )


def _orbit_chance(forms: Array, sizes: Array, sampler: str, rng: np.random.Generator) -> Array:
    """(U,) the probability that a random mask is of each orbit; NaN where it is too rare to tell."""
    closed = [chance(form, sampler) for form in forms]
    if sampler == "bernoulli":  # a complement is as likely, and so are rotations
        return sizes * np.array(closed, np.float64)
    drawn = random_masks(sampler, SAMPLED, forms.shape[-1], rng)
    _, which = orbits(np.concatenate([forms, drawn]))
    counts = np.bincount(which[len(forms) :], minlength=int(which.max()) + 1)[which[: len(forms)]]
    return np.where(counts >= FEWEST, counts / SAMPLED, nan)


def rows_of_searches(snapshots: list[dict[str, Array]], grid: int) -> Rows:
    """The rows of the fittest genome of each search's last generation, MOST_ROWS at most, evenly spread."""
    parts = []
    step = max(1, -(-sum(len(s["labels"]) for s in snapshots) // MOST_ROWS))
    for number, snapshot in enumerate(snapshots):
        last = np.flatnonzero(snapshot["generation"] == snapshot["generation"].max())
        fitness = snapshot["fitness"].reshape(len(snapshot["generation"]), -1)[last, 0]
        genome = last[int(np.argmax(fitness))]
        labels = snapshot["labels"]
        pairing = snapshot["pairings"][genome]
        every = np.arange(0, len(labels), step)
        parts.append(
            Rows(
                snapshot["masks"][genome][every],
                labels[every],
                labels[pairing[every]],
                pairing[every] == every,
                np.full(len(every), number),
                np.full(len(every), len(labels)),
            )
        )
    if not parts:
        return Rows(np.zeros((0, grid, grid), bool), *(np.zeros(0, int) for _ in range(5)))
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def where_it_mattered(snapshots: list[dict[str, Array]], grid: int) -> tuple[Array | None, int]:
    """(G,G): of the cell losses at each place of the pictured rows, the share at cells that kept the own image; and how
    many rows are pictured. Only these rows' cell losses are kept: some of the fittest and of the least fit.
    """
    of_own = np.zeros((grid, grid))
    total = np.zeros((grid, grid))
    rows = 0
    for snapshot in snapshots:
        kind = snapshot.get("gallery_kind", np.full(len(snapshot["gallery_masks"]), "best"))
        chosen = kind != "way"  # the same row over and over
        losses = snapshot["gallery_cell_losses"][chosen].astype(np.float64)
        masks = snapshot["gallery_masks"][chosen]
        finite = np.isfinite(losses).all((1, 2))
        of_own += (losses * masks)[finite].sum(0)
        total += losses[finite].sum(0)
        rows += int(finite.sum())
    if not rows or not (total > 0).all():
        return None, 0
    return of_own / total, rows


class Alternatives(NamedTuple):
    """(R, 1 + DRAWN, n) bool each, a row's own mask first: beside masks drawn at random, and beside masks with
    which its form is compared: its own cells shuffled, or where places are not alike the random ones.
    """

    drawn: Array
    alike: Array


def _alternatives(masks: Array, sampler: str, min_cells: int, rng: np.random.Generator) -> Alternatives:
    count, grid = masks.shape[:2]
    own = masks.reshape(count, 1, -1)
    random = random_masks(sampler, count * DRAWN, grid, rng, min_cells=min_cells).reshape(count, DRAWN, -1)
    drawn = np.concatenate([own, random], axis=1)
    if sampler != "bernoulli":
        return Alternatives(drawn, drawn)
    shuffled = rng.permuted(np.repeat(own, DRAWN, axis=1), axis=2)
    return Alternatives(drawn, np.concatenate([own, shuffled], axis=1))


def statements_of(
    rows: Rows,
    alternatives: Alternatives,
    sampler: str,
    search: dict[str, Any],
    class_names: list[str],
    rng: np.random.Generator,
) -> tuple[list[Statement], Array | None]:
    """All statements, with p adjusted by Holm over those that are tested, in the order that Atlas says; and its pair_p."""
    form = SAME_SHARE if sampler == "bernoulli" else RANDOM.format(sampler=sampler)
    about_pairs, pair_p = _pairings(rows, search, class_names, rng)
    found = [
        *_shares(alternatives.drawn, RANDOM.format(sampler=sampler), bool(search.get("hold")), rng),
        *_forms(alternatives.alike, rows.masks.shape[-1], form, rng),
        *about_pairs,
    ]
    adjusted = holm([s.p for s in found])
    found = [_worded(s._replace(p_holm=float(p))) for s, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=_rank), pair_p


def _rank(statement: Statement) -> tuple[int, float]:
    """Told from no preference, not told from it, not tested; within each the furthest from chance first."""
    if np.isnan(statement.p_holm):
        return 2, 0.0
    return int(statement.p_holm >= LEVEL), -statement.strength


class Words(NamedTuple):
    """How a test is told: its subject, what is preferred above and below chance, and how a value is written."""

    subject: str
    above: str
    below: str
    value: str
    rest: str = ""  # of the unit, said once


WORDS = {
    "share": Words("share of cells kept", "keeping more of the own image", "keeping less of the own image", "{} %"),
    "balance": Words("how evenly images are mixed", "mixing less evenly", "mixing more evenly", "{}",
                     " points away from half and half"),
    "unmixed": Words("rows not mixed at all", "leaving rows unmixed", "mixing every row", "{} %", " of rows unmixed"),
    "places": Words("which cells are kept", "keeping certain cells", "keeping all cells alike", "{}",
                    " percentage points between places"),
    "pieces": Words("pieces of a mask", "more pieces", "fewer pieces", "{}", " pieces of either image"),
    "boundary": Words("boundary of a mask", "longer boundaries", "shorter boundaries", "{}", " edges"),
    "patterns": Words("rows that share a pattern", "certain patterns", "varied patterns", "{} %", " of pairs of rows alike"),
    "same class": Words("partners of the own class", "partners of the own class", "partners of other classes", "{} %",
                        " of rows with a partner of their class"),
    "itself": Words("images as their own partners", "images as their own partners", "other images as partners", "{} %",
                    " of rows"),
    "class pairs": Words("which classes are paired", "certain pairs of classes", "evenly spread pairs of classes", "{}",
                         " (chi-square for each pair of classes)"),
}  # fmt: skip


def _worded(statement: Statement) -> Statement:
    if np.isnan(statement.p):
        return statement
    words = WORDS[statement.name]
    observed, expected = (words.value.format(significant(value)) for value in (statement.observed, statement.expected))
    told = (
        f"{observed}{words.rest} against {expected} of {statement.null} (p = {significant(statement.p)}, adjusted "
        f"{significant(statement.p_holm)})"
    )
    if statement.p_holm >= LEVEL:
        return statement._replace(text=f"no preference seen: {words.subject}, {told}")
    preferred = words.above if statement.observed > statement.expected else words.below
    return statement._replace(text=f"evolution prefers {preferred}: {told}")


def _untested(name: str, why: str) -> Statement:
    return Statement(name, f"{name}: not tested, {why}", nan, nan, "", nan, nan, "")


def _shares(drawn: Array, null: str, held: bool, rng: np.random.Generator) -> list[Statement]:
    """How many cells are kept, against random drawing."""
    if held:
        return [_untested("share", "the run's rules hold every row's share (search.hold)")]
    cells = drawn.shape[-1]
    kept = drawn.sum(axis=2)
    values = {
        "share": (kept, 100 / cells, "% of cells"),
        "balance": (abs(2 * kept - cells), 50 / cells, "points"),
        "unmixed": (((kept == 0) | (kept == cells)).astype(np.int64), 100.0, "% of rows"),
    }
    return _picked(values, null, rng)


def _forms(alike: Array, grid: int, null: str, rng: np.random.Generator) -> list[Statement]:
    """Where cells are kept and how they hang together."""
    count, beside, _ = alike.shape
    flat = alike.reshape(-1, grid, grid)
    together = (pieces(flat) + pieces(~flat)).reshape(count, beside)
    edges = boundary(flat).reshape(count, beside)
    found = _picked({"pieces": (together, 1.0, "pieces"), "boundary": (edges, 1.0, "edges")}, null, rng)
    return [_places(alike, null, rng), *found, _repeats(flat, count, null, rng)]


def _picked(values: dict[str, tuple[Array, float, str]], null: str, rng: np.random.Generator) -> list[Statement]:
    """Tests of means: name -> (values (R, 1 + DRAWN) int, the row's own first; unit's size; unit). Two-sided."""
    names = list(values)
    count, beside = values[names[0]][0].shape
    start = np.arange(count) * beside
    sums: dict[str, list[Array]] = {name: [] for name in names}
    for _ in range(0, PERMUTATIONS, STEPS):
        picks = start + rng.integers(0, beside, (STEPS, count))
        for name in names:
            sums[name].append(values[name][0].ravel()[picks].sum(axis=1))
    found = []
    for name, (numbers, size, unit) in values.items():
        centre = float(numbers.sum()) / beside  # the same whichever of them is the search's
        observed = float(numbers[:, 0].sum())
        by_chance = np.concatenate(sums[name])
        p = _p(abs(observed - centre), abs(by_chance - centre))
        expected = float(numbers[:, 1:].mean()) * size
        strength = _strength(observed, by_chance)
        found.append(Statement(name, "", observed / count * size, expected, unit, p, nan, null, strength))
    return found


def _places(alike: Array, null: str, rng: np.random.Generator) -> Statement:
    """Whether some cells are kept more often than others (or than the sampler has it)."""
    count, beside, _ = alike.shape
    order = rng.permutation(count)
    blocks = min(BLOCKS, count)
    starts = np.linspace(0, count, blocks + 1).astype(int)[:-1]
    sums = np.add.reduceat(alike[order], starts, axis=0, dtype=np.int64)  # (blocks, beside, n)
    centre = sums.sum(axis=(0, 1)) / beside

    def uneven(kept: Array) -> Array:
        apart: Array = 100 * np.sqrt((((kept - centre) / count) ** 2).mean(axis=-1))
        return apart

    picks = rng.integers(0, beside, (PERMUTATIONS, blocks))
    by_chance = uneven(sums[np.arange(blocks), picks].sum(axis=1))
    rows = rng.integers(1, beside, count)  # one of the null for each row: what chance alone makes of the places
    observed = float(uneven(alike[:, 0].sum(axis=0)))
    expected = float(uneven(alike[np.arange(count), rows].sum(axis=0)))
    return Statement(
        "places", "", observed, expected, "points", _p(observed, by_chance), nan, null, _strength(observed, by_chance)
    )


def _repeats(flat: Array, count: int, null: str, rng: np.random.Generator) -> Statement:
    """Whether rows share patterns, up to symmetry, more often than chance has it."""
    index, which = orbits(flat)
    which = which.reshape(count, -1)
    pairs = count * (count - 1) or 1
    lone = np.bincount(which.ravel(), minlength=len(index)) < 2
    numbers = np.cumsum(~lone)  # orbits seen once cannot repeat: all of them are number 0, and left out
    numbers[lone] = 0
    which = numbers[which]
    most = int(numbers.max()) + 1

    def alike(picked: Array) -> float:
        counts = np.bincount(picked, minlength=most)[1:]
        return 100 * float((counts * (counts - 1)).sum()) / pairs

    beside = which.shape[1]
    rows = np.arange(count)
    by_chance = np.array([alike(which[rows, rng.integers(0, beside, count)]) for _ in range(PERMUTATIONS)])
    expected = float(np.mean([alike(which[:, column]) for column in range(1, beside)]))
    observed = alike(which[:, 0])
    centre = float(np.mean([alike(which[:, column]) for column in range(beside)]))
    p = _p(abs(observed - centre), abs(by_chance - centre))
    return Statement(
        "patterns", "", observed, expected, "% of pairs of rows", p, nan, null, _strength(observed, by_chance)
    )


def _pairings(
    rows: Rows, search: dict[str, Any], class_names: list[str], rng: np.random.Generator
) -> tuple[list[Statement], Array | None]:
    """Which classes are paired, and whether images are their own partners; and `_pair_p`, None where it is not tested."""
    if search.get("hold") or not search.get("same_class", True):
        return [_untested("class pairs", "the run's rules forbid some partners (search.hold, search.same_class)")], None
    if (rows.own < 0).any():
        return [_untested("class pairs", "the images have no classes")], None
    classes = len(class_names)
    dense = classes <= MOST_CLASSES
    size = classes * classes if dense else 1
    expected = _expected_pairs(rows, classes) if dense else np.zeros(1)
    apart = ~np.eye(classes, dtype=bool).ravel() & (expected.ravel() > 0) if dense else np.zeros(1, bool)
    same, uneven, excess = [], [], []
    groups = [np.flatnonzero(rows.search == number) for number in np.unique(rows.search)]
    # That an image is its own partner is no choice of a class.
    groups = [group[~rows.itself[group]] for group in groups]
    for steps in [0, *[STEPS] * (PERMUTATIONS // STEPS)]:  # first as they are
        counts = np.zeros((max(steps, 1), size), np.int64)
        alike = np.zeros(max(steps, 1), np.int64)
        for group in groups:
            own, partner = rows.own[group], rows.partner[group]
            theirs = rng.permuted(np.broadcast_to(partner, (steps, len(partner))), axis=1) if steps else partner[None]
            alike += (theirs == own).sum(axis=1)
            if dense:
                codes = own * classes + theirs + np.arange(len(theirs))[:, None] * size
                counts += np.bincount(codes.ravel(), minlength=counts.size).reshape(counts.shape)
        same.append(alike)
        if dense:
            uneven.append(_unevenness(counts[:, apart], expected.ravel()[apart]))
            excess.append(_excess(counts.reshape(-1, classes, classes), expected))
    others = max(1, int((~rows.itself).sum()))
    by_chance = np.concatenate(same) * (100 / others)
    centre = float(by_chance[1:].mean())
    statements = [
        Statement("same class", "", float(by_chance[0]), centre, "% of rows",
                  _p(abs(by_chance[0] - centre), abs(by_chance[1:] - centre)), nan, DEALT,
                  _strength(by_chance[0], by_chance[1:]))
    ]  # fmt: skip
    if search.get("self_pairing", True):
        statements.append(_themselves(rows, rng))
    if dense and apart.any():
        values = np.concatenate(uneven)
        p = _p(values[0], values[1:])
        strength = _strength(values[0], values[1:])
        statements.append(
            Statement("class pairs", "", float(values[0]), float(values[1:].mean()), "", p, nan, DEALT, strength)
        )
    else:
        statements.append(
            _untested("class pairs", f"{classes:,} classes have more pairs than {others:,} rows can tell")
        )
    return statements, _pair_p(excess, classes) if dense else None


def _expected_pairs(rows: Rows, classes: int) -> Array:
    """(K,K) pairs of classes under random partners within each search, among rows whose partner is another image."""
    expected = np.zeros((classes, classes))
    for number in np.unique(rows.search):
        chosen = (rows.search == number) & ~rows.itself
        own = np.bincount(rows.own[chosen], minlength=classes)
        partner = np.bincount(rows.partner[chosen], minlength=classes)
        expected += np.outer(own, partner) / max(1, int(chosen.sum()))
    return expected


def _excess(counts: Array, expected: Array) -> Array:
    """(S,N) of the N pairs of different classes, both directions together: how far counts (S,K,K) are above what is
    expected (K,K), in the square root of that, as of a Poisson count.
    """
    one, two = np.triu_indices(len(expected), 1)
    seen = (counts + counts.swapaxes(1, 2))[:, one, two]
    both = (expected + expected.T)[one, two]
    return np.divide(seen - both, np.sqrt(both), out=np.zeros(seen.shape), where=both > 0)


def _pair_p(excess: Sequence[Array], classes: int) -> Array:
    """(K,K) symmetric: p of each pair of different classes, NaN on the diagonal. The share of permutations in which any
    pair is as far above chance, which accounts for the number of pairs (Westfall and Young, *Resampling-Based Multiple
    Testing*, 1993). excess: the search's own first.
    """
    values = np.concatenate(excess)
    found = np.full((classes, classes), nan)
    if values.shape[1]:
        largest = np.sort(values[1:].max(axis=1))
        as_far = len(largest) - np.searchsorted(largest, values[0] - 1e-9)
        one, two = np.triu_indices(classes, 1)
        found[one, two] = found[two, one] = (1 + as_far) / (1 + len(largest))
    return found


def _unevenness(counts: Array, expected: Array) -> Array:
    """(S,) chi-square per pair of different classes, of counts (S,N) scaled to as many pairs as are expected."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    scaled = expected * total / expected.sum()
    result: Array = ((counts - scaled) ** 2 / scaled).mean(axis=1)
    return result


def _themselves(rows: Rows, rng: np.random.Generator) -> Statement:
    """How often an image is its own partner; in a random permutation of any length once on average."""
    count = len(rows.search)
    by_chance = np.zeros(PERMUTATIONS, np.int64)
    centre = 0.0
    for number in np.unique(rows.search):
        images = rows.images[rows.search == number]
        if len(images) == images[0]:
            places = np.arange(len(images))
            dealt = rng.permuted(np.broadcast_to(places, (PERMUTATIONS, len(places))), axis=1)
            by_chance += (dealt == places).sum(axis=1)
        else:  # a part of many rows
            by_chance += rng.binomial(len(images), 1 / images[0], PERMUTATIONS)
        centre += len(images) / images[0]
    observed = int(rows.itself.sum())
    # Counts this small are not symmetric: twice the smaller tail.
    p = min(1.0, 2 * min(_p(observed, by_chance), _p(-observed, -by_chance)))
    return Statement(
        "itself",
        "",
        100 * observed / count,
        100 * centre / count,
        "% of rows",
        p,
        nan,
        DEALT,
        _strength(observed, by_chance),
    )


def _strength(observed: float, by_chance: Array) -> float:
    """Standard deviations from what chance gives on average; 0 where chance gives always the same."""
    spread = float(by_chance.std())
    return abs(float(observed - by_chance.mean())) / spread if spread > 0 else 0.0


def _p(observed: float, by_chance: Array) -> float:
    """Share of permutations at least as far out, the search's own counted in."""
    return float(1 + (by_chance >= observed - 1e-9).sum()) / (1 + len(by_chance))


def _movements(rows: Rows, alternatives: Alternatives, found: Orbits, search: dict[str, Any]) -> list[Movement]:
    """How each quantity moves from search to search, beside chance."""
    groups = [np.flatnonzero(rows.search == number) for number in np.unique(rows.search)]
    grid = rows.masks.shape[-1]
    few = alternatives.alike[:, 1:4].reshape(-1, grid, grid)
    random = alternatives.drawn[:, 1:4].reshape(-1, grid, grid)

    def movement(title: str, unit: str, of: Callable[[Array], Array], null: Array) -> Movement:
        values = of(rows.masks)
        by_chance = of(null).reshape(len(rows.masks), -1)
        if null is random:  # the same for every search
            by_chance = np.full_like(by_chance, by_chance.mean(), float)
        return Movement(
            title, unit, np.array([values[g].mean() for g in groups]), np.array([by_chance[g].mean() for g in groups])
        )

    moves = [
        movement("Share of cells kept", "% of cells", lambda m: 100 * m.mean((1, 2)), random),
        movement("Pieces", "per row", lambda m: pieces(m) + pieces(~m), few),
        movement("Boundary", "edges per row", boundary, few),
    ]
    mixed = np.flatnonzero(found.boundary > 0)
    if len(mixed):
        top = found.masks[mixed[0]]
        moves.append(movement("Commonest mixed pattern", "% of rows", lambda m: 100 * _is_like(m, top), random))
    if (rows.own >= 0).all():
        moves.append(_same_class(rows, groups))
    return moves


def _is_like(masks: Array, form: Array) -> Array:
    _, which = orbits(np.concatenate([form[None], masks]))
    like: Array = which[1:] == which[0]
    return like


def _same_class(rows: Rows, groups: list[Array]) -> Movement:
    values, expected = [], []
    for group in groups:
        chosen = group[~rows.itself[group]]
        own, partner = rows.own[chosen], rows.partner[chosen]
        count = max(1, len(chosen))
        most = int(max(own.max(initial=0), partner.max(initial=0))) + 1
        values.append(100 * float((own == partner).mean()) if len(chosen) else nan)
        by_class = np.bincount(own, minlength=most) * np.bincount(partner, minlength=most)
        expected.append(100 * float(by_class.sum()) / count**2)
    return Movement("Partner of the own class", "% of rows", np.array(values), np.array(expected))


def _notes(search: dict[str, Any], sampler: str, snapshots: int) -> list[str]:
    """What a careful reader of the statements should know."""
    notes = [
        f"Tests are over the fittest genome of the last generation of {snapshots} searches kept whole, one row per image, "
        f"with {PERMUTATIONS:,} permutations, adjusted by Holm."
    ]
    if search.get("carry") or search.get("start"):
        notes.append(
            "Searches started from earlier patterns, so that rows share ancestors: p of masks is smaller than it should be."
        )
    operators = [str(search.get(key, "")) for key in ("crossover", "mask_mutation")]
    shaped = [name for name in operators if "block" in name or "kpoint" in name]
    notes.append(
        "Chance is random drawing. Mutation and crossover also move shares without any selection"
        + (f", and {' and '.join(shaped)} makes masks hang together." if shaped else ".")
    )
    return notes
