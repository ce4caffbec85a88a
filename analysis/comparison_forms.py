"""A comparison as text, Markdown, LaTeX and HTML, and the files that are written of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.comparison import bold_rows, cells_of, notes, summary_cells_of
from analysis.comparison_figure import draw_comparison
from analysis.cost_figure import write_cost
from analysis.files import replace_text
from analysis.statistics import compare

if TYPE_CHECKING:
    import pandas as pd


def as_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal."""
    head, rows = cells_of(table)
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *rows]
    ]
    return "\n".join([*lines, "", *notes(table)])


def with_titles(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """A comparison whose variants are called by their titles, where they have one."""
    return table.assign(**{name: table[name].replace(dict(titles)) for name in ("variant", "baseline")})


def as_markdown(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table. The best mean is bold where every other can be told from it."""
    head, rows = cells_of(table)
    lines = [_markdown_line(head), _markdown_rule(len(head))]
    for cells, bold in zip(rows, bold_rows(table), strict=True):
        shown = [_markdown(cell) for cell in cells]
        shown[2] = f"**{shown[2]}**" if bold else shown[2]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"{_markdown(note)}  " for note in notes(table))]).rstrip() + "\n"


def summarise_markdown(table: pd.DataFrame) -> str:
    """The comparison for a first page: five columns at most, and a sentence."""
    head, rows = summary_cells_of(table)
    seeds = table["seeds"].to_list()
    count = f"{seeds[0]:,}" if len(set(seeds)) == 1 else f"{min(seeds):,} to {max(seeds):,}"
    text = f"Means over {count} seeds at the last epoch, ± half of a 95 % interval; differences are paired by seed."
    return "\n".join([_markdown_line(head), _markdown_rule(len(head)), *map(_markdown_line, rows), "", text]) + "\n"


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(map(_markdown, cells))} |"


def _markdown_rule(columns: int) -> str:
    return "| --- |" + " ---: |" * (columns - 1)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_~\[\]|<>])", r"\\\1", text)


def as_latex(table: pd.DataFrame) -> str:
    """The comparison as a LaTeX tabular of the package booktabs; bold as in Markdown."""
    head, rows = cells_of(table)
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
    head, rows = cells_of(table)
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
    titles: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Write per_seed.csv, table.csv, table.md, table.tex, figure.png and figure.svg into `folder`, of 3 variants and
    more cost.png and cost.svg too; return `compare`'s table. Raises its ValueError before anything is written.

    steps_alike: the variants differ in nothing that costs time but their mixes, see `analysis.cost_figure.spent_by`.
    titles: what pages and figures call variants; the CSV files keep their names.
    """
    table = compare(trials, measure, baseline, order)
    titled = with_titles(table, titles or {})
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "per_seed.csv", trials.to_csv(index=False))
    replace_text(folder / "table.csv", table.round(10).round(6).to_csv(index=False))
    replace_text(folder / "table.md", as_markdown(titled))
    replace_text(folder / "table.tex", as_latex(titled))
    named = trials.assign(variant=trials["variant"].replace(dict(titles or {})))
    draw_comparison(named, titled, folder / "figure.png")
    draw_comparison(named, titled, folder / "figure.svg")
    write_cost(trials, folder, list(table["variant"]), steps_alike=steps_alike, titles=titles)
    return table
