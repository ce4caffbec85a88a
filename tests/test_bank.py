"""Pattern banks: files that come back the same, draws that follow weights and affinities, strangers' files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo import bank as module
from evo import bank_files
from evo.bank import PatternBank
from evo.bank_files import load_bank, save_bank
from evo.errors import BankError


def filled(grid=3, classes=4, rows=50, seed=0):
    bank = PatternBank(grid, classes, [f'class {k} "é"' for k in range(classes)])
    rng = np.random.default_rng(seed)
    bank.collect(rng.random((rows, grid, grid)) < 0.3, rng.integers(0, classes, rows), rng.integers(0, classes, rows))
    return bank


def test_collecting_counts_rows_and_pairs():
    bank = PatternBank(2, 2)
    kept = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]]], bool)
    bank.collect(kept, np.array([0, 0, 1]), np.array([1, 1, 0]))
    bank.collect(kept[:1], np.array([0]), np.array([0]))
    assert bank.weights.tolist() == [3, 1] and np.array_equal(bank.masks[0], kept[0])
    assert bank.pairs.tolist() == [[1, 2], [1, 0]]
    assert bank.top(1).weights.tolist() == [3] and len(bank) == 2
    with pytest.raises(ValueError, match=r"masks must be bool \(N,2,2\)"):
        bank.collect(np.zeros((1, 3, 3), bool), np.array([0]), np.array([0]))


def test_affinity_is_lift_over_chance():
    bank = PatternBank(2, 2)
    bank.restore(bank.masks, bank.weights, np.array([[1.0, 3.0], [3.0, 1.0]]))
    np.testing.assert_allclose(bank.affinity(), [[0.5, 1.5], [1.5, 0.5]])
    bank.restore(bank.masks, bank.weights, np.zeros((2, 2)))
    assert (bank.affinity() == 1).all()


def test_draws_follow_weights():
    bank = PatternBank(2, 1)
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], bool)
    bank.restore(masks, np.array([3.0, 1.0]), np.ones((1, 1)))
    drawn = np.concatenate([bank.draw(np.zeros(50, int), np.random.default_rng(s))[0] for s in range(40)])
    assert (drawn == masks[0]).all((1, 2)).mean() == pytest.approx(0.75, abs=0.03)


def test_decay_keeps_a_share_and_drops_what_has_faded():
    bank = PatternBank(2, 2)
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]]], bool)
    bank.collect(masks[[0, 0, 0, 1]], np.zeros(4, int), np.ones(4, int))
    bank.decay(0.5)
    assert bank.weights.tolist() == [1.5, 0.5] and bank.pairs.tolist() == [[0, 2], [0, 0]]
    bank.collect(masks[1:], np.array([1]), np.array([1]))  # after a decay it counts in full
    assert bank.weights.tolist() == [1.5, 1.5]
    bank.restore(masks, np.array([3.0, 0.09]), np.ones((2, 2)))
    bank.decay(0.5)
    assert bank.weights.tolist() == [1.5] and np.array_equal(bank.masks, masks[:1])
    bank.decay(0)
    assert len(bank) == 0 and not bank.pairs.any()
    with pytest.raises(ValueError, match=r"a share of 0..1 of its weights, got 1.5"):
        bank.decay(1.5)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 30), st.sampled_from(["json", "npz"]))
def test_which_patterns_are_dropped_does_not_depend_on_who_looks_when(tmp_path_factory, seed, most, ending):
    path = tmp_path_factory.mktemp("bank") / f"bank.{ending}"
    rng = np.random.default_rng(seed)
    alone, watched = PatternBank(2, 1), PatternBank(2, 1)
    with pytest.MonkeyPatch.context() as patch:
        for limited in (module, bank_files):
            patch.setattr(limited, "MAX_PATTERNS", most)
        for _ in range(12):
            masks = rng.random((int(rng.integers(1, 8)), 2, 2)) < 0.5
            own = np.zeros(len(masks), int)
            for bank in (alone, watched):
                bank.collect(masks, own, own)
            if rng.random() < 0.5:  # a checkpoint, and a run that goes on from it
                save_bank(watched, path)
                again = PatternBank(2, 1)
                again.restore(watched.masks, watched.weights, watched.pairs, watched.uncut)
                watched = again
        save_bank(alone, path)
        loaded = load_bank(path)
    assert alone.uncut == watched.uncut < most and len(alone) <= most + alone.uncut and len(loaded) <= most
    for name in ("masks", "weights", "pairs"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(watched, name))
    assert np.array_equal(loaded.masks, alone.masks[:most])
    assert most < 16 or alone.weights.sum() == alone.pairs.sum()  # all there are have room


@settings(max_examples=40)
@given(st.integers(1, 100), st.integers(0, 60), st.integers(0, 2**31))
def test_kinds_of_rows_are_those_of_numpy(cells, count, seed):
    rows = np.random.default_rng(seed).random((count, cells)) < 0.1
    index, inverse = module._find_distinct(rows)
    _, expected_index, expected = np.unique(np.packbits(rows, axis=1), axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(index, expected_index) and np.array_equal(inverse, expected.ravel())


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(1, 6), st.integers(0, 2**31))
def test_drawn_pairings_are_permutations_by_chance_whatever_the_labels_are(count, classes, seed):
    bank = filled(classes=classes, seed=seed)
    labels = np.random.default_rng(seed).integers(-1, 99, count)
    masks, pairing = bank.draw(labels, np.random.default_rng(seed))
    assert masks.shape == (count, 3, 3) and pairing.dtype == np.int32 and sorted(pairing) == list(range(count))
    again, same = bank.draw(np.zeros(count), np.random.default_rng(seed))
    assert np.array_equal(again, masks) and np.array_equal(same, pairing)


def test_an_empty_bank_draws_nothing():
    rng = np.random.default_rng(0)
    for draw in (lambda: PatternBank(2, 2).draw_masks(3, rng), lambda: PatternBank(2, 2).draw(np.zeros(3), rng)):
        with pytest.raises(ValueError, match="this pattern bank is empty"):
            draw()


MASKS = np.ones((2, 2, 2), bool)


@pytest.mark.parametrize(
    ("masks", "own", "partner", "words"),
    [
        (MASKS, [0, -1], [0, 1], r"own_labels must be classes 0\.\.2 of this bank, got -1\.\.0"),
        (MASKS, [0, 1], [0, 3], r"partner_labels must be classes 0\.\.2 of this bank, got 0\.\.3"),
        (MASKS, [0, 2**62], [0, 1], "own_labels must be classes"),
        (MASKS, [0, 1], [0], r"partner_labels must be integers \(2\), got int64 \(1,\)"),
        (MASKS, 0, [0, 1], r"own_labels must be integers \(2\), got int64 \(\)"),
        (MASKS, [[0, 1]], [0, 1], "own_labels must be integers"),
        (MASKS, [0.0, 1.0], [0, 1], "own_labels must be integers"),
        (MASKS, [True, False], [0, 1], "own_labels must be integers"),
        (MASKS, [0, 1], [None, 1], "partner_labels must be integers"),
        (MASKS[0], [0, 1], [0, 1], r"masks must be bool \(N,2,2\), got bool \(2, 2\)"),
        (np.ones((2, 3, 3), bool), [0, 1], [0, 1], r"masks must be bool \(N,2,2\), got bool \(2, 3, 3\)"),
        (MASKS.astype(np.uint8), [0, 1], [0, 1], r"masks must be bool \(N,2,2\), got uint8"),
        (MASKS.astype(float), [0, 1], [0, 1], r"masks must be bool \(N,2,2\), got float64"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_of_them_is_counted(masks, own, partner, words):
    bank = PatternBank(2, 3)
    bank.collect(MASKS[:1], np.array([0]), np.array([1]))
    before = bank.masks.copy(), bank.weights.copy(), bank.pairs, bank.uncut
    with pytest.raises(ValueError, match=words):
        bank.collect(masks, np.array(own), np.array(partner))
    for array, kept in zip((bank.masks, bank.weights, bank.pairs, bank.uncut), before, strict=True):
        assert np.array_equal(array, kept)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"masks": MASKS[0]}, "masks must be bool"),
        ({"masks": MASKS.astype(int)}, "masks must be bool"),
        ({"weights": np.ones(3)}, r"weights must be numbers \(2\), got float64 \(3,\)"),
        ({"weights": np.array([1, -1])}, "weights must be finite and not negative"),
        ({"weights": np.array([np.inf, 1])}, "weights must be finite and not negative"),
        ({"weights": np.array([np.nan, 1])}, "weights must be finite and not negative"),
        ({"weights": np.zeros(2)}, "at least one weight must be above zero"),
        ({"weights": np.array(["2", "1"])}, "weights must be numbers"),
        ({"weights": np.full(2, 1.5e308)}, "the sum of weights must be finite"),
        ({"pairs": np.ones((2, 3))}, r"pairs must be numbers \(3,3\), got float64 \(2, 3\)"),
        ({"pairs": -np.ones((3, 3))}, "pairs must be finite and not negative"),
        ({"pairs": np.full((3, 3), 1e308)}, "the sum of pairs must be finite"),
        ({"pairs": np.ones((3, 3), complex)}, "pairs must be numbers"),
        ({"uncut": -1}, "uncut must be a whole number of rows"),
        ({"uncut": 1.5}, "uncut must be a whole number of rows"),
    ],
)
def test_content_that_is_unsound_is_refused_and_the_bank_stays_as_it_was(changed, words):
    bank = filled(2, 3)
    before = bank.masks.copy(), bank.weights.copy(), bank.pairs, bank.uncut
    sound = {
        "masks": MASKS & np.array([True, False])[:, None, None],
        "weights": np.array([2.0, 1.0]),
        "pairs": np.eye(3),
    }
    with pytest.raises(ValueError, match=words):
        bank.restore(**{**sound, **changed})
    for array, kept in zip((bank.masks, bank.weights, bank.pairs, bank.uncut), before, strict=True):
        assert np.array_equal(array, kept)
    bank.restore(**sound)
    assert bank.weights.tolist() == [2, 1]


def test_a_bank_shares_no_memory_with_what_it_is_given_or_gives():
    masks, own, names = np.zeros((3, 2, 2), bool), np.array([0, 1, 2]), ["a", "b", "c"]
    bank = PatternBank(2, 3, names)
    bank.collect(masks, own, own)
    masks[:], own[:], names[:] = True, 0, ["x"] * 3
    assert not bank.masks.any() and np.array_equal(bank.pairs, np.eye(3)) and bank.class_names == ["a", "b", "c"]
    given = {"masks": np.eye(2, dtype=bool)[None], "weights": np.array([3.0]), "pairs": np.eye(3)}
    bank.restore(**given)
    for array in given.values():
        array[:] = False
    assert bank.masks.any() and bank.weights.tolist() == [3] and np.array_equal(bank.pairs, np.eye(3))
    bank.pairs[:] = 9
    for array in (bank.masks, bank.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    for made in (bank.top(1), bank.of_classes(["a", "b", "c"]), PatternBank.merge([bank])):
        made.collect(np.zeros((1, 2, 2), bool), [0], [1])
        made.decay(0.5)
    assert np.array_equal(bank.pairs, np.eye(3)) and bank.weights.tolist() == [3]
    kept = bank.masks, bank.pairs
    bank.collect(np.zeros((5, 2, 2), bool), [0] * 5, [1] * 5)
    assert len(kept[0]) == 1 and np.array_equal(kept[1], np.eye(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 2), r"grid must be 1\.\.64, got 0"),
        ((65, 2), r"grid must be 1\.\.64, got 65"),
        ((2.5, 2), r"grid must be 1\.\.64, got 2.5"),
        ((True, 2), "grid must be"),
        ((2, 0), r"number of classes must be 1\.\.50000, got 0"),
        ((2, 10**6), "number of classes must be"),
        ((2, 2, ["a"]), "2 classes need as many names, got 1"),
        ((2, 2, []), "2 classes need as many names, got 0"),
    ],
)
def test_banks_of_sizes_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        PatternBank(*arguments)
    with pytest.raises(ValueError, match="keeps 0 patterns or more, got -1"):
        filled().top(-1)


def test_banks_merge_filter_and_describe_themselves():
    one, two = filled(2, 3, 40, 1), filled(2, 3, 30, 2)
    merged = PatternBank.merge([one, two])
    together = PatternBank(2, 3, one.class_names)
    for bank in (one, two):
        for mask, weight in zip(bank.masks, bank.weights, strict=True):
            together.collect(np.repeat(mask[None], int(weight), 0), *np.zeros((2, int(weight)), int))
    assert dict(zip(map(bytes, merged.masks), merged.weights, strict=True)) == dict(
        zip(map(bytes, together.masks), together.weights, strict=True)
    )
    assert np.array_equal(merged.pairs, one.pairs + two.pairs) and (np.diff(merged.weights) <= 0).all()
    heavy = merged.heavier_than(5)
    assert heavy.weights.min() >= 5 and heavy.weights.sum() == merged.weights[merged.weights >= 5].sum()
    name = one.class_names[1]
    assert np.array_equal(one.of_classes([name]).pairs, one.pairs * np.array([[0], [1], [0]]))
    with pytest.raises(BankError, match="there is no class 'none' among the patterns' classes"):
        one.of_classes(["none"])
    text = merged.describe()
    assert f"{len(merged)} patterns of 2x2 cells, from 70 rows of 3 classes" in text
    assert "no patterns" in PatternBank(2, 3).describe()
    for other, words in ((PatternBank(3, 3, one.class_names), "of one grid"), (PatternBank(2, 2), "same classes")):
        with pytest.raises(BankError, match=words):
            PatternBank.merge([one, other])
    with pytest.raises(BankError, match="got none"):
        PatternBank.merge([])
