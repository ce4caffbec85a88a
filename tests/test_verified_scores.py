"""Estimated scores beside exact ones: what is verified before it is trained on, and the checks that a run logs."""

import numpy as np
import pytest
import torch

from analysis.run_folder import RunFolder
from evo.errors import UserError
from evo.objectives import OBJECTIVES, RowLosses
from evo.packed import Masks
from evo.search import Rows
from tests.conftest import TINY
from tests.test_evolved_mix import B, batches, build, noise
from training.config import load_config, make_config
from training.experiment import search_batch
from training.mixes import estimates
from training.mixes.estimates import correlate_ranks, summarise
from training.mixes.scoring import ForwardedScores

FEATURES = "search.compose_at=features"  # whatever a trial says of it
EVERY_SEARCH = (FEATURES, "search.consume=last", "search.batch_size=null", "search.elites=1", "search.pair_masks=0")


def searched(*overrides, groups=3, epochs=(1, 1, 1), name="evolved", **events):
    """A mix after some groups of batches, with other weights for each; and its searches, checks and generations."""
    found = {"searches": [], "checks": [], "lines": []}
    mix = build(
        *EVERY_SEARCH, *overrides, name=name, on_generation=found["lines"].append, on_search=found["searches"].append,
        on_check=found["checks"].append, **events,
    )  # fmt: skip
    for number, epoch in zip(range(groups), epochs, strict=False):
        list(mix(batches(mix.span, seed=number), epoch))
        noise(mix.context.model)
    return mix, found


def exact_fitness(mix, record, masks, pairing):
    """Mean cell loss of a composition whose images are each forwarded."""
    rows = Rows(np.arange(B, dtype=np.int32), masks, pairing)
    return float(ForwardedScores(mix, record.images, record.labels)(rows).cells.mean())


def test_of_the_genomes_verified_the_truly_fittest_is_trained_on():
    many = {"groups": 12, "epochs": [1] * 12}
    _, estimated = searched(
        "search.elites=4", "search.batch_size=8", **many
    )  # all genomes, in the order of their estimates
    _, verified = searched("search.verify=4", **many)
    ranks = []
    again = build()  # whose weights are those of each search in turn
    for before, after, line in zip(
        estimated["searches"], verified["searches"], (one for one in verified["lines"] if "stopped" in one), strict=True
    ):
        last, chosen = before.elites[-1], after.elites[-1]
        truth = [exact_fitness(again, before, *one) for one in zip(last.masks, last.pairings, strict=True)]
        best = int(np.argmax(truth))
        assert len(chosen.fitness) == 1 and chosen.ids[0] == last.ids[best]
        np.testing.assert_allclose(chosen.fitness[0], truth[best], rtol=1e-5)
        np.testing.assert_allclose([line["verified_fitness"], line["verified_first"]], [truth[best], truth[0]], 1e-4)
        assert (line["verified"], line["verified_rank"]) == (4, best + 1)
        ranks.append(best + 1)
        noise(again.context.model)
    assert max(ranks) > 1  # else the estimates alone would have chosen as well


@pytest.mark.parametrize("several", [(), ("search.objective=hard, diversity",), ("search.islands=2",)])
def test_verified_elites_are_in_the_order_of_their_exact_fitness(several):
    options = ("search.elites=3", "search.batch_size=8", "search.verify=4", *several)
    _, found = searched(*options, groups=1)
    (record,) = found["searches"]
    chosen = record.elites[-1]
    assert len(chosen.fitness) == 3 and len(set(chosen.ids)) == 3
    again = build()
    truth = [exact_fitness(again, record, *one) for one in zip(chosen.masks, chosen.pairings, strict=True)]
    np.testing.assert_allclose(chosen.fitness, truth, rtol=1e-5)
    if "diversity" not in "".join(several):  # else the front decides
        assert list(chosen.fitness) == sorted(chosen.fitness, reverse=True)


