"""Every operator of every registry keeps its contract; offspring stay valid over thousands of variations."""

import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.genome import Population, check_genomes
from evo.operators import (
    ARCHIVE_CROSSOVERS,
    CROSSOVERS,
    MASK_CROSSOVERS,
    MASK_MUTATIONS,
    MASK_SAMPLERS,
    PAIRING_CROSSOVERS,
    PAIRING_MUTATIONS,
    TABLE_CROSSOVERS,
    assignment,
    cx,
    local_search,
    ox,
    pmx,
    row_crossover,
)
from evo.operators import rows as row_operators
from evo.operators.masks import draw_hits
from evo.operators.rows import repair
from evo.packed import Masks, full_words, word_format

sizes = st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(1, 10), st.integers(0, 2**32))
REGISTRIES = (
    ARCHIVE_CROSSOVERS,
    TABLE_CROSSOVERS,
    CROSSOVERS,
    MASK_CROSSOVERS,
    MASK_MUTATIONS,
    MASK_SAMPLERS,
    PAIRING_CROSSOVERS,
    PAIRING_MUTATIONS,
)


class Archive:
    """The best pairs that an assignment reads, as a test wants them."""

    def __init__(self, scores, masks):
        self.scores, self.masks = scores, masks

    def best_pairs(self):
        return self.scores, self.masks


def drawn(genomes, rows, grid, rng, scored=True):
    population = Population(rng.random((genomes, rows, grid, grid)) < 0.5, np.argsort(rng.random((genomes, rows)), 1))
    if scored:
        population.scores = rng.integers(0, 4, (genomes, rows)).astype(np.float32)
        population.scores[rng.random((genomes, rows)) < 0.1] = np.nan
    return population


def drawn_archive(rows, grid, rng, known=0.5):
    scores = np.where(rng.random((rows, rows)) < known, rng.normal(size=(rows, rows)), -np.inf).astype(np.float32)
    return Archive(scores, Masks.pack(rng.random((rows, rows, grid, grid)) < 0.5))


def is_permutation(pairings):
    return pairings.dtype == np.int32 and (np.sort(pairings, axis=1) == np.arange(pairings.shape[1])).all()


def is_packed(masks, shape, grid):
    """Of the right shape and type, and no bit set beyond the grid."""
    assert masks.shape == shape and masks.grid == grid and masks.words.dtype == word_format(grid)[0]
    assert not (masks.words & ~full_words(grid)).any()
    return True


def call(operator, seed, *arguments, **keywords):
    """Call an operator twice with the same seed: the results are equal, and what was given is as it was."""
    arrays = [
        array
        for given in arguments
        for array in (
            (given.packed.words, given.pairings, given.scores)
            if isinstance(given, Population)
            else (given.words,)
            if isinstance(given, Masks)
            else (given,)
        )
    ]
    before = [array.copy() for array in arrays]
    results = []
    for _ in range(2):
        result = operator(*arguments, np.random.default_rng(seed), **keywords)
        parts = result if isinstance(result, tuple) else (result,)
        results.append([part.words if isinstance(part, Masks) else part for part in parts])
        for array, copy in zip(arrays, before, strict=True):
            assert np.array_equal(array, copy, equal_nan=array.dtype.kind == "f")
            assert not any(np.shares_memory(array, part) for part in results[-1])
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)
    return result


@pytest.mark.parametrize("operator", [operator for registry in REGISTRIES for operator in registry.values()])
def test_every_operator_names_its_source(operator):
    assert re.search(r"(19|20)\d\d|[Oo]ur own", operator.__doc__)


# Masks


@pytest.mark.parametrize("name", MASK_SAMPLERS)
@settings(max_examples=25)
@given(size=sizes)
def test_mask_samplers(name, size):
    count, _, grid, seed = size
    masks = MASK_SAMPLERS[name](count, grid, np.random.default_rng(seed))
    assert masks.shape == (count, grid, grid) and masks.dtype == bool
    again = MASK_SAMPLERS[name](count, grid, np.random.default_rng(seed))
    assert np.array_equal(masks, again)


@pytest.mark.parametrize("name", ["bernoulli", "connected"])
def test_shares_are_uniform(name):
    shares = MASK_SAMPLERS[name](60_000, 3, np.random.default_rng(0)).sum((1, 2))
    assert np.abs(np.bincount(shares, minlength=10) / 60_000 - 0.1).max() < 0.01


