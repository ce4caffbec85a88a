"""Every operator of every shelf keeps its contract; offspring stay valid over thousands of variations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.genome import Population, check_genomes
from evo.operators import (
    CROSSOVERS,
    MASK_CROSSOVERS,
    MASK_MUTATIONS,
    MASK_SAMPLERS,
    PAIRING_CROSSOVERS,
    PAIRING_MUTATIONS,
    pmx,
    row_crossover,
)
from evo.operators.rows import repair

sizes = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.integers(0, 2**32))


def drawn(genomes, rows, grid, rng, scored=True):
    population = Population(rng.random((genomes, rows, grid, grid)) < 0.5, np.argsort(rng.random((genomes, rows)), 1))
    if scored:
        population.scores = rng.integers(0, 4, (genomes, rows)).astype(np.float32)
    return population


def is_permutation(pairings):
    return (np.sort(pairings, axis=1) == np.arange(pairings.shape[1])).all()


@pytest.mark.parametrize("name", MASK_SAMPLERS)
@settings(max_examples=30, deadline=None)
@given(size=sizes)
def test_mask_samplers(name, size):
    count, _, grid, seed = size
    masks = MASK_SAMPLERS[name](count, grid, np.random.default_rng(seed))
    assert masks.shape == (count, grid, grid) and masks.dtype == bool
    again = MASK_SAMPLERS[name](count, grid, np.random.default_rng(seed))
    assert np.array_equal(masks, again)


def test_bernoulli_shares_are_uniform():
    shares = MASK_SAMPLERS["bernoulli"](60_000, 3, np.random.default_rng(0)).sum((1, 2))
    assert np.abs(np.bincount(shares, minlength=10) / 60_000 - 0.1).max() < 0.01


def test_box_drops_one_square_box():
    masks = MASK_SAMPLERS["box"](2000, 5, np.random.default_rng(0))
    assert abs(masks.mean() - 0.5) < 0.03
    for mask in masks:
        dropped = ~mask
        rows, columns = dropped.any(1).sum(), dropped.any(0).sum()
        assert rows == columns and dropped.sum() == rows * columns


@pytest.mark.parametrize("name", MASK_CROSSOVERS)
@settings(max_examples=30, deadline=None)
@given(size=sizes)
def test_mask_crossovers(name, size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = (drawn(genomes, rows, grid, rng).masks for _ in range(2))
    kept = first.copy(), second.copy()
    child = MASK_CROSSOVERS[name](first, second, rng)
    assert child.shape == first.shape and child.dtype == bool
    assert ((child == first) | (child == second)).all()
    assert np.array_equal(first, kept[0]) and np.array_equal(second, kept[1])


@pytest.mark.parametrize("name", MASK_MUTATIONS)
@settings(max_examples=30, deadline=None)
@given(size=sizes)
def test_mask_mutations(name, size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    masks = drawn(genomes, rows, grid, rng).masks
    kept = masks.copy()
    child = MASK_MUTATIONS[name](masks, rng)
    assert child.shape == masks.shape and child.dtype == bool and np.array_equal(masks, kept)


def test_flip_changes_the_stated_share():
    masks = np.zeros((200, 100, 4, 4), bool)
    flipped = MASK_MUTATIONS["flip"](masks, np.random.default_rng(0), row_rate=0.2, cells=2)
    assert flipped.mean() == pytest.approx(0.2 * 2 / 16, rel=0.05)
    assert flipped.any((2, 3)).mean() < 0.2


@pytest.mark.parametrize("name", PAIRING_CROSSOVERS)
@settings(max_examples=60, deadline=None)
@given(size=sizes)
def test_pairing_crossovers(name, size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = (drawn(genomes, rows, grid, rng).pairings for _ in range(2))
    kept = first.copy(), second.copy()
    child = PAIRING_CROSSOVERS[name](first, second, rng)
    assert is_permutation(child) and child.dtype == np.int32
    assert np.array_equal(first, kept[0]) and np.array_equal(second, kept[1])


@settings(max_examples=100, deadline=None)
@given(size=sizes)
def test_pmx_is_the_textbooks(size):
    """Against a slow PMX of one pair that draws the same cuts."""
    _, rows, _, seed = size
    rng = np.random.default_rng(seed)
    first, second = (rng.permutation(rows).astype(np.int32)[None] for _ in range(2))
    state = rng.bit_generator.state
    child = pmx(first, second, rng)[0]
    rng.bit_generator.state = state
    low, high = np.sort(rng.integers(0, rows + 1, size=(1, 2)), axis=1)[0]
    segment = {int(v): i for i, v in enumerate(first[0]) if low <= i < high}
    for position in range(rows):
        value = int(first[0, position] if low <= position < high else second[0, position])
        while not low <= position < high and value in segment:
            value = int(second[0, segment[value]])
        assert child[position] == value


@pytest.mark.parametrize("name", PAIRING_MUTATIONS)
@settings(max_examples=30, deadline=None)
@given(size=sizes, rate=st.floats(0, 1))
def test_pairing_mutations(name, size, rate):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    pairings = drawn(genomes, rows, grid, rng).pairings
    kept = pairings.copy()
    child = PAIRING_MUTATIONS[name](pairings, rng, rate=rate)
    assert is_permutation(child) and child.dtype == np.int32 and np.array_equal(pairings, kept)


def test_swap_moves_the_stated_share():
    pairings = np.tile(np.arange(100, dtype=np.int32), (300, 1))
    assert (
        PAIRING_MUTATIONS["swap"](pairings, np.random.default_rng(0), rate=0.1) != pairings
    ).mean() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", CROSSOVERS)
@settings(max_examples=60, deadline=None)
@given(size=sizes, scored=st.booleans())
def test_crossovers_make_valid_genomes(name, size, scored):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    masks, pairings = CROSSOVERS[name](
        drawn(genomes, rows, grid, rng, scored), drawn(genomes, rows, grid, rng, scored), rng
    )
    check_genomes(masks, pairings)
    assert pairings.dtype == np.int32


@settings(max_examples=60, deadline=None)
@given(size=sizes)
def test_row_crossover_takes_the_better_row_whole(size):
    genomes, rows, grid, seed = size
    rng = np.random.default_rng(seed)
    first, second = drawn(genomes, rows, grid, rng), drawn(genomes, rows, grid, rng)
    masks, pairings = row_crossover(first, second, rng)
    better_first, better_second = first.scores > second.scores, second.scores > first.scores
    assert np.array_equal(masks[better_first], first.masks[better_first])
    assert np.array_equal(masks[better_second], second.masks[better_second])
    # the best row of all keeps its partner too, whoever else wants it
    for genome in range(genomes):
        scores = np.maximum(first.scores[genome], second.scores[genome])
        alone = np.flatnonzero(scores == scores.max())
        if len(alone) == 1 and first.scores[genome, alone[0]] != second.scores[genome, alone[0]]:
            better = first if better_first[genome, alone[0]] else second
            assert pairings[genome, alone[0]] == better.pairings[genome, alone[0]]


@settings(max_examples=100, deadline=None)
@given(size=sizes)
def test_repair_changes_as_few_as_possible(size):
    genomes, rows, _, seed = size
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, rows, (genomes, rows))
    priority = rng.random((genomes, rows))
    child = repair(wanted, priority, rng)
    assert is_permutation(child)
    for genome in range(genomes):
        assert (child[genome] == wanted[genome]).sum() == len(set(wanted[genome]))
        for value in set(wanted[genome]):
            claimants = np.flatnonzero(wanted[genome] == value)
            winner = claimants[priority[genome, claimants].argmax()]
            assert child[genome, winner] == value


def test_thousands_of_variations_stay_valid():
    rng = np.random.default_rng(0)
    population = drawn(64, 17, 4, rng)
    for step in range(100):
        second = population.take(rng.permutation(64))
        masks, pairings = CROSSOVERS[("rows", "uniform")[step % 2]](population, second, rng)
        population = Population(MASK_MUTATIONS["flip"](masks, rng), PAIRING_MUTATIONS["swap"](pairings, rng, rate=0.3))
        population.scores = rng.random((64, 17)).astype(np.float32)
    check_genomes(population.masks, population.pairings)
