"""What users of such engines have reported: copies, callbacks, states, ends, evaluators, starts."""

import copy
import json
import pickle
import random

import numpy as np
import pytest
from deap import base, tools
from hypothesis import given, settings
from hypothesis import strategies as st

from evo import ends
from evo import search as module
from evo.deap_compat import Evaluator, mate, mutate
from evo.errors import UserError
from evo.genome import Population
from evo.islands import Islands
from evo.search import Search
from tests.flips import flip_bits
from tests.searches import B, G, Table, evaluate, hard_search, run


def kinds(genomes):
    return {(genome.masks.tobytes(), genome.pairing.tobytes()) for genome in genomes}


# Copies


def test_every_kind_lives_on_where_there_are_fewer_than_the_population_holds():
    """One image and one cell: a genome is one of two, keep it or not."""
    search = hard_search(1, 1, population=6, seed=0)
    for _ in range(6):
        search.tell(search.ask().rows.masks.astype(np.float32))
    assert len(search.population) == 6 and len(kinds(search.population)) == 2
    elites = search.elites(2)
    assert elites.fitness.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_copies_fill_only_the_gap(count):
    masks = np.zeros((count, 2, 1, 1), bool)
    for number in range(count):
        masks[number, 0, 0, 0] = number & 1
        masks[number, 1, 0, 0] = number >> 1
    search = hard_search(2, 1, population=8, seed=0, self_pairing=False, start_share=1.0, start=None)
    pool = Population(masks[np.arange(8) % count], np.tile([1, 0], (8, 1)))
    pool.values = np.arange(8, 0, -1.0)[:, None] // 1
    pool.valid[:] = True
    chosen = search.breeder.select_survivors(pool)
    assert len(chosen) == 8 and len(kinds(pool[int(i)] for i in chosen)) == count


def test_elites_of_islands_are_kinds_before_copies():
    islands = Islands([hard_search(1, 1, population=4, seed=seed) for seed in (0, 1)], every=99)
    for _ in range(4):
        islands.tell(islands.ask().rows.masks.astype(np.float32))
    assert islands.elites(2).fitness.tolist() == [1.0, 0.0]
    assert len(islands.elites(8).fitness) == 8


# Callbacks


@pytest.mark.parametrize("answer", [True, np.True_, 1, np.array(True), "enough"])
@pytest.mark.parametrize("islands", [False, True])
def test_a_callback_ends_a_run_by_the_truth_of_its_answer(answer, islands):
    search = hard_search(population=4, seed=0)
    if islands:
        search = Islands([search, hard_search(population=4, seed=1)])
    search.run(evaluate, [lambda s, r: answer if s.generation == 2 else None])
    assert search.stopped == "callback" and search.generation == 2
    search.run(evaluate, [lambda s, r: s.generation == 4])
    assert search.generation == 4


def test_what_a_callback_does_to_a_line_changes_no_record():
    search = hard_search(population=6, objective="hard,contrast", seed=0, generations=3)
    search.run(evaluate, [lambda s, line: line["front"].clear()])
    assert all(record["front"] for record in search.records)


# States


def state_of(generations=4, **options):
    return run(generations, **options).state()


def test_one_state_in_two_searches_gives_two_searches():
    state = state_of(adaptive=True, crossover="rows+uniform")
    before = {name: array.copy() for name, array in state.items()}
    first, second = (
        hard_search(labels=np.arange(B) % 3, population=10, seed=9, adaptive=True, crossover="rows+uniform")
        for _ in range(2)
    )
    first.set_state(state)
    second.set_state(state)
    for _ in range(3):
        first.tell(Table()(first.ask().rows))
    for name, array in state.items():
        assert np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f"), name
    for _ in range(3):
        second.tell(Table()(second.ask().rows))
    assert np.array_equal(first.population.masks, second.population.masks)
    assert first.logbook == second.logbook


def test_all_that_changes_is_reset():
    """A search that has held shares takes over a state of before it held any."""
    fresh = hard_search(labels=np.arange(B) % 3, population=6, seed=0, hold=True)
    state = fresh.state()
    used = hard_search(labels=np.arange(B) % 3, population=6, seed=5, hold=True, patience=2)
    used.run(evaluate)
    used.set_state(state)
    assert used.population is None and not used.rules.held and used.stopped is None
    assert len(used.hall_of_fame) == 0 and used.records == [] and len(used.archive) == 0 and used.lineage.count == 0
    for name, array in used.state().items():
        assert np.array_equal(array, state[name], equal_nan=array.dtype.kind == "f"), name


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one
    )


