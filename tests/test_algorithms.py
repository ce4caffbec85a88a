"""eaSimple and eaMuPlusLambda on whole populations: they climb, log what DEAP's log, and evaluate what is new."""

import copy
import random

import numpy as np
import pytest
from deap import algorithms, base, tools

from evo.algorithms import eaMuPlusLambda, eaSimple, first_value, tournament
from evo.genome import Population
from evo.operators import CROSSOVERS, MASK_MUTATIONS, PAIRING_MUTATIONS
from evo.packed import Masks

ROWS, GRID = 8, 3


def share_right(population):
    """Of all cells the share kept, and of all rows the share paired with the next one: 2 at most."""
    wanted = np.roll(np.arange(population.pairings.shape[1]), -1)
    kept = population.packed.kept().mean(1) / population.packed.grid**2
    return kept + (population.pairings == wanted).mean(1)


def drawn(genomes=40, objectives=1, seed=0):
    rng = np.random.default_rng(seed)
    pairings = np.argsort(rng.random((genomes, ROWS)), 1)
    return Population(rng.random((genomes, ROWS, GRID, GRID)) < 0.5, pairings, objectives)


def tools_for(rng, evaluate=share_right):
    toolbox = base.Toolbox()
    toolbox.register("select", tournament, rng=rng, tournsize=3)
    toolbox.register("mate", CROSSOVERS["uniform"], rng=rng)
    toolbox.register("evaluate", evaluate)

    def mutate(masks, pairings):
        flipped = MASK_MUTATIONS["flip"](masks, rng, row_rate=1, cells=0.1)
        return flipped, PAIRING_MUTATIONS["swap"](pairings, rng, rate=0.1)

    toolbox.register("mutate", mutate)
    return toolbox


def statistics(key=first_value):
    stats = tools.Statistics(key)
    for name, function in (("min", np.min), ("mean", np.mean), ("max", np.max), ("std", np.std)):
        stats.register(name, function)
    return stats


def run(algorithm, population, toolbox, rng, generations=10, cxpb=0.6, mutpb=0.3, **keywords):
    sizes = (len(population), 2 * len(population)) if algorithm is eaMuPlusLambda else ()
    return algorithm(population, toolbox, *sizes, cxpb, mutpb, generations, rng=rng, **keywords)


both = pytest.mark.parametrize("algorithm", [eaSimple, eaMuPlusLambda])


@both
def test_it_climbs_to_the_top(algorithm):
    rng = np.random.default_rng(0)
    hall = tools.HallOfFame(5)
    population, logbook = run(algorithm, drawn(100), tools_for(rng), rng, 80, stats=statistics(), halloffame=hall)
    best = logbook.select("max")
    assert best[0] < 1.2 and max(best) == hall[0].fitness.values[0] == 2
    assert hall[0].masks.all() and hall[0].pairing.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert len(population) == 100 and population.valid.all()
    assert np.array_equal(population.values[:, 0], share_right(population))  # nobody has another one's fitness


@both
def test_its_logbook_has_what_deaps_has(algorithm):
    """Fields, header, chapters and length, against DEAP's own loop on lists."""
    theirs = {eaSimple: algorithms.eaSimple, eaMuPlusLambda: algorithms.eaMuPlusLambda}[algorithm]

    class Maximise(base.Fitness):
        weights = (1.0,)

    class Genome(list):
        def __init__(self, genes):
            super().__init__(genes)
            self.fitness = Maximise()

    toolbox = base.Toolbox()
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("mate", tools.cxUniform, indpb=0.5)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.1)
    toolbox.register("evaluate", lambda genome: (sum(genome),))
    sizes = (20, 40) if algorithm is eaMuPlusLambda else ()
    rng = np.random.default_rng(0)
    for make in (statistics, lambda: tools.MultiStatistics(fitness=statistics(), size=statistics(len)), lambda: None):
        expected = theirs([Genome([0, 1] * 5) for _ in range(20)], toolbox, *sizes, 0.5, 0.2, 3, make(), verbose=False)
        found = run(algorithm, drawn(20), tools_for(rng), rng, 3, stats=make())
        assert [list(line) for line in found[1]] == [list(line) for line in expected[1]]
        assert found[1].header == expected[1].header and found[1].select("gen") == [0, 1, 2, 3]
        assert found[1].chapters.keys() == expected[1].chapters.keys()
        for name, chapter in expected[1].chapters.items():
            assert [line.keys() for line in found[1].chapters[name]] == [line.keys() for line in chapter]


