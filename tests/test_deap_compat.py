"""DEAP's own algorithms on a Population: one batched evaluation a generation, losses carried, results right."""

import random

import numpy as np
import pytest
from deap import algorithms, base, tools

from evo.deap_compat import Evaluator, batched_map, mate, mutate
from evo.genome import Population
from evo.operators import CROSSOVERS
from tests.test_search import B, G, Table


@pytest.fixture
def setting():
    random.seed(1)
    rng = np.random.default_rng(1)
    table, calls = Table(), []

    def evaluate(rows):
        calls.append(len(rows.image))
        return (table(rows),)

    evaluator = Evaluator(evaluate)
    toolbox = base.Toolbox()
    toolbox.register("evaluate", evaluator)
    toolbox.register("map", batched_map)
    toolbox.register("mate", mate, rng=rng)
    toolbox.register("mutate", mutate, rng=rng)
    toolbox.register("select", tools.selTournament, tournsize=3)
    population = Population(rng.random((10, B, G, G)) < 0.5, np.argsort(rng.random((10, B)), axis=1))
    return population, toolbox, table, calls, evaluator


def algorithm(name, population, toolbox, **options):
    if name == "eaSimple":
        return algorithms.eaSimple(population, toolbox, cxpb=0.7, mutpb=0.4, ngen=15, verbose=False, **options)
    if name == "eaMuCommaLambda":
        return algorithms.eaMuCommaLambda(population, toolbox, 10, 14, 0.5, 0.4, 15, verbose=False, **options)
    return algorithms.eaMuPlusLambda(population, toolbox, 10, 10, 0.5, 0.4, 15, verbose=False, **options)


@pytest.mark.parametrize("name", ["eaSimple", "eaMuPlusLambda", "eaMuCommaLambda"])
@pytest.mark.parametrize("kind", [Population, list])
def test_stock_algorithms(setting, name, kind):
    population, toolbox, table, calls, evaluator = setting
    if kind is list:
        population = list(population)
    statistics = tools.Statistics(key=lambda individual: individual.fitness.values[0])
    statistics.register("max", np.max)
    hall = tools.HallOfFame(3)
    final, logbook = algorithm(name, population, toolbox, stats=statistics, halloffame=hall)
    assert final is population and isinstance(population, kind) and len(population) == 10
    assert len(calls) <= 16  # the first evaluation and one a generation
    assert logbook.select("max")[-1] > logbook.select("max")[0] + 0.05
    assert hall[0].fitness.values[0] == pytest.approx(max(logbook.select("max")))
    gathered = Population.gather(list(population))
    np.testing.assert_array_equal(gathered.cell_losses, table.full(gathered))
    np.testing.assert_allclose(gathered.values[:, 0], table.full(gathered).mean((1, 2, 3)), rtol=1e-6)
    evaluated = sum(logbook.select("nevals"))
    assert evaluator.forwards == sum(calls) == table.asked < 0.7 * evaluated * B  # unchanged rows cost nothing


@pytest.mark.parametrize("cross", CROSSOVERS.values(), ids=list(CROSSOVERS))
def test_mating_makes_two_children_in_place(setting, cross):
    population, toolbox, *_ = setting
    toolbox.map(toolbox.evaluate, population)
    first, second = toolbox.clone(population[0]), toolbox.clone(population[1])
    first.fitness.values = (1.0,)
    result = mate(first, second, rng=np.random.default_rng(0), cross=cross)
    assert result == (first, second) and first != population[0] and not first.fitness.valid
    assert sorted(first.pairing) == list(range(B))


def test_one_individual_can_be_evaluated_alone(setting):
    population, toolbox, table, *_ = setting
    assert toolbox.evaluate(population[4])[0] == pytest.approx(table.full(population)[4].mean(), rel=1e-6)
    assert list(batched_map(len, population)) == [B] * 10  # what is not batched is mapped as usual
    several = Evaluator(lambda rows: (table(rows),), objective="hard,contrast")
    assert [len(values) for values in several(population)] == [2] * 10


def test_children_know_the_losses_of_rows_that_either_parent_has(setting):
    population, toolbox, table, *_ = setting
    toolbox.map(toolbox.evaluate, population)
    parents = [toolbox.clone(population[i]) for i in (0, 1)]
    children = [toolbox.clone(parent) for parent in parents]
    mate(*children, rng=np.random.default_rng(0))
    from_other = 0
    for child, own, other in ((children[0], *parents), (children[1], *reversed(parents))):
        has = [(p.masks == child.masks).all((1, 2)) & (p.pairing == child.pairing) for p in (own, other)]
        assert np.array_equal(child.population.known[child.index], has[0] | has[1])
        from_other += int((has[1] & ~has[0]).sum())
        known = child.population.known[child.index]
        np.testing.assert_array_equal(child.population.cell_losses[0][known], table.full(child.population)[0][known])
    assert from_other > 0