def test_what_checks_and_verification_draw_and_forward_leaves_the_search_as_it_is(monkeypatch):
    def elites(found):
        return [array for record in found["searches"] for one in record.elites[:-1] for array in one]

    monkeypatch.setattr(estimates, "SHARE", 100.0)
    plain, checked = searched(), searched("search.verify=2", epochs=(1, 2, 3))
    assert len(checked[1]["checks"]) > len(plain[1]["checks"]) > 0
    for ours, expected in zip(elites(plain[1]), elites(checked[1]), strict=True):
        np.testing.assert_array_equal(ours, expected)
    monkeypatch.setattr(estimates.Checks, "due", lambda *_: False)
    mix, unchecked = searched()
    assert not unchecked["checks"]
    for ours, expected in zip(elites(plain[1]), elites(unchecked), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert mix.rng.bit_generator.state == plain[0].rng.bit_generator.state
    assert torch.equal(mix.random.get_state(), plain[0].random.get_state())


def spearman(first, second):
    """By the definition: a value's rank is how many are smaller, and half of how many are equal."""
    ranks = [
        [sum(b < a for b in values) + sum(b == a for b in values) / 2 for a in values] for values in (first, second)
    ]
    centred = [np.array(rank) - np.mean(rank) for rank in ranks]
    return centred[0] @ centred[1] / np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))


@pytest.mark.parametrize("objective", ["hard", "image_hard", "learnable", "hard + 0.5*diversity"])
@pytest.mark.parametrize("rule", ["search.self_pairing=false", "search.min_cells=1"])
def test_a_check_says_what_a_direct_computation_says(objective, rule, monkeypatch):
    mix = build(FEATURES, f"search.objective={objective}", rule)
    (images, labels), rng = batches(1)[0], np.random.default_rng(5)
    mix.make_search(images, labels)
    masks, pairing = rng.random((B, 2, 2)) < 0.5, rng.permutation(B).astype(np.int32)
    asked, forward = [], mix.forward_rows
    monkeypatch.setattr(mix, "forward_rows", lambda *given: (asked.append(given[2]), forward(*given))[1])
    found = mix.checks.compare(images, labels, masks, pairing, 1)

    (rows,) = asked
    shape = (estimates.RANDOM_COMPOSITIONS + 1, B)  # all images of this small batch
    assert found["checked_rows"] == found["forwards"] == len(rows.image) == np.prod(shape) == mix.forwards
    assert np.array_equal(rows.image.reshape(shape), np.tile(np.arange(B), (shape[0], 1)))
    assert np.array_equal(rows.masks[-B:], masks) and np.array_equal(rows.partner[-B:], pairing)
    if "self" in rule:
        assert not (rows.image == rows.partner)[:-B].any()
    else:
        assert (rows.masks[:-B].sum((1, 2)) % 4 > 0).all()
    labels, partners = labels.numpy(), rows.partner.reshape(shape)

    def as_losses(losses):
        packed = Masks.pack(rows.masks.reshape(*shape, 2, 2))
        return RowLosses(
            losses.cells.reshape(*shape, 2, 2), losses.images.reshape(shape), packed, labels, labels[partners], partners
        )

    def scores(losses):
        parts = []
        for term in objective.split(" + "):
            weight, _, name = term.rpartition("*")
            relative = (exact,) if name in ("learnable", "diversity") else ()
            parts.append(float(weight or 1) * OBJECTIVES[name](losses, *relative))
        return sum(parts)

    exact = as_losses(forward(images, torch.from_numpy(labels), rows))
    truth, estimate = scores(exact), scores(as_losses(mix.scores(rows)))
    assert not np.allclose(truth, estimate)
    expected = np.mean([spearman(estimate[:-1, i], truth[:-1, i]) for i in range(B)])
    assert found["rank_correlation"] == pytest.approx(expected, abs=2e-5)
    assert found["bias"] == pytest.approx(np.mean(estimate[:-1] - truth[:-1]), abs=1e-5)
    for name, values in (("gain_estimated", estimate), ("gain_true", truth)):
        assert found[name] == pytest.approx(values[-1].mean() - values[:-1].mean(), abs=1e-5)


