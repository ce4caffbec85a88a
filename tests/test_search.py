"""The search: exact carrying of losses, climbing, seeds, budget, and what it does with bad losses."""

import random

import numpy as np
import pytest
from deap import tools

from evo.bank import PatternBank
from evo.operators import MASK_MUTATIONS, MASK_SAMPLERS, PAIRING_MUTATIONS
from evo.records import spread
from evo.selection import SELECTIONS
from tests.searches import NEED_NO_TABLE, B, G, Table, hard_search, run


@pytest.mark.parametrize("crossover", NEED_NO_TABLE)
@pytest.mark.parametrize("sampler", MASK_SAMPLERS)
def test_carried_losses_are_those_of_a_full_evaluation(crossover, sampler):
    table = Table()
    search = run(20, table, crossover=crossover, sampler=sampler)
    population, full = search.population, table.full(search.population)
    np.testing.assert_array_equal(population.cell_losses, full)
    np.testing.assert_allclose(population.values[:, 0], full.mean((1, 2, 3)), rtol=1e-6)
    assert search.forwards == table.asked < 20 * 10 * B


def test_it_climbs_a_known_function():
    """With losses that are one where a cell is kept, the best mask keeps everything."""
    search = hard_search(B, G, population=16, seed=0)
    for _ in range(60):
        rows = search.ask().rows
        search.tell(rows.masks.astype(np.float32))
    best = search.logbook.select("best")
    assert best == sorted(best) and best[-1] > 0.97 > best[0]


def test_it_finds_partners_as_well():
    """With losses that are one where the partner is the next image, the best pairing is a rotation."""
    search = hard_search(B, G, population=24, seed=0)
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


@pytest.mark.parametrize("rescore", ["all", "survivors"])
def test_after_forget_no_old_loss_is_left(rescore):
    search = run(5)
    alive = len(search.population)
    search.forget(rescore)
    assert len(search.hall_of_fame) == 0
    proposal = search.ask()
    if rescore == "all":
        assert np.array_equal(proposal.pairings[:alive], search.population.pairings)
    other = Table(seed=7)
    search.tell(other(proposal.rows))
    population = search.population
    np.testing.assert_array_equal(population.cell_losses, other.full(population))
    assert (population.measured == 1).all() and search.logbook[-1]["age"] == 0
    assert (search.elites(3).age == 0).all()


def test_who_was_not_picked_as_a_parent_dies_unscored():
    search = run(5, population=20)
    search.forget()
    proposal = search.ask()
    assert 20 < len(proposal.pairings) < 40


def test_without_rescoring_old_losses_stand_with_their_age():
    table, other = Table(), Table(seed=7)
    search = run(5, table)
    for _ in range(3):
        search.forget("none")
        search.tell(other(search.ask().rows))
    population = search.population
    age = search.weights_version - population.measured
    assert set(np.unique(age)) <= {0, 1, 2, 3} and age.max() == 3 > age.min()
    np.testing.assert_array_equal(
        population.cell_losses, np.where((age == 3)[:, :, None, None], table.full(population), other.full(population))
    )
    assert search.logbook[-1]["age"] == pytest.approx(age.mean(), abs=1e-4)
    assert (search.elites(2).age == 3).any()


@pytest.mark.parametrize("budget", [1, 5, 10, 15.25])
def test_the_budget_is_kept(budget):
    table = Table()
    search = run(50, table, budget=budget)
    assert 0 < search.forwards == table.asked <= budget * B
    assert search.ask() is None
    assert len(search.elites(1).masks) == 1


def test_a_budget_below_one_genome_is_refused():
    with pytest.raises(ValueError, match="budget must be at least 1, got 0.5"):
        hard_search(budget=0.5)
    with pytest.raises(ValueError, match="1.5 image forwards per image does not cover one genome, which takes 2"):
        hard_search(objective="reducible", budget=1.5)


def test_losses_that_are_not_finite_are_worst_and_counted():
    table = Table()
    search = hard_search(B, G, population=6, seed=0)
    losses = table(search.ask().rows)
    losses[:B] = np.nan  # the first genome
    losses[B, 0, 0] = np.inf  # a row of the second
    record = search.tell(losses)
    assert record["nonfinite"] == B + 1
    assert np.isfinite(record["best"]) and np.isfinite(record["mean"])
    assert np.isfinite(search.elites(4).fitness).all()
    with pytest.raises(FloatingPointError, match=r"generation 2: 100 % of the rows .* \(rows of images 0, 1, 2,"):
        search.forget()
        search.tell(np.full((search.ask().new.sum(), G, G), np.nan))


