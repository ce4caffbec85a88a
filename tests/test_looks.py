"""A run looks the same wherever it is shown, and like no other; colours can be seen on their ground."""

import json
import re
import shutil
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from analysis import style
from analysis.curves import figures_of
from analysis.live_page import LivePage
from analysis.report import render_sections
from analysis.run_folder import RunFolder, in_places, places_of
from analysis.sections import training
from analysis.sections.parts import key
from analysis.style import look
from runs.benchmarks.made_up import make_run

CSS = (Path(__file__).parents[1] / "analysis" / "report.css").read_text(encoding="utf-8")
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "deuteranope": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanope": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "tritanope": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


@pytest.fixture(scope="module")
def fourteen(tmp_path_factory):
    """Folders of runs of fourteen settings."""
    root = tmp_path_factory.mktemp("fourteen")
    return [make_run(root / f"v{n:02d}", 3, 3, 2, n, options=[f"search.every={n + 1}"]) for n in range(14)]


def linear(colour):
    value = np.array(to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2."""
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour, sight):
    xyz = np.clip(sight @ linear(colour), 0, 1) @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    x, y, z = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.0089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def variables(theme):
    """The colours of the page's themes: the first block of report.css is the light one, the second the dark one."""
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", CSS)
    return dict(re.findall(r"--([\w-]+): (#\w+)", blocks[theme]))


def drawn_looks(figure):
    """Label -> colour, line and marker of every line of a figure that has a name."""
    found = {}
    for line in figure.findobj(Line2D):
        if line.get_label() and not line.get_label().startswith("_"):
            found[line.get_label()] = (line.get_color(), str(line.get_linestyle()), line.get_marker())
    return found


# Looks


def test_no_two_of_many_runs_look_alike_even_without_colour():
    looks = [(one.colour, str(one.line), one.marker) for one in map(look, range(343))]
    assert len(set(looks)) == 343
    for one, other in combinations(looks[:49], 2):  # at most one of the three is shared
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 1
    first = looks[:7]
    assert all(len({one[part] for one in first}) == 7 for part in range(3))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_told_apart_by_every_sight(dark):
    with style.theme(dark):
        colours = [style.colour(number) for number in range(7)]
    for name, sight in SIGHTS.items():
        least = 15 if name == "tritanope" else 25  # in CIELAB; 2.3 is just noticeable
        assert min(np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in combinations(colours, 2)) > least, name


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK])
def test_lines_have_a_contrast_of_three_and_text_of_four_and_a_half(theme):
    assert {
        colour: contrast(colour, theme.ground) for colour in theme.series if contrast(colour, theme.ground) < 3
    } == {}
    assert min(contrast(colour, theme.ground) for colour in (theme.ink, theme.soft)) >= 4.5
    assert contrast(style.OWN, theme.ground) >= 3  # of bars


@pytest.mark.parametrize(("number", "theme"), [(0, style.LIGHT), (1, style.DARK), (2, style.DARK)])
def test_the_pages_colours_are_the_themes_and_hold_the_same_contrasts(number, theme):
    known = variables(number)
    assert [known[f"series-{place}"] for place in range(6)] == list(theme.series[:6])
    assert min(contrast(known[f"series-{place}"], known["paper"]) for place in range(6)) >= 3
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "accent", "warn", "good", "bad"):
            assert contrast(known[text], known[ground]) >= 4.5, (text, ground)
    assert contrast(known["warn"], known["warn-ground"]) >= 4.5 and contrast(known["ink"], known["warn-ground"]) >= 4.5


# The same everywhere


def test_a_run_keeps_its_look_where_others_have_nothing_to_show(fourteen):
    runs = in_places([RunFolder(path) for path in fourteen])
    searched = runs[5:]
    expected = {run.name.split("/")[-1]: look(place) for place, run in enumerate(runs)}
    for title, figure, _ in figures_of(searched):
        for label, (colour, line, marker) in drawn_looks(figure).items():
            one = expected[label]
            assert (colour, marker) == (one.colour, one.marker), (title, label)
            assert line == drawn_line(one), (title, label)
    figure = training._several([(run, run.place) for run in searched])
    assert {label: shown[0] for label, shown in drawn_looks(figure).items()} == {
        name: one.colour for name, one in expected.items() if name in {run.name for run in searched}
    }


