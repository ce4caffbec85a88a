"""Tables of all pairs: the right scores, the best composition there is, and what a temperature leaves to chance."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evo.pair_table
from evo.errors import UserError
from evo.objectives import OBJECTIVES, RELATIVE, parse_objectives
from evo.operators import MASK_SAMPLERS
from evo.pair_table import PairTable, soft_maximum
from evo.search import Rows, Search
from tests.test_feature_probe import local_model, row_losses
from training.feature_probe import FeatureProbe


def make_table(scores, permitted=None, seed=0):
    """Of fixed scores (M,B,B), under masks that are numbered."""
    count, batch, _ = scores.shape
    masks = (np.arange(count)[:, None] >> np.arange(9) & 1).astype(bool).reshape(count, 3, 3)
    allowed = np.ones((batch, batch), bool) if permitted is None else permitted
    rng = np.random.default_rng(seed)
    return PairTable(lambda images, _: scores[:, images][:, :, images], batch, masks, allowed, rng), masks


def score_of(scores, masks, dealt, pairing):
    """Row scores (B,) of a composition."""
    number = [int(np.flatnonzero((masks == mask).all((1, 2)))[0]) for mask in dealt]
    return scores[number, np.arange(len(pairing)), pairing]


@given(st.integers(0, 2**20), st.integers(2, 5), st.integers(1, 6))
@settings(max_examples=30)
def test_at_temperature_0_it_deals_the_best_composition_there_is(seed, batch, count):
    scores = np.random.default_rng(seed).normal(size=(count, batch, batch)).astype(np.float32)
    table, masks = make_table(scores)
    dealt, pairings = table.deal(2, 0, np.random.default_rng(1))
    best = max(scores.max(0)[np.arange(batch), list(order)].sum() for order in permutations(range(batch)))
    for genome in range(2):
        found = score_of(scores, masks, dealt.cells[genome], pairings[genome])
        assert found.sum() == pytest.approx(best, abs=1e-4)


@given(st.integers(0, 2**20), st.floats(0, 5), st.integers(2, 9))
@settings(max_examples=30)
def test_what_is_dealt_are_permutations_under_the_tables_masks(seed, temperature, batch):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(5, batch, batch)).astype(np.float32)
    permitted = ~np.eye(batch, dtype=bool)
    table, masks = make_table(scores, permitted)
    dealt, pairings = table.deal(3, temperature, rng)
    again, moved = table.deal_anew(dealt, pairings, 0.5, temperature, rng)
    for some, partners in ((dealt, pairings), (again, moved)):
        assert (np.sort(partners, axis=1) == np.arange(batch)).all()
        assert {mask.tobytes() for mask in some.cells.reshape(-1, 3, 3)} <= {mask.tobytes() for mask in masks}
    assert (pairings != np.arange(batch)).all()


def test_the_larger_the_temperature_the_more_is_left_to_chance():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 12, 12)).astype(np.float32)
    table, masks = make_table(scores)
    means = []
    for temperature in (0, 0.1, 0.3, 1, 3, 100):
        dealt, pairings = table.deal(40, temperature, rng)
        means.append(np.mean([score_of(scores, masks, *one).mean() for one in zip(dealt.cells, pairings, strict=True)]))
    assert (np.diff(means) < 0).all()
    assert abs(means[-1] - scores.mean()) < 0.15 and means[0] > 1
    counts = np.bincount(pairings.ravel(), minlength=12)
    assert (counts == 40).all()


def test_masks_are_drawn_by_their_scores():
    """A single pair: the share of each mask is exp(score / T) over their sum."""
    scores = np.array([0.0, 1.0, 2.0], np.float32).reshape(3, 1, 1)
    table, masks = make_table(scores)
    temperature = 1 / table.deviation  # so that T = 1
    dealt, _ = table.deal(4000, temperature, np.random.default_rng(0))
    share = [(dealt.cells[:, 0] == mask).all((1, 2)).mean() for mask in masks]
    np.testing.assert_allclose(share, np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), atol=0.03)


def test_rows_that_are_not_dealt_anew_stay():
    scores = np.random.default_rng(0).normal(size=(6, 20, 20)).astype(np.float32)
    table, masks = make_table(scores)
    rng = np.random.default_rng(1)
    dealt, pairings = table.deal(1, 50, rng)
    before = score_of(scores, masks, dealt.cells[0], pairings[0])
    again, moved = table.deal_anew(dealt, pairings, 0.3, 0, rng)
    after = score_of(scores, masks, again.cells[0], moved[0])
    stayed = (moved[0] == pairings[0]) & (again.cells[0] == dealt.cells[0]).all((1, 2))
    assert 14 <= stayed.sum() < 20 and after.sum() > before.sum()


def test_large_batches_are_paired_in_blocks(monkeypatch):
    monkeypatch.setattr(evo.pair_table, "TOGETHER", 8)
    scores = np.random.default_rng(0).normal(size=(2, 20, 20)).astype(np.float32)
    table, _ = make_table(scores)
    assert [len(images) for images, _ in table.blocks] == [7, 7, 6]
    assert sorted(np.concatenate([images for images, _ in table.blocks])) == list(range(20))
    dealt, pairings = table.deal(3, 0.2, np.random.default_rng(2))
    for images, _ in table.blocks:
        assert (np.sort(pairings[:, images]) == np.sort(images)).all()
    strangers = np.tile(np.roll(np.arange(20), 1), (3, 1)).astype(np.int32)
    _, moved = table.deal_anew(dealt, strangers, 1, 0, np.random.default_rng(3))
    assert (np.sort(moved, axis=1) == np.arange(20)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_dealt_last(bad):
    scores = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
    scores[:, np.arange(6), (np.arange(6) + 1) % 6] = bad
    table, _ = make_table(scores)
    _, pairings = table.deal(5, 0.5, np.random.default_rng(0))
    assert (pairings != (np.arange(6) + 1) % 6).all()
    lost, _ = make_table(np.full((3, 6, 6), bad, np.float32))
    assert (np.sort(lost.deal(2, 0.5, np.random.default_rng(0))[1], axis=1) == np.arange(6)).all()


@pytest.mark.parametrize("temperature", [0, 0.3])
def test_scores_of_a_model_that_diverges_are_dealt(temperature):
    scores = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32) * np.float32(1e38)
    table, _ = make_table(scores)
    assert (np.sort(table.deal(2, temperature, np.random.default_rng(0))[1], axis=1) == np.arange(6)).all()


def test_a_soft_maximum_lies_between_mean_and_maximum():
    scores = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(soft_maximum(scores, 0), scores.max(0))
    np.testing.assert_allclose(soft_maximum(scores, 1e-3), scores.max(0), atol=0.01)
    np.testing.assert_allclose(soft_maximum(scores, 1e4), scores.mean(0), atol=1e-3)


@pytest.mark.parametrize("objective", [*(name for name in OBJECTIVES if name not in RELATIVE), "hard-0.5*image_hard"])
@pytest.mark.parametrize(("grid", "places"), [(4, 4), (2, 4), (3, 4)])
def test_a_probes_table_has_the_scores_of_its_rows(objective, grid, places, monkeypatch):
    monkeypatch.setattr("training.feature_probe.NUMBERS_AT_ONCE", 2000)  # several masks at a time, not all
    model, reference = (local_model(places, 2, 5, seed=seed) for seed in (0, 3))
    model.grid = reference.grid = grid
    images, labels = torch.randn(9, 3, 8, 8), torch.arange(9) % 5
    estimate = FeatureProbe(model, images, labels, reference=reference)
    (score,) = parse_objectives(objective)
    chosen = np.array([7, 2, 4, 0])
    masks = np.random.default_rng(0).random((11, grid, grid)) < 0.5
    found = estimate.score_pairs(score, chosen, masks)
    number, own, partner = (index.ravel() for index in np.indices((11, 4, 4)))
    rows = Rows(chosen[own].astype(np.int32), masks[number], chosen[partner].astype(np.int32))
    expected = score(row_losses(estimate(rows), rows, labels))
    np.testing.assert_allclose(found.ravel(), expected[0], rtol=1e-4, atol=1e-5)


def test_classes_far_apart_do_not_overflow():
    model = local_model(2, 2, 5)
    with torch.no_grad():
        model.image_head.weight *= 400
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 5
    estimate = FeatureProbe(model, images, labels)
    found = estimate.score_pairs(parse_objectives("image_hard")[0], np.arange(8), np.ones((1, 2, 2), bool))
    assert np.isfinite(found).all()


def test_a_first_generation_is_dealt_and_evolves_on():
    scores = np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32)
    table, masks = make_table(scores)

    def score(rows):
        known = {mask.tobytes(): number for number, mask in enumerate(masks)}
        numbers = np.array([known.get(mask.tobytes(), -1) for mask in rows.masks])
        values = np.where(numbers >= 0, scores[numbers, rows.image, rows.partner], scores.min())
        return (np.broadcast_to(values[:, None, None], rows.masks.shape).astype(np.float32),)

    def run(**options):
        search = Search(16, 3, objective="hard", population=6, generations=8, seed=2, **options)
        return search.run(score)

    drawn, dealt = run(), run(table=table)
    memetic = run(table=table, crossover="deal", temperature=0.1)
    assert dealt.records[0]["best"] > drawn.records[0]["best"] + 0.3
    assert dealt.records[-1]["best"] >= dealt.records[0]["best"]
    assert memetic.records[-1]["best"] > memetic.records[0]["best"]
    best = table.deal(1, 0, np.random.default_rng(0))
    most = score_of(scores, masks, best[0].cells[0], best[1][0]).mean()
    assert max(one.records[-1]["best"] for one in (drawn, dealt, memetic)) <= most + 1e-5


def test_a_crossover_that_deals_needs_a_table():
    with pytest.raises(UserError, match="the crossover deal deals from scores of all pairs, and none are given"):
        Search(8, 3, objective="hard", crossover="deal")


@pytest.mark.parametrize("sampler", MASK_SAMPLERS)
def test_a_hot_table_draws_as_the_sampler_does(sampler):
    """Shares of cells kept, of what is dealt at a high temperature and of the masks it is dealt from."""
    rng = np.random.default_rng(0)
    drawn = np.unique(MASK_SAMPLERS[sampler](60, 3, rng), axis=0)
    scores = rng.normal(size=(len(drawn), 10, 10)).astype(np.float32)
    table = PairTable(lambda images, _: scores, 10, drawn, np.ones((10, 10), bool), rng)
    dealt, _ = table.deal(60, 1000, rng)
    assert abs(dealt.cells.mean() - drawn.mean()) < 0.05