def test_too_large_a_share_of_losses_that_are_not_finite_ends_the_search():
    search = hard_search(B, G, population=6, seed=0, max_nonfinite=0.1)
    losses = Table()(search.ask().rows)
    losses[: B // 2] = np.nan
    search.tell(losses)  # 6 of 72 rows
    search = hard_search(B, G, population=6, seed=0, max_nonfinite=0.1)
    search.ask()
    losses[:B] = np.nan
    with pytest.raises(
        FloatingPointError, match="17 % of the rows have losses that are NaN or infinite, in 1 of 6 genomes"
    ):
        search.tell(losses)


def test_answers_of_the_wrong_shape_are_refused():
    search = hard_search(B, G, population=4)
    with pytest.raises(RuntimeError, match="ask"):
        search.tell(np.zeros((4, G, G)))
    search.ask()
    with pytest.raises(ValueError, match=r"cell losses must be \(48, 3, 3\), one per row asked for, got \(47, 3, 3\)"):
        search.tell(np.zeros((47, G, G)))
    with pytest.raises(ValueError, match=r"image losses must be \(48,\)"):
        search.tell(np.zeros((48, G, G)), np.zeros(3))
    wrong = hard_search(B, G, population=4, objective=lambda rows: np.zeros(3))
    proposal = wrong.ask()
    with pytest.raises(ValueError, match=r"the objective <lambda> must return scores \(4, 12\), got \(3,\)"):
        wrong.tell(np.zeros((proposal.new.sum(), G, G)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"population": 0}, "population must be at least 1, got 0"),
        ({"evaluation": "fast"}, "unknown evaluation 'fast'; there are auto, incremental, full"),
        ({"min_cells": 5}, r"min_cells must be 0\.\.4, half of the grid's 9 cells, got 5"),
        ({"mask_mutation": "flip+flip"}, "stands twice"),
        ({"crossover": "0*rows+assignment"}, "crossover 'rows' needs a share above 0"),
        ({"objective": ["hard", "hard"]}, "stands twice"),
        ({"labels": np.array(["cat"] * B)}, r"labels must be \(12,\) integers"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"max_nonfinite": 7}, "max_nonfinite must be at most 1, got 7"),
        ({"start": (np.zeros((1, 4, G, G), bool), np.arange(4)[None])}, r"starts from masks \(N,12,3,3\)"),
        ({"objective": "hrad"}, "hrad"),
        ({"crossover": "none"}, "unknown crossover"),
        ({"sampler": "none"}, "unknown sampler 'none'"),
        ({"labels": np.zeros(3)}, r"labels must be \(12,\)"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        hard_search(B, G, **options)


def test_one_image_and_one_label_are_defined():
    search = hard_search(1, 1, np.zeros(1, int), population=2, seed=0)
    for _ in range(5):
        rows = search.ask().rows
        search.tell(rows.masks.astype(np.float32))
    assert search.population.pairings.max() == 0


def test_users_may_swap_operators_by_name():
    search = hard_search(B, G, population=8, seed=0)
    search.toolbox.register("mutate_masks", lambda masks, rng: np.ones_like(masks.cells))
    search.tell(Table()(search.ask().rows))
    assert search.ask().masks[8:].all()


EVERYTHING = {
    "crossover": "+".join(NEED_NO_TABLE),
    "mask_mutation": "+".join(MASK_MUTATIONS),
    "pairing_mutation": "+".join(PAIRING_MUTATIONS),
    "adaptive": True,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        EVERYTHING,
        {"objective": "hard,diversity"},
        {"selection": "lexicase"},
        {"duplicates": "redraw"},
        {"hold": True, "min_cells": 1},
    ],
    ids=["default", "all operators", "two objectives", "lexicase", "redraw", "hold"],
)
def test_full_evaluation_finds_the_same(options):
    """The reference: every row of every new genome is asked for, and the search takes the same course."""
    quick, slow = Table(), Table()
    incremental = run(15, quick, **options)
    full = run(15, slow, evaluation="full", **options)
    for field in ("masks", "pairings", "values", "cell_losses", "ids"):
        np.testing.assert_array_equal(getattr(incremental.population, field), getattr(full.population, field))
    ours, reference = incremental.elites(3), full.elites(3)
    assert np.array_equal(ours.masks, reference.masks) and np.array_equal(ours.pairings, reference.pairings)
    assert slow.asked == 15 * 10 * B > 1.5 * quick.asked
    assert incremental.logbook.select("best") == full.logbook.select("best")


