"""Several objectives, and those that score against a population: what is compared is on one scale."""

import numpy as np
import pytest

from evo.archive import RowArchive
from evo.genome import Population
from evo.objectives import OBJECTIVES, RELATIVE, RowLosses, parse_objectives
from evo.packed import Masks
from evo.row_scores import Scoring, compute_fitness, resolve_objectives
from tests.searches import B, G, Table, evaluate, hard_search

PAIRS = ["hard,contrast", "contrast,hard", "hard,diversity", "learnable,hard", "hard,balanced,contrast"]


def dominated(values, others):
    return ((values <= others).all(1) & (values < others).any(1)).any()


@pytest.mark.parametrize("objective", ["hard,contrast", "hard,balanced"])
def test_the_row_known_best_for_a_pair_is_the_best_of_those_ever_scored_on_one_scale(objective):
    search = hard_search(labels=np.arange(B) % 3, population=10, objective=objective, seed=0, generations=12)
    search.run(evaluate)
    scores = search.scoring.score(search.scoring.gather_archive_rows(search.archive))[:, 0]
    mean = scores.mean(axis=1, keepdims=True)
    together = ((scores - mean) / scores.std(axis=1, keepdims=True)).sum(axis=0)
    best, masks = search.archive.best_pairs()
    for image in range(B):
        for partner in range(B):
            known = np.flatnonzero((search.archive.image == image) & (search.archive.partner == partner))
            if len(known):
                assert best[image, partner] == pytest.approx(together[known].max(), abs=1e-4)
                words = search.archive.words[known[together[known].argmax()]]
                assert np.array_equal(masks[image, partner].words, words) or len(known) > 1


