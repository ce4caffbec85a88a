"""Trials of variants over seeds: reading them, and their comparison as text, CSV, Markdown, LaTeX, HTML and a figure."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from analysis.cost import write_cost
from analysis.files import replace_text
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, RunFolderError
from analysis.statistics import BOOTSTRAP_FROM, DECIMALS, LEVEL, LOWER_IS_BETTER, compare, smallest_p, widest_interval
from analysis.style import GREY, LEAST_POINTS, colour, ink, new_figure, save, tidy, widen

if TYPE_CHECKING:
    import pandas as pd

MEASURES = {  # measure: heading, and how its numbers are written
    "last_accuracy": ("accuracy, %", ".2f"),
    "median10_accuracy": ("median accuracy of the last ten tests, %", ".2f"),
    "image_forwards": ("image forwards", ",.0f"),
    "seconds": ("seconds", ",.0f"),
    "last_test_loss": ("test loss, nats", ".3f"),
    "search_seconds": ("seconds of search", ",.0f"),
}
MISSING = frozenset({"last_test_loss", "search_seconds", "device_name"})  # what older results lack: an empty cell
PER_SEED = ("variant", "seed", *MEASURES, "device_name")
SEARCH_ADDS = "search adds"
MEANINGS = {  # by heading
    MEASURES["last_accuracy"][0]: "Accuracy is of the test images at the last epoch. ",
    MEASURES["seconds"][0]: "Seconds are training with search, without tests. ",
    MEASURES["last_test_loss"][0]: "The test loss is the mean cross-entropy at the last epoch. ",
    SEARCH_ADDS: "What search adds is its time over the rest of the same run's, which other work on a machine hardly "
    "changes. ",
}
LARGEST_FILE = 10_000_000  # bytes of a per_seed.csv
LONGEST_NAME = 200  # characters of a variant, or of a device
INTERQUARTILE_FROM = 4  # seeds; of fewer the interquartile mean says little that the mean does not
TESTED_FROM = 3  # pairs; of fewer p and effect size say nothing


# Trials


def per_seed(trials: Sequence[tuple[str, int, RunFolder]]) -> pd.DataFrame:
    """One row per finished trial (variant, seed, run): the columns of PER_SEED. Accuracies are percent.

    Raises RunFolderError for a run without tests, such as a search.
    """
    results = []
    for variant, seed, run in trials:
        if run.result is None:
            continue
        if missing := [measure for measure in MEASURES if measure not in run.result and measure not in MISSING]:
            raise RunFolderError(
                f"run {run.name} has no {missing[0]}: expected a run of ./run train or ./run ablate, not a search"
            )
        results.append((variant, seed, {**run.result, "device_name": run.environment.get("device_name")}))
    return per_seed_of(results)


def per_seed_of(results: Sequence[tuple[str, int, Mapping[str, Any]]]) -> pd.DataFrame:
    """The same of (variant, seed, the `end` event of its log with the device_name of its environment)."""
    import pandas as pd

    rows = [
        (variant, seed, *(result.get(measure, math.nan) for measure in MEASURES), result.get("device_name") or "")
        for variant, seed, result in results
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


def read_per_seed(path: Path) -> pd.DataFrame:
    """The columns of PER_SEED of a file that `write_tables` wrote; others are left out.

    Raises RunFolderError, in one line, for a file that is none.
    """
    import pandas as pd

    lines = _lines(path)
    seen: dict[tuple[str, int], int] = {}
    rows = []
    for number, cells in enumerate(lines, 2):
        variant = _name(path, number, "variant", cells["variant"])
        seed = int(_number(path, number, "seed", cells["seed"]))
        if (variant, seed) in seen:
            raise RunFolderError(
                f"{path}: rows {seen[variant, seed]} and {number} are both variant {variant}, seed {seed}; expected one"
            )
        seen[variant, seed] = number
        measured = [_measured_in(path, number, cells, measure) for measure in MEASURES]
        device = cells.get("device_name")
        rows.append((variant, seed, *measured, _name(path, number, "device_name", device) if device else ""))
    return pd.DataFrame(rows, columns=list(PER_SEED))


def _lines(path: Path) -> list[dict[str, str | None]]:
    """A CSV file's rows by column, which are those of PER_SEED at least, but for MISSING."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RunFolderError(f"{path} has more than {LARGEST_FILE:,} bytes; expected a row per variant and seed")
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        lines = list(reader)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path} is not a table of comma-separated values: {error}") from None
    wanted = [column for column in PER_SEED if column not in MISSING]
    if missing := [column for column in wanted if column not in (reader.fieldnames or ())]:
        raise RunFolderError(f"{path} has no column {missing[0]}; expected {', '.join(wanted)}")
    if not lines:
        raise RunFolderError(f"{path} has no rows; expected one per variant and seed")
    return lines


