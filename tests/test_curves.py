"""Curves: means, bands and settings are what they are called; any run that has generations is drawn, the rest told."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import curve_tables
from analysis.curve_tables import (
    COLUMNS,
    Series,
    band,
    by_forwards,
    by_generation_of,
    forwards_saved,
    over_training,
    read_history,
    settings_of,
    turnover,
)
from analysis.curve_topics import topics_of
from analysis.curves import by_generation, draw_curves, figures_of, fitness_label, write_curves
from analysis.run_folder import RunFolder, find_run
from analysis.run_format import RunFolderError
from analysis.statistics import t_interval
from analysis.style import as_svg, for_page
from runs.benchmarks.made_up import make_run

VERSION_1 = Path(__file__).parent / "data" / "runs-v1"


@pytest.fixture
def made(out):
    """Made-up runs by name: made("a", 4, 6, 3, seed=1)."""

    def make(name, epochs=4, searches=6, generations=3, seed=0, **more):
        return RunFolder(make_run(out / name, epochs, searches, generations, seed, **more))

    return make


def lines_of(run):
    return [json.loads(line) for line in (run.path / "generations.jsonl").read_text().splitlines()[1:]]


def rewrite(run, lines):
    """Replace a run's generations."""
    text = "".join(json.dumps(line) + "\n" for line in [{"schema": 2}, *lines])
    (run.path / "generations.jsonl").write_text(text)
    return RunFolder(run.path)


def texts(figure):
    """All that stands in a figure."""
    from matplotlib.text import Text

    return "\n".join(found.get_text() for found in figure.findobj(Text))


# Means


def test_a_generation_is_the_mean_over_the_searches_that_came_to_it(made):
    run = made("a")
    lines = [line for line in lines_of(run) if not (line["search"] == 2 and line["generation"] == 3)]
    history = read_history(rewrite(run, lines[::-1]))  # in any order
    assert (history.searches, history.generations) == (6, 3)
    series = by_generation_of(history, history.column("hard", "best"))
    assert series.x.tolist() == [1, 2, 3]
    for generation, value in zip(series.x, series.y, strict=True):
        assert value == pytest.approx(np.mean([line["best"] for line in lines if line["generation"] == generation]))
    spent = by_forwards(history, history.column("hard", "best"))
    assert spent.x[0] == 16 and spent.y.tolist() == series.y.tolist()
    assert spent.x[1] == pytest.approx(np.mean([line["forwards"] / 64 for line in lines if line["generation"] == 2]))


def test_over_the_training_each_search_counts_with_its_ends(made):
    run = made("a", epochs=3, searches=6)
    lines, history = lines_of(run), read_history(run)
    for which, generation in (("first", 1), ("last", 3)):
        series = over_training(history, history.column("hard", "best"), which)
        assert series.x.tolist() == [1, 2, 3]
        for epoch, value in zip(*series, strict=True):
            chosen = [line["best"] for line in lines if (line["epoch"], line["generation"]) == (epoch, generation)]
            assert len(chosen) == 2 and value == pytest.approx(np.mean(chosen))


def test_turnover_and_what_is_saved_count_rows(made):
    run = made("a")
    lines, history = lines_of(run), read_history(run)
    new, full = (sum(line[key] for line in lines) for key in ("new_rows", "full_rows"))
    assert forwards_saved(history) == pytest.approx(100 * (1 - new / full))
    assert turnover(history).y[0] == 100
    second = [line for line in lines if line["generation"] == 2]
    expected = 100 * sum(line["new_rows"] for line in second) / sum(line["full_rows"] for line in second)
    assert turnover(history).y[1] == pytest.approx(expected)


def test_values_that_are_no_numbers_are_left_out_and_missing_ones_named(made):
    run = made("a")
    lines = lines_of(run)
    lines[0]["best"], lines[1]["median"] = None, float("nan")
    history = read_history(rewrite(run, lines))
    assert (
        np.isnan(history.columns["best"][0]) and np.isfinite(by_generation_of(history, history.columns["best"]).y).all()
    )
    assert write_curves([rewrite(run, lines)])
    del lines[4]["forwards"]
    with pytest.raises(RunFolderError, match=r"generations.jsonl: generation 5 of the file has no number 'forwards'"):
        read_history(rewrite(run, lines))


# Bands and settings


