"""Which runs these are, and their key figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from analysis.run_folder import RunFolder


def head(runs: Sequence[RunFolder]) -> str:
    """The page's first lines."""
    names = ", ".join(run.name for run in runs)
    return f'<section id="head" aria-labelledby="head-heading">\n<h1 id="head-heading">{escape(names)}</h1>\n</section>'
