"""What sections are made of. Everything that comes from a run folder is escaped here or by the section itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from numpy.typing import NDArray

from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder
from analysis.style import VARIABLES, as_svg, for_page, look

ENLARGED = (
    48  # pixels a side: pictures up to there are stored twice as large, since WebP halves the colours' resolution
)
WIDTH = 6.5  # rem on the page of an inch of a figure
LOSSLESS = 16  # pixels a side: up to there PNG is smaller


def section(name: str, heading: str, *parts: str) -> str:
    """A landmark of the page; "" where all its parts are empty."""
    shown = [part for part in parts if part]
    if not shown:
        return ""
    body = "\n".join(shown)
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">\n'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>\n{body}\n</section>'
    )


def by_run(runs: Sequence[RunFolder], parts: Sequence[str], *, named: bool) -> list[str]:
    """Each run's part, under its name where `named`; empty parts are left out."""
    shown = [(run, part) for run, part in zip(runs, parts, strict=True) if part]
    return [f"<h3>{escape(run.name)}</h3>\n{part}" if named else part for run, part in shown]


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(text)}</p>" if text else ""


def figure(drawn: Figure, title: str, caption: str, where: str = "") -> str:
    """A figure made under `style.for_page()`, with its title as a heading below the section's.

    where: what tells it from figures of the same title on the page, such as the run's name.
    """
    label = f"{title}, {where}" if where else title
    heading = f"<h3>{escape(title)}</h3>\n" if title else ""
    return (
        f'{heading}<figure style="--width: {WIDTH * drawn.get_figwidth():.0f}rem">'
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}">'
        f"{as_svg(drawn, f'{label}. {caption}')}</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def key(number: int) -> str:
    """The look of a run or setting, line and marker, as a small picture that stands before its name in a table."""
    with for_page():
        shown = look(number)
    shade = VARIABLES[shown.colour]
    marker = MarkerStyle(shown.marker)
    corners: Any = marker.get_path().transformed(marker.get_transform()).to_polygons()  # of (N,2) arrays
    outline = "".join(f"M{' '.join(f'{19 + 7 * x:.1f},{6.5 - 7 * y:.1f}' for x, y in part)}Z" for part in corners)
    dashes = "" if shown.line == "-" else f' stroke-dasharray="{" ".join(f"{2 * width:g}" for width in shown.line[1])}"'
    return (
        f'<svg class="key" viewBox="0 0 38 13" aria-hidden="true"><path d="M0 6.5H38" fill="none" stroke-width="2" '
        f'stroke="{shade}"{dashes}/><path d="{outline}" fill="{shade}"/></svg>'
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 1, keys: Sequence[str] = ()
) -> str:
    """A table of texts. The first column names the rows; columns from `words` on hold numbers. keys: by row, what stands
    before its name, as HTML.
    """
    kinds = ["" if column < words else ' class="number"' for column in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    lines = []
    for place, row in enumerate(rows):
        mark = keys[place] if keys else ""
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row[1:], kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{mark}{escape(row[0])}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def picture(image: NDArray[Any]) -> str:
    """(H,W) or (H,W,3) uint8 as a data URL: PNG where it is tiny, else WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    if max(image.shape[:2]) <= LOSSLESS:
        Image.fromarray(image).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    if max(image.shape[:2]) <= ENLARGED:
        image = np.repeat(np.repeat(image, 2, 0), 2, 1)
    Image.fromarray(image).save(buffer, "WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(value: float | None, digits: int = 2) -> str:
    """A percentage as it is read; a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{decimal_text(value, f'.{digits}f')} %"


def count(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else decimal_text(value, ",.0f")