def test_box_drops_one_square_box():
    masks = MASK_SAMPLERS["box"](2000, 5, np.random.default_rng(0))
    assert abs(masks.mean() - 0.5) < 0.03
    for mask in masks:
        dropped = ~mask
        rows, columns = dropped.any(1).sum(), dropped.any(0).sum()
        assert rows == columns and dropped.sum() == rows * columns


@pytest.mark.parametrize("grid", [1, 2, 5, 9])
def test_connected_drops_one_piece(grid):
    for mask in MASK_SAMPLERS["connected"](300, grid, np.random.default_rng(grid)):
        left = set(map(tuple, np.argwhere(~mask).tolist()))
        stack = [left.pop()] if left else []
        while stack:
            row, column = stack.pop()
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            stack += near
        assert not left


def test_connected_grows_by_any_cell_on_the_border():
    """Against a blob of three cells on 3x3 grown cell by cell: the same shapes, as often."""
    rng = np.random.default_rng(0)

    def grown():
        blob = {divmod(int(rng.integers(9)), 3)}
        while len(blob) < 3:
            near = {(r + a, c + b) for r, c in blob for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))} - blob
            near = sorted((r, c) for r, c in near if 0 <= r < 3 and 0 <= c < 3)
            blob.add(near[rng.integers(len(near))])
        return sum(1 << (3 * r + c) for r, c in blob)

    expected = np.bincount([grown() for _ in range(20_000)], minlength=512) / 20_000
    masks = MASK_SAMPLERS["connected"](200_000, 3, rng)
    masks = masks[(~masks).sum((1, 2)) == 3]
    found = np.bincount(Masks.pack(~masks).words[:, 0], minlength=512) / len(masks)
    assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize("name", MASK_CROSSOVERS)
