"""The gallery: composed images by search and generation, with the model's cell losses over them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from analysis.gallery import (
    Row,
    borders,
    depths,
    evenly,
    generations_of,
    largest_loss,
    loss_texts,
    of_kind,
    place,
    rows_of,
    score_text,
    snapshot_files,
    way_of,
)
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder
from analysis.sections.found_patterns import first_of_settings
from analysis.sections.parts import by_run, count, paragraph, picture, section
from analysis.snapshots import read_snapshot

BUDGET = 1_500_000  # bytes of all pictures of a page
GENERATIONS = 4  # of a search are kept where not all fit, before searches are left out
DEPTHS = 9  # shades of a loss
INTRODUCTION = (
    "Rows of the fittest genome of a generation: the fittest rows, then the least fit. A row is an image (own) into which "
    "cells of another (partner) are put; its label has both classes by their shares of cells. Cell losses are the model's, "
    "in nats, at the time of the search: the redder a cell, the larger its loss. Bold lines are where the two images meet."
)


def gallery(runs: Sequence[RunFolder]) -> str:
    """Composed images of the first run of each setting that kept some."""
    firsts = first_of_settings([run for run in runs if snapshot_files(run)])
    if not firsts:
        return ""
    films = [_film(run, number, BUDGET // len(firsts)) for number, run in enumerate(firsts)]
    toggle = '<p class="controls"><label><input type="checkbox" class="overlay" checked> Cell losses over the pictures</label></p>'
    note = "Of each setting the first run that kept images is shown." if len(firsts) < len(runs) else ""
    parts = by_run(firsts, films, named=len(runs) > 1)
    return section("gallery", "Gallery", paragraph(INTRODUCTION), paragraph(note, "soft"), toggle, *parts)


def _film(run: RunFolder, number: int, budget: int) -> str:
    """A run's pictures, one frame a generation of a search; the last one is shown, the others by sliders."""
    files = snapshot_files(run)
    last = rows_of(read_snapshot(files[-1]))
    frames = max(
        1, budget // max(1, len(_frame(last, generations_of(last)[-1], 1.0, False)) + len(_way(last, 1.0)) // 4)
    )
    kept = generations_of(last)
    shown = evenly(files, max(1, frames // min(len(kept), GENERATIONS)))
    per_search = max(1, min(len(kept), frames // len(shown)))
    searches, names = [], []
    for path in shown:
        snapshot = read_snapshot(path)
        searches.append(_search(rows_of(snapshot), place(snapshot), per_search, path == shown[-1]))
        names.append(place(snapshot))
    return "\n".join(
        [
            '<div class="film">',
            _sliders(number, names, evenly(kept, per_search)),
            *searches,
            paragraph(_left_out(len(shown), len(files), per_search, len(kept)), "soft"),
            "</div>",
        ]
    )


def _left_out(shown: int, files: int, per_search: int, kept: int) -> str:
    """What the page leaves out to stay small; "" where it is nothing."""
    parts = []
    if shown < files:
        parts.append(f"{shown} of the {files} searches that were written whole")
    if per_search < kept:
        parts.append(f"{per_search} of the {kept} generations kept of each")
    return f"To keep this page small it shows {' and '.join(parts)}, spread evenly." if parts else ""


def _sliders(number: int, searches: Sequence[str], generations: Sequence[int]) -> str:
    """Ranges that a script makes work; hidden without one."""
    rows = []
    for kind, title, texts in (
        ("search", "Search", list(searches)),
        ("generation", "Generation", [f"generation {generation:,}" for generation in generations]),
    ):
        if len(texts) > 1:
            rows.append(
                f'<label for="{kind}-{number}">{title}</label><input type="range" id="{kind}-{number}" class="{kind}" min="0" '
                f'max="{len(texts) - 1}" step="1" value="{len(texts) - 1}" aria-valuetext="{escape(texts[-1])}">'
                f'<output for="{kind}-{number}">{escape(texts[-1])}</output>'
            )
    return f'<div class="sliders">{"".join(rows)}</div>' if rows else ""


def _search(rows: Sequence[Row], where: str, per_search: int, shown: bool) -> str:
    largest = largest_loss(rows)
    generations = evenly(generations_of(rows), per_search)
    frames = [_frame(rows, generation, largest, generation == generations[-1]) for generation in generations]
    hidden = "" if shown else " hidden"
    body = "\n".join([*frames, _way(rows, largest)])
    scale = f'<span class="losses soft">deepest red: {decimal_text(largest, ".1f")} nats</span>'
    return f'<div class="snapshot" data-text="{escape(where)}"{hidden}>\n<p class="where">{escape(where)} {scale}</p>\n{body}\n</div>'


def _frame(rows: Sequence[Row], generation: int, largest: float, shown: bool) -> str:
    """The best and the worst rows of a generation."""
    text = f"generation {count(generation)}"
    parts = [f'<div class="frame" data-text="{text}"{"" if shown else " hidden"}>']
    for kind, title in (("best", "fittest rows"), ("worst", "least fit rows")):
        found = of_kind(rows, kind, generation)
        if found:
            items = "\n".join(_item(row, largest) for row in found)
            parts.append(f'<p class="group">{text}, {title}</p>\n<ul class="rows">\n{items}\n</ul>')
    return "\n".join([*parts, "</div>"])


def _item(row: Row, largest: float) -> str:
    own, partner = escape(row.own_label), escape(row.partner_label)
    return (
        f'<li><div class="trio"><div><img alt="own image: {own}" src="{picture(row.own)}"><span>own</span>'
        f'<img alt="partner: {partner}" src="{picture(row.partner)}"><span>partner</span></div>'
        f"<div>{_composed(row, largest)}<span>composed</span></div></div>"
        f'<p class="labels">{_labels(row)}<br><span class="soft">{score_text(row)}</span></p></li>'
    )


def _labels(row: Row) -> str:
    own = round(100 * row.share)
    return f"<span>{escape(row.own_label)}: <b>{own} %</b></span> <span>{escape(row.partner_label)}: <b>{100 - own} %</b></span>"


def _way(rows: Sequence[Row], largest: float) -> str:
    """One row of the batch through the generations; "" where none was kept."""
    way = way_of(rows)
    if not way:
        return ""
    items = "\n".join(
        f'<li>{_composed(row, largest)}<p class="labels"><b>generation {row.generation:,}</b> {_labels(row)}'
        f'<br><span class="soft">{score_text(row)}</span></p></li>'
        for row in way
    )
    title = f"one row's way through the generations, own image: {way[0].own_label}"
    return f'<p class="group">{escape(title)}</p>\n<ol class="way">\n{items}\n</ol>'


def _composed(row: Row, largest: float) -> str:
    """A composed picture under its grid, the border of its mask and its cell losses."""
    own = round(100 * row.share)
    losses = row.cell_losses
    alt = (
        f"composed: {own} % {row.own_label}, {100 - own} % {row.partner_label}; cell losses "
        f"{decimal_text(losses.min(), '.1f')} to {decimal_text(losses.max(), '.1f')} nats, mean {decimal_text(losses.mean(), '.1f')}"
    )
    side = len(row.mask)
    lines = "".join(f"M{cell} 0v{side}M0 {cell}h{side}" for cell in range(1, side))
    border = "".join(
        f"M{x0} {y0}{'h1' if y0 == y1 else 'v1'}" for (y0, x0), (y1, x1) in borders(row.mask) if x0 <= x1 and y0 <= y1
    )
    return (
        f'<div class="composed"><img alt="{escape(alt)}" src="{picture(row.mixed)}">'
        f'<svg class="over" viewBox="0 0 {side} {side}" preserveAspectRatio="none" aria-hidden="true">'
        f'<g class="losses">{_shades(row, largest)}</g><path class="grid" d="{lines}"/>'
        f'<path class="edge under" d="{border}"/><path class="edge" d="{border}"/>'
        f'<g class="losses">{_numbers(row)}</g></svg></div>'
    )


def _shades(row: Row, largest: float) -> str:
    """A path per shade, of the cells that have it."""
    shades = np.rint((DEPTHS - 1) * depths(row.cell_losses, largest)).astype(int)
    paths = []
    for shade in range(1, DEPTHS):
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(shades == shade).tolist())
        if cells:
            paths.append(f'<path class="d{shade}" d="{cells}"/>')
    return "".join(paths)


def _numbers(row: Row) -> str:
    """Each cell's loss, where the cells are few."""
    return "".join(f'<text x="{x}.5" y="{y}.62">{text}</text>' for y, x, text in loss_texts(row.cell_losses))