def test_a_band_is_the_mean_with_its_t_interval_where_all_seeds_are():
    seeds = [Series(np.array([1, 2, 3]), np.array([0.0, 1, 2])), Series(np.array([1, 2]), np.array([2.0, 5]))]
    found = band(seeds)
    assert found.x.tolist() == [1, 2] and found.mean.tolist() == [1, 3]
    assert (found.low[1], found.high[1]) == t_interval([1, 5])
    alone = band(seeds[:1])
    assert alone.mean.tolist() == [0, 1, 2] and np.isnan(alone.low).all()


def test_seeds_are_read_between_their_forwards():
    seeds = [Series(np.array([10.0, 12]), np.array([0.0, 2])), Series(np.array([9.0, 11, 14]), np.array([0.0, 2, 5]))]
    found = band(seeds)
    assert found.x.tolist() == [10, 11, 12]
    assert found.mean.tolist() == [0.5, 1.5, 2.5]


@given(st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=2, max_size=5), st.randoms())
def test_a_band_does_not_depend_on_the_order_of_seeds(values, random):
    series = [Series(np.arange(4.0), np.array(one)) for one in values]
    shuffled = random.sample(series, len(series))
    for one, other in zip(band(series), band(shuffled), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_runs_that_differ_in_seed_and_name_only_are_one_setting(made):
    runs = [made("x/a-s0"), made("x/a-s1", seed=1), made("x/b", seed=2, generations=4), made("x/a-s2", seed=2)]
    settings, notes = settings_of(runs)
    assert [setting.label for setting in settings] == ["a (n = 3)", "b"] and notes == []
    assert [history.run.name for history in settings[0].histories] == ["x/a-s0", "x/a-s1", "x/a-s2"]


def test_a_run_counts_once(made):
    run, again = made("a-s0"), made("copy")
    settings, notes = settings_of([run, run, RunFolder(run.path), again])
    assert [len(setting.histories) for setting in settings] == [1]
    assert notes == ["Left out, as of the same setting and seed as a-s0: copy."]


def test_settings_have_names_of_their_own(made):
    runs = [made(f"run-s{seed}", seed=seed, generations=3 + seed // 2) for seed in range(4)]
    labels = [setting.label for setting in settings_of(runs)[0]]
    assert len(set(labels)) == 2
    long = made("a" * 100)
    assert len(settings_of([long])[0][0].label) < 50


def test_runs_without_a_search_are_told(made):
    run, plain = made("a"), made("plain")
    (plain.path / "generations.jsonl").unlink()
    plain = RunFolder(plain.path)
    settings, notes = settings_of([plain, run])
    assert len(settings) == 1 and notes == ["Left out, as without a search: plain."]
    assert "as without a search: plain" in figures_of([run, plain])[0][2]
    with pytest.raises(RunFolderError, match=r"^run plain has no generations: its mix is 'evolved'; only .*$"):
        write_curves([plain])
    assert not (plain.path / "figures").exists()
    with pytest.raises(RunFolderError, match=r"none of the runs plain, plain-2 has generations"):
        (made("plain-2").path / "generations.jsonl").write_text('{"schema": 2}\n')
        write_curves([plain, find_run("plain-2")])


# What is drawn


def titles(runs):
    return [panel.title for topic in topics_of(settings_of(runs)[0]) for panel in topic.panels]


def test_every_kind_of_run_has_its_topics(made):
    one = made("one")
    assert titles([one]) == [
        "Fitness by generation", "Fitness by image forwards", "Spread in the population",
        "Over the training: fittest of each search", "Diversity of the population", "Row turnover",
    ]  # fmt: skip
    two = made("two", objectives=("hard", "diversity"))
    assert titles([two]).count("Fitness by generation") == 2 and "Pareto front" in titles([two])
    three = made("three", objectives=("hard", "diversity", "contrast"))
    assert titles([three]).count("Pareto front") == 3
    both = titles([one, two])
    assert "Image forwards saved by carrying losses" in both and "Pareto front, last generation" in both


def test_objectives_do_not_share_an_axis(made):
    runs = [made("hard-s0"), made("easy-s0", objectives=("easy",))]
    figures = {title: figure for title, figure, _ in figures_of(runs)}
    for objective, sign in (("hard", ""), ("easy", "negative ")):
        figure = figures[f"Fitness '{objective}' within a search"]
        axes = figure.axes[0]
        assert len(axes.lines) == 1 and axes.get_ylabel() == f"fitness '{objective}'\n({sign}mean cell loss, nats)"


def test_settings_differ_in_colour_line_and_marker(made):
    runs = [made(f"run-{n}", generations=n) for n in range(2, 9)]
    _, figure, _ = figures_of(runs)[0]
    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"run-{n}" for n in range(2, 9)]


def test_a_line_goes_through_the_means_and_bands_do_not_hide_it(made):
    runs = [made("a-s0"), made("a-s1", seed=1)]
    rewrite(runs[1], [line | {"best": line["best"] + 2} for line in lines_of(runs[1])])
    histories = settings_of(runs)[0][0].histories
    axes = figures_of(runs)[0][1].axes[0]
    expected = np.mean([by_generation_of(one, one.columns["best"]).y for one in histories], axis=0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    low, high = axes.get_ylim()
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    assert low < values.min() and values.max() < high < values.max() + 1.2 * np.ptp(values)
    band_ends = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band_ends.min() < low and high < band_ends.max()


def test_the_front_is_of_the_first_and_the_last_generation(made):
    run = made("two", objectives=("hard", "diversity"))
    last = [line for line in lines_of(run) if line["search"] == 6]
    figure = next(figure for title, figure, _ in figures_of([run]) if title == "Pareto front")
    drawn = {line.get_label(): np.column_stack(line.get_data()) for line in figure.axes[0].lines}
    for place in (0, -1):
        expected = np.array(last[place]["front"])
        np.testing.assert_allclose(
            drawn[f"generation {last[place]['generation']}"], expected[np.argsort(expected[:, 0], kind="stable")]
        )


def test_the_hypervolume_is_drawn_with_what_it_is_and_written_into_the_table(made, tmp_path):
    runs = [made("two-s0", objectives=("hard", "diversity")), made("two-s1", seed=1, objectives=("hard", "diversity"))]
    figure = next(figure for title, figure, _ in figures_of(runs) if title == "Hypervolume")
    by_hand = [
        np.mean([[line["hypervolume"] for line in lines_of(run) if line["generation"] == n] for run in runs])
        for n in (1, 2, 3)
    ]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), by_hand)
    label = "hypervolume of the front of all\ncompositions evaluated, above the worst\nvalues of the first generation"
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == [label] * 3
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == [
        "generation", "image forwards per image of the search batch", "epoch",
    ]  # fmt: skip
    last = [line["hypervolume"] for line in lines_of(runs[0]) if line["generation"] == 3]
    alone = next(figure for title, figure, _ in figures_of(runs[:1]) if title == "Hypervolume")
    assert alone.axes[2].lines[0].get_ydata()[0] == pytest.approx(np.mean(last[:2]))  # two searches an epoch
    with open(write_curves(runs[:1], tmp_path)[2], newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["objective"] == "hard"]
    assert [float(row["hypervolume"]) for row in rows] == pytest.approx(
        [line["hypervolume"] for line in lines_of(runs[0])]
    )


def test_hypervolumes_of_other_objectives_do_not_share_an_axis_and_older_runs_have_none(made):
    runs = [made("a-s0", objectives=("hard", "diversity")), made("b-s0", objectives=("hard", "contrast"))]
    same = made("c-s0", objectives=("diversity", "hard"), seed=3)
    found = [title for title in titles([*runs, same]) if title.startswith("Hypervolume:")]
    assert found == ["Hypervolume: diversity, hard", "Hypervolume: contrast, hard"]
    older = rewrite(runs[0], [{k: v for k, v in line.items() if k != "hypervolume"} for line in lines_of(runs[0])])
    assert not [title for title in titles([older]) if "Hypervolume" in title] and "Pareto front" in titles([older])
    assert not [title for title in titles([made("one")]) if "Hypervolume" in title]
    with open(write_curves([older])[2], newline="") as file:
        assert {row["hypervolume"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize("front", [None, "no list", [[1.0], [2.0, 3.0]]])
def test_a_front_that_is_none_is_left_out(made, front):
    run = made("two", objectives=("hard", "diversity"))
    assert "Pareto front" not in titles([rewrite(run, [line | {"front": front} for line in lines_of(run)])])


def test_a_search_of_one_generation_that_still_runs_is_drawn(made):
    run = made("two", objectives=("hard", "diversity"))
    run = rewrite(run, lines_of(run)[:1])
    assert len(figures_of([run])) == 5 and len(write_curves([run])) == 3
    without = rewrite(run, [line | {"best": float("nan")} for line in lines_of(run)])
    assert "Fitness 'hard' within a search" not in [title for title, _, _ in figures_of([without])]


def test_a_run_trained_by_this_version_has_all_topics(trained):
    run = RunFolder(trained)
    figures = figures_of([run])
    assert [title for title, _, _ in figures] == [
        "Fitness 'hard' within a search",
        "Fitness 'hard' over the training",
        "Estimated scores",
        "Diversity and row turnover",  # and nothing of the operators, of which it has one of each kind
    ]
    assert all(figure.get_figwidth() <= 9 and caption for _, figure, caption in figures)
    assert "training step" in texts(figures[1][1])  # two epochs make no curve
    table = by_generation(run)
    assert table.index.tolist() == [1, 2]
    assert table["best"].iloc[0] == pytest.approx(
        by_generation_of(read_history(run), read_history(run).columns["best"]).y[0]
    )
    assert figures[0][1].axes[0].get_ylabel().startswith("estimated fitness 'hard'")
    assert fitness_label(run) == "fitness 'hard'\n(mean cell loss, nats)"


@pytest.mark.parametrize("name", ["evolved", "search"])
def test_version_1_is_drawn_as_far_as_it_goes(name, out):
    shutil.copytree(VERSION_1 / name, out / name)
    run = find_run(name)
    found = titles([run])
    assert "Fitness by generation" in found and "Row turnover" not in found and "Pareto front" not in found
    assert len(write_curves([run])) == 3


def test_figures_go_into_pages(made):
    run = made("<b>&amp;")
    with for_page():
        for title, figure, caption in figures_of([run, made("b", generations=4)]):
            svg = as_svg(figure, title)
            assert svg.startswith("<svg") and "var(--ink)" in svg and caption and "<b>" not in svg


# Estimated scores


def estimate(run):
    """Make the run's scores estimates: a forward an image, what the rows would have taken, and a check an epoch."""
    lines = [line | {"scored": line["forwards"], "forwards": line["images"]} for line in lines_of(run)]
    checks = [
        {"event": "checked", "epoch": epoch, "step": 10 * epoch, "search": epoch, "generation": 3,
         "rank_correlation": 1 - epoch / 10 if epoch > 1 else None, "bias": -epoch / 10, "gain_estimated": 0.5,
         "gain_true": 0.3, "checked_rows": 72, "forwards": 72}
        for epoch in range(1, 6)
    ]  # fmt: skip
    with open(run.path / "log.jsonl", "a") as file:
        file.writelines(json.dumps(check) + "\n" for check in checks)
    return rewrite(run, lines)


def test_checks_are_drawn_by_epoch_and_runs_without_have_no_such_topic(made):
    run, exact = estimate(made("a", epochs=5)), made("b", epochs=5, generations=2)
    topics = {title: figure for title, figure, _ in figures_of([run])}
    correlation, bias, gain = topics["Estimated scores"].axes[:3]
    assert correlation.lines[0].get_xydata().tolist() == [[n, pytest.approx(1 - n / 10)] for n in range(2, 6)]
    assert bias.lines[0].get_ydata().tolist() == pytest.approx([-n / 10 for n in range(1, 6)])
    drawn = {line.get_label(): line.get_ydata()[0] for line in gain.lines[:2]}
    assert drawn == {"in truth": 0.3, "by the estimate": 0.5} and correlation.get_xlabel() == "epoch"
    assert "Estimated scores" not in [title for title, _, _ in figures_of([exact])]
    both = {title: figure for title, figure, _ in figures_of([run, exact])}["Estimated scores"]
    assert [len(axes.lines) for axes in both.axes[:3]] == [2, 2, 3]  # of the run alone, and zero


@pytest.mark.parametrize(
    ("kinds", "label", "title", "saves"),
    [
        ("e", "image forwards that the rows scored would take,\nper image of the search batch", "rows scored", False),
        ("f", "image forwards per image of the search batch", "image forwards", True),
        ("ef", "image forwards per image of the search batch\n(of estimated scores: those that the rows scored would take)",
         "rows scored", False),
    ],
)  # fmt: skip
def test_forwards_are_called_what_they_are(made, kinds, label, title, saves):
    runs = [estimate(made(kind)) if kind == "e" else made(kind, generations=4) for kind in kinds]
    figures = figures_of(runs)
    axes = figures[0][1].axes[1]
    assert axes.get_xlabel() == label and axes.get_title(loc="left").endswith(f"by {title}")
    words = "\n".join(texts(figure).replace("\n", " ") + caption for _, figure, caption in figures)
    assert ("image forwards saved by" in words.lower()) == saves and ("rows forwarded" in words) == saves
    assert ("Fitness is an estimate for e and exact for the others" in figures[0][2]) == (kinds == "ef")


def test_the_table_tells_forwards_from_rows_scored(made, tmp_path):
    before = made("a")
    spent = [line["forwards"] / 64 for line in lines_of(before)]
    rows = table_of(write_curves([estimate(before), made("b", generations=2)], tmp_path))
    ours = [row for row in rows if row["run"] == "a"]
    assert {row["forwards_per_image"] for row in ours} == {"1"}
    assert [float(row["scored_per_image"]) for row in ours] == pytest.approx(spent)
    assert {row["scored_per_image"] for row in rows if row["run"] == "b"} == {""}


# What is written


def test_pictures_and_table_are_written_where_they_belong(made, out, tmp_path):
    run, other = made("a-s0"), made("x/b", generations=4)
    paths = write_curves([run])
    assert paths == [run.path / "figures" / f"curves.{ending}" for ending in ("png", "svg", "csv")]
    before = paths[0].read_bytes()
    assert before.startswith(b"\x89PNG\r\n\x1a\n") and paths[1].read_text().startswith("<?xml")
    compared = write_curves([run, other])
    (folder,) = {path.parent for path in compared}
    assert folder.parent == out / "curves" and folder.name.startswith("a-s0+x-b~") and paths[0].read_bytes() == before
    assert write_curves([run], tmp_path / "there", dark=True)[0].read_bytes() != before
    assert draw_curves([run, run], tmp_path / "picture.png").is_file()
    assert not list(out.glob("**/.*tmp*"))
    many = write_curves([made(f"{'long' * 10}-{n}", seed=n) for n in range(8)])
    assert len(many[0].parent.name) < 120


def test_a_picture_is_the_same_each_time(made, tmp_path):
    run = made("a")
    first, second = (write_curves([run], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def table_of(paths):
    with open(paths[2], newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_every_generation(made, tmp_path):
    runs = [made("a", objectives=("hard", "diversity")), made("b", generations=2)]
    rows = table_of(write_curves(runs, tmp_path))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 2 * 18 + 12
    chosen = [row for row in rows if row["run"] == "a" and row["objective"] == "diversity"]
    for row, line in zip(chosen, lines_of(runs[0]), strict=True):
        assert (row["search"], row["generation"], row["searches"]) == (
            str(line["search"]),
            str(line["generation"]),
            "1",
        )
        assert float(row["best"]) == pytest.approx(line["diversity best"]) and row["median"] == ""
        assert float(row["forwards_per_image"]) == pytest.approx(line["forwards"] / 64)
        assert row["epoch"] == str(line["epoch"])


@pytest.mark.parametrize(("most", "rows", "epoch"), [(36, 36, "1"), (20, 12, "1"), (10, 3, "")])
def test_of_large_runs_the_table_holds_means(made, tmp_path, monkeypatch, most, rows, epoch):
    run = made("a", epochs=4, searches=12)
    monkeypatch.setattr(curve_tables, "MOST_ROWS", most)
    table = table_of(write_curves([run], tmp_path))
    assert len(table) == rows and table[0]["epoch"] == epoch
    assert sum(int(row["searches"]) for row in table) == 36
    chosen = [line["best"] for line in lines_of(run) if line["generation"] == 1 and (not epoch or line["epoch"] == 1)]
    expected = chosen[:1] if most == 36 else chosen
    assert float(table[0]["best"]) == pytest.approx(np.mean(expected), rel=1e-6)


def test_curves_import_neither_torch_nor_pandas(made):
    run = made("a")
    code = (
        "import sys; from pathlib import Path; from analysis.curves import write_curves; "
        f"from analysis.run_folder import RunFolder; write_curves([RunFolder(Path({str(run.path)!r}))]); "
        "print([name for name in ('torch', 'pandas', 'scipy.stats', 'matplotlib.pyplot', 'deap') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