@both
def test_statistics_by_array_equal_those_by_individual(algorithm):
    logbooks = []
    for key in (first_value, lambda individual: individual.fitness.values[0]):
        rng = np.random.default_rng(0)
        stats = tools.MultiStatistics(one=statistics(key), two=statistics(key))
        logbooks.append(run(algorithm, drawn(), tools_for(rng), rng, stats=stats)[1].chapters["two"])
    assert logbooks[0] == logbooks[1] and logbooks[0][-1]["std"] > 0
    stats = tools.Statistics(first_value)
    stats.register("kind", type)  # that it is one array is what makes it fast
    assert run(algorithm, drawn(), tools_for(rng), rng, stats=stats)[1].select("kind")[-1] is np.ndarray
    assert first_value(run(algorithm, drawn(), tools_for(rng), rng)[0][0]) > 0


@both
def test_only_new_genomes_are_evaluated_in_one_call(algorithm):
    asked = []

    def evaluate(population):
        assert not population.valid.any()
        asked.append(len(population))
        return share_right(population)

    rng = np.random.default_rng(0)
    population = drawn(200)
    population.values[:50, 0], population.valid[:50] = share_right(population)[:50], True
    last, logbook = run(algorithm, population, tools_for(rng, evaluate), rng, 5, cxpb=0.5, mutpb=0.2)
    assert asked == logbook.select("nevals") and asked[0] == 150
    new, children = (0.6, 200) if algorithm is eaSimple else (0.7, 400)
    assert np.mean(asked[1:]) == pytest.approx(new * children, rel=0.1)
    assert np.array_equal(last.values[:, 0], share_right(last))

    asked.clear()
    run(algorithm, last, tools_for(rng, evaluate), rng, 5, cxpb=0, mutpb=0)
    assert not asked


@both
def test_the_given_population_stays_as_it_is(algorithm):
    population, rng = drawn(), np.random.default_rng(0)
    before = population.copy()
    run(algorithm, population, tools_for(rng), rng)
    assert population.packed.same(before.packed).all() and np.array_equal(population.pairings, before.pairings)
    assert not population.valid.any()


@both
def test_a_seed_fixes_everything(algorithm):
    def last(seed):
        rng = np.random.default_rng(seed)
        return run(algorithm, drawn(), tools_for(rng), rng)[0].arrays()

    def last_of_pythons(seed):
        random.seed(seed)
        return run(algorithm, drawn(), tools_for(np.random.default_rng(0)), None)[0].arrays()

    for make in (last, last_of_pythons):
        one, again, other = make(1), make(1), make(2)
        assert all(np.array_equal(one[name], again[name], equal_nan=True) for name in one)
        assert not np.array_equal(one["words"], other["words"])


@both
def test_the_hall_of_fame_is_deaps(algorithm):
    """Fed with everybody, DEAP's own has the same fitnesses."""
    rng = np.random.default_rng(0)
    theirs, ours = tools.HallOfFame(10), tools.HallOfFame(10)

    def evaluate(population):
        values = np.round(share_right(population), 2)  # with ties
        whole = population.copy()
        whole.values[:, 0], whole.valid[:] = values, True
        theirs.update(whole)
        return values

    run(algorithm, drawn(), tools_for(rng, evaluate), rng, 15, halloffame=ours)
    assert [one.fitness.values for one in ours] == [one.fitness.values for one in theirs]
    assert all(one != other for i, one in enumerate(ours) for other in ours[:i])
    assert all(one.fitness.values == (np.round(share_right(one.population)[one.index], 2),) for one in ours)


