"""Numbers in tables are the same on every machine, in whatever order it sums."""

import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import per_seed
from analysis.comparison_forms import as_markdown
from analysis.rounding import decimal_text
from analysis.statistics import compare, paired_permutation_test
from runs.results_page import run_results

hundredths = st.lists(st.integers(0, 10_000), min_size=1, max_size=24)


@given(hundredths, st.randoms(use_true_random=False))
def test_a_mean_of_accuracies_is_rounded_as_the_fraction_it_is(counts, random):
    exact = Fraction(sum(counts), 100 * len(counts))
    told = str((Decimal(exact.numerator) / exact.denominator).quantize(Decimal("0.01"), ROUND_HALF_UP))
    accuracies = [count / 100 for count in counts]
    shuffled = random.sample(accuracies, len(accuracies))
    sums = [np.sum(accuracies), math.fsum(accuracies), reduce(add, shuffled), reduce(add, reversed(shuffled))]
    for total in sums:
        assert decimal_text(total / len(counts), ".2f") == told
        assert decimal_text(np.nextafter(total / len(counts), 0), ".2f") == told


@pytest.mark.parametrize(
    ("value", "form", "told"),
    [
        (62.675, ".2f", "62.68"),  # as a float a little below
        (np.nextafter(62.675, 0), ".2f", "62.68"),
        (-0.945, "+.2f", "-0.95"),
        (1.4e-14, "+.2f", "+0.00"),
        (-1.4e-14, "+.2f", "+0.00"),  # no zero with a sign of its own
        (0.345, "+.0%", "+35%"),
        (150_000.5, ",.0f", "150,001"),
        (4.5, "g", "4.5"),
        (10.0, "g", "10"),
        (0.015625, ".2g", "0.016"),
        (1e24, ".2e", "1.00e+24"),
        (math.inf, ".2f", "inf"),
        (math.nan, ".2f", "nan"),
    ],
)
def test_ties_go_away_from_zero_in_every_form(value, form, told):
    assert decimal_text(value, form) == told


@pytest.mark.parametrize("towards", [0, math.inf])
def test_pages_of_results_are_current_whatever_the_last_bits_are(towards, monkeypatch, capsys):
    def moved(path):
        trials = read(path)
        return trials.assign(**{name: np.nextafter(trials[name], towards) for name in per_seed.MEASURES})

    read = per_seed.read_per_seed
    monkeypatch.setattr(per_seed, "read_per_seed", moved)
    assert run_results(check=True) == 0, capsys.readouterr().out


@settings(max_examples=30)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=11), st.randoms(use_true_random=False))
def test_p_does_not_depend_on_the_last_bits_of_differences(units, random):
    """In steps of 1/1024 sums have ten decimals, the last of them a 5."""
    differences = np.array(units) / 1024
    noisy = differences * [1 + random.choice((-2, 0, 2)) * 1e-16 for _ in units]
    order = random.sample(range(len(units)), len(units))
    none = np.zeros(len(units))
    assert paired_permutation_test(differences, none) == paired_permutation_test(noisy[order], none)


@pytest.mark.parametrize("raised", ["first", "second"])
def test_of_two_equal_means_the_last_bit_makes_none_the_better(raised):
    accuracies = pd.DataFrame({"first": [61.1, 61.2, 61.6], "second": [61.6, 61.1, 61.2]})
    accuracies[raised] = np.nextafter(accuracies[raised], math.inf)
    trials = accuracies.rename_axis("seed").reset_index().melt("seed", var_name="variant", value_name="last_accuracy")
    table = compare(trials)
    assert list(table["best"]) == [True, False]
    assert as_markdown(table) == as_markdown(compare(trials.round({"last_accuracy": 6})))
