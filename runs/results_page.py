"""`./run results`: the tables and figures of the pages (README.md, RESULTS.md and others), made from runs/results/.

A page keeps a table between two lines, and this writes what lies between them:

    <!-- table: NAME -->
    <!-- end -->

NAME is a folder of runs/results with a per_seed.csv. Variants after it choose and order the rows, baseline=VARIANT says
what they are compared with, measure=MEASURE by what (else by last_accuracy); names with spaces are quoted. `summary` in the
place of `table` makes one of five columns. Rows have the titles that the ablation's file gives its variants. What explains
the columns stands below the first table of a page alone. Figures within sentences: runs/inline_figures.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from analysis.files import replace_text
from evo.errors import UserError, known_or_refused
from runs.ablation.file import SHELVES, titles_of
from runs.inline_figures import with_figures
from training.places import PROJECT

PAGES = (
    "README.md",
    "RESULTS.md",
    "evo/README.md",
    "evo/operators/README.md",
    "training/README.md",
    "training/data/README.md",
    "analysis/README.md",
    "runs/README.md",
    "runs/benchmarks/README.md",
    "runs/results/README.md",
    "runs/results/TABLES.md",
)
BASELINE = "patchmix"  # what a mix that searches has to beat
TABLE = "per_seed.csv"
BEGIN = re.compile(r"<!-- (table|summary): (\S.*) -->")
END = "<!-- end -->"
ALMOST = re.compile(
    r"\s*<!--\s*((table|summary)\s*:|end\s*-->)", re.I
)  # a mark that would be passed over for a slip of the hand


class Mark(NamedTuple):
    """What a line `<!-- table: ... -->` asks for; where: its file and line."""

    kind: str  # table or summary
    name: str
    variants: list[str]
    baseline: str | None
    measure: str
    where: str


def run_results(check: bool = False) -> int:
    """Write the tables of the pages anew and name the pages changed; return the exit status.

    check: write nothing, and return 1 where a page is not current. Raises UserError before anything is written for a
    mark that asks for what is not there.
    """
    pages = {name: (PROJECT / name).read_text(encoding="utf-8") for name in PAGES if (PROJECT / name).is_file()}
    made = {name: with_tables(text, name) for name, text in pages.items()}
    changed = [name for name, text in made.items() if text != pages[name]]
    for name in changed:
        if not check:
            replace_text(PROJECT / name, made[name])
        print(f"{name} is not current; ./run results makes it so" if check else f"{name} changed")
    if not changed:
        print(f"current: {', '.join(pages) or 'no page'}")
    return 1 if check and changed else 0


def with_tables(text: str, page: str) -> str:
    """A page's text with what lies between its marks made anew. page: its path from the project's top."""
    lines: list[str] = []
    mark: Mark | None = None
    explained: set[str] = set()  # sentences below tables so far
    fenced = False  # a block of code shows marks, and has none
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        where = f"{page} line {number}"
        bare = line.rstrip("\r\n")
        fenced ^= bare.lstrip().startswith("```")
        if fenced:
            lines.append(line)
        elif (begins := BEGIN.fullmatch(bare)) and mark is None:
            mark = read_mark(begins[1], begins[2], where)
            lines += [line if line.endswith("\n") else f"{line}\n", block(mark, page, explained)]
        elif bare == END and mark is not None:
            mark = None
            lines.append(line)
        elif ALMOST.match(bare):
            within = f" within that of {mark.where}" if mark else ""
            raise UserError(
                f"{where}: {bare.strip()!r:.60}{within}; expected a line <!-- table: NAME -->, then a line {END}"
            )
        elif mark is None:
            lines.append(with_figures(line, PROJECT / "runs" / "results", where))
    if mark is not None:
        raise UserError(f"{mark.where}: the table of {mark.name} has no end; expected a line {END} below it")
    return "".join(lines)


def read_mark(kind: str, text: str, where: str) -> Mark:
    """NAME [VARIANT...] [baseline=VARIANT] [measure=MEASURE]."""
    try:
        name, *words = shlex.split(text)
    except ValueError as error:
        form = "NAME [VARIANT...] [baseline=VARIANT] [measure=MEASURE]"
        raise UserError(f"{where}: {text!r:.60}: {error}; expected {form}") from None
    keys = [word for word in words if word.startswith(("baseline=", "measure="))]
    options = dict(word.split("=", 1) for word in keys)
    variants = [word for word in words if word not in keys]
    return Mark(kind, name, variants, options.get("baseline"), options.get("measure", "last_accuracy"), where)


def block(mark: Mark, page: str, explained: set[str]) -> str:
    """The table that a mark of a page asks for, and what made it.

    explained: the sentences below the page's tables so far, which are left out here; those that stand here are added.
    """
    from analysis.comparison_forms import as_markdown, summarise_markdown, with_titles
    from analysis.per_seed import MEASURES, read_per_seed
    from analysis.statistics import compare

    root = PROJECT / "runs" / "results"
    known_or_refused([mark.name], sorted(path.parent.name for path in root.glob(f"*/{TABLE}")), "results", mark.where)
    trials = read_per_seed(root / mark.name / TABLE)
    found = list(dict.fromkeys(trials["variant"]))
    known_or_refused(mark.variants, found, f"variant of {mark.name}", mark.where)
    shown = mark.variants or found
    baseline = mark.baseline or (BASELINE if BASELINE in shown else shown[0])
    known_or_refused([baseline], shown, f"variant in the table of {mark.name}", mark.where)
    known_or_refused([mark.measure], list(MEASURES), "measure", mark.where)
    chosen = trials[trials["variant"].isin(shown)]
    if chosen[mark.measure].isna().all():
        raise UserError(f"{mark.where}: the results of {mark.name} are of before {mark.measure} was kept")
    table = with_titles(compare(chosen, mark.measure, baseline=baseline, order=shown), titles(mark.name))
    made = summarise_markdown(table) if mark.kind == "summary" else as_markdown(table)
    return f"{explained_once(made, explained)}\n{origin(root / mark.name, page)}\n"


def titles(name: str) -> dict[str, str]:
    """What the variants of published results are called: by the ablation's file, else by its copy beside the results."""
    runs = PROJECT / "runs"
    files = [*(runs / shelf / f"{name}.yaml" for shelf in SHELVES), runs / "results" / name / "ablation.yaml"]
    return next((titles_of(file) for file in files if file.is_file()), {})


def explained_once(made: str, explained: set[str]) -> str:
    """A table without those sentences below it that a page has already."""
    rows, _, below = made.partition("\n\n")
    lines = []
    for line in below.splitlines():
        sentences = re.split(r"(?<=[.]) (?=[A-Z])", line.strip())
        kept = [one for one in sentences if one not in explained]
        explained.update(sentences)
        lines += [f"{' '.join(kept)}  "] if kept else []
    return "\n".join([rows, "", *lines]).rstrip() + "\n"


def origin(folder: Path, page: str) -> str:
    """The command and the date of results, and a link from a page to all their seeds."""
    made = environment(folder / "environment.json")
    command = made.get("command")
    date = str(made.get("date") or "")[:10]
    parts = [*([f"`{command}`"] if command else []), *([date] if date else [])]
    seeds = os.path.relpath(folder / TABLE, (PROJECT / page).parent)
    link = f"[all seeds]({Path(seeds).as_posix()})"
    return f"{', '.join(parts)}: {link}" if parts else link


def environment(path: Path) -> dict[str, Any]:
    """What is known of a result's making; nothing where the file is not there."""
    if not path.is_file():
        return {}
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(made, dict):
        raise UserError(f"{path}: expected a JSON object, got {made!r:.60}")
    return made
