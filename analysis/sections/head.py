"""Which runs these are, and their key figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from analysis.estimate_checks import is_estimated
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, first_to_last
from analysis.run_settings import Setting, seed_of, settings_of
from analysis.sections.parts import count, percent
from analysis.states import State
from analysis.statistics import accuracy_interval, t_interval
from analysis.time_left import seconds_left
from evo.durations import duration

MOST_SETTINGS = 6  # with a key figure


def head(runs: Sequence[RunFolder]) -> str:
    """The page's first lines."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    lines = [_about(runs[0])] if len(runs) == 1 else [f"<p class='soft'>{escape(_about_all(runs))}</p>"]
    facts = "\n".join(
        f"<li><strong>{escape(value)}</strong> <span>{escape(meaning)}</span></li>" for value, meaning in _facts(runs)
    )
    return (
        f'<section id="head" aria-labelledby="head-heading">\n<h1 id="head-heading">{escape(title)}</h1>\n'
        + "\n".join(lines)
        + (f"\n<ul class='facts'>\n{facts}\n</ul>" if facts else "")
        + "\n</section>"
    )


def _about(run: RunFolder) -> str:
    config = run.config
    parts = [
        f"{config['model']['name']} on {config['data']['name']}",
        f"mix {run.mix}",
        f"seed {seed_of(run)}",
        str(run.environment.get("date", ""))[:10],
    ]
    if "model" in run.start:
        parts[1:2] = [f"a search against {RunFolder(Path(str(run.start['model']))).name}"]
    return f"<p class='soft'>{state_badge(run)} {escape(' · '.join(part for part in parts if part))}</p>"


def state_badge(run: RunFolder) -> str:
    return f"<span class='state {run.state}'><span aria-hidden='true'>{run.state.sign}</span> {run.state}</span>"


def _about_all(runs: Sequence[RunFolder]) -> str:
    settings = settings_of(runs)
    names = [f"{setting.name} ({_seeds(setting.seeds)})" for setting in settings]
    return f"{len(settings)} setting{'s' * (len(settings) > 1)}: {', '.join(names)}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _facts(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Key figures with their meanings; of several runs the mean accuracies of the first settings."""
    if len(runs) > 1:
        return [*_by_setting(settings_of(runs)), *_left(runs)]
    run = runs[0]
    facts = [*_accuracy(run), *_progress(run), *_left(runs)]
    if not run.generations.empty:
        first, last = first_to_last(run)
        searches = run.generations["search"].nunique()
        over = f", mean over {searches:,} searches" if searches > 1 else ""
        facts.append(
            (
                f"{decimal_text(first, '.3f')} → {decimal_text(last, '.3f')}",
                f"best {'estimated ' * is_estimated(run)}fitness, first to last generation{over}",
            )
        )
    cost = cost_of(run)
    if cost.get("seconds"):
        share = (
            f", {100 * cost['search_seconds'] / cost['seconds']:.0f} % of it the search"
            if cost["search_seconds"]
            else ""
        )
        facts.append(
            (duration(cost["seconds"], 1), f"training without tests{share}" if "model" not in run.start else "search")
        )
        facts.append((count(cost["image_forwards"]), "images forwarded through the model"))
    return facts


def _by_setting(settings: Sequence[Setting]) -> list[tuple[str, str]]:
    facts = []
    for setting in settings[:MOST_SETTINGS]:
        values = [run.result["last_accuracy"] for run in setting.runs if run.result and "last_accuracy" in run.result]
        if values:
            half = t_interval(values)[1] - sum(values) / len(values)
            interval = f" ± {decimal_text(half, '.2f')}" if len(values) > 1 else ""
            seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
            facts.append(
                (
                    f"{decimal_text(sum(values) / len(values), '.2f')}{interval} %",
                    f"{setting.name}: accuracy at the last epoch, {seeds}",
                )
            )
        elif tested := [last for run in setting.runs if (last := last_test(run))]:
            mean = sum(accuracy for accuracy, _ in tested) / len(tested)
            epochs = sorted({epoch for _, epoch in tested})
            after = f"epoch {epochs[0]}" + (f" to {epochs[-1]}" if len(epochs) > 1 else "")
            facts.append((percent(mean), f"{setting.name}: accuracy so far, after {after}"))
    return facts


def _accuracy(run: RunFolder) -> list[tuple[str, str]]:
    result = run.result
    if not result:
        return _accuracy_so_far(run)
    if "last_accuracy" not in result:
        return []
    low, high = accuracy_interval(result["last_accuracy"], result["test_images"])
    return [
        (
            percent(result["last_accuracy"]),
            f"accuracy at the last epoch; 95 % interval of {result['test_images']:,} test images {low:.1f} to {high:.1f} %",
        )
    ]


def _accuracy_so_far(run: RunFolder) -> list[tuple[str, str]]:
    last = last_test(run)
    if last is None:
        return []
    accuracy, epoch = last
    text = f"accuracy so far, after epoch {epoch:,}"
    if images := run.start.get("test_images"):
        low, high = accuracy_interval(accuracy, images)
        text += f"; 95 % interval of {images:,} test images {low:.1f} to {high:.1f} %"
    return [(percent(accuracy), text)]


def last_test(run: RunFolder) -> tuple[float, int] | None:
    """The accuracy of the last test so far, percent, and the epoch it followed; None before the first."""
    tested = [event for event in run.events if event["event"] == "epoch" and "accuracy" in event]
    return (float(tested[-1]["accuracy"]), int(tested[-1]["epoch"])) if tested else None


def _left(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """The time until the last of those that run has ended, at the pace so far."""
    running = [run for run in runs if run.state == State.RUNNING]
    known = [seconds for run in running if (seconds := seconds_left(run)) is not None]
    if not known:
        return []
    whose = "" if len(runs) == 1 else f" until the last of {len(known)} running runs has ended"
    return [(f"about {duration(max(known), 1)}", f"left at the pace so far{whose}")]


def _progress(run: RunFolder) -> list[tuple[str, str]]:
    if "model" in run.start:
        done = 0 if run.generations.empty else int(run.generations["generation"].max())
        planned = run.config["search"]["generations"]  # None: it ends otherwise
        return [(f"{done:,}" + ("" if planned is None else f" of {planned:,}"), "generations")]
    return [(f"{len(run.epochs):,} of {run.config['train']['epochs']:,}", "epochs")]


def cost_of(run: RunFolder) -> dict[str, Any]:
    """seconds, search_seconds, image_forwards, search_forwards by the end, or the last epoch logged; {} before."""
    events = [event for event in run.events if event["event"] in ("epoch", "end") and "seconds" in event]
    return events[-1] if events else {}
