"""Names as figures and tables have room for them."""

from __future__ import annotations


def shortened(name: str, most: int) -> str:
    """A name of at most `most` characters, an even number; a longer one loses its middle."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def plain(text: str) -> str:
    """For a figure: $ begins no formula."""
    return text.replace("$", r"\$")