@settings(max_examples=150)
@given(data=st.data())
def test_an_unsound_state_is_refused_in_one_line_and_changes_nothing(data):
    state = dict(STATE)
    name = data.draw(st.sampled_from(sorted(state)))
    what = data.draw(st.sampled_from(["missing", "shape", "type", "range", "meta"]))
    array = state[name]
    if what == "missing":
        del state[name]
    elif what == "shape":
        state[name] = array[None]
    elif what == "type":
        state[name] = np.zeros(array.shape, "datetime64[s]")
    elif what == "range" and array.dtype.kind in "iu" and array.size:
        state[name] = np.full_like(array, np.iinfo(array.dtype).max)
    else:
        meta = json.loads(str(state["meta"]))
        key = data.draw(st.sampled_from(sorted(set(meta) - {"schema", "kept"})))
        meta[key] = data.draw(st.sampled_from([None, "x", [], {}, -(10**30)]))
        state["meta"] = np.array(json.dumps(meta))
    search = hard_search(labels=np.arange(B) % 3, population=4, seed=3)
    search.tell(Table()(search.ask().rows))
    before = search.state()
    try:
        search.set_state(state)
    except UserError as error:
        assert "\n" not in str(error)
        assert same(search.state(), before)


STATE = run(3, population=4).state()


def test_flipped_bits_of_a_file_are_one_error(tmp_path):
    path = tmp_path / "search.npz"
    run(2, population=2).save(path)
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(0, 120), *rng.integers(0, len(sound), 250).tolist(), *range(len(sound) - 120, len(sound))]
    for damaged in flip_bits(sound, places):
        path.write_bytes(damaged)
        search = hard_search(labels=np.arange(B) % 3, population=2, seed=1)
        try:
            search.restore(path)
        except ValueError as error:
            assert "\n" not in str(error)


def test_labels_and_starts_are_copied():
    labels = np.arange(B) % 3
    masks = np.ones((2, B, G, G), bool)
    pairings = np.tile(np.arange(B), (2, 1))
    search = hard_search(labels=labels, population=4, seed=0, start=(masks, pairings))
    labels[:] = 0
    masks[:] = False
    assert search.labels.tolist() == (np.arange(B) % 3).tolist()
    assert search.ask().masks[:2].all()


def test_a_proposal_that_is_open_is_part_of_the_state_and_forget_withdraws_it():
    search = run(3)
    proposal = search.ask()
    again = hard_search(labels=np.arange(B) % 3, population=10, seed=77)
    again.set_state(search.state())
    other = again.ask()
    assert np.array_equal(proposal.masks, other.masks) and np.array_equal(proposal.new, other.new)
    search.forget("all")
    with pytest.raises(RuntimeError, match="none is open"):
        search.tell(Table()(proposal.rows))
    assert search.ask().new[0].all()  # of everybody alive every kind of row


# Islands


def islands_of(**options):
    searches = [hard_search(labels=np.arange(B) % 3, population=6, seed=seed, **options) for seed in range(3)]
    return Islands(searches, every=2, migrants=1)


def test_islands_never_ask_for_nothing_and_end_where_nothing_is_left():
    asked = []

    def losses(rows):
        asked.append(len(rows.image))
        return (rows.masks.astype(np.float32),)

    islands = Islands([hard_search(1, 1, population=2, seed=seed, budget=50) for seed in (0, 1)]).run(losses)
    assert islands.stopped == "exhausted" and min(asked) > 0


def test_an_answer_that_one_island_refuses_leaves_all_as_they_were():
    islands = islands_of()
    for _ in range(2):
        islands.tell(Table()(islands.ask().rows))
    rows = islands.ask().rows
    before = islands.state()
    losses = Table()(rows)
    bad = losses.copy()
    last = islands._asked[-1][1]
    bad[-last:] = np.nan
    islands.searches[-1].settings = module.make_settings(islands.searches[-1].settings, {"max_nonfinite": 0.01})
    with pytest.raises(FloatingPointError):
        islands.tell(bad)
    assert [search.generation for search in islands.searches] == [2, 2, 2]
    assert all(np.array_equal(islands.state()[name], before[name]) for name in ("counts", "migrations"))
    islands.tell(losses)
    assert [search.generation for search in islands.searches] == [3, 3, 3]
    with pytest.raises(RuntimeError, match="none is open"):
        islands.tell(losses)