@both
def test_nan_is_worst(algorithm):
    rng = np.random.default_rng(0)

    def evaluate(population):
        values = share_right(population)
        values[values > np.median(values)] = np.nan
        return values

    hall, stats = tools.HallOfFame(3), tools.Statistics(first_value)
    stats.register("min", np.min)
    population, logbook = run(algorithm, drawn(), tools_for(rng, evaluate), rng, 3, stats=stats, halloffame=hall)
    assert logbook[0]["min"] == -np.inf and not np.isnan(population.values).any()
    assert np.isfinite(hall[0].fitness.values[0])


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((40, 2)), 1.0, np.zeros((40, 1, 1))])
def test_values_of_another_shape_are_refused(values):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"evaluate must return values \(N,M\) = \(40, 1\)"):
        eaSimple(drawn(), tools_for(rng, lambda population: values), 0.5, 0.5, 1)


@both
def test_deaps_selections_serve(algorithm):
    rng = np.random.default_rng(0)
    toolbox = tools_for(rng)
    for select in (lambda one, k: tools.selTournament(one, k, 3), tools.selBest, tools.selRandom):
        toolbox.register("select", select)
        random.seed(0)
        population, _ = run(algorithm, drawn(), toolbox, rng, 4)
        assert len(population) == 40
        assert np.array_equal(population.values[:, 0], share_right(population))


@both
@pytest.mark.parametrize("clone", [lambda individual: individual, copy.deepcopy])
def test_individuals_that_a_selection_returns_are_taken(algorithm, clone):
    rng = np.random.default_rng(0)
    toolbox, given = tools_for(rng), drawn()
    toolbox.register("select", lambda one, k: [clone(tools.selBest(one, 1)[0])] * k)
    population, _ = run(algorithm, given, toolbox, rng, 1, cxpb=0, mutpb=0)
    best = given[int(share_right(given).argmax())]
    assert len(population) == 40 and all(one == best for one in population)


def test_several_objectives():
    """Cells kept against cells dropped in the first row: the front holds every trade-off."""

    def evaluate(population):
        kept = population.packed.kept()
        return np.stack([kept.mean(1), GRID**2 - kept[:, 0]], 1)

    rng = np.random.default_rng(0)
    toolbox = tools_for(rng, evaluate)
    toolbox.register("select", tools.selNSGA2)
    front = tools.ParetoFront()
    population, _ = run(eaMuPlusLambda, drawn(objectives=2), toolbox, rng, 30, halloffame=front)
    assert np.array_equal(population.values, evaluate(population)) and len(front) > 5
    toolbox.register("select", tournament, rng=rng)
    ours, theirs = tools.HallOfFame(4), tools.HallOfFame(4)
    population = drawn(objectives=2)
    population.values[:], population.valid[:] = evaluate(population), True
    theirs.update(population)
    run(eaSimple, population, toolbox, rng, 0, halloffame=ours)
    assert [one.fitness.values for one in ours] == [one.fitness.values for one in theirs]


def test_sizes_of_mu_plus_lambda():
    rng = np.random.default_rng(0)
    toolbox = tools_for(rng)
    population, logbook = eaMuPlusLambda(drawn(10), toolbox, 25, 60, 0.5, 0.5, 3, rng=rng)
    assert len(population) == 25 and logbook.select("nevals") == [10, 60, 60, 60]
    with pytest.raises(ValueError, match="at most 1, got"):
        eaMuPlusLambda(drawn(10), toolbox, 10, 10, 0.7, 0.5, 1)


def test_mu_plus_lambda_keeps_the_best_parents():
    rng = np.random.default_rng(0)
    toolbox = tools_for(rng)
    toolbox.register("select", tools.selBest)
    toolbox.register("mutate", lambda masks, pairings: (MASK_MUTATIONS["complement"](masks, rng), pairings))
    best = run(eaMuPlusLambda, drawn(), toolbox, rng, 15, stats=statistics())[1].select("max")
    assert best == sorted(best)


def test_children_of_mu_plus_lambda_are_crossed_or_mutated_or_neither():
    rng = np.random.default_rng(0)
    toolbox, made = tools_for(rng), []

    def mate(first, second):
        assert not first.packed.same(second.packed).all(1).any()  # two different parents
        made.append(len(first))
        return Masks(np.zeros_like(first.packed.words), GRID), first.pairings

    def mutate(masks, pairings):
        assert masks.words.any((1, 2)).all()
        made.append(len(masks))
        return masks, pairings

    toolbox.register("mate", mate)
    toolbox.register("mutate", mutate)
    eaMuPlusLambda(drawn(50), toolbox, 50, 10_000, 0.5, 0.3, 1, rng=rng)
    assert made == pytest.approx([5000, 3000], rel=0.05)


