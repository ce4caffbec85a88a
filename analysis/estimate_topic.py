"""Estimated scores beside exact ones."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from analysis.curve_lines import Of, Panel, finish, legend_below, plot, series_of
from analysis.curve_tables import Setting, band, checks_over
from analysis.curve_words import MEANINGS, Topic, bands, beside
from analysis.style import soft


def estimates_topic(settings: Sequence[Setting]) -> Topic:
    """What the checks against exact forwards found: over a training, or in a search experiment's generations."""
    having = [setting for setting in settings if series_of(setting, _checked("rank_correlation", "step"))]
    kinds = [
        (alike, scale, of_what)
        for searching, of_what in ((False, ""), (True, ", search experiments"))
        if (alike := [one for one in having if _is_experiment(one) == searching])
        for scale in [_scale_of_checks(alike, searching)]
    ]
    panels = []
    for alike, scale, of_what in kinds:
        panels += _check_panels(alike, scale, of_what if len(kinds) > 1 else "")
    caption = (
        "Estimated scores beside exact ones, for random compositions of a few images and the one that was chosen. Rank "
        "correlation: Spearman's, within an image (1: the same order, 0: none). Bias: estimate less truth. Gain: score of "
        "what was chosen less that of random compositions; what the estimate promises beyond the truth was chosen by its "
        "errors. " + (bands(having) if having else "")
    )
    return Topic("Estimated scores", caption.strip(), panels)


def _check_panels(alike: Sequence[Setting], scale: str, of_what: str) -> list[Panel]:
    """Of trainings alone, or of search experiments alone; scores of other objectives have axes of their own."""
    xlabel = "training step" if scale == "step" else scale

    def drawn(title: str, shown: Sequence[Setting], names: dict[str, str], ylabel: str, top: float | None) -> Panel:
        lines = [
            (which, name, band(series))
            for setting in shown
            for name, which in zip(names, beside(setting), strict=False)
            if (series := series_of(setting, _checked(name, scale)))
        ]

        def draw(axes: Axes) -> None:
            for which, name, line in lines:
                plot(axes, line, which, names[name] or None)
            axes.axhline(0, color=soft(), linewidth=1, linestyle=":", zorder=1)
            finish(axes, xlabel, ylabel)
            if top is not None:
                axes.set_ylim(min(axes.get_ylim()[0], -0.05), top)
            if any(names.values()):
                legend_below(axes)

        return Panel(title + of_what, draw)

    agree = {"rank_correlation": ""}
    panels = [drawn("Rank correlation of estimate and truth", alike, agree, "Spearman's rank correlation", 1.05)]
    objectives = dict.fromkeys(one.histories[0].objectives[0] for one in alike)
    for objective in objectives:
        shown = [one for one in alike if one.histories[0].objectives[0] == objective]
        of = f": {objective}" if len(objectives) > 1 else ""
        unit = f"\n'{objective}' ({MEANINGS.get(objective, 'row score')})"
        above = f"score above random compositions,{unit}"
        panels.append(drawn(f"Bias of the estimate{of}", shown, {"bias": ""}, f"estimate less truth,{unit}", None))
        gains = {"gain_true": "in truth", "gain_estimated": "by the estimate"}
        if len(shown) == 1:
            panels.append(drawn(f"Gain of what was chosen{of}", shown, gains, above, None))
        else:
            panels += [drawn(f"Gain {how}{of}", shown, {name: ""}, above, None) for name, how in gains.items()]
    return panels


def _checked(name: str, scale: str) -> Of:
    return lambda history: checks_over(history, name, scale)


def _is_experiment(setting: Setting) -> bool:
    return "model" in setting.histories[0].run.start


def _scale_of_checks(alike: Sequence[Setting], searching: bool) -> str:
    if searching:
        return "generation"
    counts = [len(one.x) for setting in alike for one in series_of(setting, _checked("rank_correlation", "epoch"))]
    return "epoch" if min(counts, default=0) > 3 else "step"