def test_islands_are_saved_and_go_on_with_their_record(tmp_path):
    whole = islands_of(generations=9).run(evaluate)
    cut = islands_of(generations=9).run(evaluate, [lambda i, line: i.generation == 4])
    cut.save(tmp_path / "islands.npz", {"mine": np.arange(2)})
    again = islands_of(generations=9)
    assert again.restore(tmp_path / "islands.npz")["mine"].tolist() == [0, 1]
    again.run(evaluate)
    assert again.logbook == whole.logbook and len(whole.logbook) == 9 and again.records == whole.records
    assert [g.fitness.values for g in again.hall_of_fame] == [g.fitness.values for g in whole.hall_of_fame]
    with pytest.raises(UserError, match="of 3 islands, these are 2"):
        Islands(whole.searches[:2]).set_state(whole.state())


def test_the_hall_of_fame_of_islands_holds_the_best_of_all():
    islands = islands_of(generations=6).run(evaluate)
    every = {g.fitness.values[0] for search in islands.searches for g in search.hall_of_fame}
    assert [g.fitness.values[0] for g in islands.hall_of_fame] == sorted(every, reverse=True)[:10]
    front = islands_of(objective="hard,diversity", generations=4).run(evaluate)
    values = np.array([g.fitness.values for g in front.hall_of_fame])
    assert len(values) and "hypervolume" in front.records[-1]
    assert len(front.elites(5).fitness) == 5


def test_migrants_are_among_the_survivors_in_the_lineage():
    islands = islands_of(generations=4).run(evaluate)
    for number, search in enumerate(islands.searches):
        last = set((search.lineage.survivors[-1] * 3 + number).tolist())
        assert last == set((search.population.ids * 3 + number).tolist())
        assert last <= set(islands.lineage.survivors[-1].tolist())


# Ends


@pytest.mark.parametrize(("end", "low", "high"), [("generations", 3, 6), ("patience", 1, 9), ("target", 0.55, 0.68)])
def test_an_end_that_is_raised_lets_the_search_go_on_as_if_it_had_been_there(end, low, high):
    more = {"generations": 12} if end in ("patience", "target") else {}
    constant = (lambda rows: (np.ones((len(rows.image), G, G), np.float32),)) if end == "patience" else evaluate
    search = hard_search(population=6, seed=0, **{**more, end: low}).run(constant)
    assert search.stopped == end and search.ask() is None
    ended = search.generation
    setattr(search, end, high)
    search.run(constant)
    whole = hard_search(population=6, seed=0, **{**more, end: high}).run(constant)
    assert search.generation == whole.generation > ended and search.stopped == whole.stopped
    assert np.array_equal(search.population.masks, whole.population.masks)
    assert search.forwards == whole.forwards and search.lineage.count == whole.lineage.count


def test_a_budget_that_is_raised_lets_the_search_go_on():
    search = hard_search(population=6, seed=0, budget=12).run(evaluate)
    assert search.stopped == "budget" and search.ask() is None
    ended = search.generation
    again = hard_search(population=6, seed=8, budget=20)
    again.set_state(search.state())  # with the children that were bred, and not paid for
    search.budget = 20
    for each in (search, again):
        each.run(evaluate)
        assert each.generation > ended and each.stopped == "budget" and 12 * B < each.forwards <= 20 * B
    assert np.array_equal(search.population.masks, again.population.masks)
    assert search.lineage.count == len(search.lineage.arrays()["born"])


def test_a_time_limit_ends_a_search_alone_or_with_others(monkeypatch):
    clock = iter(np.arange(0, 1000, 7.0))
    monkeypatch.setattr(ends.time, "monotonic", lambda: next(clock))
    search = hard_search(population=4, seed=0, seconds=40).run(evaluate)
    assert search.stopped == "minutes" and 1 < search.generation < 8
    again = hard_search(population=4, seed=0, seconds=1)
    assert again.minutes == pytest.approx(1 / 60)
    assert again.run(evaluate).generation == 1  # a generation at least, so that there are elites
    both = hard_search(population=4, seed=0, minutes=100, generations=2).run(evaluate)
    assert both.stopped == "generations"


