"""What a comparison of variants shows: the cells of its table, and the notes that a reader needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.per_seed import MEASURES
from analysis.rounding import decimal_text
from analysis.statistics import BOOTSTRAP_FROM, DECIMALS, LEVEL, LOWER_IS_BETTER, smallest_p

if TYPE_CHECKING:
    import pandas as pd

SEARCH_ADDS = "search adds"
MEANINGS = {  # by heading
    MEASURES["last_accuracy"][0]: "Accuracy is of the test images at the last epoch. ",
    MEASURES["seconds"][0]: "Seconds are training with search, without tests. ",
    MEASURES["last_test_loss"][0]: "The test loss is the mean cross-entropy at the last epoch. ",
    SEARCH_ADDS: "What search adds is its time over the rest of the same run's, which other work on a machine hardly "
    "changes. ",
}
INTERQUARTILE_FROM = 4  # seeds; of fewer the interquartile mean says little that the mean does not
TESTED_FROM = 3  # pairs; of fewer p and effect size say nothing


class Column(NamedTuple):
    head: str
    cell: Callable[[Any], str]


def _columns(table: pd.DataFrame) -> list[Column]:
    """What is shown of a comparison, from left to right."""
    measure, baseline = table["measure"].iloc[0], table["baseline"].iloc[0]
    heading, form = MEASURES.get(measure, (measure, ".4g"))
    columns = [
        Column("variant", lambda row: str(row.variant)),
        Column("seeds", lambda row: str(row.seeds)),
        Column(heading, lambda row: _plus_minus(row.mean, row.high, form)),
    ]
    if table["seeds"].max() >= INTERQUARTILE_FROM:
        columns.append(Column("interquartile mean", lambda row: _from_to(row.iqm, row.iqm_low, row.iqm_high, form)))
    if len(table) > 1:
        columns.append(
            Column(
                f"difference to {baseline}", lambda row: _plus_minus(row.difference, row.difference_high, f"+{form}")
            )
        )
        if _most_pairs(table) >= TESTED_FROM:
            columns.append(Column("p (Holm)", lambda row: _p(row.p_holm)))
            columns.append(Column("effect size", lambda row: _shown(row.d, "+.2f")))
        columns.append(Column("pairs won", _pairs_won))
    if measure != "last_test_loss" and "last_test_loss" in table:
        head, digits = MEASURES["last_test_loss"]
        columns.append(Column(head, lambda row: _plus_minus(row.last_test_loss, row.last_test_loss_high, digits)))
    if measure != "image_forwards" and "image_forwards" in table:
        columns.append(Column("image forwards", lambda row: _shown(row.image_forwards, ",.0f")))
    if measure != "seconds" and "seconds" in table:
        columns.append(Column("seconds", lambda row: _shown(row.seconds, ",.0f")))
    if "search_adds" in table:
        columns.append(Column(SEARCH_ADDS, lambda row: _shown(row.search_adds, "+.0%").replace("%", " %")))
    return columns


def cells_of(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of what is shown, as texts."""
    columns = _columns(table)
    return [column.head for column in columns], [[column.cell(row) for column in columns] for row in table.itertuples()]


