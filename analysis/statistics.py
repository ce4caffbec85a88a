"""Statistics of few seeds: intervals of means, tests and effect sizes of differences that are paired by seed.

The bootstrap is scipy's, and so is the permutation test of more pairs than can be tried every way. scipy.stats takes two
to four seconds to import, four times as long as scipy.special, which is all that Student's interval needs: so each is
imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05  # what p is held against; intervals are of 1 - LEVEL
LOWER_IS_BETTER = frozenset({"image_forwards", "seconds", "last_test_loss"})
BOOTSTRAP_FROM = 8  # values; of fewer a bootstrap interval of the interquartile mean covers 95 % too seldom
RESAMPLES = 9999
MOST_IMAGES = 200_000  # of a test set whose size is told from accuracies
DECIMALS = 9  # of means and ends of intervals that are compared: what differs beyond them is a rounding error
FLIPS = 2**14  # ways to set the signs of 14 differences: up to there the permutation test tries every way


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean of the middle half of the values (n >= 1): a quarter of their weight is taken from either end.

    Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*, NeurIPS 2021 (rliable). A value on the edge
    counts with the part of it that lies within, so 3 values are trimmed as well (rliable cuts whole values, and
    agrees where n is a multiple of 4).
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, np.float64), axis, -1), axis=-1)
    edges = np.linspace(0, 1, ordered.shape[-1] + 1).clip(0.25, 0.75)
    return ordered @ (2 * np.diff(edges))


STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "iqm": interquartile_mean}


def t_interval(values: ArrayLike, confidence: float = 1 - LEVEL) -> tuple[float, float]:
    """Student's interval of the mean; NaN of fewer than 2 values.

    The interval of the tables at any number of seeds. In 2,000 simulations of normal values (and of log-normal ones,
    sigma 0.5) it covered the mean in 94 % (93 %) of 3 values, 95 % (91 %) of 5, 95 % (91 %) of 8, 95 % (93 %) of 20.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) < 2:
        return math.nan, math.nan
    from scipy.special import stdtrit

    half = float(stdtrit(len(numbers) - 1, (1 + confidence) / 2) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return float(numbers.mean()) - half, float(numbers.mean()) + half


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval in percent of an accuracy in percent on that many test images: the error of the test
    images alone, as if the model were fixed (Wilson, J. Amer. Statist. Assoc. 1927).
    """
    share = accuracy / 100
    z = 1.959964
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return 100 * (centre - half), 100 * (centre + half)


def least_images(accuracies: ArrayLike) -> int | None:
    """The fewest test images that these accuracies (percent) can be of: the least common denominator of their shares, which
    few of them do not tell from a multiple of it. None of no accuracies, or of such as are no shares of images.
    """
    shares = np.asarray(accuracies, np.float64).ravel() / 100
    fractions = [Fraction(share).limit_denominator(MOST_IMAGES) for share in shares[np.isfinite(shares)].tolist()]
    if (
        not fractions or np.abs(np.array([*map(float, fractions)]) - shares[np.isfinite(shares)]).max() > 1e-13
    ):  # of any number such a fraction is within 1e-11
        return None
    images = math.lcm(*(fraction.denominator for fraction in fractions))
    return images if images <= MOST_IMAGES else None


def widest_interval(accuracies: ArrayLike, images: int | None = None) -> float:
    """How many points the widest of the intervals of these accuracies (percent) for their test images alone spans.

    images: how many there are, else `least_images`; 0 where that is not known.
    """
    found = images or least_images(accuracies)
    numbers = np.asarray(accuracies, np.float64).ravel()
    if not found:
        return 0.0
    return max(high - low for low, high in (accuracy_interval(one, found) for one in numbers[np.isfinite(numbers)]))


def bootstrap_interval(
    values: ArrayLike, statistic: Literal["mean", "iqm"] = "mean", confidence: float = 1 - LEVEL
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean or the interquartile mean; NaN of fewer than 2 values.

    The same values give the same interval; equal values one of no width. In the simulations of `t_interval` it covered
    the mean in 75 % (71 %) of 3 values, 83 % (80 %) of 5, 89 % (85 %) of 8, 92 % (90 %) of 20, and the interquartile
    mean in 75 % (74 %), 90 % (91 %), 94 % (94 %), 94 % (94 %). The BCa bootstrap
    did no better.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) < 2:
        return math.nan, math.nan
    from scipy.stats import bootstrap

    found = bootstrap(
        (numbers,),
        STATISTICS[statistic],
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_permutation_test(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of the mean difference of pairs under flips of the differences' signs; NaN of no pairs.

    Exact up to 14 pairs, with 16,384 random flips beyond. n pairs give no p below 2 / 2**n (`smallest_p`).
    Raises ValueError where a and b are not of one length.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two lists of one length, pair by pair, got shapes {first.shape} and {second.shape}")
    differences = first - second
    scale = float(np.abs(differences).sum())
    if not len(differences):
        return math.nan
    if len(differences) == 1 or scale == 0:
        return 1.0

    def mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        # Sums that differ by rounding errors only are made equal. Pi keeps simple fractions off the edges of that
        # rounding: of 1/1024, say, the tenth decimal is the last and a 5, so that its float's last bit would decide.
        return np.round(values.sum(axis) / (math.pi * scale), 9)

    if 2 ** len(differences) <= FLIPS:
        sums = np.abs(mean(_signs(len(differences)) * differences, 1))
        return float((sums >= sums[0]).mean())
    from scipy.stats import permutation_test

    found = permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        n_resamples=FLIPS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


@lru_cache
def _signs(pairs: int) -> NDArray[np.float64]:
    """(2**(pairs-1), pairs): every way to set the signs but that of the first pair; the other half mirrors them."""
    return np.array([(1, *signs) for signs in product((1, -1), repeat=pairs - 1)], np.float64)


def smallest_p(pairs: int, comparisons: int = 1) -> float:
    """The smallest p that `paired_permutation_test` can give, times the number of comparisons (Holm); at most 1."""
    return min(1.0, comparisons * (2 / 2**pairs if 2**pairs <= FLIPS else 2 / (FLIPS + 1)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p adjusted for the number of comparisons: Holm, *A Simple Sequentially Rejective Multiple Test Procedure*,
    Scand. J. Statist. 1979. NaN stays NaN and is no comparison.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def effect_size(differences: ArrayLike) -> tuple[float, float]:
    """Of paired differences: Cohen's d_z, and the share of pairs won.

    d_z = mean / standard deviation (Cohen, *Statistical Power Analysis*, 1988); NaN of fewer than 2 or equal ones.
    Share won = share of positive ones, zeros counting half: the probability of superiority for pairs (Grissom and Kim,
    *Effect Sizes for Research*, 2012); NaN of none.
    """
    numbers = np.asarray(differences, np.float64)
    if not len(numbers):
        return math.nan, math.nan
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    equal = spread <= 1e-12 * float(np.abs(numbers).max())
    won = float(np.mean((np.sign(numbers) + 1) / 2))
    return math.nan if equal else float(numbers.mean()) / spread, won


def compare(
    trials: pd.DataFrame,
    measure: str = "last_accuracy",
    baseline: str | None = None,
    order: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row per variant, in `order` (else as they come), against the baseline (else the first of them).

    trials: one row per variant and seed, with columns variant, seed, the measure, and perhaps image_forwards, seconds,
    search_seconds, last_test_loss and device_name. A variant of `order` without trials has a row of NaN. The columns, in the
    measure's unit:

    measure, baseline, variant, seeds
    mean, low, high                                   with Student's 95 % interval
    bootstrap_low, bootstrap_high                     the mean's bootstrap interval, which is too narrow for few seeds
    iqm, iqm_low, iqm_high                            interquartile mean, its bootstrap interval from 8 seeds on
    pairs                                             seeds that the variant shares with the baseline
    difference, difference_low, difference_high       mean over the pairs, with Student's interval
    p, p_holm                                         permutation test against the baseline; Holm over the variants
    d, wins                                           effect size; share of pairs in which the variant is better
    best, p_best                                      whether its mean is the best; p of the others against it, Holm's
                                                      over all pairs of variants, for the data say which is the best
    apart                                             whether it can be told from the best: p_best < 0.05, or the two
                                                      intervals do not touch
    image_forwards, seconds                           means
    search_adds                                       mean of search_seconds over the other seconds, if any is above 0
    last_test_loss, last_test_loss_high               mean with the upper end of Student's interval, if any is known
    pairs_across                                      pairs of two device names, both known

    Raises ValueError where there are no trials, a column is missing or has no value at all, a variant has a seed twice,
    or the baseline or `order` does not fit the trials.
    """
    import pandas as pd

    by_seed = _by_seed(trials, measure, order)
    names = list(by_seed.columns)
    if baseline is None:
        baseline = names[0]
    elif baseline not in names:
        raise ValueError(f"there is no variant {baseline!r} to compare with (choose from {', '.join(names)})")
    sign = -1 if measure in LOWER_IS_BETTER else 1
    rows = [
        {
            "measure": measure,
            "baseline": baseline,
            "variant": name,
            **_about(by_seed[name].dropna().to_numpy()),
            **_against(by_seed, name, baseline, sign),
        }
        for name in names
    ]
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("d"), "p_holm", holm(table["p"]))
    _add_best(table, by_seed, sign)
    _add_costs(table, trials, names)
    if "device_name" in trials:
        table["pairs_across"] = _pairs_across(trials, names, baseline)
    return table


