"""Individuals are views of the population's arrays, and DEAP's tools work on them unchanged."""

import copy
import pickle
import random

import numpy as np
import pytest
from deap import tools
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.genome import Population
from evo.packed import Masks


@pytest.fixture
def population() -> Population:
    rng = np.random.default_rng(0)
    made = Population(rng.random((12, 6, 3, 3)) < 0.5, np.argsort(rng.random((12, 6)), axis=1), objectives=2)
    for individual in made:
        individual.fitness.values = (float(rng.integers(5)), float(rng.random()))
    return made


def test_an_individual_is_a_view(population):
    assert population[3] is population[3]
    turned = ~population[3].masks
    individual = population[3]
    individual.masks = turned
    assert np.array_equal(population.masks[3], turned)
    individual.pairing = np.roll(individual.pairing, 1)
    assert np.array_equal(population.pairings[3], individual.pairing)
    individual.fitness.values = (9.0, 1.0)
    assert population.values[3].tolist() == [9.0, 1.0]
    del individual.fitness.values
    assert not population.valid[3] and not individual.fitness.valid


def test_writing_into_a_view_is_refused_rather_than_lost(population):
    individual = population[0]
    for array in (individual.masks, individual.pairing, population.masks):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(ValueError, match="permutation"):
        individual.pairing = np.zeros(6, int)
    with pytest.raises(ValueError, match=r"masks must be \(6, 3, 3\), got \(6, 2, 2\)"):
        individual.masks = np.zeros((6, 2, 2), bool)


def test_a_changed_row_is_not_known_any_more_and_its_genome_has_no_fitness(population):
    population.known[:] = True
    individual = population[2]
    cells = individual.masks.copy()
    cells[4] = ~cells[4]
    individual.masks = cells
    assert population.known[2].tolist() == [True] * 4 + [False, True] and not individual.fitness.valid
    individual.pairing = individual.pairing[[1, 0, 2, 3, 4, 5]]
    assert population.known[2].tolist() == [False, False, True, True, False, True]
    assert population.known[[0, 1, 3]].all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy], ids=["deepcopy", "copy"])
def test_a_copy_is_detached(population, duplicate):
    copied = duplicate(population[2])
    assert copied == population[2] and copied.fitness == population[2].fitness
    copied.masks = ~copied.masks
    copied.fitness.values = (99.0, 99.0)
    assert copied != population[2]
    assert population.values[2, 0] != 99
    everybody = duplicate(population)
    everybody[0].pairing = np.roll(everybody[0].pairing, 1)
    assert everybody[0] != population[0]


def test_a_pickle_holds_one_genome(population):
    restored = pickle.loads(pickle.dumps(population[5]))
    assert restored == population[5] and restored.fitness.values == population[5].fitness.values
    assert len(restored.population) == 1


def nsga3(individuals, k):
    return tools.selNSGA3(individuals, k, tools.uniform_reference_points(2, 4))


@pytest.mark.parametrize(
    "select",
    [tools.selBest, tools.selNSGA2, nsga3, tools.selSPEA2, tools.selWorst, tools.selRandom, tools.selTournamentDCD],
)
def test_selections_return_members(population, select):
    if select is tools.selTournamentDCD:
        tools.selNSGA2(population, 12)  # hands out crowding distances
        select = lambda individuals, k: tools.selTournamentDCD(individuals, 4) + [individuals[0]]  # noqa: E731
    chosen = select(population, 5)
    assert len(chosen) == 5 and all(c.population is population for c in chosen)


def test_selections_agree_with_the_arrays(population):
    best = [individual.index for individual in tools.selBest(list(population), 4)]
    expected = sorted(range(12), key=lambda i: tuple(population.values[i]), reverse=True)[:4]
    assert [tuple(population.values[i]) for i in best] == [tuple(population.values[i]) for i in expected]
    random.seed(0)
    winners = tools.selTournament(list(population), 200, tournsize=3)
    assert np.mean([w.fitness.values[0] for w in winners]) > population.values[:, 0].mean()
    first = tools.sortNondominated(list(population), 12, first_front_only=True)[0]
    for individual in first:
        assert not any(other.fitness.dominates(individual.fitness) for other in population)