def _name(path: Path, row: int, column: str, text: str | None) -> str:
    if text is None or not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise RunFolderError(
            f"{path}: row {row}: {column}: expected 1 to {LONGEST_NAME} printable characters, got {text!r:.60}"
        )
    return text


def _measured_in(path: Path, row: int, cells: Mapping[str, str | None], measure: str) -> float:
    """A row's number of a measure; NaN where it may be missing and is."""
    text = cells.get(measure)
    return math.nan if measure in MISSING and not text else _number(path, row, measure, text)


def _number(path: Path, row: int, column: str, text: str | None) -> float:
    """A cell's number; whole ones are int, so that they are written again as they were read."""
    if text and re.fullmatch(r"-?[0-9]{1,15}", text):
        return int(text)
    try:
        value = float(text) if text and column != "seed" and re.fullmatch(r"[-+.0-9eE]+", text) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "a whole number" if column == "seed" else "a number"
        raise RunFolderError(f"{path}: row {row}: {column}: expected {kind}, got {text!r:.60}")
    return value


# The table


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


def _cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    columns = _columns(table)
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


# Its forms


def as_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal."""
    head, rows = _cells(table)
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *rows]
    ]
    return "\n".join([*lines, "", *notes(table)])


def as_markdown(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table. The best mean is bold where every other can be told from it."""
    head, rows = _cells(table)
    lines = [_markdown_line(head), _markdown_rule(len(head))]
    for cells, bold in zip(rows, bold_rows(table), strict=True):
        shown = [_markdown(cell) for cell in cells]
        shown[2] = f"**{shown[2]}**" if bold else shown[2]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"{_markdown(note)}  " for note in notes(table))]).rstrip() + "\n"


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(map(_markdown, cells))} |"


def _markdown_rule(columns: int) -> str:
    return "| --- |" + " ---: |" * (columns - 1)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_~\[\]|<>])", r"\\\1", text)


def as_latex(table: pd.DataFrame) -> str:
    """The comparison as a LaTeX tabular of the package booktabs; bold as in Markdown."""
    head, rows = _cells(table)
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\toprule"]
    lines += [" & ".join(map(_latex, head)) + r" \\", r"\midrule"]
    for cells, bold in zip(rows, bold_rows(table), strict=True):
        shown = [_latex(cells[0]), *(_latex_number(cell) for cell in cells[1:])]
        shown[2] = f"\\textbf{{{shown[2]}}}" if bold else shown[2]
        lines.append(" & ".join(shown) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip"]
    lines += [f"{{\\footnotesize {_latex(note)}\\par}}" for note in notes(table)]
    return "\n".join(lines) + "\n"


LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "±": r"$\pm$",
        "[": "{[}",  # after the \\ of the line above [ and * would be its arguments
        "*": "{*}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def _latex(text: str) -> str:
    return text.translate(LATEX)


def _latex_number(text: str) -> str:
    return "--" if text == "-" else re.sub(r"(?<!\d)-(?=\d)", "$-$", _latex(text))


def as_html(table: pd.DataFrame) -> str:
    """The comparison as an HTML table with its notes, everything escaped; bold as in Markdown."""
    head, rows = _cells(table)
    lines = ["<table class='comparison'>", "<thead><tr>"]
    lines += [f"<th scope='col'>{escape(cell)}</th>" for cell in head]
    lines += ["</tr></thead>", "<tbody>"]
    for cells, bold in zip(rows, bold_rows(table), strict=True):
        shown = [escape(cell) for cell in cells]
        shown[2] = f"<strong>{shown[2]}</strong>" if bold else shown[2]
        numbers = "".join(f"<td class='number'>{cell}</td>" for cell in shown[1:])
        lines.append(f"<tr><th scope='row'>{shown[0]}</th>{numbers}</tr>")
    lines += ["</tbody>", "</table>", *(f"<p class='soft'>{escape(note)}</p>" for note in notes(table))]
    return "\n".join(lines)


def write_tables(
    trials: pd.DataFrame,
    folder: Path,
    order: Sequence[str] | None = None,
    *,
    measure: str = "last_accuracy",
    baseline: str | None = None,
    steps_alike: bool = False,
) -> pd.DataFrame:
    """Write per_seed.csv, table.csv, table.md, table.tex, figure.png and figure.svg into `folder`, of 3 variants and
    more cost.png and cost.svg too; return `compare`'s table. Raises its ValueError before anything is written.

    steps_alike: the variants differ in nothing that costs time but their mixes, see `analysis.cost.spent_by`.
    """
    table = compare(trials, measure, baseline, order)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "per_seed.csv", trials.to_csv(index=False))
    replace_text(folder / "table.csv", table.round(10).round(6).to_csv(index=False))
    replace_text(folder / "table.md", as_markdown(table))
    replace_text(folder / "table.tex", as_latex(table))
    draw_comparison(trials, table, folder / "figure.png")
    draw_comparison(trials, table, folder / "figure.svg")
    write_cost(trials, folder, list(table["variant"]), steps_alike=steps_alike)
    return table


