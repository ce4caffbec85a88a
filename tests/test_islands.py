"""Islands: apart, in one process, one evaluation for all, and migrants that bring their losses."""

import numpy as np
import pytest

from evo.islands import Islands
from evo.search import Search
from tests.test_search import B, G, Table


def made(count=3, every=4, migrants=2, **options):
    return Islands(
        [
            Search(B, G, np.arange(B) % 3, **{"population": 8, "seed": seed, "generations": 12, **options})
            for seed in range(count)
        ],
        every=every,
        migrants=migrants,
    )


def test_migrants_arrive_with_their_losses():
    table = Table()
    islands = made(every=100)
    for _ in range(4):
        islands.tell(table(islands.ask().rows))
    best = [search.population[0] for search in islands.searches]
    forwards = islands.forwards
    islands.migrate()
    for number, search in enumerate(islands.searches):
        assert best[number - 1] in list(search.population)
        np.testing.assert_array_equal(search.population.cell_losses, table.full(search.population))
        values = search.population.values[:, 0]
        assert values.tolist() == sorted(values, reverse=True)
        found = search.lineage.arrays()
        strangers = search.population.ids[[g == best[number - 1] for g in search.population]]
        assert (found["parents"][strangers] == -1).all()
    assert islands.forwards == forwards == table.asked


def test_it_runs_like_one_search_and_shares_what_it_finds():
    table = Table()
    lines = []
    islands = made().run(lambda rows: (table(rows),), [lambda i, record: lines.append(record)])
    assert islands.stopped == "generations" and islands.generation == 12 and islands.ask() is None
    assert [line["generation"] for line in lines] == list(range(1, 13))
    assert lines[-1]["forwards"] == table.asked == islands.forwards
    elites = islands.elites(5)
    assert elites.fitness.tolist() == sorted(elites.fitness, reverse=True)
    assert elites.fitness[0] == pytest.approx(lines[-1]["best"])
    assert len({m.tobytes() + p.tobytes() for m, p in zip(elites.masks, elites.pairings, strict=True)}) == 5


def test_resumed_as_if_never_interrupted():
    whole = made().run(lambda rows: (Table()(rows),))
    cut = made()
    cut.run(lambda rows: (Table()(rows),), [lambda i, record: i.generation == 5])
    resumed = made()
    resumed.set_state(cut.state())
    resumed.run(lambda rows: (Table()(rows),))
    expected, ours = whole.state(), resumed.state()
    for name in expected:
        np.testing.assert_array_equal(ours[name], expected[name])


def test_bad_islands_are_refused():
    with pytest.raises(ValueError, match="two or more searches"):
        Islands([Search(B, G)])
    with pytest.raises(ValueError, match="one batch, grid and objectives"):
        Islands([Search(B, G), Search(B + 1, G)])
    with pytest.raises(ValueError, match="migrants below the population"):
        Islands([Search(B, G, population=4), Search(B, G, population=4)], migrants=4)
    islands = made()
    with pytest.raises(RuntimeError, match="ask"):
        islands.tell(np.zeros((1, G, G)))
    islands.ask()
    with pytest.raises(ValueError, match=r"of the 28\d rows asked for, got 3"):
        islands.tell(np.zeros((3, G, G)))