def test_hall_of_fame_keeps_the_best_and_no_copies(population):
    hall = tools.HallOfFame(3)
    hall.update(list(population))
    hall.update(list(population))
    assert [h.fitness.values for h in hall] == sorted((i.fitness.values for i in population), reverse=True)[:3]
    best = hall[0].masks.copy()
    population[0].masks = ~population[0].masks
    population.packed.words[:] = 0
    assert np.array_equal(hall[0].masks, best)


def test_statistics_read_fitness(population):
    statistics = tools.Statistics(key=lambda individual: individual.fitness.values[0])
    statistics.register("mean", np.mean)
    assert statistics.compile(population)["mean"] == pytest.approx(population.values[:, 0].mean())


@pytest.mark.parametrize(
    ("masks", "pairings", "words"),
    [
        (np.zeros((2, 3, 2, 2)), np.tile(np.arange(3), (2, 1)), "masks must be bool"),
        (np.zeros((2, 3, 2, 4), bool), np.tile(np.arange(3), (2, 1)), "masks must be bool"),
        (np.zeros((2, 3, 2, 2), bool), np.tile(np.arange(4), (2, 1)), r"\(P,B\) = \(2, 3\) to go with the masks, got"),
        (np.zeros((2, 3, 2, 2), bool), np.zeros((2, 3)), "pairings must be integers"),
        (np.zeros((2, 3, 2, 2), bool), np.array([[0, 1, 2], [0, 1, 1]]), r"genome 1 is not: \[0, 1, 1\]"),
    ],
)
def test_genomes_that_are_no_compositions_are_refused(masks, pairings, words):
    with pytest.raises(ValueError, match=words):
        Population(masks, pairings)


def test_lexicase_takes_rows_as_cases(population):
    """A genome that is best on one row only is chosen although its mean is the worst."""
    population.scores = np.ones((12, 6), np.float32)
    population.scores[7] = 0
    population.scores[7, 3] = 5
    random.seed(0)
    chosen = [individual.index for individual in tools.selLexicase(population.cases, 300)]
    assert 7 in chosen and len(set(chosen)) > 3
    assert 20 < chosen.count(7) < 90  # where row 3 is the first of six cases
    assert tools.selEpsilonLexicase(population.cases, 4, 0.1)[0].population is population


def test_pareto_front_keeps_what_nothing_dominates(population):
    front = tools.ParetoFront()
    front.update(population)
    front.update(population)
    expected = tools.sortNondominated(population, 12, first_front_only=True)[0]
    assert {f.fitness.values for f in front} == {e.fitness.values for e in expected}
    assert len(front) <= len(expected)


def test_migration_moves_the_best_and_corrupts_nothing(population):
    """In a ring of three every island gets the best of the one before, though its own best are overwritten."""
    islands = [population, copy.deepcopy(population), copy.deepcopy(population)]
    for number, island in enumerate(islands):
        for individual in island:
            individual.fitness.values = (100.0 * number + individual.index, 0.0)
    best = [copy.deepcopy(island[11]) for island in islands]
    held = islands[0][11]
    tools.migRing(islands, 1, tools.selBest)
    for number in range(3):
        assert islands[(number + 1) % 3][11] == best[number]
        assert islands[(number + 1) % 3][11].fitness.values == best[number].fitness.values
    assert held == best[0]  # whoever holds an individual keeps it


def test_multistatistics_and_logbook(population):
    fitness = tools.Statistics(key=lambda individual: individual.fitness.values[0])
    share = tools.Statistics(key=lambda individual: individual.masks.mean())
    statistics = tools.MultiStatistics(fitness=fitness, share=share)
    statistics.register("mean", np.mean)
    logbook = tools.Logbook()
    logbook.record(gen=0, **statistics.compile(population))
    assert logbook.chapters["share"].select("mean") == [pytest.approx(population.masks.mean())]


