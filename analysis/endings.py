"""Why a run's searches ended, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from analysis.estimate_checks import is_estimated
from analysis.run_folder import RunFolder

SCORED = "the budget of rows scored was spent"  # where scores are estimates, which forward few images
WORDS = {  # a search's reason for stopping, as the logs have it
    "generations": "all generations were done",
    "budget": "the image forwards were spent",
    "patience": "nothing better was found for a while",
    "target": "the target was reached",
    "minutes": "the time was over",
    "exhausted": "no new composition was found any more",
}


def reasons(run: RunFolder) -> Counter[str]:
    """How many of a run's searches have ended for which reason; none of a run whose version did not write it down."""
    found = Counter(reason for line in run.generation_lines if type(reason := line.get("stopped")) is str)
    if found or "model" not in run.start:
        return found
    reason = (run.result or {}).get("stopped")  # search experiments of older versions
    return Counter([reason] if type(reason) is str else [])


def ending(run: RunFolder) -> str:
    """A sentence on why the run's searches ended; "" where none has, or where that is not known."""
    found, options = reasons(run), run.config["search"]
    words = WORDS | ({"budget": SCORED} if is_estimated(run) else {})
    if not found:
        return ""
    count = found.total()
    if count == 1:
        last = max((line["generation"] for line in run.generation_lines if "generation" in line), default=0)
        after = f" after {last:,} generation{'s' * (last != 1)}" if "model" in run.start and last else ""
        return f"The search ended{after} because {_why(next(iter(found)), options, words)}."
    parts = [
        (f"{number:,}" if len(found) > 1 else f"All {count:,} searches")
        + f" {'ended ' * (place == 0)}because {_why(reason, options, words)}"
        for place, (reason, number) in enumerate(found.most_common())
    ]
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"Of {count:,} searches, {', '.join(parts[:-1])} and {parts[-1]}."


def _why(reason: str, options: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """A reason in words; of islands that ended for several, each."""
    return ", or on other islands because ".join(_one(part, options, words) for part in reason.split(", "))


def _one(reason: str, options: Mapping[str, Any], words: Mapping[str, str]) -> str:
    if reason not in words:
        return f"of {reason!r:.40}"
    value = options.get(reason)
    return words[reason] + (f" (search.{reason}={value:g})" if isinstance(value, int | float) else "")
