"""Statistics agree with slow, obvious references; few seeds give what few seeds can."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    _add_best,
    bootstrap_interval,
    compare,
    effect_size,
    holm,
    interquartile_mean,
    paired_permutation_test,
    smallest_p,
    t_interval,
)

tenths = st.integers(-30, 30).map(lambda tenth: tenth / 10)  # ties, and sums that binary fractions do not hold
few = settings(max_examples=40)


def trials(**variants):
    """variant -> accuracies of seeds 0, 1, ...; None leaves a seed out."""
    rows = [
        {"variant": name, "seed": seed, "last_accuracy": value, "image_forwards": 100 + seed, "seconds": 10.0 * value}
        for name, values in variants.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6], 6.5),
        ([1, 3, 5, 7, 9, 11, 13, 15, 17], 9.0),
        ([4.0], 4.0),
        ([1, 2], 1.5),
        ([0, 1, 5], (0.0 + 4 * 1 + 5) / 6),
        ([0, 1, 2, 100], 1.5),
        ([0, 1, 2, 4, 100], (0.75 * 1 + 2 + 0.75 * 4) / 2.5),
    ],
)
def test_interquartile_means_that_are_known(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected)
    assert interquartile_mean(np.array([values, values]).T, axis=0) == pytest.approx([expected] * 2)


@few
@given(st.lists(tenths, min_size=1, max_size=9), st.randoms())
def test_the_interquartile_mean_is_that_of_every_value_repeated_four_times(values, random):
    shuffled = random.sample(values, len(values))
    middle = sorted(values * 4)[len(values) : 3 * len(values)]
    assert interquartile_mean(shuffled) == pytest.approx(sum(middle) / len(middle))


def test_students_interval():
    assert t_interval([60, 62, 64]) == pytest.approx(
        (62 - 4.303 * 2 / math.sqrt(3), 62 + 4.303 * 2 / math.sqrt(3)), abs=1e-3
    )
    assert t_interval([3.0, 3.0]) == (3.0, 3.0)
    assert all(math.isnan(end) for values in ([], [1.0]) for end in t_interval(values))


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_bootstrap_intervals(statistic):
    values = np.random.default_rng(0).normal(50, 1, 40)
    low, high = bootstrap_interval(values, statistic)
    assert (low, high) == bootstrap_interval(values.tolist(), statistic)
    assert low < {"mean": np.mean, "iqm": interquartile_mean}[statistic](values) < high and 0.4 < high - low < 0.9
    narrow = bootstrap_interval(values, statistic, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval([3.0, 3.0, 3.0], statistic) == (3.0, 3.0)
    assert all(math.isnan(end) for few in ([], [1.0]) for end in bootstrap_interval(few, statistic))


def test_bootstrap_and_student_agree_on_many_values():
    values = np.random.default_rng(1).normal(50, 1, 400)
    assert bootstrap_interval(values) == pytest.approx(t_interval(values), abs=0.02)


@few
@given(st.lists(st.tuples(tenths, tenths), min_size=1, max_size=8))
def test_the_permutation_test_tries_every_way_to_set_the_signs(pairs):
    tenfold = [round(10 * x) - round(10 * y) for x, y in pairs]  # whole numbers: ties are exact
    sums = [
        sum(s * d for s, d in zip(signs, tenfold, strict=True))
        for signs in itertools.product((1, -1), repeat=len(pairs))
    ]
    expected = sum(abs(total) >= abs(sum(tenfold)) for total in sums) / len(sums)
    p = paired_permutation_test(*zip(*pairs, strict=True))
    assert p == pytest.approx(expected) and p >= smallest_p(len(pairs)) - 1e-12


def test_sums_that_differ_by_rounding_only_are_equal():
    """No signs give a sum nearer to 0 than these, -0.1; in binary fractions some seem to."""
    assert paired_permutation_test([999.9, -0.2, -1000.0, 0.3, -0.1], np.zeros(5)) == 1.0


def test_many_pairs_are_tested_with_random_flips():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 30)
    p = paired_permutation_test(noise + 0.3, np.zeros(30))
    assert p == paired_permutation_test(noise + 0.3, np.zeros(30))
    from scipy.stats import ttest_1samp

    assert p == pytest.approx(ttest_1samp(noise + 0.3, 0).pvalue, abs=0.02)
    assert paired_permutation_test(np.arange(1, 31), np.zeros(30)) == pytest.approx(smallest_p(30))


def test_what_pairs_cannot_be_tested():
    assert math.isnan(paired_permutation_test([], []))
    assert paired_permutation_test([1.0], [0.0]) == 1.0 and paired_permutation_test([2, 3], [2, 3]) == 1.0
    with pytest.raises(ValueError, match=r"one length.*\(2,\) and \(3,\)"):
        paired_permutation_test([1, 2], [1, 2, 3])


def test_the_smallest_p():
    assert [smallest_p(pairs) for pairs in (0, 1, 2, 5, 6)] == [1.0, 1.0, 0.5, 0.0625, 0.03125]
    assert smallest_p(6, comparisons=3) == 0.09375


def test_holm_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == [] and holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@few
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holm_rejects_step_by_step(p_values):
    """At every level: go through p in order, until one is above level / (number left)."""
    adjusted = holm(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    assert [math.isnan(a) for a in adjusted] == [math.isnan(p) for p in p_values]
    for level in (0.011, 0.049, 0.21, 0.6):
        rejected = set()
        for left, (p, index) in zip(range(len(tested), 0, -1), tested, strict=True):
            if p > level / left:
                break
            rejected.add(index)
        near = {i for i, a in enumerate(adjusted) if abs(a - level) < 1e-9}
        assert {i for i, a in enumerate(adjusted) if a <= level} - near == rejected - near


def test_effect_sizes():
    assert effect_size([1, 2, 3]) == pytest.approx((2.0, 1.0))
    assert effect_size([-1, 0, 1, 2]) == pytest.approx((0.5 / np.std([-1, 0, 1, 2], ddof=1), 0.625))
    for equal in ([0.1], [0.1, 0.1, 0.1], [0.1 + 0.2, 0.3]):
        d, won = effect_size(equal)
        assert math.isnan(d) and won == 1.0
    assert all(math.isnan(value) for value in effect_size([]))


def test_variants_are_compared_over_the_seeds_both_have():
    table = compare(trials(plain=[60, 62, 64, None], mixed=[62, 63.5, 66.5, 90], alone=[None, None, None, 50]))
    plain, mixed, alone = table.itertuples()
    assert (plain.variant, plain.baseline, plain.measure) == ("plain", "plain", "last_accuracy")
    assert plain.seeds == plain.pairs == 3 and math.isnan(plain.difference) and math.isnan(plain.p)
    assert (plain.low, plain.high) == t_interval([60, 62, 64]) and plain.iqm == pytest.approx(62)
    assert (mixed.seeds, mixed.pairs, mixed.mean, mixed.difference) == (4, 3, 70.5, 2.0)
    assert (mixed.difference_low, mixed.difference_high) == t_interval([2.0, 1.5, 2.5])
    assert (mixed.p, mixed.p_holm, mixed.wins) == (0.25, 0.25, 1.0) and mixed.d == pytest.approx(4.0)
    assert (alone.seeds, alone.pairs) == (1, 0) and math.isnan(alone.low) and math.isnan(alone.p)
    assert table["best"].tolist() == [False, True, False] and not table["apart"].any()
    assert plain.image_forwards == 101 and plain.seconds == 620


def test_interquartile_intervals_from_eight_seeds_on():
    values = np.random.default_rng(0).normal(60, 1, 8)
    table = compare(trials(many=values, few=[*values[:7]]))
    assert table["iqm_low"].notna().tolist() == [True, False]
    assert table["iqm_low"][0] < table["iqm"][0] < table["iqm_high"][0]
    assert table["bootstrap_low"].notna().all()


def test_apart_from_the_best():
    """By the permutation test after Holm where there are pairs enough; else where the intervals do not touch."""
    base = np.random.default_rng(0).normal(60, 3, 8)
    paired = compare(trials(a=base, b=base + 0.5, c=base + 0.6 + 0.05 * np.arange(8)))
    assert paired["p_best"].tolist()[:2] == pytest.approx([3 * 2 / 256] * 2) and math.isnan(paired["p_best"][2])
    assert paired["best"].tolist() == [False, False, True] and paired["apart"].tolist() == [True, True, False]
    clear = compare(trials(a=[60.0, 60.1], b=[90.0, 90.1]))
    assert clear["p_best"][0] == 0.5 and clear["apart"].tolist() == [True, False]
    touching = compare(trials(a=[60.0, 64.0], b=[65.0, 66.0]))
    assert not touching["apart"].any()


def test_what_the_data_say_is_the_best_is_tested_against_all_pairs():
    """The best of four has won every seed: 2 / 128 times 6 pairs of variants, not times the 3 others."""
    rng = np.random.default_rng(0)
    base = rng.normal(60, 3, 7)
    low = {name: base + rng.normal(0, 0.1, 7) for name in "abc"}
    table = compare(trials(**low, best=base + 1 + rng.normal(0, 0.1, 7)))
    assert table["p_best"].tolist()[:3] == pytest.approx([6 * 2 / 128] * 3)
    assert table["best"].tolist() == [False] * 3 + [True] and not table["apart"].any()


def test_of_equal_variants_the_best_is_seldom_told_from_others():
    rng, told, rounds = np.random.default_rng(0), 0, 200
    for _ in range(rounds):
        values = rng.normal(0, 1, (10, 8))
        table = pd.DataFrame({"variant": range(8), "mean": values.mean(0), "low": -9.0, "high": 9.0})
        _add_best(table, pd.DataFrame(values), 1)
        told += table["apart"].any()
    assert told / rounds < 0.08  # Holm over the 7 others alone: 0.095


def test_less_is_better_of_what_is_spent():
    table = compare(trials(slow=[6, 7, 8], fast=[5, 6.5, 6]), "seconds")
    assert table["best"].tolist() == [False, True] and table["wins"][1] == 1.0
    assert table["difference"][1] < 0 and table["d"][1] < 0


def test_one_seed_and_variants_that_failed():
    table = compare(trials(b=[61]), order=["a", "b"])
    assert table["variant"].tolist() == ["a", "b"] and table["seeds"].tolist() == [0, 1]
    assert table[["low", "iqm_low", "difference", "p", "p_holm", "d", "wins", "p_best"]].isna().all(axis=None)
    assert table["best"].tolist() == [False, True] and not table["apart"].any()


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (trials(a=[1, 2]), {"baseline": "c"}, r"no variant 'c' to compare with \(choose from a\)"),
        (trials(a=[1], b=[1]), {"order": ["b"]}, "the order lacks the variants a"),
        (trials(a=[1]), {"measure": "speed"}, "no column 'speed'"),
        (trials(a=[1]).iloc[:0], {}, "no finished trials"),
        (pd.concat([trials(a=[1])] * 2), {}, "variant 'a' has seed 0 twice"),
    ],
)
def test_trials_that_cannot_be_compared(table, options, words):
    with pytest.raises(ValueError, match=words):
        compare(table, **options)


@few
@given(st.lists(st.lists(st.one_of(tenths, st.none()), min_size=3, max_size=3), min_size=1, max_size=4))
def test_gaps_of_any_kind_are_told_as_gaps(columns):
    data = trials(**{f"v{i}": values for i, values in enumerate(columns)})
    if data.empty:
        return
    table = compare(data, order=[f"v{i}" for i in range(len(columns))])
    for values, row in zip(columns, table.itertuples(), strict=True):
        assert row.seeds == sum(value is not None for value in values)
        assert math.isnan(row.mean) == (row.seeds == 0) and math.isnan(row.low) == (row.seeds < 2)
        assert row.variant == "v0" or math.isnan(row.p) == (row.pairs == 0)
    assert table["best"].sum() == 1 and not table["apart"][table["best"]].any()
