"""Islands: apart, in one process, one evaluation for all, and migrants that bring their losses."""

import numpy as np
import pytest

from evo.islands import Islands
from tests.searches import B, G, Table, hard_search


def made(count=3, every=4, migrants=2, **options):
    return Islands(
        [
            hard_search(B, G, np.arange(B) % 3, **{"population": 8, "seed": seed, "generations": 12, **options})
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
        found = islands.lineage.arrays()
        stranger = int(search.population.ids[[g == best[number - 1] for g in search.population]][0])
        home = islands.searches[number - 1]
        origin = found["parents"][stranger * 3 + number]
        assert (origin == origin[0]).all() and origin[0] % 3 == (number - 1) % 3  # it comes from the island before
        assert (found["operators"][stranger * 3 + number] == -1).all()
        assert origin[0] // 3 < home.lineage.count
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
        Islands([hard_search(B, G)])
    with pytest.raises(ValueError, match="one batch, grid and objectives"):
        Islands([hard_search(B, G), hard_search(B + 1, G)])
    with pytest.raises(ValueError, match="one batch, grid and objectives"):
        Islands([hard_search(B, G), hard_search(B, G, objective="easy", seed=1)])
    with pytest.raises(ValueError, match="equal seeds are copies"):
        Islands([hard_search(B, G), hard_search(B, G)])
    with pytest.raises(ValueError, match="hold=False"):
        Islands([hard_search(B, G, hold=True), hard_search(B, G, hold=True, seed=1)])
    with pytest.raises(ValueError, match="has no end"):
        made(generations=None).run(lambda rows: (Table()(rows),))
    with pytest.raises(ValueError, match="migrants below the population"):
        Islands([hard_search(B, G, population=4), hard_search(B, G, population=4, seed=1)], migrants=4)
    islands = made()
    with pytest.raises(RuntimeError, match="ask"):
        islands.tell(np.zeros((1, G, G)))
    islands.ask()
    with pytest.raises(ValueError, match=r"of the 28\d rows asked for, got 3"):
        islands.tell(np.zeros((3, G, G)))


def test_ancestors_are_found_across_islands():
    from analysis.operator_table import ancestors

    islands = made(every=2, migrants=2, generations=20).run(lambda rows: (Table()(rows),))
    found = islands.lineage.arrays()
    assert (found["parents"] < np.arange(len(found["parents"]))[:, None]).sum() > 0
    line = ancestors(found["parents"], islands.elites(1).ids)
    assert {0, 1, 2} == {int(genome) % 3 for genome in np.flatnonzero(line)}
    roots = np.flatnonzero(line & (found["parents"][:, 0] < 0))
    assert (found["born"][roots] == 1).all()  # all lines go back to a first generation


def test_the_logged_best_does_not_fall_when_the_best_island_ends():
    islands = Islands(
        [
            hard_search(B, G, population=6, seed=0, generations=3),
            hard_search(B, G, population=6, seed=1, generations=9),
        ],
        every=99,
    )
    lines = []
    islands.run(lambda rows: (Table()(rows),), [lambda i, record: lines.append(record["best"])])
    assert lines == sorted(lines) and len(lines) == 9
    assert lines[-1] == pytest.approx(islands.elites(1).fitness[0])


def test_an_island_with_one_genome_left_sends_none():
    islands = Islands(
        [hard_search(B, G, population=8, seed=2, budget=1), hard_search(B, G, population=8, seed=1, generations=4)],
        every=1,
        migrants=2,
    )
    islands.run(lambda rows: (Table()(rows),))
    assert [len(search) for search in islands.searches] == [1, 8]
