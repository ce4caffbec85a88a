"""What a careful reader would want to be told before believing the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from analysis.diverged import divergence, search_divergence
from analysis.estimate_checks import doubt
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder
from analysis.run_settings import Setting, settings_of
from analysis.sections.parts import section
from analysis.states import State
from analysis.statistics import accuracy_interval, t_interval
from analysis.tested import images_of_test, unlike

FEW_TEST_IMAGES = 2000  # below, the test images' error alone exceeds 2 points at 70 % accuracy
DRAWN_AT_RANDOM = ("patchmix",)  # mixes that evolved ones are to beat


class Caveat(NamedTuple):
    """A warning, or a note where `warns` is False."""

    title: str
    text: str
    warns: bool = True


def caveats(runs: Sequence[RunFolder]) -> str:
    """What of the runs could not be read, warnings, notes; "" where there is none of these."""
    told = dict.fromkeys(line for run in runs for line in run.damaged())
    found = [Caveat("Damaged file", f"{line}.") for line in told]
    found += sorted(caveats_of(runs), key=lambda caveat: not caveat.warns)
    items = "\n".join(
        f"<li class='{'warning' if caveat.warns else 'note'}'><strong>{'Warning' if caveat.warns else 'Note'}: "
        f"{escape(caveat.title)}.</strong> {escape(caveat.text)}</li>"
        for caveat in found
    )
    return section("warnings", "Read this first", f"<ul class='caveats'>\n{items}\n</ul>" if items else "")


def caveats_of(runs: Sequence[RunFolder]) -> list[Caveat]:
    """All that hold for these runs, one of a title. A text that does not hold for every run names those it holds for."""
    settings = settings_of(runs)
    what = unlike([images_of_test(run) for run in runs if "model" not in run.start])
    checks = [check for check in OF_ALL if not (what and check is _against_random)]
    found = [Caveat("Different test images", f"{what}, so their accuracies cannot be compared.")] if what else []
    found += [caveat for check in checks for caveat in check(settings)]
    for check in OF_RUN:
        told: dict[tuple[str, bool], dict[str, list[str]]] = {}
        for run in runs:
            for title, text, warns in check(run):
                told.setdefault((title, warns), {}).setdefault(text, []).append(run.name)
        for (title, warns), texts in told.items():
            sentences = [
                text if len(names) == len(runs) else f"{', '.join(names)}: {text}" for text, names in texts.items()
            ]
            found.append(Caveat(title, " ".join(sentences), warns))
    return found


# Of one run


def _unfinished(run: RunFolder) -> list[Caveat]:
    state = run.state
    if state == State.DONE:
        return []
    if state == State.FAILED:
        reason = next(
            (str(event.get("reason", "")) for event in reversed(run.events) if event["event"] == "failed"), ""
        )
        return [Caveat(state.capitalize(), f"The run ended with an error: {reason or 'no reason was logged'}.")]
    verb = "search" if "model" in run.start else "train"
    what = (
        "what is shown is what it has logged so far"
        if state == State.RUNNING
        else f"./run {verb} --resume goes on with it from its checkpoint, if it has one"
    )
    return [Caveat(state.capitalize(), f"The run is {state}: {state.meaning}; {what}.")]


def _test_error(run: RunFolder) -> list[Caveat]:
    result = run.result
    if not result or "last_accuracy" not in result:
        return []
    low, high = accuracy_interval(result["last_accuracy"], result["test_images"])
    text = (
        f"With {result['test_images']:,} test images the accuracy is known to about ± {(high - low) / 2:.1f} points, "
        "seeds aside."
    )
    few = result["test_images"] < FEW_TEST_IMAGES
    return [Caveat("Few test images" if few else "Error of the test images", text, few)]


def _test_split(run: RunFolder) -> list[Caveat]:
    result = run.result
    if not result or "best_accuracy" not in result:
        return []
    text = (
        "Accuracies are of the last epoch, which was fixed beforehand, so the test images chose nothing. The best test on "
        "the way was picked by them, as is checkpoint/best: results of either are optimistic. Options tuned on the same "
        "test images would be such a choice as well, and cannot be seen from here."
    )
    return [Caveat("What the test images chose", text, False)]


def _diverged(run: RunFolder) -> list[Caveat]:
    found = {"Training diverged": divergence(run), "Search of losses that blew up": search_divergence(run)}
    return [Caveat(title, text) for title, text in found.items() if text]


def _search_effect(run: RunFolder) -> list[Caveat]:
    """Of each search's first and last generation: whether fitness rose, over searches."""
    if run.generations.empty:
        return []
    table = run.generations.sort_values("generation").groupby("search")["best"]
    rises = (table.last() - table.first()).to_numpy()
    rises = rises[np.isfinite(rises)]
    if not len(rises):
        return []
    if rises.mean() <= 0:
        return [Caveat("Search without effect", "The last generation is no fitter than the first.")]
    low, _ = t_interval(rises)
    if len(rises) > 1 and low <= 0:
        text = (
            f"Best fitness rose by {decimal_text(rises.mean(), '.3f')} from the first to the last generation, but over {len(rises):,} "
            "searches the 95 % interval of the rise includes zero."
        )
        return [Caveat("Search without clear effect", text)]
    return []