@both
def test_row_scores_that_evaluate_sets_are_at_hand_for_the_crossover(algorithm):
    """Also those of genomes that were not varied, which are not evaluated again."""
    rng = np.random.default_rng(0)

    def evaluate(population):
        population.scores = population.packed.kept().astype(np.float32)
        return population.scores.mean(1)

    toolbox = tools_for(rng, evaluate)
    seen = []

    def mate(first, second):
        seen.append(np.isnan(first.scores).any() or np.isnan(second.scores).any())
        return CROSSOVERS["rows"](first, second, rng)

    toolbox.register("mate", mate)
    population, _ = run(algorithm, drawn(20), toolbox, rng, 40)
    assert population.values.max() > 7 and len(seen) == 40 and not any(seen)
    assert np.array_equal(population.scores, population.packed.kept())


@both
@pytest.mark.parametrize("genomes", [1, 2, 3])
def test_tiny_populations(algorithm, genomes):
    rng = np.random.default_rng(0)
    population, logbook = run(algorithm, drawn(genomes), tools_for(rng), rng, 5, cxpb=0.5, mutpb=0.5)
    assert len(population) == genomes and len(logbook) == 6


def test_who_mates_and_how_often():
    """In eaSimple neighbours cross, both of a pair or none, with probability cxpb."""
    rng = np.random.default_rng(0)
    toolbox = tools_for(rng)
    couples = []

    def mate(first, second):
        half = len(first) // 2
        assert first.packed[:half].same(second.packed[half:]).all()
        assert first.packed[half:].same(second.packed[:half]).all()
        assert not (first.packed.same(second.packed).all(1)).any()
        couples.append(half)
        return first.packed, first.pairings

    toolbox.register("mate", mate)
    toolbox.register("select", lambda population, k: np.arange(k))
    eaSimple(drawn(101), toolbox, 0.8, 0, 40, rng=rng)
    assert np.mean(couples) == pytest.approx(40, rel=0.05)


def test_verbose_prints_the_logbook(capsys):
    rng = np.random.default_rng(0)
    _, logbook = eaSimple(drawn(), tools_for(rng), 0.5, 0.5, 2, stats=statistics(), verbose=True)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == logbook.header and [line.split()[0] for line in printed[1:]] == ["0", "1", "2"]
    eaSimple(drawn(), tools_for(rng), 0.5, 0.5, 2)
    assert not capsys.readouterr().out


def test_tournament_prefers_the_fitter():
    population = drawn(10)
    population.values[:, 0], population.valid[:] = np.arange(10), True
    chosen = tournament(population, 60_000, rng=np.random.default_rng(0), tournsize=3)
    expected = (np.arange(1, 11) ** 3 - np.arange(10) ** 3) / 1000
    assert np.abs(np.bincount(chosen, minlength=10) / 60_000 - expected).max() < 0.01


def test_losses_are_carried_where_the_evaluation_carries_them():
    """As under DEAP's own algorithms: rows that either parent has are not asked for again."""
    from evo.deap_compat import Evaluator

    rng = np.random.default_rng(0)
    truth = rng.random((12, 12, 3, 3)).astype(np.float32)
    evaluator = Evaluator(lambda rows: (truth[rows.image, rows.partner] * rows.masks,))
    population = Population(rng.random((10, 12, 3, 3)) < 0.5, np.argsort(rng.random((10, 12)), axis=1))
    toolbox = base.Toolbox()
    toolbox.register("select", tournament, rng=rng)
    toolbox.register("mate", CROSSOVERS["rows"], rng=rng)
    toolbox.register("mutate", lambda m, p: (MASK_MUTATIONS["flip"](m, rng), PAIRING_MUTATIONS["swap"](p, rng)))
    toolbox.register("evaluate", evaluator)
    final, logbook = eaSimple(population, toolbox, 0.8, 0.5, 15, rng=rng)
    expected = truth[np.arange(12)[None], final.pairings] * final.masks
    np.testing.assert_array_equal(final.cell_losses, expected)
    assert evaluator.forwards < 0.6 * 12 * sum(logbook.select("nevals"))