def drawn_line(one):
    return str(Line2D([], [], linestyle=one.line).get_linestyle())


def test_fourteen_runs_have_fourteen_keys_which_stand_in_the_figures(fourteen):
    sections = render_sections([RunFolder(path) for path in fourteen])
    keys = [key(number) for number in range(14)]
    assert len(set(keys)) == 14
    for part in ("result", "cost"):
        found = re.findall(r'<svg class="key".*?</svg>', sections[part])
        assert found == keys
    for text in ("--series-0", "--series-5", "--ink"):
        assert all(text in sections[part] for part in ("result", "training", "search", "comparison"))


def test_a_run_alone_has_no_key(fourteen):
    assert 'class="key"' not in render_sections([RunFolder(fourteen[0])])["result"]


def test_on_the_live_page_a_run_that_comes_later_changes_no_look(fourteen, out):
    names = ["late", "b", "c"]
    for name, path in zip(names[1:], fourteen[1:], strict=False):
        shutil.copytree(path, out / name)
    seen = []
    live = LivePage(names, {"training": lambda runs: str(seen.append({run.name: run.place for run in runs}))})
    live.renew(["training"])
    shutil.copytree(fourteen[0], out / "late")
    live._made.clear()
    live.renew(["training"])
    assert seen == [{"b": 1, "c": 2}, {"late": 0, "b": 1, "c": 2}]


def test_places_are_given_once_and_kept(fourteen):
    one, two, again = RunFolder(fourteen[0]), RunFolder(fourteen[1]), RunFolder(fourteen[0])
    assert places_of([two, one]) == [0, 1]  # none were given
    assert [run.path.name for run in in_places([one, two, again])] == ["v00", "v01"]
    assert places_of([two]) == [1]


# Axes


def test_axes_of_what_has_no_parts_have_whole_numbers(out):
    for epochs, searches, generations in ((1, 1, 1), (2, 6, 2), (5, 10, 3), (200, 20, 40)):
        run = RunFolder(make_run(out / f"r{epochs}", epochs, searches, generations))
        figures = [figure for _, figure, _ in figures_of([run])] + [training._one(run, 0)]
        for axes in (axes for figure in figures for axes in figure.axes):
            if axes.get_xlabel() in ("epoch", "generation", "training step"):
                ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
                assert ticks and all(tick == round(tick) for tick in ticks), (epochs, axes.get_xlabel(), ticks)
                assert all(step >= 1 for step in np.diff(ticks))


def test_an_axis_of_accuracies_spans_the_interval_of_its_test_images(out):
    """Two runs that differ in one of 360 images, 0.28 points."""
    runs = []
    for name, hits in (("a", 350), ("b", 351)):
        path = make_run(out / name, 6, 6, 2)
        lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for line in lines:
            line.update({k: 100 * hits / 360 for k in ("accuracy", "training_accuracy", "last_accuracy") if k in line})
        (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(RunFolder(path))
    for figure in (training._one(runs[0], 0), training._several([(run, n) for n, run in enumerate(runs)])):
        low, high = figure.axes[1].get_ylim()
        assert low < 95.1 and high > 98.4  # 350 of 360: 94.96 to 98.47 %
        assert max(figure.axes[1].get_xticks()) <= 6  # the intervals stand beside the last epoch


@pytest.mark.parametrize(
    ("values", "least", "within", "expected"),
    [
        ([97.2, 97.5], 3, (0, 100), (95.7, 99.0)),
        ([100, 100], 2, (0, 100), (97.9, 100.1)),
        ([0, 0.1], 2, (0, 100), (-0.1, 2.1)),
        ([-0.1, 0.1], 1, (-100, 100), (-0.55, 0.55)),
    ],
)
def test_a_narrow_axis_is_widened_within_what_can_be(values, least, within, expected):
    axes = style.new_figure(2, 2).subplots()
    axes.plot([1, 2], values)
    style.widen(axes.yaxis, least, within=within)
    assert axes.get_ylim() == pytest.approx(expected)


def test_a_wide_axis_stays():
    axes = style.new_figure(2, 2).subplots()
    axes.plot([1, 2], [10, 90])
    before = axes.get_ylim()
    style.widen(axes.yaxis, 5)
    assert axes.get_ylim() == before and all(a < b for a, b in pairwise(before))
