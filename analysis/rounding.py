"""Numbers as text, the same on every machine."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext

DIGITS = 12  # significant ones that count; the sixteenth depends on the order in which a machine sums
NOTHING = 1e-9  # a sum that is zero but for rounding errors stays below this, whatever is shown of it


def decimal_text(value: float, form: str) -> str:
    """`format(value, form)` for the forms `f`, `e`, `g` and `%`, where the last bits of a float decide nothing.

    A mean of accuracies is often a tie: 62.675, shown with two decimals. Its float lies a little above or below,
    by the order of the sum, which differs between processors. So the number is first rounded to 12 significant
    digits, and then in decimal arithmetic, ties away from zero. What is within 1e-9 of zero is zero, without a sign.
    """
    if not math.isfinite(value):
        return format(value, form)
    if abs(value) < NOTHING:
        return format(0.0, form)
    digits = f"{value:.{DIGITS - 1}e}"
    if form.endswith("g"):  # a Decimal keeps zeros at its end that a float's `g` drops
        return format(float(digits), form)
    with localcontext(rounding=ROUND_HALF_UP):
        return format(Decimal(digits), form)