def test_equal_rows_are_asked_for_once_and_never_again():
    asked = set()
    search = hard_search(4, 1, population=12, seed=0)
    for _ in range(30):
        rows = search.ask().rows
        kinds = [(int(i), m.tobytes(), int(p)) for i, m, p in zip(*rows, strict=True)]
        assert len(set(kinds)) == len(kinds) and not asked & set(kinds)
        asked |= set(kinds)
        search.tell(rows.masks * 1.0 + rows.partner[:, None, None])
    assert search.forwards == len(asked) <= 4 * 4 * 2  # there are no more kinds


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("objective", ["hard", "hard,diversity"])
def test_selections_and_several_objectives(select, objective):
    search = run(20, selection=select, objective=objective)
    assert search.population.values.shape == (10, 1 + objective.count(","))
    assert search.logbook.select("best")[-1] > search.logbook.select("best")[0]
    if "," in objective:
        front = [genome.fitness.values for genome in search.hall_of_fame]
        assert len(front) >= 1 and "diversity best" in search.logbook[-1]
        assert not any(a != b and all(x >= y for x, y in zip(a, b, strict=True)) for a in front for b in front)


def test_deaps_own_selections_may_be_registered():
    search = hard_search(B, G, population=12, seed=0, objective="hard,diversity", generations=6)
    search.toolbox.register("select", tools.selTournament, tournsize=2)
    search.toolbox.register("survive", tools.selNSGA2)
    first = search.run(lambda rows: (Table()(rows),)).logbook
    again = hard_search(B, G, population=12, seed=0, objective="hard,diversity", generations=6)
    again.toolbox.register("select", tools.selTournament, tournsize=2)
    again.toolbox.register("survive", tools.selNSGA2)
    random.seed(7)
    assert again.run(lambda rows: (Table()(rows),)).logbook == first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"generations": 4}, "generations"),
        ({"budget": 30}, "budget"),
        ({"patience": 3, "objective": lambda rows: rows.cell_losses.mean((2, 3)) * 0}, "patience"),
        ({"target": 0.5}, "target"),
    ],
)
def test_where_a_search_ends(options, reason):
    search = hard_search(B, G, population=10, seed=0, **options).run(lambda rows: (Table()(rows),))
    assert search.stopped == reason and search.ask() is None
    if reason == "generations":
        assert search.generation == 4
    if reason == "target":
        assert search.logbook[-1]["best"] >= 0.5
    if reason == "patience":
        assert search.generation == 4  # the first is the best, and three bring nothing better


def test_callbacks_see_every_generation_and_may_end_it():
    seen = []
    search = hard_search(B, G, population=6, seed=0)
    search.run(
        lambda rows: (Table()(rows),), [lambda s, r: seen.append(r["generation"]), lambda s, r: s.generation == 3]
    )
    assert seen == [1, 2, 3] and search.stopped == "callback"
    with pytest.raises(ValueError, match="has no end"):
        hard_search(B, G, population=6).run(lambda rows: (Table()(rows),))


@pytest.mark.parametrize(
    "options",
    [{}, EVERYTHING, {"objective": "hard,diversity"}, {"hold": True}, {"forgets": True}],
    ids=["default", "all operators", "two objectives", "hold", "stale"],
)
@pytest.mark.parametrize("at", [1, 4, 9])
def test_resumed_is_as_if_never_interrupted(tmp_path, options, at):
    options = dict(options)
    forgets = options.pop("forgets", False)

    def forgetful(search, record):
        if forgets and search.generation % 3 == 0:
            search.forget("none")

    def made():
        search = hard_search(B, G, np.arange(B) % 3, population=8, seed=5, generations=12, **options)
        search.toolbox.register("select", tools.selTournament, tournsize=3)  # Python's random takes part
        return search

    def evaluate(rows):
        return (Table()(rows),)

    whole = made().run(evaluate, [forgetful])
    cut = made()
    cut.run(evaluate, [forgetful, lambda s, r: s.generation == at])
    if at == 4:
        cut.stopped = None
        cut.ask()  # interrupted with a proposal open
    cut.save(tmp_path / "search.npz", {"torch": np.arange(3)})
    resumed = made()
    assert resumed.restore(tmp_path / "search.npz")["torch"].tolist() == [0, 1, 2]
    resumed.run(evaluate, [forgetful])

    ours, expected = resumed.state(), whole.state()
    assert ours.keys() == expected.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)
    assert resumed.logbook == whole.logbook
    assert [g.fitness.values for g in resumed.hall_of_fame] == [g.fitness.values for g in whole.hall_of_fame]


