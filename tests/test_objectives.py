"""Objectives: each against slow loops, its contract, and what the words for them may say."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.objectives import (
    NEEDS_IMAGES,
    NEEDS_REFERENCE,
    OBJECTIVES,
    Objective,
    RowLosses,
    learnable,
    parse_objectives,
)
from evo.packed import Masks


def made(count=5, batch=7, grid=3, *, seed=0, classes=3, labelled=True):
    rng = np.random.default_rng(seed)
    shape = (count, batch)
    labels = rng.integers(0, classes, batch) if labelled else np.full(batch, -1)
    partners = np.argsort(rng.random(shape), axis=1).astype(np.int32)
    masks = rng.random((*shape, grid, grid)) < rng.random((*shape, 1, 1))
    masks[:, rng.integers(batch)] = True  # a row that keeps all
    masks[0, rng.integers(batch)] = False
    cells, reference = rng.exponential(2, (2, *shape, grid, grid)).astype(np.float32)
    wholes, whole_reference = rng.exponential(2, (2, *shape)).astype(np.float32)
    return RowLosses(
        cells, wholes, Masks.pack(masks), labels, labels[partners], partners, reference, whole_reference
    )  # fmt: skip


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def entropy(rows, p, b):
    """Nats, of the soft target: the weight of each distinct label."""
    own, partner = rows.own_labels[b], rows.partner_labels[p, b]
    if rows.partners[p, b] == b or (own == partner and own != -1):
        return 0.0
    kept = mean(rows.masks[p, b].ravel().tolist())
    return -sum(weight * math.log(weight) for weight in (kept, 1 - kept) if weight > 0)


def slow_balanced(rows, p, b):
    sides = {True: 0.0, False: 0.0}
    for kept, loss in zip(rows.masks[p, b].ravel(), rows.cell_losses[p, b].ravel(), strict=True):
        sides[bool(kept) or rows.partners[p, b] == b] += loss / rows.masks[p, b].size
    return -abs(sides[True] - sides[False])


def slow_learnable(rows, p, b):
    low, high = np.quantile(rows.cell_losses, 0.5), np.quantile(rows.cell_losses, 0.9)
    return -mean(max(low - loss, loss - high, 0) for loss in rows.cell_losses[p, b].ravel())


def slow_diversity(rows, p, b):
    others = [q for q in range(len(rows.partners)) if q != p]
    if not others:
        return 0.0
    return mean(
        (rows.masks[p, b] != rows.masks[q, b]).mean() / 2 + (rows.partners[p, b] != rows.partners[q, b]) / 2
        for q in others
    )


def slow_contrast(rows, p, b):
    cells = rows.cell_losses[p, b].ravel().tolist()
    return math.sqrt(mean((loss - mean(cells)) ** 2 for loss in cells))


def slow_hard(rows, p, b):
    return mean(rows.cell_losses[p, b].ravel().tolist())


def slow_image_hard(rows, p, b):
    return rows.image_losses[p, b] - entropy(rows, p, b)


SLOW = {
    "hard": slow_hard,
    "easy": lambda rows, p, b: -slow_hard(rows, p, b),
    "learnable": slow_learnable,
    "balanced": slow_balanced,
    "contrast": slow_contrast,
    "reducible": lambda rows, p, b: slow_hard(rows, p, b) - mean(rows.reference_cell_losses[p, b].ravel().tolist()),
    "image_hard": slow_image_hard,
    "image_easy": lambda rows, p, b: -slow_image_hard(rows, p, b),
    "image_reducible": lambda rows, p, b: rows.image_losses[p, b] - rows.reference_image_losses[p, b],
    "diversity": slow_diversity,
}


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=25)
@given(
    count=st.integers(1, 6),
    batch=st.integers(1, 9),
    grid=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    labelled=st.booleans(),
)
def test_every_objective_equals_its_loops(name, count, batch, grid, seed, labelled):
    rows = made(count, batch, grid, seed=seed, labelled=labelled)
    scores = OBJECTIVES[name](rows)
    expected = [[SLOW[name](rows, p, b) for b in range(batch)] for p in range(count)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert scores.shape == (count, batch) and scores.dtype == np.float32 and np.isfinite(scores).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_rows_score_is_its_own(name):
    """Rows and genomes in another order: the same scores in that order; nothing given is changed."""
    rows = made(5, 12, 4)
    before = {field.name: np.copy(getattr(rows, field.name)) for field in dataclasses.fields(rows)
              if field.name != "packed"}  # fmt: skip
    words = rows.packed.words.copy()
    scores = OBJECTIVES[name](rows)
    for field, array in before.items():
        assert np.array_equal(getattr(rows, field), array)
    assert np.array_equal(rows.packed.words, words)

    rng = np.random.default_rng(1)
    images, genomes = rng.permutation(12), rng.permutation(5)
    renamed = np.argsort(images)  # image i stands at renamed[i] now
    order = np.ix_(genomes, images)
    again = RowLosses(
        rows.cell_losses[order],
        rows.image_losses[order],
        rows.packed[order],
        rows.own_labels[images],
        rows.partner_labels[order],
        renamed[rows.partners[order]].astype(np.int32),
        rows.reference_cell_losses[order],
        rows.reference_image_losses[order],
    )
    np.testing.assert_allclose(OBJECTIVES[name](again), scores[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_that_are_not_finite_stay_with_their_row(name):
    rows = made(4, 6, 2)
    clean = parse_objectives(name)[0](rows)
    for losses in (rows.cell_losses, rows.image_losses, rows.reference_cell_losses, rows.reference_image_losses):
        losses[1, 2] = np.nan
        losses[3, 4] = np.inf
    scores = parse_objectives(name)[0](rows)
    hit = np.zeros((4, 6), bool)
    hit[[1, 3], [2, 4]] = True
    assert np.isfinite(scores[~hit]).all()
    if name == "diversity":
        assert np.array_equal(scores, clean)
    elif name == "learnable":  # the band is that of the finite losses, which are others now
        assert not np.isfinite(scores[hit]).any()
    else:
        assert not np.isfinite(scores[hit]).any() and np.array_equal(scores[~hit], clean[~hit])


def test_needs_are_declared():
    """Without the losses that an objective declares it says so by name; all others do without them."""
    rows = made()
    without_reference = dataclasses.replace(rows, reference_cell_losses=None, reference_image_losses=None)
    without_images = dataclasses.replace(rows, image_losses=np.full_like(rows.image_losses, np.nan))
    for name in OBJECTIVES:
        objective = parse_objectives(name)[0]
        assert objective.needs_reference == (name in NEEDS_REFERENCE)
        assert objective.needs_images == (name in NEEDS_IMAGES)
        for lacking, needs, words in (
            (without_reference, objective.needs_reference, f"objective '{name}' needs the reference's"),
            (without_images, objective.needs_images, f"objective '{name}' needs image losses, and none were given"),
        ):
            if needs:
                with pytest.raises(ValueError, match=words):
                    objective(lacking)
            else:
                assert np.isfinite(objective(lacking)).all()


def test_a_model_that_has_diverged_is_not_taken_for_losses_nobody_measured():
    rows = made()
    rows.cell_losses[:], rows.image_losses[:] = np.nan, np.nan
    for name in OBJECTIVES:
        assert np.isnan(parse_objectives(name)[0](rows)).all() or name == "diversity"


def test_learnable_takes_a_target_or_other_quantiles():
    rows = made()
    distance = np.abs(rows.cell_losses - 1.5)
    np.testing.assert_allclose(learnable(rows, target=1.5), -distance.mean((2, 3)), rtol=1e-5)
    assert (learnable(rows, quantiles=(0.0, 1.0)) == 0).all()


def test_an_unmixed_row_is_balanced_no_better_for_the_mask_it_does_not_use():
    rows = made(1, 1, 2)  # its partner is itself
    assert rows.partners.tolist() == [[0]]
    half = dataclasses.replace(rows, packed=Masks.pack(np.array([[[[True, False], [True, False]]]])))
    assert OBJECTIVES["balanced"](half) == OBJECTIVES["balanced"](rows) == OBJECTIVES["easy"](rows)


def test_a_sum_weighs_its_terms():
    rows = made()
    (objective,) = parse_objectives(" hard + 0.5*contrast -1e-1 * diversity")
    assert objective == Objective(
        "hard+0.5*contrast-1e-1*diversity", ((1, "hard"), (0.5, "contrast"), (-0.1, "diversity"))
    )
    expected = OBJECTIVES["hard"](rows) + 0.5 * OBJECTIVES["contrast"](rows) - 0.1 * OBJECTIVES["diversity"](rows)
    np.testing.assert_allclose(objective(rows), expected, rtol=1e-5)
    assert objective(rows).dtype == np.float32
    assert not objective.needs_reference and parse_objectives("hard-.2*image_reducible")[0].needs_reference


def test_several_objectives_are_parted_by_commas():
    assert [objective.name for objective in parse_objectives("hard, diversity,-easy")] == ["hard", "diversity", "-easy"]


@given(st.lists(st.tuples(st.floats(-9, 9).filter(bool), st.sampled_from(list(OBJECTIVES))), min_size=1, max_size=6,
                unique_by=lambda term: term[1]))  # fmt: skip
def test_what_is_written_is_read_back(terms):
    text = "".join(f"{weight:+}*{name}" for weight, name in terms)
    assert parse_objectives(text) == [Objective(text, tuple(terms))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hrad", "unknown objective 'hrad'; did you mean 'hard'. .choose from hard, easy, learnable"),
        ("hard+0.5*kontrast", "unknown objective 'kontrast'.*did you mean 'contrast'?"),
        ("zzz", "unknown objective 'zzz' .choose from .*diversity.$"),
        ("", "expected objectives such as hard, hard"),
        ("hard,", "expected objectives such as .*got ''; there are hard"),
        ("hard easy", "got 'easy'"),
        ("hard*0.5", r"got '\*0.5'"),
        ("0.5", "got '0.5'"),
        ("1.2.3*hard", "got '1.2.3.hard'"),
        ("hard++easy", r"got '\+\+easy'"),
        ("hard+0*easy", "the weight of 'easy' must be a finite number other than 0, got 0"),
        ("1e999*hard", "finite number other than 0, got 1e999"),
        ("hard-hard", "'hard' stands twice in the sum"),
        ("hard,1*hard", "an objective stands twice in 'hard,1.hard'"),
    ],
)
def test_words_that_are_no_objective_are_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_objectives(text)
    assert "\n" not in str(caught.value)
