"""What a run says of its estimated scores beside exact ones (training/mixes/estimates.py logs it). No pandas."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder

LOW = 0.5  # rank correlation over the last third of the checks, below which a page warns


def checks_of(run: RunFolder) -> list[dict[str, Any]]:
    """Its `checked` events; none of a run that forwarded every row it scored, or of an older version."""
    return [event for event in run.events if event["event"] == "checked"]


def is_estimated(run: RunFolder) -> bool:
    """Whether its scores are estimates."""
    return bool(checks_of(run)) or any("scored" in line for line in run.generation_lines[:1])


def late_correlation(run: RunFolder) -> float | None:
    """Rank correlation of estimate and truth, mean over the last third of the checks; None where it is not known."""
    known = _values(checks_of(run), "rank_correlation")
    return fmean(known[-max(1, len(known) // 3) :]) if known else None


def estimate_text(run: RunFolder) -> str:
    """Sentences on how the estimates went with the truth; "" where there is no check."""
    checks = checks_of(run)
    known = _values(checks, "rank_correlation")
    if not known:
        return ""
    late = known[-max(1, len(known) // 3) :]
    times = f"{len(checks):,} checks" if len(checks) > 1 else "one check"
    text = (
        f"Scores were estimated from the images' own feature maps. In {times} against exact forwards the rank correlation "
        f"within a row was {decimal_text(fmean(known), '.2f')} on average"
    )
    text += f", {decimal_text(fmean(late), '.2f')} in the last third" if len(known) > 2 else ""
    if bias := _values(checks, "bias"):
        text += f"; estimates were {decimal_text(fmean(bias), '+.3f')} off on average"
    true, estimated = (_values(checks, name) for name in ("gain_true", "gain_estimated"))
    if true and estimated:
        text += (
            f"; what was chosen scored {decimal_text(fmean(true), '.3f')} above random compositions in truth, "
            f"{decimal_text(fmean(estimated), '.3f')} by the estimates"
        )
    return f"{text}."


def verified_text(run: RunFolder) -> str:
    """A sentence on what search.verify changed; "" where nothing was verified."""
    lines = [line for line in run.generation_lines if line.get("verified_fitness") is not None]
    pairs = [(line["verified_fitness"], line["verified_first"], line["verified_rank"]) for line in lines]
    if not pairs:
        return ""
    changed = sum(rank > 1 for *_, rank in pairs)
    gain = fmean(chosen - first for chosen, first, _ in pairs)
    what = "the estimates' first was the truly fittest"
    if len(pairs) > 1:
        what = (
            f"another genome than the estimates' first was the truly fittest in {changed:,} of {len(pairs):,} searches"
        )
    elif changed:
        what = "another genome than the estimates' first was the truly fittest"
    return (
        f"With search.verify={run.config['search'].get('verify')} {what}; exact fitness of what was chosen: "
        f"{decimal_text(fmean(chosen for chosen, *_ in pairs), '.3f')}, {decimal_text(gain, '+.3f')} over the estimates' first."
    )


def doubt(run: RunFolder) -> str:
    """What a low rank correlation means and what to do; "" where it is not low."""
    late = late_correlation(run)
    if late is None or late >= LOW:
        return ""
    return (
        f"In the last third of the checks, estimated scores had a rank correlation of only {decimal_text(late, '.2f')} with "
        "exact ones (1: the same order; 0: none): the search chose largely by errors of the estimate. Take "
        "search.compose_at=pixels, which forwards every composed image, or have the fittest genomes forwarded with "
        "search.verify."
    )


def trial_of(run: RunFolder) -> dict[str, Any] | None:
    """Its `trial` event: whether search.compose_at=auto took estimates; None where nothing was to be decided."""
    return next((event for event in run.events if event["event"] == "trial"), None)


def trial_text(run: RunFolder) -> str:
    """Sentences on the trial before the first search; "" where there was none."""
    trial = trial_of(run)
    if trial is None or not _values([trial], "rank_correlation"):
        return ""
    text = (
        f"search.compose_at=auto tried estimated scores before the first search: within a row their rank correlation with "
        f"exact ones was {decimal_text(trial['rank_correlation'], '.2f')}"
    )
    needed = decimal_text(trial.get("needed", LOW), "g")
    if trial.get("trusted"):
        return f"{text}, and {needed} is enough to search by them."
    return f"{text}, below the {needed} that is asked for, so every composed image was forwarded."


def told_of_estimates(run: RunFolder) -> str:
    """What the trial, checks and verification came to; "" where there was none of these."""
    return " ".join(filter(None, (trial_text(run), estimate_text(run), verified_text(run))))


def _values(checks: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [float(value) for check in checks if isinstance(value := check.get(name), int | float) and value == value]