def test_the_time_of_before_counts_after_restoring(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(ends.time, "monotonic", lambda: now[0])
    search = hard_search(population=4, seed=0, seconds=100)
    search.tell(Table()(search.ask().rows))
    now[0] = 90.0
    search.save(tmp_path / "search.npz")
    again = hard_search(population=4, seed=0, seconds=100)
    again.restore(tmp_path / "search.npz")
    assert again.ask() is not None
    again.tell(Table()(again.ask().rows))
    now[0] = 101.0
    assert again.ask() is None and again.stopped == "minutes"


def test_a_target_is_reached_within_a_float32_s_rounding():
    for target in (0.1, 0.3, 0.7, 1e-6, 123.456):
        search = hard_search(population=4, seed=0, target=target, generations=5)
        search.run(lambda rows, target=target: (np.full((len(rows.image), G, G), np.float32(target)),))
        assert search.stopped == "target" and search.generation == 1
    missed = hard_search(population=4, seed=0, target=0.7001, generations=2)
    assert missed.run(lambda rows: (np.full((len(rows.image), G, G), np.float32(0.7)),)).stopped == "generations"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": float("nan")}, "budget must be a finite number or None, got nan"),
        ({"target": float("nan")}, "target must be a finite number or None, got nan"),
        ({"target": float("inf")}, "target must be a finite number or None, got inf"),
        ({"minutes": float("nan")}, "minutes must be a finite number"),
        ({"seconds": 0}, "minutes must be above 0"),
        ({"max_nonfinite": float("nan")}, "max_nonfinite must be a finite number"),
        ({"generations": 2.5}, "generations must be a whole number or None, got 2.5"),
        ({"patience": True}, "patience must be a whole number or None, got True"),
        ({"population": "4"}, "population must be a whole number, got '4'"),
        ({"adaptive": 1}, "adaptive must be True or False, got 1"),
        ({"start_share": 0}, "start_share must be above 0"),
        ({"generation": 3}, "a search has no setting 'generation'; did you mean 'generations'?"),
        ({"batch": 3}, "a search has no setting 'batch'"),
        ({"carry_losses": True}, "carry_losses needs a start that is a Population"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        hard_search(**options)


def test_ends_that_are_set_later_are_checked_as_well():
    search = hard_search(population=4)
    with pytest.raises(UserError, match="budget must be a finite number"):
        search.budget = float("nan")
    search.generations = np.int64(3)
    assert search.settings.generations == 3


def test_a_search_without_an_end_needs_one():
    with pytest.raises(UserError, match="has no end; give it generations, budget, patience, target, minutes"):
        hard_search(population=4).run(evaluate)


# Evaluators


@pytest.mark.parametrize("bare", [np.zeros((3, G, G)), {"cells": 1}, None, 5, np.zeros(3)])
def test_what_is_no_tuple_of_losses_is_named(bare):
    with pytest.raises(UserError, match="must return a tuple of one to four arrays"):
        hard_search(population=4, generations=2).run(lambda rows: bare)
    with pytest.raises(UserError, match="must return a tuple of one to four arrays"):
        Evaluator(lambda rows: bare)(list(genomes(2)))
    with pytest.raises(UserError, match="got 5 of them"):
        hard_search(population=4, generations=2).run(lambda rows: (bare,) * 5)


def genomes(count):
    rng = np.random.default_rng(0)
    return Population(rng.random((count, B, G, G)) < 0.5, np.argsort(rng.random((count, B)), axis=1))


@pytest.mark.parametrize("objective", ["hard", "image_hard", "reducible", lambda rows: rows.image_losses])
@pytest.mark.parametrize("islands", [False, True])
def test_losses_that_stop_coming_are_an_error_in_that_generation(objective, islands):
    calls = []

    def losses(rows):
        calls.append(len(rows.image))
        cells = Table()(rows)
        whole = cells.mean((1, 2))
        return (cells, whole, cells / 2, whole / 2) if len(calls) < 3 else (cells,)

    search = hard_search(population=6, seed=0, objective=objective, generations=9)
    if islands:
        search = Islands([search, hard_search(population=6, seed=1, objective=objective, generations=9)])
    with pytest.raises(
        UserError, match="losses must be of the same kinds in every generation: cell losses, image losses"
    ):
        search.run(losses)
    assert search.generation == 2 and len(calls) == 3


def test_an_answer_that_was_refused_leaves_nothing_behind():
    search = hard_search(population=4, seed=0, objective="reducible", generations=3)
    losses = Table()(search.ask().rows)
    with pytest.raises(ValueError, match="reference"):
        search.tell(losses, losses.mean((1, 2)))
    search.tell(losses, None, losses - 1)
    assert search.records[-1]["best"] == pytest.approx(1, abs=1e-5)
    assert np.isnan(search.population.image_losses).all()


def test_objectives_relative_to_a_population_are_refused_for_single_individuals():
    for objective in ("learnable", "diversity", "hard+0.1*diversity", "hard,learnable"):
        with pytest.raises(UserError, match="score a row against a population"):
            Evaluator(evaluate, objective=objective)


def test_scores_of_an_individual_do_not_depend_on_who_is_asked_about_with_it():
    population = genomes(4)
    evaluator = Evaluator(evaluate, objective="hard,contrast")
    together = evaluator(list(population))
    assert [evaluator(individual) for individual in genomes(4)] == together


# Starts, pickles


def test_a_start_may_fill_the_population_and_bring_its_losses():
    before = run(6)
    asked = []

    def counted(rows):
        asked.append(len(rows.image))
        return evaluate(rows)

    options = {"labels": np.arange(B) % 3, "population": 10, "start_share": 1.0, "generations": 1, "seed": 4}
    warm = hard_search(**options, start=before.population, carry_losses=True).run(counted)
    assert warm.forwards == 0 and asked == []
    assert warm.records[0]["best"] == before.records[-1]["best"]
    np.testing.assert_array_equal(warm.population.cell_losses, Table().full(warm.population))
    warm.generations = 4
    warm.run(counted)
    np.testing.assert_array_equal(warm.population.cell_losses, Table().full(warm.population))
    cold = hard_search(**options, start=before.population).run(counted)
    assert cold.forwards == before_rows(before.population)


def before_rows(population):
    return len(
        {
            (row, population.pairings[g, row], population.masks[g, row].tobytes())
            for g in range(len(population))
            for row in range(B)
        }
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_of_the_first_generation_comes_from_the_start(share):
    mask = np.ones((8, B, G, G), bool)
    start = mask, np.tile(np.arange(B), (8, 1))
    proposal = hard_search(population=8, start=start, start_share=share, seed=0).ask()
    assert proposal.masks.all((1, 2, 3)).sum() == 8 * share


@pytest.mark.parametrize("objective", ["hard", "hard,diversity"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda search: pickle.loads(pickle.dumps(search))])
@pytest.mark.parametrize("islands", [False, True])
def test_searches_and_islands_can_be_pickled_and_copied(objective, again, islands):
    def made():
        searches = [hard_search(population=6, seed=seed, objective=objective, generations=6) for seed in (0, 1)]
        return Islands(searches, every=2) if islands else searches[0]

    search = made()
    search.run(evaluate, [lambda s, line: s.generation == 3])
    search.ask()
    twin = again(search)
    random.seed(1)
    for each in (search, twin):
        each.run(evaluate)
    assert twin.logbook == search.logbook and len(twin.logbook) == 6
    assert [g.fitness.values for g in twin.hall_of_fame] == [g.fitness.values for g in search.hall_of_fame]
    whole = made().run(evaluate)
    assert twin.logbook == whole.logbook  # an operator of the copy reads the copy's archive


# Small things


def test_a_statistic_that_is_registered_shows_in_the_printed_logbook():
    search = hard_search(population=4, seed=0, generations=2)
    search.statistics.register("spread", np.ptp)
    search.run(evaluate)
    assert "spread" in str(search.logbook).splitlines()[0]
    chapters = hard_search(population=4, seed=0, generations=2)
    share = tools.Statistics(key=lambda genome: float(genome.masks.mean()))
    share.register("kept", np.mean)
    chapters.statistics = tools.MultiStatistics(fitness=chapters.statistics, share=share)
    chapters.run(evaluate)
    assert "kept" in str(chapters.logbook)


def test_proposals_are_read_only():
    proposal = hard_search(population=4).ask()
    for array in (proposal.masks, proposal.pairings, proposal.new, proposal.packed.words):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_deaps_history_follows_individuals_and_says_what_to_use_in_a_search():
    population = genomes(4)
    rng = np.random.default_rng(0)
    history = tools.History()
    toolbox = base.Toolbox()
    toolbox.register("mate", mate, rng=rng)
    toolbox.register("mutate", mutate, rng=rng)
    toolbox.decorate("mate", history.decorator)
    toolbox.decorate("mutate", history.decorator)
    history.update(population)
    children = [copy.deepcopy(population[0]), copy.deepcopy(population[1])]
    toolbox.mate(*children)
    toolbox.mutate(children[0])
    assert history.genealogy_tree == {1: (), 2: (), 3: (), 4: (), 5: (1, 2), 6: (1, 2), 7: (5,)} or (
        history.genealogy_tree[5] == (1, 2) and history.genealogy_tree[7] == (5,)
    )
    assert history.getGenealogy(children[0])[7] == (5,)
    search = hard_search(population=4, generations=3)
    search.toolbox.decorate("mutate_masks", history.decorator)
    with pytest.raises(TypeError, match="read search.lineage"):
        search.run(evaluate)


def test_the_keywords_of_a_search_are_its_settings():
    search = Search(4, 2, settings=module.SearchSettings(population=7, generations=3), population=5)
    assert (search.settings.population, search.generations) == (5, 3)