def _add_costs(table: pd.DataFrame, trials: pd.DataFrame, names: Sequence[str]) -> None:
    """Add what trials took and their test losses, means by variant, as columns where they are known."""
    if {"seconds", "search_seconds"} <= set(trials) and (trials["search_seconds"] > 0).any():
        trials = trials.assign(search_adds=search_adds(trials))
    for cost in ("image_forwards", "seconds", "search_adds"):
        if cost in trials:
            table[cost] = [trials[trials["variant"] == name][cost].mean() for name in names]
    if "last_test_loss" in trials and trials["last_test_loss"].notna().any():
        losses = [trials[trials["variant"] == name]["last_test_loss"].dropna() for name in names]
        table["last_test_loss"] = [found.mean() for found in losses]
        table["last_test_loss_high"] = [t_interval(found)[1] for found in losses]


def _pairs_across(trials: pd.DataFrame, names: Sequence[str], baseline: str) -> list[int]:
    """How many seeds of each variant have another device name than those of the baseline; unknown ones do not count."""
    known = trials[trials["device_name"] != ""]
    devices = known.pivot(index="seed", columns="variant", values="device_name").reindex(columns=[*names])
    both = devices.notna().mul(devices[baseline].notna(), axis=0)
    return list((devices.ne(devices[baseline], axis=0) & both).sum())


