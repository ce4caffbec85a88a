"""The archive of rows: it finds what it holds, exactly, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.archive import RowArchive, group_equal_rows
from evo.genome import Population


def drawn(size, rows, grid, rng):
    made = Population(rng.random((size, rows, grid, grid)) < 0.5, np.argsort(rng.random((size, rows)), axis=1))
    made.cell_losses = rng.random((size, rows, grid, grid)).astype(np.float32)
    made.scores = made.cell_losses.mean((2, 3))
    made.known[:] = True
    return made


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    rows=st.integers(1, 6),
    grid=st.sampled_from([1, 2, 3, 9]),
    capacity=st.sampled_from([7, 1000]),
)
def test_it_recalls_exactly_what_a_dict_would(seed, sizes, rows, grid, capacity):
    rng = np.random.default_rng(seed)
    archive, known = RowArchive(rows, grid, capacity), {}
    for size in sizes:
        asked = drawn(size, rows, grid, rng)
        asked.known[:] = False
        before = archive.recall(asked)
        keys = [
            [(row, int(asked.pairings[g, row]), asked.masks[g, row].tobytes()) for row in range(rows)]
            for g in range(size)
        ]
        if capacity == 1000:
            assert before == sum(key in known for line in keys for key in line)
        for g in range(size):
            for row in range(rows):
                if asked.known[g, row]:
                    assert np.array_equal(asked.cell_losses[g, row], known[keys[g][row]])
        asked.scores = asked.cell_losses.mean((2, 3))
        genome, row = np.nonzero(~asked.known)
        first, _ = group_equal_rows(row, asked.pairings[genome, row], asked.packed.words[genome, row])
        archive.add(asked, genome[first], row[first])
        for g, r in zip(genome[first], row[first], strict=True):
            known[keys[g][r]] = asked.cell_losses[g, r].copy()
        assert len(archive) <= max(capacity, size * rows)

    scores, masks = archive.best_pairs()
    if capacity == 1000:
        for image in range(rows):
            for partner in range(rows):
                found = [np.mean(v, dtype=np.float32) for k, v in known.items() if k[:2] == (image, partner)]
                assert scores[image, partner] == pytest.approx(max(found, default=-np.inf), rel=1e-6)
                if found:
                    assert (image, partner, masks[image, partner].cells.tobytes()) in known


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40), grid=st.sampled_from([1, 2, 9]))
def test_first_of_each_kind(seed, count, grid):
    rng = np.random.default_rng(seed)
    image, partner = rng.integers(0, 2, count), rng.integers(0, 2, count)
    words = Population(rng.random((1, count + 1, grid, grid)) < 0.5, np.arange(count + 1)[None]).packed.words[0, :count]
    first, source = group_equal_rows(image, partner, words)
    kinds = list(zip(image.tolist(), partner.tolist(), map(bytes, words), strict=True))
    assert [kinds[i] for i in first] == list(dict.fromkeys(kinds))
    assert [kinds[i] for i in first[source]] == kinds


def test_what_it_holds_survives_saving():
    rng = np.random.default_rng(0)
    archive = RowArchive(5, 3)
    population = drawn(4, 5, 3, rng)
    archive.add(population, *np.nonzero(population.known))
    again = RowArchive.from_arrays(archive.arrays(), 5, 3)
    asked = population.copy()
    asked.known[:] = False
    asked.cell_losses = asked.cell_losses * 0
    assert again.recall(asked) == 20 and np.array_equal(asked.cell_losses, population.cell_losses)