def test_rows_of_all_generations_are_scored_against_the_last_one():
    search = hard_search(population=10, objective="learnable", seed=0, generations=8)
    pools = []
    take = search.record.take
    search.record.take = lambda pool, fresh: (pools.append(pool.copy()), take(pool, fresh))[1]
    search.run(evaluate)
    low, high = np.quantile(pools[-1].cell_losses, (0.5, 0.9))
    cells = search.archive.facts["cell_losses"]
    np.testing.assert_allclose(search.archive.scores, -np.abs(cells - cells.clip(low, high)).mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("objective", [*PAIRS, "hard", "diversity", "learnable", "hard+0.5*diversity"])
@pytest.mark.parametrize("seed", range(3))
def test_a_genome_with_a_bad_row_is_the_worst_under_every_set_of_objectives(objective, seed):
    """A tenth of the pairs have no finite loss."""
    bad = np.random.default_rng(seed).random((B, B)) < 0.1
    table = Table(seed)

    def losses(rows):
        found = table(rows)
        found[bad[rows.image, rows.partner]] = np.nan
        return (found,)

    search = hard_search(population=10, objective=objective, seed=seed, generations=6)
    search.run(losses)
    population = search.population
    is_bad = bad[np.arange(B), population.pairings].any(axis=1)
    if is_bad.any() and not is_bad.all():
        assert (population.values[is_bad].max(axis=0) < population.values[~is_bad].min(axis=0)).all()
    if not is_bad.all():
        first = search.elites(1)
        assert np.isfinite(first.cell_losses).all()


def test_deap_s_own_fitness_and_algorithms_hold_a_nan_for_the_worst_everywhere():
    from evo.algorithms import eaSimple
    from evo.deap_compat import Evaluator

    rng = np.random.default_rng(0)
    population = Population(rng.random((6, B, G, G)) < 0.5, np.argsort(rng.random((6, B)), axis=1), objectives=2)
    population[0].fitness.values = (float("nan"), 5.0)
    assert population[0].fitness.values == (-np.inf, -np.inf)
    losses = Table()

    def some_bad(rows):
        found = losses(rows)
        found[rows.partner == 0] = np.nan
        return (found,)

    single = Population(rng.random((3, B, G, G)) < 0.5, np.argsort(rng.random((3, B)), axis=1), objectives=2)
    values = Evaluator(some_bad, objective="hard,contrast")(list(single))
    assert values == [(-np.inf, -np.inf)] * 3

    from deap import base

    toolbox = base.Toolbox()
    toolbox.register("evaluate", lambda genomes: np.tile([np.nan, 1.0], (len(genomes), 1)))
    toolbox.register("select", lambda genomes, k: np.arange(k))
    final, _ = eaSimple(population, toolbox, 0, 0, 1, rng=rng)
    assert (final.values[1:] == -np.inf).all()


@pytest.mark.parametrize("objective", PAIRS)
def test_the_hall_of_fame_of_several_objectives_is_the_front_of_all_evaluated(objective):
    search = hard_search(labels=np.arange(B) % 3, population=10, objective=objective, seed=1, generations=10)
    seen = []
    tell = search.record.take
    search.record.take = lambda pool, fresh: (seen.append(pool.copy()), tell(pool, fresh))[1]
    search.run(evaluate)
    hall = search.hall_of_fame
    values = np.array([genome.fitness.values for genome in hall])
    kinds = {(genome.masks.tobytes(), genome.pairing.tobytes()) for genome in hall}
    assert len(kinds) == len(hall)  # nobody stands there twice
    assert not any(dominated(value, values) for value in values)
    everybody = np.concatenate([pool.values for pool in seen])
    if not search.scoring.relative:
        front = {tuple(value) for value in everybody if not dominated(value, everybody)}
        assert {tuple(value) for value in values} == front
    # Of those alive, who is dominated by nobody remembered is remembered.
    for genome in search.population:
        mine = np.array(genome.fitness.values)
        assert genome in list(hall) or dominated(mine, values)


def test_of_the_present_front_everybody_is_in_the_hall_of_fame():
    """README's example."""
    truth = np.random.default_rng(0).random((16, 16, 3, 3)).astype(np.float32)
    search = hard_search(16, 3, objective="hard,diversity", crossover="0.7*assignment+0.3*block/ox", generations=9)
    search.run(lambda rows: (np.where(rows.masks, truth[rows.image, rows.image], truth[rows.image, rows.partner]),))
    values = search.population.values
    hall = list(search.hall_of_fame)
    remembered = np.array([genome.fitness.values for genome in hall])
    front = [i for i in range(len(values)) if not dominated(values[i], values)]
    assert front and sum(search.population[i] in hall for i in front) > 0
    assert all(search.population[i] in hall or dominated(values[i], remembered) for i in front)


@pytest.mark.parametrize("population", [2, 10])
def test_the_hall_of_fame_holds_the_ten_best_of_all_evaluated(population):
    search = hard_search(population=population, seed=0, generations=20)
    seen = {}
    take = search.record.take

    def recorded(pool, fresh):
        for genome in pool:
            seen[genome.masks.tobytes() + genome.pairing.tobytes()] = genome.fitness.values[0]
        take(pool, fresh)

    search.record.take = recorded
    search.run(evaluate)
    best = sorted(seen.values(), reverse=True)[:10]
    assert [genome.fitness.values[0] for genome in search.hall_of_fame] == best


def test_values_in_the_hall_of_fame_hold_for_the_present_population():
    search = hard_search(population=10, objective="learnable", seed=0, generations=9)
    pools = []
    take = search.record.take
    search.record.take = lambda pool, fresh: (pools.append(pool.copy()), take(pool, fresh))[1]
    search.run(evaluate)
    context = search.scoring.gather_rows(pools[-1])
    for genome in search.hall_of_fame:
        alone = genome.population.take([genome.index])
        scores = search.scoring.score(search.scoring.gather_rows(alone), context)
        assert genome.fitness.values[0] == pytest.approx(scores.mean(), rel=1e-5)


def test_patience_does_not_end_a_search_by_a_relative_objective_that_still_improves():
    """learnable's band moves with the population: its own best value stands still while genomes come nearer."""
    ends = []
    for seed in range(5):
        search = hard_search(population=12, objective="learnable", seed=seed, patience=5, generations=60)
        ends.append(search.run(evaluate).generation)
    assert sorted(ends)[2] > 12, ends


def test_a_target_is_compared_on_the_present_scale():
    search = hard_search(population=8, objective="learnable", seed=0, target=-0.01, generations=40)
    search.run(evaluate)
    if search.stopped == "target":
        assert search.hall_of_fame[0].fitness.values[0] >= -0.0101


@pytest.mark.parametrize("names", [("hard", "contrast"), ("hard", "balanced", "contrast")])
def test_patience_and_target_of_several_objectives_do_not_depend_on_their_order(names):
    """A search whose parents and survivors do not depend on the order ends at the same generation."""

    def made(objectives, **ends):
        search = hard_search(population=10, objective=",".join(objectives), seed=3, crossover="uniform", **ends)
        search.toolbox.register("select", lambda population, k: np.arange(k) % len(population))
        search.toolbox.register("survive", lambda population, k: np.arange(len(population))[-k:])
        return search

    for ends in ({"patience": 4}, {"target": 1e-4, "generations": 30}, {"generations": 6}):
        runs = [made(order, **ends).run(evaluate) for order in (names, names[::-1])]
        assert runs[0].generation == runs[1].generation and runs[0].stopped == runs[1].stopped
        volumes = [search.records[-1]["hypervolume"] for search in runs]
        assert volumes[0] == pytest.approx(volumes[1])


def test_hypervolume_is_recorded_and_shown_and_never_falls_for_absolute_objectives():
    search = hard_search(population=10, objective="hard,contrast", seed=0, generations=12).run(evaluate)
    volumes = [record["hypervolume"] for record in search.records]
    assert volumes == sorted(volumes) and volumes[-1] > volumes[0] >= 0
    assert "hypervolume" in str(search.logbook).splitlines()[0]
    front, reference = search.record.front, search.record.reference
    order = front[np.argsort(front[:, 0])]
    steps = np.diff(np.concatenate([[reference[0]], order[:, 0]]))
    assert volumes[-1] == pytest.approx(float((steps * (order[:, 1] - reference[1])).sum()))


@pytest.mark.parametrize("objective", ["hard,diversity", "learnable,hard"])
def test_the_hypervolume_of_relative_objectives_has_its_reference_on_the_same_scale(objective):
    search = hard_search(population=10, objective=objective, seed=0, generations=20).run(evaluate)
    volumes = [record["hypervolume"] for record in search.records]
    assert min(volumes) > 0
    front = np.array([genome.fitness.values for genome in search.hall_of_fame])
    assert (front.max(axis=0) > search.record.reference).all()


def rows_of(population, labels):
    return Scoring(resolve_objectives("hard"), labels).gather_rows(population)


@pytest.mark.parametrize("name", sorted(RELATIVE))
def test_relative_objectives_score_strangers_against_the_population_they_are_given(name):
    rng = np.random.default_rng(0)
    labels = np.arange(B) % 3
    home = Population(rng.random((5, B, G, G)) < 0.5, np.argsort(rng.random((5, B)), axis=1))
    guest = Population(rng.random((3, B, G, G)) < 0.5, np.argsort(rng.random((3, B)), axis=1))
    for population in (home, guest):
        population.cell_losses = Table().full(population)
    context = rows_of(home, labels)
    found = OBJECTIVES[name](rows_of(guest, labels), context)
    for genome in range(3):
        alone = OBJECTIVES[name](rows_of(guest.take([genome]), labels), context)
        np.testing.assert_allclose(found[genome], alone[0])  # who else is asked about does not matter
    if name == "diversity":
        for genome in range(3):
            joined = OBJECTIVES[name](rows_of(home.join(guest.take([genome])), labels))
            np.testing.assert_allclose(found[genome], joined[-1], rtol=1e-6)  # as if it joined them


def test_rows_of_no_genome_in_particular_are_scored_as_those_of_genomes():
    rng = np.random.default_rng(1)
    labels = np.arange(B) % 3
    population = Population(rng.random((4, B, G, G)) < 0.5, np.argsort(rng.random((4, B)), axis=1))
    population.cell_losses = Table().full(population)
    population.image_losses = population.cell_losses.mean((2, 3))
    population.reference_cell_losses = population.cell_losses / 2
    population.reference_image_losses = population.image_losses / 2
    population.known[:] = True
    archive = RowArchive(B, G, objectives=1)
    population.scores = population.image_losses
    genome, row = np.nonzero(population.known)
    archive.add(population, genome, row)
    context = rows_of(population, labels)
    for name in OBJECTIVES:
        (objective,) = parse_objectives(name)
        scoring = Scoring({name: objective}, labels)
        flat = scoring.score(scoring.gather_archive_rows(archive), context)[0, 0]
        whole = scoring.score(scoring.gather_rows(population), context)[0]
        np.testing.assert_allclose(flat, whole[genome, row], rtol=1e-6, err_msg=name)


def test_a_function_that_says_so_is_given_the_context():
    contexts = []

    def beyond_the_mean(rows, context=None):
        contexts.append(context)
        among = rows if context is None else context
        return rows.cell_losses.mean((2, 3)) - among.cell_losses.mean()

    beyond_the_mean.relative = True
    search = hard_search(population=6, objective=beyond_the_mean, seed=0, generations=3).run(evaluate)
    assert search.scoring.relative and any(isinstance(context, RowLosses) for context in contexts)


def test_fitness_of_nothing_finite_is_the_worst():
    assert compute_fitness(np.full((2, 3, 4), -np.inf, np.float32)).tolist() == [[-np.inf, -np.inf]] * 3
    assert Masks.pack(np.ones((1, 2, 2), bool)).kept().tolist() == [4]
