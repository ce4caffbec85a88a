"""The search: fitness curves, and which operators made the elites."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.curves import figures_of
from analysis.lineage import MEANING, operator_table
from analysis.run_folder import RunFolder
from analysis.sections.parts import by_run, count, figure, paragraph, percent, section, table
from analysis.style import for_page

HEAD = ("slot", "operator", "children", "survived", "elites", "ancestors")


def search(runs: Sequence[RunFolder]) -> str:
    """Fitness curves of the runs that have generations; "" where none has."""
    searched = [run for run in runs if not run.generations.empty]
    if not searched:
        return ""
    with for_page():
        drawn = figures_of(searched)
        parts = [figure(made, title, caption, "Search") for title, made, caption in drawn]
    return section("search", "Search", *parts)


def operators(runs: Sequence[RunFolder]) -> str:
    """The table of operators, run by run; "" where no lineage was kept."""
    parts = by_run(runs, [_operators(run) for run in runs], named=len(runs) > 1)
    if not any(parts):
        return ""
    return section("operators", "Which operators made the elites", *parts, paragraph(MEANING, "soft"))


def _operators(run: RunFolder) -> str:
    found = operator_table(run)
    if found is None:
        return ""
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
