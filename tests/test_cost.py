"""Accuracy against cost: what is drawn, when, and names that lie over no other name and no point."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.comparison_forms import write_tables
from analysis.cost_figure import APART, BOUND, draw_cost, side_by_side, spent_by, write_cost
from analysis.label_places import boxes, overlaps, place_labels
from analysis.per_seed import PER_SEED
from analysis.statistics import t_interval

FRAME = (0, 0, 600, 300)  # about that of the figure, in 1/72 inch
WORDS = "1.35 times random PatchMix"


def trials(**variants):
    """variant -> (mean accuracy, seconds[, seconds of search]), five seeds each."""
    rng = np.random.default_rng(0)
    rows = [
        (name, seed, accuracy + rng.normal(0, 0.4), accuracy, 115_200, seconds + seed, 1.2, float(sum(search)), "")
        for name, (accuracy, seconds, *search) in variants.items()
        for seed in range(5)
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


CLOSE = {
    "plain": (64.0, 98), "cutmix": (65.3, 100), "mixup": (64.9, 100), "patchmix": (65.9, 100), "batch": (65.7, 102),
    "best-of-k": (66.4, 131), "best-of-k-shuffled": (66.1, 130), "evolved-hard": (65.8, 117),
    "evolved-reducible": (66.5, 133), "evolved-image_reducible": (66.3, 128),
}  # fmt: skip


def test_cost_is_over_patchmix_or_else_the_first():
    table = trials(plain=(60, 98), patchmix=(61, 198), evolved=(62, 298))
    assert [one.cost for one in spent_by(table)] == pytest.approx([0.5, 1, 1.5])
    assert [one.cost for one in spent_by(table.query("variant != 'patchmix'"))] == pytest.approx([1, 3])
    ordered = spent_by(table.query("variant != 'patchmix'"), ["evolved", "absent", "plain"])
    assert [(one.variant, one.cost) for one in ordered] == [("evolved", 1), ("plain", pytest.approx(1 / 3))]


def test_gains_and_costs_are_of_the_seeds_that_both_have():
    table = trials(patchmix=(61, 100), evolved=(62, 150), apart=(62, 150), lone=(62, 150))
    table["seed"] += 5 * (table["variant"] == "apart")
    table = table[(table["variant"] != "lone") | (table["seed"] == 0)]
    table = table[(table["variant"] != "evolved") | (table["seed"] < 3)]
    table.loc[table["seed"] > 2, "seconds"] *= 10  # on another machine
    table.loc[table["seed"] > 2, "last_accuracy"] += 20  # and easier images
    own, one, lone = spent_by(table)
    values = table.set_index(["variant", "seed"])["last_accuracy"]
    gains = (values["evolved"] - values["patchmix"]).dropna()
    low, high = t_interval(gains)
    assert (own.seeds, own.cost, own.gain, own.half) == (5, 1, 0, 0)
    assert one.seeds == 3 and one.cost == pytest.approx(151 / 101)
    assert (one.gain, one.half) == pytest.approx((gains.mean(), (high - low) / 2))
    assert lone.seeds == 1 and math.isnan(lone.half)


def test_where_steps_are_alike_cost_is_what_search_adds_within_each_run(tmp_path):
    table = trials(patchmix=(61, 100), best=(62, 300), evolved=(62, 120))
    rows = table["variant"] == "best"  # on a machine that was half as fast
    table.loc[rows, "search_seconds"] = table["seconds"][rows] / 3
    table.loc[table["variant"] == "evolved", "search_seconds"] = 20 + table["seed"] / 6
    assert [one.cost for one in spent_by(table, steps_alike=True)] == pytest.approx([1, 1.5, 1.2])
    assert [one.cost for one in spent_by(table)][1] > 2.9
    label = draw_cost(spent_by(table, steps_alike=True), steps_alike=True).axes[0].get_xlabel()
    assert (
        label
        == "time of training with search over that without, in the same run\n(patchmix = 1; equal ones side by side)"
    )
    write_cost(table, tmp_path, steps_alike=True)
    assert label.split("\n")[0] in (tmp_path / "cost.svg").read_text()
    older = table.assign(search_seconds=math.nan)  # its share is not known
    write_cost(older, tmp_path, steps_alike=True)
    assert "seconds of training, search included" in (tmp_path / "cost.svg").read_text()


def test_variants_of_equal_cost_stand_side_by_side_around_the_reference():
    table = trials(
        plain=(60, 100), cutmix=(60, 100), patchmix=(61, 100), mixup=(60, 100), evolved=(62, 150), more=(62, 200)
    )
    found, moved = spent_by(table), side_by_side(spent_by(table))
    assert [one._replace(cost=0) for one in moved] == [one._replace(cost=0) for one in found]
    step = APART * (found[-1].cost - 1)
    shifts = [(one.cost - other.cost) / step for one, other in zip(moved, found, strict=True)]
    assert shifts == pytest.approx([1, -1, 0, 2, 0, 0])


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_points_intervals_names_and_reference_lines_are_drawn():
    figure = draw_cost(spent_by(trials(**CLOSE)))
    axes = figure.axes[0]
    assert sorted(texts(figure)) == sorted([*CLOSE, WORDS]) and len(axes.containers) == 10
    assert sum(container.has_yerr for container in axes.containers) == 9  # not that of the reference
    upright = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())]
    assert upright == [1, BOUND]
    assert axes.get_xlabel() == "seconds of training, search included; patchmix = 1"
    assert axes.get_title() == "Accuracy against cost: 5 pairs of seeds, 95 % intervals"
    assert axes.get_ylabel() == "accuracy less that of patchmix, points"


@pytest.mark.parametrize(
    "variants",
    [
        {"plain": (60, 98), "cutmix": (61, 100), "patchmix": (62, 100)},  # none searched
        {"plain": (60, 98), "cutmix": (61, 100), "evolved": (62, 150)},  # nothing is random PatchMix
    ],
)
def test_the_bound_is_drawn_where_it_means_something(variants):
    assert WORDS not in texts(draw_cost(spent_by(trials(**variants))))


def test_one_seed_has_no_interval():
    table = trials(**CLOSE).query("seed == 0")
    figure = draw_cost(spent_by(table))
    assert not any(container.has_yerr for container in figure.axes[0].containers)
    assert figure.axes[0].get_title() == "Accuracy against cost (one seed each)"
    more = pd.concat([table, trials(plain=(64, 98), patchmix=(65, 98)).query("seed > 0")])
    assert "1 to 5 pairs of seeds" in draw_cost(spent_by(more)).axes[0].get_title()


def test_names_in_the_figure_overlap_neither_each_other_nor_points():
    figure = draw_cost(spent_by(trials(**CLOSE)))
    axes = figure.axes[0]
    named = [text for text in axes.texts if text.get_text() in CLOSE]
    areas = np.array([text.get_window_extent().extents for text in named])
    at = axes.transData.transform([text.xy for text in named])
    assert np.count_nonzero(overlaps(areas, areas)) == len(areas) == 10
    assert not overlaps(areas, boxes(at, np.full((10, 2), 7 * figure.dpi / 72))).any()
    own = areas[[text.get_text() for text in named].index("patchmix")]
    zero = axes.transData.transform((1, 0))[1]
    assert own[1] > zero or own[3] < zero  # beside the line of no gain, not on it


def test_many_and_long_names_are_a_key(tmp_path):
    many = {f"search.objective=image_reducible,mix.grid={n},$\\frac$": (60 + n / 9, 100 + n) for n in range(16)}
    figure = draw_cost(spent_by(trials(**many)))
    assert texts(figure) == [str(number) for number in range(1, 17)]
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(key) == 16 and re.fullmatch(r"3  search\.obj.*….*grid=2,\\\$.frac\\\$", key[2])
    figure.savefig(tmp_path / "key.png")


def test_it_is_written_of_three_variants_and_more(tmp_path):
    few = trials(plain=(60, 98), patchmix=(61, 100))
    write_tables(few, tmp_path / "few", ["plain", "patchmix", "unfinished"])
    assert (tmp_path / "few" / "figure.png").is_file() and not (tmp_path / "few" / "cost.png").exists()
    write_tables(trials(**CLOSE), tmp_path / "many")
    assert {path.name for path in (tmp_path / "many").glob("cost.*")} == {"cost.png", "cost.svg"}
    drawn = (tmp_path / "many" / "cost.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in CLOSE)


def test_nothing_is_divided_by_no_time(tmp_path):
    assert write_cost(trials(**CLOSE).assign(seconds=0), tmp_path) == [] and not any(tmp_path.iterdir())


# Where names go


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), spread=st.sampled_from([0.0, 20.0, 150.0]))
def test_names_are_free_within_the_frame_and_the_same_each_time(seed, n, spread):
    rng = np.random.default_rng(seed)
    points = np.array([300, 150]) + rng.uniform(-0.5, 0.5, (n, 2)) * spread
    sizes = np.stack([rng.uniform(20, 90, n), np.full(n, 12)], axis=1)
    centres = place_labels(points, sizes, FRAME, radius=4)
    areas = boxes(centres, sizes)
    for i, area in enumerate(areas):  # a slow reference of its own
        assert FRAME[0] <= area[0] and FRAME[1] <= area[1] and area[2] <= FRAME[2] and area[3] <= FRAME[3]
        for other in areas[:i]:
            assert area[2] <= other[0] or other[2] <= area[0] or area[3] <= other[1] or other[3] <= area[1]
        for x, y in points:
            assert not (area[0] - 4 < x < area[2] + 4 and area[1] - 4 < y < area[3] + 4)
    np.testing.assert_array_equal(centres, place_labels(points, sizes, FRAME, radius=4))


def test_a_lone_name_is_at_its_point_and_leaves_bars_free():
    near = place_labels([[300, 150]], [[60, 12]], FRAME)[0]
    assert math.dist(np.clip((300, 150), near - (30, 6), near + (30, 6)), (300, 150)) < 10
    bars = np.array([[306, 140, 420, 160], [180, 140, 294, 160], [299, 160, 301, 200]], float)
    beside = boxes(place_labels([[300, 150]], [[60, 12]], FRAME, bars), np.array([[60.0, 12.0]]))
    assert not overlaps(beside, bars).any() and beside[0, 3] < 150  # below is all that is free
    corner = place_labels([[598, 298]], [[60, 12]], FRAME)[0]
    assert (corner + (30, 6) <= (600, 300)).all()