def search_adds(trials: pd.DataFrame) -> pd.Series:
    """Of each trial the time of its search (or selection) over that of the rest of its training, both of the same run.

    A machine that is faster or slower for a while changes both, so that it can be compared between runs that are hours
    apart, unlike seconds. NaN where no time is known.
    """
    rest = trials["seconds"] - trials["search_seconds"]
    return trials["search_seconds"] / rest.where(rest > 0)


def _by_seed(trials: pd.DataFrame, measure: str, order: Sequence[str] | None) -> pd.DataFrame:
    """The measure by seed (rows) and variant (columns)."""
    for column in ("variant", "seed", measure):
        if column not in trials:
            raise ValueError(f"the trials have no column {column!r}; expected variant, seed and the measure")
    if trials.empty:
        raise ValueError("there are no finished trials to compare")
    if trials[measure].isna().all():
        raise ValueError(f"no trial tells its {measure}")
    twice = trials[trials.duplicated(["variant", "seed"])]
    if len(twice):
        raise ValueError(f"variant {twice['variant'].iloc[0]!r} has seed {twice['seed'].iloc[0]} twice")
    found = list(dict.fromkeys(trials["variant"]))
    names = list(dict.fromkeys(order or found))
    if unordered := [name for name in found if name not in names]:
        raise ValueError(f"the order lacks the variants {', '.join(unordered)}")
    return trials.pivot(index="seed", columns="variant", values=measure).reindex(columns=names)


def _about(values: NDArray[np.float64]) -> dict[str, Any]:
    """One variant's columns from its values over seeds."""
    low, high = t_interval(values)
    bootstrap_low, bootstrap_high = bootstrap_interval(values)
    iqm_low, iqm_high = bootstrap_interval(values, "iqm") if len(values) >= BOOTSTRAP_FROM else (math.nan, math.nan)
    return {
        "seeds": len(values),
        "mean": float(values.mean()) if len(values) else math.nan,
        "low": low,
        "high": high,
        "bootstrap_low": bootstrap_low,
        "bootstrap_high": bootstrap_high,
        "iqm": float(interquartile_mean(values)) if len(values) else math.nan,
        "iqm_low": iqm_low,
        "iqm_high": iqm_high,
    }


def _against(by_seed: pd.DataFrame, name: str, baseline: str, sign: int) -> dict[str, Any]:
    """One variant's columns against the baseline; NaN for the baseline itself."""
    if name == baseline:
        nothing = ("difference", "difference_low", "difference_high", "p", "d", "wins")
        return {"pairs": int(by_seed[name].count()), **dict.fromkeys(nothing, math.nan)}
    differences = (by_seed[name] - by_seed[baseline]).dropna().to_numpy()
    low, high = t_interval(differences)
    d, wins = effect_size(sign * differences)
    return {
        "pairs": len(differences),
        "difference": float(differences.mean()) if len(differences) else math.nan,
        "difference_low": low,
        "difference_high": high,
        "p": paired_permutation_test(differences, np.zeros(len(differences))),
        "d": sign * d,
        "wins": wins,
    }


def _add_best(table: pd.DataFrame, by_seed: pd.DataFrame, sign: int) -> None:
    """Add best, p_best and apart. Where no mean is known nothing is best."""
    known = (sign * table["mean"]).dropna().round(DECIMALS)
    best = known.idxmax() if len(known) else -1
    table["best"] = table.index == best
    columns = {row: by_seed[table["variant"][row]].to_numpy() for row in known.index}
    pairs = list(combinations(columns, 2))
    tested = holm([_p_of_shared(columns[row], columns[other]) for row, other in pairs])
    p = np.full(len(table), np.nan)
    for pair, adjusted in zip(pairs, tested, strict=True):
        if best in pair:
            p[sum(pair) - best] = adjusted
    table["p_best"] = p
    if best >= 0:
        low, high = table["low"].round(DECIMALS), table["high"].round(DECIMALS)
        clear = (low > high[best]) | (high < low[best])
        table["apart"] = (table["p_best"] < LEVEL) | clear
    else:
        table["apart"] = False


def _p_of_shared(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The permutation test of two variants over the seeds that both have."""
    shared = ~np.isnan(a) & ~np.isnan(b)
    return paired_permutation_test(a[shared], b[shared])