def test_a_state_of_another_search_or_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "search.npz"
    run(3).save(path)
    with pytest.raises(ValueError, match=r"of another search \(population: 10 there, 6 here\)"):
        hard_search(B, G, np.arange(B) % 3, population=6).restore(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="is not a saved search"):
        run(1).restore(path)


def test_a_saved_search_holds_no_pickle(tmp_path):
    run(3).save(tmp_path / "search.npz")
    with np.load(tmp_path / "search.npz", allow_pickle=False) as data:
        assert all(data[name].dtype != object for name in data.files)


def test_lineage_tells_who_came_from_whom():
    search = run(8, crossover="rows", mask_mutation="flip+trade", adaptive=True)
    found = search.lineage.arrays()
    born, parents, operators = found["born"], found["parents"], found["operators"]
    assert all(found[name].dtype == np.int32 for name in ("parents", "operators", "born", "survivors"))
    assert len(born) == 8 * 10 and born.tolist() == sorted(born)
    bred = born > 1
    assert (parents[~bred] == -1).all() and (operators[~bred] == -1).all()
    assert (born[parents[bred]] < born[bred, None]).all()  # parents are older than their child
    names = found["names"][operators[bred]]
    assert set(names[:, 0]) == {"rows"} and set(names[:, 1]) == {"flip", "trade"} and set(names[:, 2]) == {"swap"}
    assert found["survivors"].shape == (8, 10)
    assert (born[found["survivors"]] <= np.arange(1, 9)[:, None]).all()
    assert found["survivors"][-1].tolist() == search.population.ids.tolist()
    assert search.elites(2).ids.tolist() == search.population.ids[:2].tolist()


def test_a_generation_the_budget_cuts_leaves_no_ghosts_in_the_lineage():
    search = run(50, budget=15.25)
    assert search.lineage.count == len(search.lineage.arrays()["born"])
    assert search.population.ids.max() < search.lineage.count


def test_shares_of_operators_follow_what_they_earn():
    """Where only the pairing matters, crossovers of pairings earn; the log shows the shares."""
    search = hard_search(B, G, population=20, seed=0, crossover="rows+uniform", adaptive=True)
    for _ in range(25):
        rows = search.ask().rows
        good = (rows.partner == (rows.image + 1) % B).astype(np.float32)
        record = search.tell(np.broadcast_to(good[:, None, None], (len(good), G, G)))
    assert record["rates"]["rows"] + record["rates"]["uniform"] == pytest.approx(1, abs=1e-3)
    assert record["rates"]["rows"] > 0.6 > 0.4 > record["rates"]["uniform"] >= 0.1
    fixed = run(5, crossover="0.9*rows+0.1*uniform")
    assert "rates" not in fixed.logbook[-1]


@pytest.mark.parametrize("duplicates", ["redraw", "keep"])
def test_niche_rules(duplicates):
    search = run(25, duplicates=duplicates, population=6)
    kinds = {(g.masks.tobytes(), g.pairing.tobytes()) for g in search.population}
    assert len(kinds) == 6 or duplicates == "keep"
    drawn = (search.lineage.arrays()["parents"] == -1).all(1).sum()
    assert (drawn > 6) == (duplicates == "redraw")


def test_a_population_of_one_climbs():
    search = run(60, population=1)
    best = search.logbook.select("best")
    assert best == sorted(best) and best[-1] > best[0] + 0.05


