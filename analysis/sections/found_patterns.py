"""The patterns that evolution found, and what it can be said to prefer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from analysis.atlas import atlas_of
from analysis.pattern_export import figures_of
from analysis.permutations import Statement
from analysis.run_folder import RunFolder
from analysis.run_settings import settings_of
from analysis.sections.parts import by_run, figure, paragraph, section
from analysis.statistics import LEVEL
from analysis.style import for_page

TESTED = (
    "Each statement is held against no preference by a permutation test; p is adjusted for their number by Holm's method. "
    "The furthest from chance stand first."
)


def atlas(runs: Sequence[RunFolder]) -> str:
    """Statements with their tests, and figures, of the first run of each setting that has patterns."""
    firsts = first_of_settings([run for run in runs if (run.path / "patterns" / "bank.npz").is_file()])
    if not firsts:
        return ""
    left_out = len(firsts) < len(runs) and len(runs) > 1
    note = (
        "Of each setting the first run that has patterns is shown; ./run patterns RUN shows any other."
        if left_out
        else ""
    )
    parts = [_atlas(run) for run in firsts]
    return section("atlas", "Patterns", paragraph(note, "soft"), *by_run(firsts, parts, named=len(runs) > 1))


def first_of_settings(runs: Sequence[RunFolder]) -> list[RunFolder]:
    return [setting.runs[0] for setting in settings_of(runs)] if runs else []


def _atlas(run: RunFolder) -> str:
    found = atlas_of(run)
    with for_page():
        drawn = [figure(made, title, caption, run.name) for title, made, caption in figures_of(found, run.place or 0)]
    return "\n".join([_statements(found.statements), *drawn])


def _statements(statements: Sequence[Statement]) -> str:
    """What can be said, in their order: the strongest first."""
    items = "\n".join(
        f"<li{' class=' + repr('found') if found.p_holm < LEVEL else ''}>{escape(found.text)}</li>"
        for found in statements
    )
    return f"{paragraph(TESTED, 'soft')}\n<ul class='statements'>\n{items}\n</ul>" if items else ""