def test_it_is_a_list_of_individuals(population):
    first, last = copy.deepcopy(population[0]), copy.deepcopy(population[11])
    population[0] = last
    assert population[0] == last
    population[:] = [first, last, first]
    assert len(population) == 3 and population[2] == first
    population.append(last)
    del population[0]
    assert len(population + [first]) == 4 and population.index(last) == 0
    with pytest.raises(IndexError, match="genome 3 of a population of 3"):
        population[3]


def test_nan_fitness_is_the_worst(population):
    population[0].fitness.values = (float("nan"), 1.0)
    assert population[0].fitness.values == (-np.inf, -np.inf)  # whatever the other objective says
    assert tools.selBest(population, 12)[-1].index == 0


def test_saved_without_pickle(population, tmp_path):
    population.known[3] = True
    population.scores[:] = 2
    population.save(tmp_path / "p.npz")
    loaded = Population.load(tmp_path / "p.npz")
    assert [a == b for a, b in zip(loaded, population, strict=True)] == [True] * 12
    for name in ("values", "valid", "ids", "known", "scores"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(population, name))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as data:
        arrays = dict(data)
    for name, wrong in (
        ("pairings", arrays["pairings"] * 0),
        ("words", arrays["words"] | 2**12),
        ("valid", arrays["valid"][:3]),
    ):
        np.savez(tmp_path / "q.npz", **{**arrays, name: wrong})
        with pytest.raises(ValueError):
            Population.load(tmp_path / "q.npz")
    (tmp_path / "p.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="is not a saved population"):
        Population.load(tmp_path / "p.npz")


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 8), rows=st.integers(1, 6), grid=st.integers(1, 4))
def test_inherited_losses_are_those_of_equal_rows(seed, size, rows, grid):
    rng = np.random.default_rng(seed)

    def drawn():
        return Population(rng.random((size, rows, grid, grid)) < 0.5, np.argsort(rng.random((size, rows)), axis=1))

    parents, children = drawn(), drawn()
    parents.cell_losses = rng.random(parents.masks.shape).astype(np.float32)
    parents.known = rng.random((size, rows)) < 0.7
    which = rng.integers(0, size, size)
    children.inherit(parents, which)
    for child in range(size):
        for row in range(rows):
            parent = which[child]
            equal = parents.known[parent, row] and children.pairings[child, row] == parents.pairings[parent, row]
            equal = equal and np.array_equal(children.masks[child, row], parents.masks[parent, row])
            assert children.known[child, row] == equal
            if equal:
                assert np.array_equal(children.cell_losses[child, row], parents.cell_losses[parent, row])


def test_what_a_population_is_made_of_stays_as_it_was():
    masks, pairings = Masks.pack(np.zeros((2, 3, 2, 2), bool)), np.tile(np.arange(3, dtype=np.int32), (2, 1))
    made = Population(masks, pairings)
    made[0].pairing = np.array([2, 1, 0])
    made[0].masks = np.ones((3, 2, 2), bool)
    assert pairings[0].tolist() == [0, 1, 2] and not masks.cells.any()


def test_taking_by_a_bool_array_and_joining_what_does_not_fit(population):
    even = np.arange(12) % 2 == 0
    assert len(population.take(even)) == 6 and population.take(even)[1] == population[2]
    other = Population(np.zeros((1, 6, 4, 4), bool), np.arange(6)[None])
    with pytest.raises(ValueError, match="must agree in B, G and number of objectives"):
        population.join(other)


def test_crowding_distances_survive_being_put_in_place(population):
    population[:] = tools.selNSGA2(population, 12)
    assert len(tools.selTournamentDCD(population, 8)) == 8