def _live_weights(run: RunFolder) -> list[Caveat]:
    if run.generations.empty or run.config["search"].get("rescore", "hold") == "hold" or "model" in run.start:
        return []
    text = (
        f"search.rescore={run.config['search']['rescore']}: the model was trained on between the generations of one search, "
        "so a change of fitness is not the search's alone."
    )
    return [Caveat("Live weights", text)]


def _nonfinite(run: RunFolder) -> list[Caveat]:
    lost = 0 if "nonfinite" not in run.generations else int(run.generations["nonfinite"].sum())
    if not lost:
        return []
    text = f"{lost:,} of {int(run.generations['new_rows'].sum()):,} rows scored by the search had losses that are not finite."
    return [Caveat("Losses that are not finite", text)]


def _estimates(run: RunFolder) -> list[Caveat]:
    text = doubt(run)
    return [Caveat("Estimated scores far from exact ones", text)] if text else []


def _commit(run: RunFolder) -> list[Caveat]:
    commit = run.environment.get("commit")
    if not commit:
        return [Caveat("Code not recorded", "The run was made outside a git checkout: its code cannot be looked up.")]
    if str(commit).endswith("+"):
        return [Caveat("Code changed", "Files differed from the recorded commit when the run was made.")]
    return []


def _pretrained(run: RunFolder) -> list[Caveat]:
    if not run.config["model"].get("pretrained"):
        return []
    return [
        Caveat("Published weights", "The model began with weights that others trained, perhaps on these test images.")
    ]


# Of all runs together


def _seeds(settings: Sequence[Setting]) -> list[Caveat]:
    trained = [setting for setting in settings if any("model" not in run.start for run in setting.runs)]
    single = [setting.name for setting in trained if len(setting.runs) == 1]
    if not single:
        return []
    named = f" of {', '.join(single)}" if len(trained) > 1 else ""
    text = f"One seed{named} says nothing of the spread over seeds; compare settings with ./run ablate."
    return [Caveat("Single seed", text)]


def _one_batch(settings: Sequence[Setting]) -> list[Caveat]:
    searches = [setting for setting in settings if all("model" in run.start for run in setting.runs)]
    single = [setting.name for setting in searches if len(setting.runs) == 1]
    if not single:
        return []
    named = f"{', '.join(single)}: " if len(searches) > 1 else ""
    return [Caveat("Single search", f"{named}One search of one batch says nothing of other batches, seeds or models.")]


def _unpaired(settings: Sequence[Setting]) -> list[Caveat]:
    if len({frozenset(setting.seeds) for setting in settings}) < 2:
        return []
    listed = "; ".join(f"{setting.name} {', '.join(map(str, sorted(setting.seeds)))}" for setting in settings)
    text = f"The settings do not have the same seeds ({listed}); differences are of the seeds that two settings share."
    return [Caveat("Unpaired seeds", text)]


def _against_random(settings: Sequence[Setting]) -> list[Caveat]:
    """Whether evolved compositions are told from random ones by the accuracies at hand."""
    found = []
    accuracy = {
        setting.name: {
            seed: run.result["last_accuracy"]
            for seed, run in zip(setting.seeds, setting.runs, strict=True)
            if run.result and "last_accuracy" in run.result
        }
        for setting in settings
    }
    of_mix = {setting.name: setting.runs[0].mix for setting in settings}
    for evolved in (name for name, mix in of_mix.items() if mix == "evolved"):
        for random in (name for name, mix in of_mix.items() if mix in DRAWN_AT_RANDOM):
            shared = sorted(accuracy[evolved].keys() & accuracy[random].keys())
            if not shared:
                continue
            differences = [accuracy[evolved][seed] - accuracy[random][seed] for seed in shared]
            low, high = t_interval(differences)
            mean = sum(differences) / len(differences)
            clear = len(shared) > 1 and low > 0
            if not clear:
                interval = (
                    f", 95 % interval {decimal_text(low, '+.2f')} to {decimal_text(high, '+.2f')}"
                    if len(shared) > 1
                    else ", a single pair"
                )
                found.append(
                    Caveat(
                        "Evolved not shown better than random",
                        f"{evolved} against {random}: {decimal_text(mean, '+.2f')} points over {len(shared)} "
                        f"seed{'s' * (len(shared) > 1)} that both have{interval}.",
                    )
                )
    return found


def _unlike(settings: Sequence[Setting]) -> list[Caveat]:
    runs = [run for setting in settings for run in setting.runs]
    found = []
    for what, values in {
        "devices": {str(run.environment.get("device_name")) for run in runs},
        "commits": {str(run.environment.get("commit")).rstrip("+")[:12] for run in runs},
        "numbers of test images": {run.start["test_images"] for run in runs if "test_images" in run.start},
        "data sets": {str(run.config["data"]["name"]) for run in runs},
    }.items():
        if len(values) > 1:
            listed = ", ".join(map(str, sorted(values)))
            found.append(Caveat(f"Different {what}", f"The runs are not of one kind: {listed}."))
    return found


OF_RUN: tuple[Callable[[RunFolder], list[Caveat]], ...] = (
    _unfinished, _diverged, _search_effect, _test_error, _live_weights, _nonfinite, _estimates, _commit, _pretrained, _test_split,
)  # fmt: skip
OF_ALL: tuple[Callable[[Sequence[Setting]], list[Caveat]], ...] = (
    _seeds,
    _one_batch,
    _against_random,
    _unpaired,
    _unlike,
)
