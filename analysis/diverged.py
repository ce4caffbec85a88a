"""Losses that have blown up: where, and how far. No pandas."""

from __future__ import annotations

import math
from typing import Any

from analysis.rounding import significant
from analysis.run_folder import RunFolder

TIMES_CHANCE = 10  # a loss of that many times what guessing costs has diverged
MOST_CLASSES = 1000  # where the run does not tell how many it has
LOSSES = {
    "image_loss": "image loss of the training batches",
    "cell_loss": "cell loss of the training batches",
    "test_loss": "loss of the test images",
}


def chance_loss(run: RunFolder) -> float:
    """The cross-entropy in nats of giving every class the same probability."""
    return math.log(max(2, len(run.start.get("classes") or range(MOST_CLASSES))))


def divergence(run: RunFolder) -> str:
    """In which epoch and step a loss first was not finite, or beyond TIMES_CHANCE times what guessing costs, how large
    it was, and how it ended; "" where none was.
    """
    chance = chance_loss(run)
    epochs = [event for event in run.events if event["event"] == "epoch"]
    worst = [(event, key) for event in epochs for key in LOSSES if _is_beyond(event.get(key), TIMES_CHANCE * chance)]
    if not worst:
        return ""
    event, key = worst[0]
    text = f"In {_where(event, 'up to step')} the {LOSSES[key]} was {_nats(event[key])}"
    largest, name = max(worst, key=lambda found: _size(found[0][found[1]]))
    if _size(largest[name]) > _size(event[key]):
        text += f", in epoch {largest['epoch']:,} the {LOSSES[name]} {_nats(largest[name])}"
    last = epochs[-1].get(key)
    if isinstance(last, int | float) and event is not epochs[-1]:
        text += f"; in the last epoch it was {_nats(last)}"
    return f"{text}. Guessing costs {significant(chance)} nats."


def search_divergence(run: RunFolder) -> str:
    """In which search the best fitness first was as far from zero; "" where none was."""
    bound = TIMES_CHANCE * chance_loss(run)
    worst = [line for line in run.generation_lines if _is_beyond(line.get("best"), bound)]
    if not worst:
        return ""
    first = worst[0]
    largest = max(worst, key=lambda line: _size(line["best"]))
    where = f", {_where(first, 'step')}," if first.get("epoch") else ""
    text = f"In search {first['search']:,}{where} the fittest genome's fitness was {_nats(first['best'])}"
    if _size(largest["best"]) > _size(first["best"]):
        text += f", in search {largest['search']:,} it was {_nats(largest['best'])}"
    return f"{text}: the model's losses have blown up, so that these searches say nothing."


def _is_beyond(value: Any, bound: float) -> bool:
    return isinstance(value, int | float) and not abs(value) <= bound


def _size(value: float) -> float:
    return math.inf if math.isnan(value) else abs(value)


def _nats(value: float) -> str:
    return (
        f"{significant(value)} nats" if math.isfinite(value) else ("not a number" if math.isnan(value) else "infinite")
    )


def _where(event: dict[str, Any], words: str) -> str:
    """The epoch of a line, and its step where it has one."""
    step = event.get("step")
    return f"epoch {event['epoch']:,}" + (f" ({words} {step:,})" if isinstance(step, int) else "")
