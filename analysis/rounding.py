"""Numbers as text, the same on every machine."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext

DIGITS = 12  # significant ones that count; the sixteenth depends on the order in which a machine sums
LARGEST = (
    1e5  # from here on a number with decimals is written as 1.23e+05: a loss of 1e24 has 25 digits before its point
)
MOST_COUNTED = 1e15  # and one without decimals, such as 230,400 images
SMALLEST = 1e-4  # below this three significant digits are
NOTHING = 1e-9  # a sum that is zero but for rounding errors stays below this, whatever is shown of it


def decimal_text(value: float, form: str) -> str:
    """`format(value, form)` for the forms `f`, `e`, `g` and `%`, where the last bits of a float decide nothing.

    A mean of accuracies is often a tie: 62.675, shown with two decimals. Its float lies a little above or below,
    by the order of the sum, which differs between processors. So the number is first rounded to 12 significant
    digits, and then in decimal arithmetic, ties away from zero. What is within 1e-9 of zero is zero, without a sign.
    From 100,000 on a form with decimals gives scientific notation.
    """
    if not math.isfinite(value):
        return format(value, form)
    if abs(value) < NOTHING:
        return format(0.0, form)
    digits = f"{value:.{DIGITS - 1}e}"
    if form.endswith("f") and abs(value) >= (MOST_COUNTED if form.endswith(".0f") else LARGEST):
        form = f"{'+' * form.startswith('+')}.2e"
    if form.endswith("g"):  # a Decimal keeps zeros at its end that a float's `g` drops
        return format(float(digits), form)
    with localcontext(rounding=ROUND_HALF_UP):
        return format(Decimal(digits), form)


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, its zeros kept: 54.3, 0.690, 12,300; 1.23e+24, 1.23e-09."""
    if value == 0 or not math.isfinite(value):
        return format(value, "g")
    shown = f"{value:.{digits - 1}e}"
    exponent = int(shown.partition("e")[2])
    if not SMALLEST <= abs(float(shown)) < LARGEST:
        return shown
    return f"{float(shown):,.{max(0, digits - 1 - exponent)}f}"
