"""The search: exact carrying of losses, climbing, seeds, budget, and what it does with bad losses."""

import random

import numpy as np
import pytest

from evo.objectives import OBJECTIVES, RowLosses
from evo.operators import CROSSOVERS, MASK_SAMPLERS
from evo.search import Search

B, G = 12, 3


class Table:
    """A model whose cell losses are known: a table over (image, partner, cell, kept)."""

    def __init__(self, seed: int = 0) -> None:
        self.losses = np.random.default_rng(seed).random((B, B, G, G, 2)).astype(np.float32)
        self.asked = 0

    def __call__(self, rows):
        self.asked += len(rows.image)
        i, j = np.indices((G, G))
        return self.losses[rows.image[:, None, None], rows.partner[:, None, None], i, j, rows.masks.astype(int)]


def run(generations=10, table=None, **options):
    table = table or Table()
    search = Search(B, G, np.arange(B) % 3, **{"population": 10, "seed": 1, **options})
    for _ in range(generations):
        proposal = search.ask()
        if proposal is None:
            break
        search.tell(table(proposal.rows))
    return search


@pytest.mark.parametrize("crossover", CROSSOVERS)
@pytest.mark.parametrize("sampler", MASK_SAMPLERS)
def test_carried_losses_are_those_of_a_full_evaluation(crossover, sampler):
    table = Table()
    search = run(20, table, crossover=crossover, sampler=sampler)
    population = search.population
    i, j = np.indices((G, G))
    full = table.losses[
        np.arange(B)[None, :, None, None], population.pairings[:, :, None, None], i, j, population.masks.astype(int)
    ]
    np.testing.assert_array_equal(population.cell_losses, full)
    np.testing.assert_allclose(population.values[:, 0], full.mean((1, 2, 3)), rtol=1e-6)
    assert search.forwards == table.asked < 20 * 10 * B


def test_it_climbs_a_known_function():
    """With losses that are one where a cell is kept, the best mask keeps everything."""
    search = Search(B, G, population=16, seed=0)
    for _ in range(60):
        rows = search.ask().rows
        search.tell(rows.masks.astype(np.float32))
    best = search.logbook.select("best")
    assert best == sorted(best) and best[-1] > 0.97 > best[0]


def test_it_finds_partners_as_well():
    """With losses that are one where the partner is the next image, the best pairing is a rotation."""
    search = Search(B, G, population=24, seed=0)
    for _ in range(80):
        rows = search.ask().rows
        good = (rows.partner == (rows.image + 1) % B).astype(np.float32)
        search.tell(np.broadcast_to(good[:, None, None], (len(good), G, G)))
    assert search.logbook.select("best")[-1] > 0.9


def test_easy_goes_the_other_way():
    hard, easy = run(objective="hard"), run(objective="easy")
    assert hard.population.cell_losses.mean() > 0.5 > easy.population.cell_losses.mean()


def test_same_seed_same_log_whatever_the_outside_draws():
    first = run()
    random.seed(99)
    np.random.seed(5)
    second = run()
    assert first.logbook == second.logbook
    assert np.array_equal(first.population.masks, second.population.masks)
    assert run(seed=2).logbook != first.logbook


def test_it_leaves_pythons_random_alone():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    run()
    assert random.random() == expected


def test_elites_are_the_fittest_first():
    search = run()
    elites = search.elites(4)
    assert elites.fitness.tolist() == sorted(search.population.values[:, 0], reverse=True)[:4]
    assert elites.masks.shape == (4, B, G, G) and elites.pairings.shape == (4, B)
    with pytest.raises(ValueError, match=r"elites must be 1\.\.10, got 11"):
        search.elites(11)


def test_the_best_never_gets_worse_and_no_two_genomes_are_the_same():
    search = run(30)
    best = search.logbook.select("best")
    assert best == sorted(best)
    genes = {(g.masks.tobytes(), g.pairing.tobytes()) for g in search.population}
    assert len(genes) == len(search.population) == 10


