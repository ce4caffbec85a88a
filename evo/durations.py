"""Spans of time as a person reads them."""

from __future__ import annotations

import math


def duration(seconds: float | None, digits: int = 0) -> str:
    """Tell a span of time.

    Args:
        seconds: How long; None and NaN where it is not known.
        digits: Decimals of spans below a minute.

    Returns:
        `45 s`, `3 min 05 s` or `2 h 07 min`; a dash where it is not known.

    Example:
        >>> duration(45.2), duration(45.2, 1), duration(185)
        ('45 s', '45.2 s', '3 min 05 s')
    """
    if seconds is None or math.isnan(seconds):
        return "–"
    if seconds == math.inf:
        return "inf"
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