def summary_cells_of(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the same for a first page: five columns at most."""
    measure, baseline = table["measure"].iloc[0], table["baseline"].iloc[0]
    heading, form = MEASURES[measure]
    columns = [
        Column("training", lambda row: str(row.variant)),
        Column(heading, lambda row: _plus_minus(row.mean, row.high, form)),
        Column(f"over {baseline}", lambda row: _plus_minus(row.difference, row.difference_high, f"+{form}")),
    ]
    if measure != "last_test_loss" and "last_test_loss" in table:
        columns.append(Column("test loss, nats", lambda row: _shown(row.last_test_loss, ".3f")))
    if "search_adds" in table and table["search_adds"].max() > 0:
        columns.append(Column("time for searching", lambda row: _shown(row.search_adds, "+.0%").replace("%", " %")))
    return [column.head for column in columns], [[column.cell(row) for column in columns] for row in table.itertuples()]


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else decimal_text(value, form)


def _plus_minus(value: float, high: float, form: str) -> str:
    return _shown(value, form) + ("" if math.isnan(high) else f" ± {decimal_text(high - value, form.lstrip('+'))}")


def _from_to(value: float, low: float, high: float, form: str) -> str:
    return _shown(value, form) + (
        "" if math.isnan(high) else f" ({decimal_text(low, form)} to {decimal_text(high, form)})"
    )


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else _shown(value, ".3f")


def _pairs_won(row: Any) -> str:
    return "-" if math.isnan(row.wins) else f"{decimal_text(row.wins * row.pairs, 'g')} of {row.pairs}"


def _most_pairs(table: pd.DataFrame) -> int:
    """Pairs of the comparison that has the most; 0 where there is none."""
    compared = table[table["p"].notna()]
    return int(compared["pairs"].max()) if len(compared) else 0


def bold_rows(table: pd.DataFrame) -> list[bool]:
    """By row: whether its mean is the best and can be told from every other (`apart`)."""
    others = table[~table["best"]]
    sole = len(others) > 0 and bool((others["apart"] | (others["seeds"] == 0)).all()) and bool(others["apart"].any())
    return [bool(best) and sole for best in table["best"]]


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader of the table has to know, a sentence or more each."""
    heads = [column.head for column in _columns(table)]
    about = (_measured(table, heads), _seed_note(table), _device_note(table), _test_note(table), _best_note(table))
    return [note for note in about if note]


def _measured(table: pd.DataFrame, heads: list[str]) -> str:
    text = "Means over seeds" + (" ± half their 95 % interval by Student's t" if table["seeds"].max() > 1 else "")
    text += "; differences are paired by seed. " if len(table) > 1 else ". "
    if "interquartile mean" in heads:
        text += f"Interquartile means have bootstrap intervals from {BOOTSTRAP_FROM} seeds on. "
    return (text + "".join(meaning for head, meaning in MEANINGS.items() if head in heads)).strip()


def _seed_note(table: pd.DataFrame) -> str:
    none, one = (", ".join(table["variant"][table["seeds"] == count]) for count in (0, 1))
    parts = []
    if one:
        parts.append(
            "One seed each: no interval, and no variant can be called better."
            if table["seeds"].max() == 1
            else f"One seed only, so no interval: {one}."
        )
    if none:
        parts.append(f"No finished trial: {none}.")
    return " ".join(parts)


def _device_note(table: pd.DataFrame) -> str:
    """Which pairs ran on two kinds of device: their rounding differs, and so does what training makes of it."""
    across = table[table["pairs_across"] > 0] if "pairs_across" in table else table[:0]
    if across.empty:
        return ""
    counts = zip(across["variant"], across["pairs_across"], across["pairs"], strict=True)
    listed = ", ".join(f"{variant} ({count} of {pairs} pairs)" for variant, count, pairs in counts)
    return f"Not on the device that {table['baseline'].iloc[0]} with the same seed ran on: {listed}."


def _test_note(table: pd.DataFrame) -> str:
    """What the permutation test can tell with so few pairs."""
    pairs = _most_pairs(table)
    comparisons = int(table["p"].notna().sum())
    if pairs < 2:
        return ""
    text = (
        "p is of the paired permutation test, with Holm's correction; the effect size is Cohen's d of paired "
        "differences. "
        if pairs >= TESTED_FROM
        else ""
    )
    smallest = smallest_p(pairs, comparisons)
    if smallest >= LEVEL:
        needed = next((n for n in range(pairs, 99) if smallest_p(n, comparisons) < LEVEL), None)
        text += (
            f"No p < {LEVEL} is possible: with {pairs} pairs of seeds and {comparisons} comparison"
            f"{'s' if comparisons > 1 else ''} the smallest p of the exact permutation test is {decimal_text(smallest, '.2g')}"
            + (f"; it takes {needed} pairs." if needed else ".")
        )
    return text.strip()


def _best_note(table: pd.DataFrame) -> str:
    """Which mean is the best, and which cannot be told from it."""
    known = table[table["seeds"] > 0]
    if len(known) < 2:
        return ""
    best = known[known["best"]].iloc[0]
    _, form = MEASURES.get(best["measure"], ("", ".4g"))
    extreme = "lowest" if best["measure"] in LOWER_IS_BETTER else "highest"
    equal = _equal_to_best(known, form)
    rivals = list(known["variant"][~equal & ~known["apart"]])
    others = len(known) - int(equal.sum())
    it = "it" if equal.sum() == 1 else "them"
    if not others:
        return f"All {len(known)} variants have the same mean, {decimal_text(best['mean'], form)}."
    if not rivals:
        rest = f"every other can be told from {it} at 95 %{_told_how(known) if it == 'it' else ''}."
    elif len(rivals) > 3 and len(rivals) == others:
        rest = f"no other can be told from {it} at 95 %."
    else:
        rest = f"{', '.join(rivals)} cannot be told from {it} at 95 %."
    mean = decimal_text(best["mean"], form)
    if it == "it":
        found = f"{best['variant']} {mean} is the {extreme} mean"
    else:
        found = (
            f"{' and '.join([', '.join(known['variant'][equal][:-1]), known['variant'][equal].iloc[-1]])} share the "
        )
        found += f"{extreme} mean, {mean}"
    return f"{found}; {rest}{_seeds_needed(known, rivals)}"


def _equal_to_best(known: pd.DataFrame, form: str) -> pd.Series:
    """Which means are the best one's, but for the rounding of a sum, or as the table shows them."""
    best = known[known["best"]].iloc[0]["mean"]
    alike = known["mean"].round(DECIMALS) == round(best, DECIMALS)
    return alike | (known["mean"].map(lambda mean: decimal_text(mean, form)) == decimal_text(best, form))


def _told_how(known: pd.DataFrame) -> str:
    """What the reader may miss: a test where intervals overlap, intervals where no test tells."""
    best = known[known["best"]].iloc[0]
    others = known[~known["best"]]
    tested = others["p_best"] < LEVEL
    overlap = (others["low"] <= best["high"]) & (others["high"] >= best["low"])
    if tested.all():
        return " (by the paired test; their intervals overlap)" if overlap.any() else ""
    if not overlap.any():
        return " (intervals that do not touch)"
    by_test = ", ".join(others["variant"][overlap])
    return f" ({by_test} by the paired test, intervals overlap; else intervals that do not touch)"


def _seeds_needed(known: pd.DataFrame, rivals: list[str]) -> str:
    """Where so few seeds let the paired test tell nothing from the best: how many it takes."""
    seeds = int(known["seeds"].max())
    tests = len(known) * (len(known) - 1) // 2
    if not rivals or tests == 1 or seeds < 2 or smallest_p(seeds, tests) < LEVEL:
        return ""
    needed = next((n for n in range(seeds, 99) if smallest_p(n, tests) < LEVEL), None)
    return (
        f" The paired test, which has to compare all {tests} pairs of variants for that, takes {needed} seeds."
        if needed
        else ""
    )
