"""One self-contained HTML page about one or more runs. It asks nothing of any other place and works from disk.

Sections are made one by one, so that the live page can renew those whose files have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from analysis.files import joined_name, replace_text
from analysis.run_folder import RunFolder, in_places, out_root
from analysis.run_format import RunFolderError
from analysis.sections.caveats import caveats
from analysis.sections.cost import cost
from analysis.sections.evolution import operators, search
from analysis.sections.found_patterns import atlas
from analysis.sections.head import head
from analysis.sections.how import how
from analysis.sections.pictures import gallery
from analysis.sections.result import comparison, result
from analysis.sections.training import training
from evo.errors import BankError

Section = Callable[[Sequence[RunFolder]], str]
SECTIONS: dict[str, Section] = {
    "head": head,
    "warnings": caveats,
    "result": result,
    "comparison": comparison,
    "training": training,
    "search": search,
    "operators": operators,
    "atlas": atlas,
    "gallery": gallery,
    "cost": cost,
    "how": how,
}
HEADINGS = {
    "head": "Overview",
    "warnings": "Read this first",
    "result": "Result",
    "comparison": "Comparison",
    "training": "Training",
    "search": "Search",
    "operators": "Operators",
    "atlas": "Patterns",
    "gallery": "Gallery",
    "cost": "Cost",
    "how": "How it was run",
}


def write_report(
    runs: Sequence[RunFolder], out: Path | None = None, *, defaults: Mapping[str, Any] | None = None
) -> Path:
    """Write the page; return its path: `out`, else RUN/report.html of one run, or report-RUN+RUN.html under runs/out.

    defaults: the default config, so that options which differ from it are marked.
    """
    path = out or default_path(runs)
    title = ", ".join(run.name for run in runs)
    text = page(render_sections(runs, defaults=defaults), title)
    return replace_text(path, text)


def default_path(runs: Sequence[RunFolder]) -> Path:
    """Where the page goes that nobody gave a place."""
    runs = list({run.path.resolve(): run for run in runs}.values())
    if len(runs) == 1:
        return runs[0].path / "report.html"
    return out_root() / f"report-{joined_name([run.whole_name for run in runs])}.html"


def render_sections(runs: Sequence[RunFolder], *, defaults: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Every section's HTML by its id, in the page's order; "" where it has nothing to show. A run given twice counts once."""
    runs = in_places(runs)
    sections = SECTIONS | {"how": partial(how, defaults=defaults)}
    made = {name: section_of(make, runs, HEADINGS[name]) for name, make in sections.items() if name != "warnings"}
    made["warnings"] = caveats(runs)  # which also tells what was left out
    return {name: made[name] for name in sections}


def section_of(make: Section, runs: Sequence[RunFolder], heading: str) -> str:
    """A section, without the runs whose files it needs are damaged, which are told of it."""
    try:
        return make(runs)
    except (RunFolderError, BankError) as error:
        if len(runs) == 1:
            runs[0].note_damage(error, f"without the section {heading}")
            return ""
    whole = []
    for run in runs:
        before = run.damaged()
        section_of(make, [run], heading)
        if run.damaged() == before:
            whole.append(run)
    return make(whole) if whole else ""


def page(sections: Mapping[str, str], title: str, *, live: bool = False, script: str = "") -> str:
    """The page of these sections.

    live: sections that are empty so far keep a hidden place, with the same id, and `script` (JavaScript, trusted)
    runs after the page's own.
    """
    here = Path(__file__).parent
    style, own = ((here / f"report.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    shown = {
        name: text or (f'<section id="{name}" hidden></section>' if live else "") for name, text in sections.items()
    }
    return _PAGE.format(
        title=escape(title),
        style=style,
        contents="\n".join(_entry(name, bool(sections[name])) for name, text in shown.items() if text),
        body="\n".join(text for text in shown.values() if text),
        script=f"<script>\n{own}\n</script>" + (f"\n<script>\n{script}\n</script>" if live and script else ""),
    )


def _entry(name: str, shown: bool) -> str:
    """A line of the contents list."""
    return f'<li data-for="{name}"{"" if shown else " hidden"}><a href="#{name}">{escape(HEADINGS[name])}</a></li>'


_PAGE = """<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title} · Evomix</title>
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header class="top"><span class="mark">Evomix report</span>
<button type="button" id="theme" hidden>Dark theme</button></header>
<div class="layout">
<nav class="contents" aria-label="Contents">
<ul>
{contents}
</ul>
</nav>
<main id="main" tabindex="-1">
{body}
</main>
</div>
{script}
</body>
</html>
"""