def test_ranks_are_correlated_by_the_definition():
    rng = np.random.default_rng(0)
    for size in (2, 3, 8, 30):
        first, second = rng.integers(0, 6, size), rng.integers(0, 6, size)
        first[:2], second[:2] = (0, 1), (3, 1)
        assert correlate_ranks(first, second) == pytest.approx(spearman(first, second))
    assert np.isnan(correlate_ranks(np.ones(3), np.arange(3))) and np.isnan(correlate_ranks(np.ones(0), np.ones(0)))


def test_scores_that_are_not_finite_are_left_out():
    estimate = np.array([[1.0, 5, 1], [2, 6, 1], [3, np.nan, 1], [4, 7, 1], [9, 9, 9]])
    truth = np.array([[1.0, 2, 2], [2, 1, 3], [3, 1, 4], [np.inf, 3, 5], [9, -np.inf, 9]])
    found = summarise(estimate, truth)
    assert found["rank_correlation"] == pytest.approx((1 + 0.5) / 2)  # of the third image the estimates are all alike
    assert found["bias"] == pytest.approx((0 + (3 + 5 + 4) - (1 + 2 + 3 + 4)) / 10)
    assert summarise(np.full((3, 2), np.nan), np.ones((3, 2))) is None
    alone = summarise(np.array([[1.0], [2.0], [np.nan]]), np.array([[1.0], [2.0], [3.0]]))
    assert alone["gain_true"] is None and alone["rank_correlation"] == 1


@pytest.mark.parametrize("name", ["evolved", "best-of-k"])
def test_checks_are_spread_over_the_epochs_and_bounded(name, monkeypatch):
    options = ("train.epochs=40", "mix.draws=3", "search.start_epoch=3", "search.stop_epoch=22")
    mix, found = searched(*options, name=name, groups=40, epochs=range(1, 41))
    rows = B * (estimates.RANDOM_COMPOSITIONS + 1)
    assert mix.checks.forwards == rows * len(found["checks"]) <= max(rows, estimates.SHARE * mix.forwards)
    assert len(found["checks"]) == 1  # a search forwards 8 images, and a check 72 rows
    monkeypatch.setattr(estimates, "SHARE", 1.0)
    for most, count in ((50, 20), (5, 5)):
        monkeypatch.setattr(estimates, "MOST_CHECKS", most)
        monkeypatch.setattr(estimates, "RANDOM_COMPOSITIONS", 1)
        assert len(searched(*options, name=name, groups=24, epochs=range(1, 25))[1]["checks"]) == count
    assert not searched(*options, "search.compose_at=pixels", name=name)[1]["checks"]


def test_checks_go_on_from_a_checkpoint_as_if_never_interrupted():
    options = ("train.epochs=6", "search.verify=2")
    whole = searched(*options, groups=6, epochs=range(1, 7))
    first, found = searched(*options, groups=3, epochs=range(1, 4))
    second, rest = searched(*options, groups=0)
    second.restore(first.state())
    second.context.model.load_state_dict(first.context.model.state_dict())
    for number in range(3, 6):
        list(second(batches(1, seed=number), number + 1))
        noise(second.context.model)
    assert found["checks"] + rest["checks"] == whole[1]["checks"]
    assert found["lines"] + rest["lines"] == whole[1]["lines"]
    assert second.forwards == whole[0].forwards and second.checks.forwards == whole[0].checks.forwards


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["search.verify=1", "search.compose_at=pixels"], "every score is exact; set search.verify=0"),
        (["search.verify=1", "search.evaluation=full"], "every score is exact; set search.verify=0"),
        (["search.verify=1", "search.elites=2"], "from search.elites=2 to the 8 genomes"),
        (["search.verify=9", "search.population=8"], "got 9"),
        (["search.verify=-1"], "search.verify"),
        (["search.verify=0.5"], "search.verify"),
    ],
)
def test_what_cannot_be_verified_is_refused_in_one_line(options, said):
    with pytest.raises(UserError) as caught:
        make_config({}, ["search.population=8", *options, "mix.name=evolved"])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    make_config({}, ["search.population=8", "search.islands=2", "search.verify=16"])
    make_config({}, ["search.verify=3", "search.compose_at=pixels", "mix.name=patchmix"])  # which searches nothing