# The figure


def draw_comparison(trials: pd.DataFrame, table: pd.DataFrame, path: Path) -> Path:
    """Every seed as a dot, means with 95 % intervals below; beside it the differences that are paired by seed.

    Variants without a finished trial have no row: the table names them.
    """
    table = table[(table["seeds"] > 0) | (table["variant"] == table["baseline"])]
    measure, baseline = table["measure"].iloc[0], table["baseline"].iloc[0]
    by_seed = trials.pivot(index="seed", columns="variant", values=measure).reindex(columns=list(table["variant"]))
    labels = [_folded(name) for name in table["variant"]]
    heights = [max(0.38, 0.17 * (label.count("\n") + 1)) for label in labels]  # inches, as the vertical axis has it
    places = [sum(heights[:row]) + heights[row] / 2 for row in range(len(labels))]
    figure = new_figure(9, 1 + sum(heights))
    panels = figure.subplots(1, 2 if len(labels) > 1 else 1, sharey=True, squeeze=False)[0]
    for place, row in zip(places, table.itertuples(), strict=True):
        _draw_row(panels[0], place, by_seed[row.variant], row.mean, row.high)
    panels[0].set_yticks(places, labels)
    panels[0].set_ylim(sum(heights), 0)
    _finish(panels[0], MEASURES.get(measure, (measure, ""))[0], "Seeds; mean with 95 % interval")
    for axes in panels[1:]:
        axes.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=1)
        for place, row in zip(places, table.itertuples(), strict=True):
            if row.variant == baseline:
                axes.text(0.99, place, "baseline", transform=axes.get_yaxis_transform(), **NOTE)
                continue
            differences = by_seed[row.variant] - by_seed[baseline]
            _draw_row(axes, place, differences, row.difference, row.difference_high)
        _finish(axes, f"difference to {_folded(baseline)}", "Differences paired by seed")
    if "accuracy" in measure:
        least = max(LEAST_POINTS, widest_interval(trials[measure]))
        widen(panels[0].xaxis, least)
        for axes in panels[1:]:
            widen(axes.xaxis, least, within=(-100, 100))
    return save(figure, path, metadata={"Date": None} if path.suffix == ".svg" else None)


NOTE: dict[str, Any] = {"color": GREY, "fontsize": 9, "ha": "right", "va": "center"}


def _draw_row(axes: Axes, place: float, values: pd.Series, mean: float, high: float) -> None:
    axes.scatter(
        values, [place - 0.06] * len(values), facecolors=to_rgba(colour(0), 0.4), edgecolors=colour(0), s=22,
        linewidths=0.8, zorder=3,
    )  # fmt: skip
    if not math.isnan(high):
        axes.errorbar(mean, place + 0.06, xerr=high - mean, fmt="D", color=ink(), markersize=4, capsize=3, zorder=4)


def _finish(axes: Axes, xlabel: str, title: str) -> None:
    tidy(axes, xlabel=xlabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", length=0)


def _folded(name: str) -> str:
    """A name in lines of at most 30 characters, so that none is cut; $ begins no formula."""
    lines = [""]
    for part in re.findall(r".{1,29}?(?:[,=._+/ -]|$)|.{1,30}", name):
        if len(lines[-1] + part) > 30:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines).strip("\n").replace("$", r"\$")
