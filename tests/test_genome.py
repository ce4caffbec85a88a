"""Individuals are views of the population's arrays, and DEAP's tools work on them unchanged."""

import copy
import pickle
import random

import numpy as np
import pytest
from deap import tools

from evo.genome import Population


@pytest.fixture
def population() -> Population:
    rng = np.random.default_rng(0)
    made = Population(rng.random((12, 6, 3, 3)) < 0.5, np.argsort(rng.random((12, 6)), axis=1), objectives=2)
    for individual in made:
        individual.fitness.values = (float(rng.integers(5)), float(rng.random()))
    return made


def test_an_individual_is_a_view(population):
    population[3].masks[0, 0, 0] ^= True
    assert population.masks[3, 0, 0, 0] == population[3].masks[0, 0, 0]
    population[3].fitness.values = (9.0, 1.0)
    assert population.values[3].tolist() == [9.0, 1.0]
    del population[3].fitness.values
    assert not population.valid[3] and not population[3].fitness.valid


def test_deepcopy_detaches(population):
    copied = copy.deepcopy(population[2])
    assert copied == population[2] and copied.fitness == population[2].fitness
    copied.masks[:] = ~copied.masks
    copied.fitness.values = (99.0, 99.0)
    assert copied != population[2]
    assert population.values[2, 0] != 99


def test_a_pickle_holds_one_genome(population):
    restored = pickle.loads(pickle.dumps(population[5]))
    assert restored == population[5] and restored.fitness.values == population[5].fitness.values
    assert len(restored.population) == 1


@pytest.mark.parametrize("select", [tools.selBest, tools.selNSGA2, tools.selWorst, tools.selRandom])
def test_selections_return_members(population, select):
    chosen = select(list(population), 5)
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
    population.masks[:] = False
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
        (np.zeros((2, 3, 2, 2), bool), np.tile(np.arange(4), (2, 1)), r"pairings must be integers \(2, 3\)"),
        (np.zeros((2, 3, 2, 2), bool), np.zeros((2, 3)), "pairings must be integers"),
        (np.zeros((2, 3, 2, 2), bool), np.array([[0, 1, 2], [0, 1, 1]]), r"genome 1 is not: \[0, 1, 1\]"),
    ],
)
def test_genomes_that_are_no_compositions_are_refused(masks, pairings, words):
    with pytest.raises(ValueError, match=words):
        Population(masks, pairings)