def test_a_runs_forwards_are_those_of_its_searches_and_its_checks(trained):
    run = RunFolder(trained)
    last = [line for line in run.generation_lines if "stopped" in line]
    checks = [event for event in run.events if event["event"] == "checked"]
    assert last and checks and all(line["scored"] > line["forwards"] for line in last)
    (trial,) = (event for event in run.events if event["event"] == "trial")
    spent = sum(line["forwards"] for line in last) + sum(one["forwards"] for one in [*checks, trial])
    assert run.result["search_forwards"] == spent


def test_a_search_experiment_logs_its_trial_once(trained, tmp_path):
    options = (*TINY, "search.compose_at=auto", "search.batch_size=16", "search.generations=2")
    folder, source = tmp_path / "found", load_config("digits", TINY)
    search_batch(load_config("digits", options), folder, trained, source)
    further = load_config("digits", [*options, "search.generations=3"])
    search_batch(further, folder, trained, source, resume=True, other_ends=["search.generations=3"])
    events = RunFolder(folder).events
    assert [event["event"] for event in events if event["event"] in ("start", "trial", "resume")] == [
        "start", "trial", "resume",
    ]  # fmt: skip
    (trial,) = (event for event in events if event["event"] == "trial")
    assert trial["trusted"] == (trial["rank_correlation"] >= trial["needed"] == estimates.TRUSTED)


@pytest.mark.parametrize("generations", [1, 3])
def test_a_search_experiment_is_checked_at_its_first_and_its_last_generation(trained, tmp_path, generations):
    options = (*TINY, FEATURES, "search.batch_size=16", f"search.generations={generations}", "search.verify=3")
    result = search_batch(load_config("digits", options), tmp_path / "found", trained, load_config("digits", TINY))
    run = RunFolder(tmp_path / "found")
    checks = [event for event in run.events if event["event"] == "checked"]
    assert [event["generation"] for event in checks] == sorted({1, generations})
    *_, last = run.generation_lines
    spent = last["forwards"] + last["verified_forwards"] + sum(one["forwards"] for one in checks)
    assert result["search_forwards"] == result["image_forwards"] == spent
    assert result["scored"] == last["scored"] and result["verified_last"] == last["verified_fitness"]
    assert result["last"] == last["best"]  # by the estimate, as in all generations
    assert run.snapshots()[0]["fitness"][-1] == pytest.approx(last["verified_fitness"], abs=1e-5)


@pytest.mark.parametrize(("late", "warns"), [(0.3, True), (0.6, False)])
def test_a_low_rank_correlation_late_in_a_run_is_warned_of(late, warns):
    from types import SimpleNamespace

    from analysis.estimate_checks import doubt

    checks = [{"event": "checked", "rank_correlation": value} for value in (0.9, 0.9, None, 0.9, 0.9, late, late)]
    text = doubt(SimpleNamespace(events=checks))
    assert bool(text) == warns and ("search.compose_at=pixels" in text) == warns
    assert not doubt(SimpleNamespace(events=[{"event": "start"}]))  # a run of exact scores


@pytest.mark.parametrize(("found", "trusted", "says"), [(0.72, True, "enough"), (0.12, False, "was forwarded")])
def test_pages_tell_what_the_trial_of_estimates_decided(found, trusted, says):
    from types import SimpleNamespace

    from analysis.estimate_checks import told_of_estimates

    trial = {"event": "trial", "rank_correlation": found, "needed": 0.5, "trusted": trusted}
    run = SimpleNamespace(events=[{"event": "start"}, trial], generation_lines=[])
    text = told_of_estimates(run)
    assert f"{found:.2f}" in text and "0.5" in text and says in text and text.count("tried") == 1
    assert not told_of_estimates(SimpleNamespace(events=[{"event": "start"}], generation_lines=[]))