@settings(max_examples=25)
@given(size=sizes)
def test_mask_crossovers(name, size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = (drawn(genomes, rows, grid, rng).packed for _ in range(2))
    child = call(MASK_CROSSOVERS[name], seed, first, second)
    assert is_packed(child, (genomes, rows), grid)
    assert ((child.cells == first.cells) | (child.cells == second.cells)).all()


def cells_from_second(name, grid, count=2000, **keywords):
    """bool (count,G,G): which cells a crossover takes from the second parent."""
    first = Masks.pack(np.ones((4, count // 4, grid, grid), bool))
    second = Masks.pack(np.zeros((4, count // 4, grid, grid), bool))
    child = MASK_CROSSOVERS[name](first, second, np.random.default_rng(grid), **keywords)
    return ~child.cells.reshape(count, grid, grid)


@pytest.mark.parametrize("grid", [3, 4, 8, 10])
def test_what_each_mask_crossover_takes(grid):
    uniform = cells_from_second("uniform", grid)
    assert np.abs(uniform.mean(0) - 0.5).max() < 0.06
    assert np.abs(np.corrcoef(uniform.reshape(len(uniform), -1).T) - np.eye(grid * grid)).max() < 0.13
    rows = cells_from_second("rows", grid).reshape(-1, grid * grid)
    assert (rows.all(1) | ~rows.any(1)).all() and abs(rows.mean() - 0.5) < 0.05
    block = cells_from_second("block", grid)
    assert block.any((1, 2)).all()
    assert (block.sum((1, 2)) == block.any(1).sum(1) * block.any(2).sum(1)).all()
    assert (np.abs(np.diff(np.pad(block.any(1), ((0, 0), (1, 1))).astype(int))).sum(1) == 2).all()
    for points in (1, 2, 3):
        runs = np.pad(cells_from_second("kpoint", grid, points=points).reshape(2000, -1), ((0, 0), (1, 1)))
        ends = np.abs(np.diff(runs.astype(int))).sum(1)
        assert ends.max() == points + points % 2  # an odd number of cuts leaves the last piece to the second
        assert not runs[:, 1].all() and (runs.mean() > 0.2)


def test_kpoint_needs_a_point():
    with pytest.raises(ValueError, match="at least 1 point, got 0"):
        cells_from_second("kpoint", 3, points=0)


@pytest.mark.parametrize("name", MASK_MUTATIONS)
@settings(max_examples=25)
@given(size=sizes, row_rate=st.sampled_from([0, 0.05, 0.4, 1]))
def test_mask_mutations(name, size, row_rate):
    genomes, rows, grid, seed = size
    masks = drawn(genomes, rows, grid, np.random.default_rng(seed)).packed
    child = call(MASK_MUTATIONS[name], seed, masks, row_rate=row_rate)
    assert is_packed(child, (genomes, rows), grid)
    if row_rate == 0:
        assert child.same(masks).all()
    if name in ("shift", "trade"):
        assert np.array_equal(child.kept(), masks.kept())


@pytest.mark.parametrize("name", MASK_MUTATIONS)
def test_mask_mutations_touch_the_stated_share_of_rows(name):
    cells = np.random.default_rng(0).random((100, 200, 5, 5)) < 0.5
    masks = Masks.pack(cells)
    for row_rate in (0.1, 0.5, 1):
        child = MASK_MUTATIONS[name](masks, np.random.default_rng(1), row_rate=row_rate)
        changed = (~child.same(masks)).mean()
        certain = {"flip": 1 - (1 - 1.5 / 25) ** 25}.get(name, 1)  # a flip may flip no cell
        assert changed == pytest.approx(row_rate * certain, rel=0.05)


@pytest.mark.parametrize("grid", [2, 4, 8, 9])
def test_what_each_mask_mutation_does(grid):
    cells = np.random.default_rng(grid).random((1, 300, grid, grid)) < 0.5
    masks = Masks.pack(cells)
    made = {name: mutate(masks, np.random.default_rng(1), row_rate=1) for name, mutate in MASK_MUTATIONS.items()}
    assert np.array_equal(made["complement"].cells, ~cells)
    rolled = [np.roll(cells[0], step, axis) for axis in (1, 2) for step in (1, -1)]
    shifted = np.array([(made["shift"].cells[0] == roll).all((1, 2)) for roll in rolled])
    assert shifted.any(0).all() and (shifted.mean(1) > 0.15).all()
    mixed = cells[0].any((1, 2)) & ~cells[0].all((1, 2))
    changed = (made["trade"].cells ^ cells)[0]
    assert (changed.sum((1, 2)) == 2 * mixed).all() and (changed.mean(0) > 0).all()
    block = (made["block"].cells ^ cells)[0]
    sides = block.any(1).sum(1), block.any(2).sum(1)
    assert (block.sum((1, 2)) == sides[0] * sides[1]).all()
    assert min(map(np.min, sides)) == 1 and max(map(np.max, sides)) == max(1, grid // 2)


@pytest.mark.parametrize("grid", [4, 8, 9])
def test_flip_of_all_rows_is_the_textbooks(grid):
    """Every cell flips with the same chance, and independently: as often as a binomial says."""
    rate = 0.02
    masks = Masks.pack(np.zeros((100, 100, grid, grid), bool))
    flipped = MASK_MUTATIONS["flip"](masks, np.random.default_rng(0), row_rate=1, cells=rate * grid**2).cells
    assert np.abs(flipped.mean((0, 1)) - rate).max() < 5 * (rate / 10_000) ** 0.5
    reference = np.random.default_rng(1).random((10_000, grid * grid)) < rate
    for count in range(4):
        expected = (reference.sum(1) == count).mean()
        assert (flipped.sum((2, 3)) == count).mean() == pytest.approx(expected, abs=0.02)


def test_flip_changes_the_stated_share():
    masks = Masks.pack(np.zeros((200, 100, 4, 4), bool))
    flipped = MASK_MUTATIONS["flip"](masks, np.random.default_rng(0), row_rate=0.2, cells=2).cells
    assert flipped.mean() == pytest.approx(0.2 * 2 / 16, rel=0.05)
    assert flipped.any((2, 3)).mean() < 0.2


@pytest.mark.parametrize("rate", [0, 1e-3, 0.03, 0.2, 0.6, 1])
@pytest.mark.parametrize("count", [1, 100, 3000])
def test_hits_are_independent_trials(rate, count):
    rng = np.random.default_rng(0)
    rounds = 300
    often = np.zeros(count)
    numbers = []
    for _ in range(rounds):
        found = draw_hits(count, rate, rng)
        assert (np.diff(found) > 0).all() and (found >= 0).all() and (found < count).all()
        often[found] += 1
        numbers.append(len(found))
    deviation = (rate * (1 - rate)) ** 0.5
    assert np.mean(numbers) == pytest.approx(count * rate, abs=4 * deviation * (count / rounds) ** 0.5 + 1e-9)
    assert np.var(numbers) == pytest.approx(count * deviation**2, rel=0.4, abs=0.2)
    halves = often[: count // 2].sum(), often[count // 2 :].sum()
    assert count < 100 or abs(halves[0] - halves[1]) <= 4 * deviation * (count * rounds) ** 0.5


def test_hits_where_gaps_are_short_of_the_end():
    """However few gaps the first draw has, all of the trials are covered."""

    class Short:
        def __init__(self):
            self.calls = 0

        def standard_exponential(self, size):
            self.calls += 1
            return np.full(size, 1e-9)  # every trial a success

    rng = Short()
    assert np.array_equal(draw_hits(5000, 0.1, rng), np.arange(5000)) and rng.calls > 1


@pytest.mark.parametrize("rate", [-0.1, 1.5, np.nan])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_hits(10, rate, np.random.default_rng(0))


# Pairings


@pytest.mark.parametrize("name", PAIRING_CROSSOVERS)
@settings(max_examples=60)
@given(size=sizes)
def test_pairing_crossovers(name, size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = (drawn(genomes, rows, grid, rng).pairings for _ in range(2))
    child = call(PAIRING_CROSSOVERS[name], seed, first, second)
    assert child.shape == first.shape and is_permutation(child)
    assert np.array_equal(call(PAIRING_CROSSOVERS[name], seed, first, first.copy()), first)


def slow_pmx(first, second, low, high):
    segment = {value: row for row, value in enumerate(first) if low <= row < high}
    child = []
    for row in range(len(first)):
        value = first[row] if low <= row < high else second[row]
        while not low <= row < high and value in segment:
            value = second[segment[value]]
        child.append(value)
    return child


def slow_ox(first, second, low, high):
    rows = len(first)
    segment = first[low:high]
    order = [second[(high + step) % rows] for step in range(rows)]
    free = [value for value in order if value not in segment]
    child = [None] * rows
    child[low:high] = segment
    for step, value in enumerate(free):
        child[(high + step) % rows] = value
    return child


@pytest.mark.parametrize("fast, slow", [(pmx, slow_pmx), (ox, slow_ox)])
@settings(max_examples=60)
@given(size=sizes)
def test_pmx_and_ox_are_the_textbooks(fast, slow, size):
    """Against a slow crossover of one pair at a time that has the same cuts."""
    genomes, rows, _, seed = size
    rng = np.random.default_rng(seed)
    first, second = (np.argsort(rng.random((genomes, rows)), 1).astype(np.int32) for _ in range(2))
    child = fast(first, second, np.random.default_rng(seed))
    drawn = np.random.default_rng(seed).integers(0, rows + 1, size=(2, genomes), dtype=np.int32)
    ends = np.sort(drawn, axis=0).T.tolist()
    for genome in range(genomes):
        assert child[genome].tolist() == slow(first[genome].tolist(), second[genome].tolist(), *ends[genome])


def test_pmx_by_hand():
    """The example of Goldberg's Genetic algorithms, 1989, for either child."""
    a = np.array([[9, 8, 4, 5, 6, 7, 1, 3, 2, 10]], np.int32) - 1
    b = np.array([[8, 7, 1, 2, 3, 10, 9, 5, 4, 6]], np.int32) - 1

    class Cuts:
        def integers(self, *bounds, size, dtype):
            return np.array([[[3]], [[6]]], dtype)

    assert (pmx(b, a, Cuts()) + 1).tolist() == [[9, 8, 4, 2, 3, 10, 1, 6, 5, 7]]
    assert (pmx(a, b, Cuts()) + 1).tolist() == [[8, 10, 1, 5, 6, 7, 9, 2, 4, 3]]


@settings(max_examples=60)
@given(size=sizes)
def test_cx_is_the_textbooks(size):
    """Against one cycle at a time, followed from the same row."""
    genomes, rows, _, seed = size
    rng = np.random.default_rng(seed)
    first, second = (np.argsort(rng.random((genomes, rows)), 1).astype(np.int32) for _ in range(2))
    child = cx(first, second, np.random.default_rng(seed))
    starts = np.random.default_rng(seed).integers(0, rows, size=(genomes, 1))[:, 0]
    for genome in range(genomes):
        expected, row = second[genome].copy(), starts[genome]
        while True:
            expected[row] = first[genome, row]
            row = np.flatnonzero(first[genome] == second[genome, row])[0]
            if row == starts[genome]:
                break
        assert np.array_equal(child[genome], expected)


@pytest.mark.parametrize("name", PAIRING_MUTATIONS)
@settings(max_examples=40)
@given(size=sizes, rate=st.floats(0, 1))
def test_pairing_mutations(name, size, rate):
    genomes, rows, grid, seed = size
    pairings = drawn(genomes, rows, grid, np.random.default_rng(seed)).pairings
    child = call(PAIRING_MUTATIONS[name], seed, pairings, rate=rate)
    assert child.shape == pairings.shape and is_permutation(child)
    if rate == 0:
        assert np.array_equal(child, pairings)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 100])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
def test_swap_moves_the_stated_share(rows, rate):
    pairings = np.tile(np.arange(rows, dtype=np.int32), (30_000 // rows, 1))
    child = PAIRING_MUTATIONS["swap"](pairings, np.random.default_rng(0), rate=rate)
    assert (child != pairings).mean() == pytest.approx(rate, rel=0.1)
    assert np.array_equal(np.take_along_axis(child, child, 1), pairings)  # pairs of rows that traded, no more


@pytest.mark.parametrize("rows", [2, 3, 6, 7])
def test_swap_lets_any_two_rows_meet(rows):
    pairings = np.tile(np.arange(rows, dtype=np.int32), (20_000, 1))
    child = PAIRING_MUTATIONS["swap"](pairings, np.random.default_rng(0), rate=1)
    moved = rows if rows % 2 == 0 else rows - 1
    assert ((child != pairings).sum(1) == moved).all()
    met = np.array([np.bincount(child[:, row], minlength=rows) for row in range(rows)]) / 20_000
    expected = moved / rows / (rows - 1)
    assert np.abs(met[~np.eye(rows, dtype=bool)] - expected).max() < 0.02


@pytest.mark.parametrize("name", ["inversion", "scramble"])
def test_segment_mutations_touch_the_stated_share_of_genomes(name):
    pairings = np.tile(np.arange(30, dtype=np.int32), (6000, 1))
    child = PAIRING_MUTATIONS[name](pairings, np.random.default_rng(0), rate=0.3)
    touched = (child != pairings).any(1)
    assert touched.mean() == pytest.approx(0.3, rel=0.1)
    for genome in child[touched]:
        moved = np.flatnonzero(genome != np.arange(30))
        low, high = moved[0], moved[-1] + 1
        assert sorted(genome[low:high]) == list(range(low, high))
        if name == "inversion":
            assert genome[low:high].tolist() == list(range(low, high))[::-1]
    if name == "scramble":
        assert len(set(map(bytes, child[touched]))) > 0.9 * touched.sum()


# Masks and pairings together


@pytest.mark.parametrize("name", CROSSOVERS)
@settings(max_examples=40)
@given(size=sizes, scored=st.booleans())
def test_crossovers(name, size, scored):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    parents = [drawn(genomes, rows, grid, rng, scored) for _ in range(2)]
    masks, pairings = call(CROSSOVERS[name], seed, *parents)
    assert is_packed(masks, (genomes, rows), grid) and pairings.shape == (genomes, rows) and is_permutation(pairings)


@settings(max_examples=60)
@given(size=sizes)
def test_row_crossover_takes_the_better_row_whole(size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = drawn(genomes, rows, grid, rng), drawn(genomes, rows, grid, rng)
    masks, pairings = row_crossover(first, second, rng)
    scores = [np.nan_to_num(parent.scores, nan=-np.inf) for parent in (first, second)]
    better_first, better_second = scores[0] > scores[1], scores[1] > scores[0]
    assert masks.same(first.packed)[better_first].all() and masks.same(second.packed)[better_second].all()
    assert (masks.same(first.packed) | masks.same(second.packed)).all()
    # the best row of all keeps its partner too, whoever else wants it
    for genome in range(genomes):
        best = np.maximum(scores[0][genome], scores[1][genome])
        alone = np.flatnonzero(best == best.max())
        if len(alone) == 1 and scores[0][genome, alone[0]] != scores[1][genome, alone[0]]:
            better = first if better_first[genome, alone[0]] else second
            assert pairings[genome, alone[0]] == better.pairings[genome, alone[0]]


@settings(max_examples=100)
@given(size=sizes, levels=st.sampled_from([2, 1000]))
def test_repair_changes_as_few_as_possible(size, levels):
    genomes, rows, _, seed = size
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, rows, (genomes, rows))
    priority = rng.integers(0, levels, (genomes, rows)) / levels
    child = repair(wanted, priority, rng)
    assert is_permutation(child)
    for genome in range(genomes):
        assert (child[genome] == wanted[genome]).sum() == len(set(wanted[genome]))
        for value in set(wanted[genome]):
            claimants = np.flatnonzero(wanted[genome] == value)
            winner = np.flatnonzero(child[genome] == value)
            assert winner in claimants and priority[genome, winner] == priority[genome, claimants].max()


def test_repair_gives_the_rest_out_at_random():
    wanted = np.zeros((6000, 4), np.int32)
    child = repair(wanted, np.tile([3.0, 1, 2, 0], (6000, 1)), np.random.default_rng(0))
    assert (child[:, 0] == 0).all()
    assert np.abs(np.unique(child[:, 1:], axis=0, return_counts=True)[1] / 6000 - 1 / 6).max() < 0.02


@settings(max_examples=60)
@given(size=sizes)
def test_local_search_changes_the_worst_rows_only(size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first = drawn(genomes, rows, grid, rng)
    masks, pairings = local_search(first, first, rng)
    changed = (pairings != first.pairings) | ~masks.same(first.packed)
    count = min(rows, max(2, round(0.1 * rows)))
    for genome in range(genomes):
        assert (pairings[genome] != first.pairings[genome]).sum() == (count if rows > 1 else 0)
        scores = np.nan_to_num(first.scores[genome], nan=-np.inf)
        assert (scores[changed[genome]] <= np.sort(scores)[count - 1]).all()


def test_local_search_prefers_no_row_where_none_is_scored():
    rng = np.random.default_rng(0)
    first = drawn(3000, 10, 2, rng, scored=False)
    often = (local_search(first, first, rng)[1] != first.pairings).mean(0)
    assert np.abs(often - 0.2).max() < 0.04


@pytest.mark.parametrize("name", ARCHIVE_CROSSOVERS)
@settings(max_examples=40)
@given(size=sizes, known=st.sampled_from([0, 0.3, 1]))
def test_archive_crossovers(name, size, known):
    genomes, rows, grid, seed = size
    genomes = min(genomes, 6)
    rng = np.random.default_rng(seed)
    parents = [drawn(genomes, rows, grid, rng) for _ in range(2)]
    archive = drawn_archive(rows, grid, rng, known)
    masks, pairings = call(ARCHIVE_CROSSOVERS[name], seed, *parents, archive=archive)
    assert is_packed(masks, (genomes, rows), grid) and pairings.shape == (genomes, rows) and is_permutation(pairings)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 5))
def test_assignment_is_the_best_there_is(seed, rows):
    """Against all permutations; each row has the mask known for its pair, or the parent's where none is."""
    rng = np.random.default_rng(seed)
    first = drawn(3, rows, 3, rng)
    for known in (1, 0.6):
        archive = drawn_archive(rows, 3, rng, known)
        masks, pairings = assignment(first, first, rng, archive=archive)
        row = np.arange(rows)
        if known == 1:
            best = max(archive.scores[row, list(order)].sum() for order in permutations(range(rows)))
            assert archive.scores[row, pairings[0]].sum() == pytest.approx(best, abs=1e-5)
        for genome in range(3):
            scored = np.isfinite(archive.scores[row, pairings[genome]])
            assert masks[genome].same(archive.masks[row, pairings[genome]])[scored].all()
            assert masks[genome].same(first.packed[genome])[~scored].all()


def test_assignments_differ_and_the_first_is_the_fittest():
    rng = np.random.default_rng(0)
    first, archive = drawn(8, 30, 2, rng), drawn_archive(30, 2, rng, known=0.8)
    pairings = assignment(first, first, rng, archive=archive, noise=1)[1]
    assert len(np.unique(pairings, axis=0)) >= 6  # a few may agree
    assert len(np.unique(assignment(first, first, rng, archive=archive, noise=0)[1], axis=0)) == 1
    scores = archive.scores[np.arange(30), pairings].sum(1)
    assert scores.argmax() == 0 and np.isfinite(scores[0])
    nothing = Archive(np.full((30, 30), -np.inf, np.float32), archive.masks)
    masks, pairings = assignment(first, first, rng, archive=nothing)
    assert len(np.unique(pairings, axis=0)) == 8 and masks.same(first.packed).all()


@pytest.mark.parametrize(("rows", "known"), [(129, 0.02), (300, 0.01), (300, 0.9)])
def test_large_batches_are_assigned_among_pairs_that_were_scored_and_the_parent_s(rows, known):
    rng = np.random.default_rng(0)
    first, archive = drawn(4, rows, 2, rng), drawn_archive(rows, 2, rng, known)
    masks, pairings = assignment(first, first, rng, archive=archive, noise=0.5)
    assert is_permutation(pairings) and len(np.unique(pairings, axis=0)) == 4
    row = np.arange(rows)
    scored = np.isfinite(archive.scores[row, pairings])
    assert (scored[0] | (pairings[0] == first.pairings[0])).all()
    assert scored.mean() > 0.98 * scored[0].mean()  # unknown pairs are dealt only where there is no other
    assert masks.same(archive.masks[row, pairings])[scored].all() and masks.same(first.packed)[~scored].all()
    found = archive.scores[np.isfinite(archive.scores)]
    counted = np.where(np.isfinite(archive.scores), archive.scores, found.min() - 1 - np.ptp(found))
    before, after = (counted[row, genomes].sum(1) for genomes in (first.pairings, pairings))
    assert (after > before + 0.5 * rows).all()
    again = assignment(first, first, np.random.default_rng(7), archive=archive)
    same = assignment(first, first, np.random.default_rng(7), archive=archive)
    assert np.array_equal(again[1], same[1]) and again[0].same(same[0]).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 30), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e30]))
def test_large_batches_of_which_all_pairs_are_known_get_the_best_there_is(seed, rows, scale):
    rng = np.random.default_rng(seed)
    first, archive = drawn(3, rows, 2, rng), drawn_archive(rows, 2, rng, known=1)
    archive.scores *= np.float32(scale)
    totals = []
    for dense in (rows, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_operators, "DENSE", dense)
            pairings = assignment(first, first, rng, archive=archive, noise=0)[1]
        assert is_permutation(pairings)
        totals += archive.scores[np.arange(rows), pairings].sum(axis=1, dtype=float).tolist()
    assert totals == pytest.approx([totals[0]] * 6, rel=1e-6)


def test_large_batches_of_which_nothing_is_known_keep_the_parents():
    rng = np.random.default_rng(0)
    first, archive = drawn(2, 200, 2, rng), drawn_archive(200, 2, rng, known=0)
    masks, pairings = assignment(first, first, rng, archive=archive)
    assert np.array_equal(pairings, first.pairings) and masks.same(first.packed).all()


def test_thousands_of_variations_stay_valid():
    """All crossovers and mutations in turn, on the children of the last."""
    rng = np.random.default_rng(0)
    population = drawn(64, 17, 5, rng)
    crossovers, of_masks, of_pairings = (
        list(registry.values()) for registry in (CROSSOVERS, MASK_MUTATIONS, PAIRING_MUTATIONS)
    )
    for step in range(120):
        second = population.take(rng.permutation(64))
        if step % 2:
            masks, pairings = crossovers[step % len(crossovers)](population, second, rng)
        else:
            masks = list(MASK_CROSSOVERS.values())[step // 2 % 4](population.packed, second.packed, rng)
            pairings = list(PAIRING_CROSSOVERS.values())[step // 2 % 3](population.pairings, second.pairings, rng)
        masks = of_masks[step % len(of_masks)](masks, rng)
        pairings = of_pairings[step % len(of_pairings)](pairings, rng, rate=0.3)
        population = Population(masks, pairings)
        population.scores = rng.random((64, 17)).astype(np.float32)
        assert is_packed(masks, (64, 17), 5)
    check_genomes(population.masks, population.pairings)