def test_rules_hold_in_every_generation():
    labels = np.arange(B) % 3
    search = hard_search(B, G, labels, population=8, seed=0, min_cells=2, self_pairing=False, same_class=False)
    for _ in range(10):
        proposal = search.ask()
        kept = proposal.masks.sum((2, 3))
        assert kept.min() >= 2 and kept.max() <= 7
        assert (labels[proposal.pairings] != labels).all()
        search.tell(Table()(proposal.rows))


def test_shares_and_class_relations_can_be_held():
    labels = np.arange(B) % 3
    free, held = (run(25, objective="easy", hold=hold) for hold in (False, True))
    first = hard_search(B, G, labels, population=10, seed=1, objective="easy", hold=True).ask()
    shares, relation = first.masks[0].sum((1, 2)), labels[first.pairings[0]] == labels
    assert (first.masks.sum((2, 3)) == shares).all() and ((labels[first.pairings] == labels) == relation).all()
    assert (held.population.masks.sum((2, 3)) == shares).all()
    assert ((labels[held.population.pairings] == labels) == relation).all()
    assert not (free.population.masks.sum((2, 3)) == shares).all()


def test_all_labels_equal_is_defined():
    search = hard_search(B, G, np.zeros(B, int), population=4, seed=0, same_class=False)
    search.tell(Table()(search.ask().rows))
    assert search.rules.unmet == 0  # every image is its own partner: the only pairs that are not of one class
    strict = hard_search(B, G, np.zeros(B, int), population=4, seed=0, same_class=False, self_pairing=False)
    record = strict.tell(Table()(strict.ask().rows))
    assert record["unmet"] == 4 * B


def test_it_starts_from_a_bank_or_from_elites():
    bank = PatternBank(G, 3)
    mask = np.eye(G, dtype=bool)
    bank.collect(mask[None], np.array([0]), np.array([1]))
    proposal = hard_search(B, G, np.arange(B) % 3, population=8, start=bank, seed=0).ask()
    assert (proposal.masks[:4] == mask).all() and not (proposal.masks[4:] == mask).all((1, 2, 3)).any()
    before = run(10)
    elites = before.elites(3)
    again = hard_search(B, G, np.arange(B) % 3, population=10, start=(elites.masks, elites.pairings), seed=9)
    record = again.tell(Table()(again.ask().rows))
    assert record["best"] == pytest.approx(elites.fitness[0])
    with pytest.raises(ValueError, match="starts from a bank of patterns of that grid, got 0 patterns"):
        hard_search(B, G, start=PatternBank(G, 3))


def test_an_objective_that_compares_needs_the_reference():
    search = hard_search(B, G, population=4, objective="reducible", seed=0)
    assert search.needs_reference and not hard_search(B, G).needs_reference
    losses = Table()(search.ask().rows)
    with pytest.raises(ValueError, match="reference"):
        search.tell(losses)
    search = hard_search(B, G, population=4, objective="reducible", seed=0)
    search.ask()
    record = search.tell(losses, None, losses - 1)
    assert record["best"] == pytest.approx(1, abs=1e-5)


def test_asking_again_gives_the_same_proposal():
    search = run(3)
    first, second = search.ask(), search.ask()
    assert np.array_equal(first.masks, second.masks) and np.array_equal(first.new, second.new)
    assert search.lineage.count == 30  # who is proposed is entered when told of


def test_multistatistics_keep_their_chapters(tmp_path):
    def made():
        search = hard_search(B, G, population=6, seed=0, generations=4)
        share = tools.Statistics(key=lambda genome: float(genome.masks.mean()))
        search.statistics = tools.MultiStatistics(fitness=search.statistics, share=share)
        share.register("mean", np.mean)
        return search

    search = made().run(lambda rows: (Table()(rows),))
    assert len(search.logbook.chapters["share"].select("mean")) == 4
    assert search.logbook.select("best") == search.logbook.chapters["fitness"].select("best")
    search.save(tmp_path / "search.npz")
    again = made().run(lambda rows: (Table()(rows),))  # a search that has a log of its own takes the file's
    again.restore(tmp_path / "search.npz")
    assert again.logbook == search.logbook
    assert again.logbook.chapters["share"] == search.logbook.chapters["share"]


def test_two_functions_of_one_name_are_two_objectives():
    search = hard_search(
        B, G, population=4, objective=[lambda rows: rows.cell_losses[..., 0, 0], lambda rows: rows.share]
    )
    assert list(search.objectives) == ["<lambda>", "<lambda> 2"]


