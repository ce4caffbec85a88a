"""Figures within the sentences of a page, filled from runs/results/.

A figure stands between two marks on one line, and this writes what lies between them:

    PatchMix gains <!-- difference: cifar10-50 patchmix plain --><!-- end --> points.

    difference: NAME VARIANT OTHER     the mean paired difference of VARIANT less OTHER, ± half its 95 % interval
    mean: NAME VARIANT                 the mean over seeds, ± half its 95 % interval
    pairs: NAME VARIANT OTHER          how many seeds both have
    won: NAME VARIANT OTHER            in how many of them VARIANT is the better one, as "9 of 10"
    share: NAME VARIANT OTHER          VARIANT's mean over OTHER's, of the seeds of both, as "1.35"
    adds: NAME VARIANT                 what searching adds to the rest of a run's time, as "+36 %"
    benchmark: NAME CASE OVER          a ratio of runs/results/bench/NAME.json

Several NAMEs with a plus between them, whose seeds differ, count as one. measure=MEASURE takes another measure than
last_accuracy; form=FORM is Python's format of the figure, such as +.1f; a difference or a mean with a form of its own has
no interval. sign=no leaves the sign out, for a sentence that says "below". Names with spaces are quoted.
No figure begins a line, since a comment there ends the paragraph in Markdown.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo.errors import UserError, known_or_refused

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"difference": 3, "mean": 2, "pairs": 3, "won": 3, "share": 3, "adds": 2, "benchmark": 3}  # words that follow
OPTIONS = ("measure", "form", "sign")
MARK = re.compile(rf"<!-- ({'|'.join(KINDS)}): ([^\n]*?) -->([^\n]*?)<!-- end -->")
ALMOST = re.compile(rf"<!--\s*({'|'.join(KINDS)})\b(?! \w)", re.I)


def with_figures(text: str, root: Path, where: str) -> str:
    """A line, or a page's text, with each figure between its marks made anew.

    root: runs/results. where: what errors call the text. Raises UserError for a mark that asks for what is not there.
    """
    if (first := re.search(rf"^ {{0,3}}<!-- ({'|'.join(KINDS)}):", text, re.M)) is not None:
        raise UserError(
            f"{where}: a {first[1]} begins the line, and a comment there ends the paragraph in Markdown; put a word before it"
        )
    filled = MARK.sub(lambda mark: _filled(mark, root, where), text)
    if (left := ALMOST.search(MARK.sub("", filled))) is not None:
        raise UserError(
            f"{where}: {left[0]!r} begins a figure that has no end on its line; expected <!-- {left[1].lower()}: ... --> and "
            "<!-- end -->"
        )
    return filled


def _filled(mark: re.Match[str], root: Path, where: str) -> str:
    kind, asked = mark[1], mark[2]
    try:
        words = shlex.split(asked)
    except ValueError as error:
        raise UserError(f"{where}: {asked!r:.60}: {error}") from None
    options = dict(word.split("=", 1) for word in words if word.split("=", 1)[0] in OPTIONS and "=" in word)
    words = [word for word in words if word.split("=", 1)[0] not in OPTIONS]
    if len(words) != KINDS[kind]:
        raise UserError(
            f"{where}: {kind}: expected {KINDS[kind]} names (see runs/inline_figures.py), got {len(words)}: {asked!r:.80}"
        )
    figure = _benchmark(words, options, root, where) if kind == "benchmark" else _of(kind, words, options, root, where)
    if options.get("sign") == "no":
        figure = figure.lstrip("+-")
    return f"<!-- {kind}: {asked} -->{figure}<!-- end -->"


def _of(kind: str, words: list[str], options: dict[str, str], root: Path, where: str) -> str:
    """A figure of an experiment's trials."""
    from analysis.per_seed import MEASURES
    from analysis.statistics import compare

    trials = _trials(words[0], root, where)
    measure = options.get("measure", "last_accuracy")
    known_or_refused([measure], list(MEASURES), "measure", where)
    known_or_refused(words[1:], list(dict.fromkeys(trials["variant"])), f"variant of {words[0]}", where)
    chosen = trials[trials["variant"].isin(words[1:])]
    places = 3 if measure == "last_test_loss" else 2
    table = compare(chosen, measure, words[-1], order=words[1:]).set_index("variant")
    row = table.loc[words[1]]
    if kind == "mean":
        return _with_interval(row["mean"], row["high"], options.get("form"), f".{places}f")
    if kind == "adds":
        return _text(row["search_adds"], options.get("form", "+.0%")).replace("%", " %")
    if not row["pairs"] > 0:
        raise UserError(f"{where}: {words[1]} and {words[2]} of {words[0]} share no seed; expected some")
    if kind == "difference":
        return _with_interval(row["difference"], row["difference_high"], options.get("form"), f"+.{places}f")
    if kind == "pairs":
        return f"{row['pairs']:.0f}"
    if kind == "won":
        return f"{row['wins'] * row['pairs']:g} of {row['pairs']:.0f}"
    return _text(_ratio(chosen, measure, words[1:]), options.get("form", ".2f"))


def _ratio(trials: pd.DataFrame, measure: str, names: list[str]) -> float:
    by_seed = trials.pivot(index="seed", columns="variant", values=measure).dropna()
    return float(by_seed[names[0]].mean() / by_seed[names[1]].mean())


def _trials(names: str, root: Path, where: str) -> pd.DataFrame:
    import pandas as pd

    from analysis.per_seed import read_per_seed

    known = sorted(path.parent.name for path in root.glob("*/per_seed.csv"))
    known_or_refused(names.split("+"), known, "results", where)
    return pd.concat([read_per_seed(root / name / "per_seed.csv") for name in names.split("+")], ignore_index=True)


def _benchmark(words: list[str], options: dict[str, str], root: Path, where: str) -> str:
    name, case, over = words
    known_or_refused([name], sorted(path.stem for path in (root / "bench").glob("*.json")), "benchmark", where)
    ratios: list[dict[str, Any]] = json.loads((root / "bench" / f"{name}.json").read_text(encoding="utf-8"))["ratios"]
    known_or_refused([case], list(dict.fromkeys(ratio["case"] for ratio in ratios)), f"case of {name}", where)
    of_case = {ratio["over"]: float(ratio["value"]) for ratio in ratios if ratio["case"] == case}
    known_or_refused([over], list(of_case), f"ratio of {case}", where)
    return _text(of_case[over], options.get("form", ".1f"))


def _with_interval(value: float, high: float, form: str | None, usual: str) -> str:
    text = _text(value, form or usual)
    return text if form or math.isnan(high) else f"{text} ± {_text(high - value, usual.lstrip('+'))}"


def _text(value: float, form: str) -> str:
    from analysis.rounding import decimal_text

    return decimal_text(value, form)
