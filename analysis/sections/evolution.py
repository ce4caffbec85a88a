"""The search: fitness curves, and which operators made the elites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.curves import figures_of
from analysis.endings import ending
from analysis.estimate_checks import told_of_estimates
from analysis.operator_table import MEANING, of_one_kind, operator_table
from analysis.run_folder import RunFolder
from analysis.sections.parts import by_run, count, figure, paragraph, percent, section, table
from analysis.style import for_page

if TYPE_CHECKING:
    import pandas as pd

HEAD = ("slot", "operator", "children", "survived", "elites", "ancestors")


def search(runs: Sequence[RunFolder]) -> str:
    """Fitness curves of the runs that have generations, why their searches ended, and how estimated scores went with
    exact ones, those of best-of-k as well; "" where nothing is to be told.
    """
    drawable = [run for run in runs if not run.generations.empty]
    searched = [run for run in runs if not run.generations.empty or told_of_estimates(run)]
    if not searched:
        return ""
    parts = []
    if drawable:
        with for_page():
            parts = [figure(made, title, caption, "Search") for title, made, caption in figures_of(drawable)]
    told = [" ".join(filter(None, (ending(run), told_of_estimates(run)))) for run in searched]
    ends = by_run(searched, [paragraph(text) for text in told], named=len(searched) > 1)
    return section("search", "Search", *parts, *ends)


def operators(runs: Sequence[RunFolder]) -> str:
    """The table of operators, run by run; "" where no lineage was kept. Of a run with one operator of each kind a sentence."""
    tables = {run.path: operator_table(run) for run in runs}
    parts = by_run(runs, [_operators(run, tables[run.path]) for run in runs], named=len(runs) > 1)
    if not any(parts):
        return ""
    compared = any(table is not None and not of_one_kind(table) for table in tables.values())
    return section(
        "operators", "Which operators made the elites", *parts, paragraph(MEANING if compared else "", "soft")
    )


def _operators(run: RunFolder, found: pd.DataFrame | None) -> str:
    if found is None:
        return ""
    if sentence := of_one_kind(found):
        return paragraph(sentence)
    rows = [
        [
            row.slot,
            row.operator,
            count(row.children),
            *(percent(v, 1) for v in (row.survived, row.elites, row.ancestors)),
        ]
        for row in found.itertuples()
    ]
    return table(HEAD, rows, f"Operators of {run.name}", words=2)