def test_a_restored_hall_of_fame_keeps_the_order_of_equals(tmp_path):
    search = hard_search(B, 1, population=8, objective=lambda rows: rows.share * 0, seed=0)
    for _ in range(3):
        search.tell(np.zeros((search.ask().new.sum(), 1, 1)))
    search.save(tmp_path / "search.npz")
    again = hard_search(B, 1, population=8, objective=lambda rows: rows.share * 0)
    again.restore(tmp_path / "search.npz")
    assert list(again.hall_of_fame) == list(search.hall_of_fame)
    assert len(again.hall_of_fame) > 4


def with_bad_rows(images):
    """A table whose losses are NaN for these images where their partner is odd."""
    table = Table()

    def evaluate(rows):
        losses = table(rows)
        losses[np.isin(rows.image, images) & (rows.partner % 2 == 1)] = np.nan
        return (losses,)

    return evaluate


@pytest.mark.parametrize("objective", ["hard", "hard,diversity"])
def test_losses_whose_squares_float32_cannot_hold_are_searched_like_others(objective):
    table = Table()
    search = hard_search(B, G, population=8, seed=0, objective=objective, generations=8)
    search.run(lambda rows: (table(rows) * np.float32(1e37),))
    best = search.logbook.select("best")
    assert np.isfinite(best).all() and best[-1] > best[0]


@pytest.mark.parametrize("select", SELECTIONS)
def test_one_bad_image_does_not_end_a_search(select):
    """Even where every genome holds a bad row they stay comparable, and the search finds its way out."""
    search = hard_search(B, G, population=8, seed=0, selection=select, generations=15)
    search.run(with_bad_rows([0, 3]))
    assert search.nonfinite > 0 and np.isfinite(search.population.values).all()
    assert np.isfinite(search.elites(1).cell_losses).all()
    with pytest.raises(FloatingPointError, match="beyond max_nonfinite=0.02"):
        hard_search(B, G, population=8, seed=0, max_nonfinite=0.02).run(with_bad_rows([0, 3]), [lambda s, r: None])


def test_a_genome_with_a_bad_row_is_less_fit_than_any_without():
    search = hard_search(B, G, population=6, seed=0)
    losses = Table()(search.ask().rows)
    losses[: B + 1] *= 100
    losses[0] = losses[B] = np.nan  # a row of each of the two that would be the fittest by far
    search.tell(losses)
    bad = np.isnan(search.population.cell_losses).any((1, 2, 3))
    assert bad.tolist() == [False] * 4 + [True] * 2


def test_a_budget_alone_ends_a_search_that_has_seen_everything():
    def evaluate(rows):
        assert len(rows.image)  # nobody is asked for nothing
        return (rows.masks.astype(np.float32),)

    search = hard_search(1, 1, population=2, budget=50, seed=0).run(evaluate)
    assert search.stopped == "exhausted" and search.forwards <= 2


def test_the_references_forwards_count():
    search = hard_search(B, G, population=6, objective="reducible", budget=20, seed=0)
    table, asked = Table(), []

    def evaluate(rows):
        asked.append(len(rows.image))
        return table(rows), None, table(rows) / 2

    search.run(evaluate)
    assert search.forwards == 2 * sum(asked) <= 20 * B and search.stopped == "budget"


def test_a_held_first_proposal_is_the_same_after_forget_and_after_restoring(tmp_path):
    def made():
        return hard_search(B, G, np.arange(B) % 3, population=6, hold=True, seed=0)

    search = made()
    first = search.ask()
    search.save(tmp_path / "search.npz")
    search.forget()
    again = made()
    again.restore(tmp_path / "search.npz")
    for proposal in (search.ask(), again.ask()):
        assert np.array_equal(proposal.masks, first.masks) and np.array_equal(proposal.pairings, first.pairings)


def test_full_evaluation_finds_the_same_where_the_archive_overflows():
    def small(**options):
        search = hard_search(B, G, population=8, seed=1, **options)
        search.archive.capacity = 60
        for _ in range(20):
            search.tell(Table()(search.ask().rows))
            assert len(search.archive) <= 60
        return search

    quick, full = small(), small(evaluation="full")
    assert np.array_equal(quick.population.masks, full.population.masks)
    np.testing.assert_array_equal(quick.population.cell_losses, Table().full(quick.population))


