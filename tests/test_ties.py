"""Equal means are not the highest: the notes of tables name all that share it, whatever the order of a sum."""

import numpy as np
import pandas as pd
import pytest

from analysis.comparison import bold_rows, notes
from analysis.comparison_forms import as_html, as_latex, as_markdown, as_text
from analysis.per_seed import PER_SEED
from analysis.statistics import accuracy_interval, compare, least_images, widest_interval


def trials(**variants):
    """variant -> accuracies of seeds 0, 1, ..."""
    rows = [
        (name, seed, value, value, 100, 10.0, 2 - value / 100, 0.0, "")
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


def note(table):
    return notes(table)[-1]


def test_two_equal_means_share_the_highest():
    table = compare(trials(a=[97.5, 98.5], b=[98.5, 97.5], c=[90.0, 90.2]))
    assert note(table).startswith("a and b share the highest mean, 98.00; every other can be told from them at 95 %.")
    for form in (as_text, as_markdown, as_html, as_latex):
        assert "share the highest mean" in form(table) and "is the highest mean" not in form(table)
    assert not any(bold_rows(table))


def test_three_equal_means_are_listed_and_rivals_are_not_among_them():
    table = compare(trials(a=[97.0, 99.0], b=[98.0, 98.0], c=[99.0, 97.0], d=[97.0, 98.0]))
    assert note(table).startswith("a, b and c share the highest mean, 98.00; d cannot be told from them at 95 %.")


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_where_all_are_equal_none_is_the_highest(seeds):
    table = compare(trials(a=[98.0] * seeds, b=[98.0] * seeds, c=[98.0] * seeds))
    assert note(table) == "All 3 variants have the same mean, 98.00." and not any(bold_rows(table))


def test_of_losses_the_lowest_is_shared_as_well():
    table = compare(trials(a=[90.0, 92.0], b=[92.0, 90.0], c=[80.0, 81.0]), "last_test_loss")
    assert note(table).startswith("a and b share the lowest mean, 1.090;")


def test_what_differs_by_the_rounding_of_a_sum_is_equal():
    """0.1 + 0.2 + 0.3 depends on its order."""
    tenths = [60.1, 60.2, 60.3, 62.7, 61.9]
    table = compare(trials(a=tenths, b=tenths[::-1], c=[*tenths[2:], *tenths[:2]]))
    assert note(table).startswith("All 3 variants have the same mean, 61.04")
    nearly = compare(trials(a=tenths, b=[value + 1e-12 for value in tenths], c=[50.0] * 5))
    assert note(nearly).startswith("a and b share") and nearly["best"].tolist() == [True, False, False]


def test_what_the_table_shows_as_equal_is_not_called_higher():
    table = compare(trials(a=[98.001, 98.002], b=[98.0, 98.001], c=[95.0, 95.0]))
    assert note(table).startswith("a and b share the highest mean, 98.00;")


def test_a_mean_that_is_alone_stays_the_highest():
    assert note(compare(trials(a=[98.0, 98.1], b=[90.0, 90.1]))).startswith("a 98.05 is the highest mean; ")


# How many images accuracies are of


def test_the_number_of_test_images_is_told_from_accuracies():
    assert least_images([100 * 350 / 360, 100 * 351 / 360]) == 360
    assert least_images([100 * 8123 / 9714, 100 * 8120 / 9714]) == 9714
    assert least_images([97.5]) == 40  # or any multiple of it
    assert least_images([]) is None and least_images([np.nan]) is None
    assert least_images([100 / np.pi]) is None


def test_the_widest_interval_is_that_of_the_accuracy_nearest_to_a_half():
    low, high = accuracy_interval(50.0, 360)
    assert widest_interval([50.0, 97.5], 360) == pytest.approx(high - low)
    assert widest_interval([100 / np.pi]) == 0