def test_forget_makes_every_row_new_again():
    search = run(5)
    search.forget()
    proposal = search.ask()
    assert proposal.new[:10].all()
    other = Table(seed=7)
    search.tell(other(proposal.rows))
    i, j = np.indices((G, G))
    population = search.population
    full = other.losses[
        np.arange(B)[None, :, None, None], population.pairings[:, :, None, None], i, j, population.masks.astype(int)
    ]
    np.testing.assert_array_equal(population.cell_losses, full)


@pytest.mark.parametrize("budget", [B, 5 * B, 10 * B, 15 * B + 3])
def test_the_budget_is_kept(budget):
    table = Table()
    search = run(50, table, budget=budget)
    assert 0 < search.forwards == table.asked <= budget
    assert search.ask() is None
    assert len(search.elites(1).masks) == 1


def test_a_budget_below_one_genome_is_refused():
    with pytest.raises(ValueError, match="does not cover one genome of 12 rows"):
        Search(B, G, budget=B - 1)


def test_losses_that_are_not_finite_are_worst_and_counted():
    table = Table()
    search = Search(B, G, population=6, seed=0)
    losses = table(search.ask().rows)
    losses[:B] = np.nan  # the first genome
    losses[B, 0, 0] = np.inf  # a row of the second
    record = search.tell(losses)
    assert record["nonfinite"] == B + 1
    assert np.isfinite(record["best"]) and np.isfinite(record["mean"])
    assert np.isfinite(search.elites(4).fitness).all()
    with pytest.raises(FloatingPointError, match="no genome has a finite fitness"):
        search.forget()
        search.tell(np.full((search.ask().new.sum(), G, G), np.nan))


def test_answers_of_the_wrong_shape_are_refused():
    search = Search(B, G, population=4)
    with pytest.raises(RuntimeError, match="ask"):
        search.tell(np.zeros((4, G, G)))
    search.ask()
    with pytest.raises(ValueError, match=r"cell losses must be \(48, 3, 3\), one per row asked for, got \(47, 3, 3\)"):
        search.tell(np.zeros((47, G, G)))
    with pytest.raises(ValueError, match=r"image losses must be \(48,\)"):
        search.tell(np.zeros((48, G, G)), np.zeros(3))
    wrong = Search(B, G, population=4, objective=lambda rows: np.zeros(3))
    proposal = wrong.ask()
    with pytest.raises(ValueError, match=r"the objective must return scores \(4, 12\), got \(3,\)"):
        wrong.tell(np.zeros((proposal.new.sum(), G, G)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"population": 1}, "population >= 2"),
        ({"objective": "hrad"}, "unknown objective 'hrad'; there are hard, easy"),
        ({"crossover": "none"}, "unknown crossover"),
        ({"sampler": "none"}, "unknown mask sampler"),
        ({"labels": np.zeros(3)}, r"labels must be \(12,\)"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Search(B, G, **options)


def test_one_image_and_one_label_are_defined():
    search = Search(1, 1, np.zeros(1, int), population=2, seed=0)
    for _ in range(5):
        rows = search.ask().rows
        search.tell(rows.masks.astype(np.float32))
    assert search.population.pairings.max() == 0


def test_users_may_swap_operators_by_name():
    search = Search(B, G, population=8, seed=0)
    search.toolbox.register("mutate_masks", lambda masks, rng: np.ones_like(masks))
    search.tell(Table()(search.ask().rows))
    assert search.ask().masks[8:].all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_keep_their_contract(name):
    rng = np.random.default_rng(0)
    losses = rng.random((5, B, G, G)).astype(np.float32)
    masks = rng.random((5, B, G, G)) < 0.5
    labels = rng.integers(0, 3, B)
    rows = RowLosses(losses, losses.mean((2, 3)), masks, labels, labels[np.argsort(rng.random((5, B)), 1)])
    scores = OBJECTIVES[name](rows)
    assert scores.shape == (5, B) and np.isfinite(scores).all()
    shuffled = rng.permutation(B)
    again = OBJECTIVES[name](
        RowLosses(
            losses[:, shuffled],
            rows.image_losses[:, shuffled],
            masks[:, shuffled],
            labels[shuffled],
            rows.partner_labels[:, shuffled],
        )
    )
    np.testing.assert_allclose(again, scores[:, shuffled], rtol=1e-5)  # a row's score is its own