@pytest.mark.parametrize("pairing_mutation", ["swap", "inversion", "scramble"])
def test_pairing_mutations_have_rates_of_their_own(pairing_mutation):
    search = hard_search(40, 1, population=200, seed=0, crossover="rows", pairing_mutation=pairing_mutation)
    drawn = np.tile(np.arange(40, dtype=np.int32), (2000, 1))
    moved = (search.toolbox.mutate_pairings(drawn, search.rng) != drawn).any(1).mean()
    assert 0.1 < moved < 0.7


def test_a_state_is_a_snapshot():
    search = run(4, adaptive=True, crossover="rows+uniform")
    state = search.state()
    kept = {name: array.copy() for name, array in state.items()}
    for _ in range(3):
        search.tell(Table()(search.ask().rows))
    assert all(np.array_equal(state[name], kept[name], equal_nan=kept[name].dtype.kind == "f") for name in kept)


def test_a_finished_search_can_go_on_with_more_generations(tmp_path):
    short = hard_search(B, G, population=6, seed=0, generations=3).run(lambda rows: (Table()(rows),))
    short.save(tmp_path / "search.npz")
    longer = hard_search(B, G, population=6, seed=5, generations=6)
    longer.restore(tmp_path / "search.npz")
    assert longer.run(lambda rows: (Table()(rows),)).generation == 6
    with pytest.raises(ValueError, match="of another search .min_cells: 0 there, 1 here"):
        hard_search(B, G, population=6, min_cells=1).restore(tmp_path / "search.npz")


def test_elites_and_lists_are_a_start():
    elites = run(5).elites(2)
    labels = np.arange(B) % 3
    for start in (elites, (elites.masks.tolist(), elites.pairings.tolist())):
        proposal = hard_search(B, G, labels, population=6, start=start, seed=0).ask()
        assert np.array_equal(proposal.masks[:2], elites.masks)


def test_statistics_of_numpy_integers_can_be_saved(tmp_path):
    search = hard_search(B, G, population=6, seed=0)
    search.statistics.register("count", len)
    search.statistics.register("place", np.argmax)
    search.tell(Table()(search.ask().rows))
    search.save(tmp_path / "search.npz")


def test_redrawn_copies_count_once_among_the_rows_that_break_the_rules():
    search = hard_search(
        4, 1, np.zeros(4, int), population=6, seed=0, same_class=False, self_pairing=False, duplicates="redraw"
    )
    for _ in range(4):
        record = search.tell(np.ones((search.ask().new.sum(), 1, 1)))
        assert record["unmet"] == 24


@pytest.mark.parametrize("rescore", ["all", "survivors"])
def test_records_tell_diversity_the_median_and_what_whole_genomes_would_have_taken(rescore):
    search, table = hard_search(B, G, np.arange(B) % 3, population=10, seed=1), Table()
    for generation in range(6):
        if generation == 3:
            search.forget(rescore)
        proposal = search.ask()
        new, kept = proposal.new.copy(), search.bred.kept
        record = search.tell(table(proposal.rows))
        population = search.population
        assert record["median"] == pytest.approx(np.median(population.values[:, 0]))
        whole = [g for g in range(len(new)) if g >= kept or new[g].any()]
        assert record["full_rows"] == len(whole) * B >= record["new_rows"]
        first = population[0]
        others = [
            np.mean(
                [not np.array_equal(o.masks[b], first.masks[b]) or o.pairing[b] != first.pairing[b] for b in range(B)]
            )
            for o in list(population)[1:]
        ]
        assert record["diversity"] == pytest.approx(np.mean(others), abs=1e-4)


def test_of_a_long_front_points_from_end_to_end_are_kept():
    assert spread(200, 3).tolist() == [0, 100, 199] and spread(2, 64).tolist() == [0, 1] and not len(spread(0, 64))


def test_records_of_several_objectives_hold_the_front():
    search = run(4, population=12, objective="hard,diversity")
    record = search.records[-1]
    values = search.population.values
    slow = {tuple(a) for a in values if not any((b >= a).all() and (b > a).any() for b in values)}
    assert record["objectives"] == ["hard", "diversity"]
    assert {tuple(point) for point in record["front"]} == slow and len(record["front"]) == len(slow) > 1
    assert np.diff([point[0] for point in record["front"]]).max() < 0  # the fittest by the first one first
