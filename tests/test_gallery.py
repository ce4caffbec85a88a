"""The gallery: whose rows it shows, where images meet, and its pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis import gallery
from analysis.gallery import (
    borders,
    depths,
    draw_gallery,
    evenly,
    generations_of,
    largest_loss,
    of_kind,
    rows_of,
    share_text,
    way_of,
    write_gallery,
)
from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from analysis.snapshots import read_snapshot

VERSION_1 = Path(__file__).parent / "data" / "runs-v1"


@pytest.fixture
def rows(trained):
    return rows_of(RunFolder(trained).snapshots()[-1])


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def test_every_composed_picture_is_made_of_its_two_sources_by_its_mask(rows):
    for row in rows:
        scale = len(row.mixed) // len(row.mask)
        cells = np.repeat(np.repeat(row.mask, scale, 0), scale, 1)
        assert np.array_equal(row.mixed, np.where(cells, row.own, row.partner))
        assert row.share == cells.mean()


def test_rows_are_the_best_and_the_worst_of_each_generation_and_one_rows_way(rows):
    generations = generations_of(rows)
    assert generations == [1, 2]
    for generation in generations:
        best, worst = (of_kind(rows, kind, generation) for kind in ("best", "worst"))
        scores = [row.score for row in best + worst]
        assert 1 <= len(best) <= 4 and 1 <= len(worst) <= 4 and scores == sorted(scores, reverse=True)
    way = way_of(rows)
    assert [row.generation for row in way] == [1, 2] and all(np.array_equal(row.own, way[0].own) for row in way)


def test_version_1_has_the_last_generation_only():
    snapshot = read_snapshot(sorted((VERSION_1 / "evolved" / "elites").glob("*.npz"))[-1])
    rows = rows_of(snapshot)
    assert generations_of(rows) == [int(snapshot["generation"].max())] and not way_of(rows)
    assert {row.kind for row in rows} == {"best", "worst"}


@given(arrays(bool, st.integers(1, 8).map(lambda side: (side, side))))
def test_borders_lie_between_unlike_cells(mask):
    side = len(mask)
    expected = set()
    for y in range(side):
        for x in range(side):
            if y + 1 < side and mask[y, x] != mask[y + 1, x]:
                expected.add(((y + 1, x), (y + 1, x + 1)))
            if x + 1 < side and mask[y, x] != mask[y, x + 1]:
                expected.add(((y, x + 1), (y + 1, x + 1)))
    found = borders(mask)
    assert set(found) == expected and len(found) == len(expected)


@given(st.integers(0, 60), st.integers(1, 20))
def test_what_is_left_out_is_spread_evenly(length, number):
    kept = evenly(range(length), number)
    assert len(kept) == min(length, number) == len(set(kept)) and kept == sorted(kept)
    if length:
        assert kept[-1] == length - 1 and (number == 1 or kept[0] == 0)
    gaps = np.diff(kept)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@given(arrays(np.float32, (3, 3), elements=st.floats(0, 50, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])))
def test_depths_are_shares_of_the_largest_loss(losses):
    found = depths(losses, 50.0)
    assert ((found >= 0) & (found <= 1)).all()
    finite = np.isfinite(losses)
    assert np.allclose(found[finite], losses[finite] / 50)
    assert (found[np.isnan(losses) | np.isposinf(losses)] == 1).all()


def test_the_largest_loss_leaves_out_what_is_not_finite(rows):
    bad = rows[0]._replace(cell_losses=np.array([[np.inf, 2.5], [np.nan, 1.0]], np.float32))
    assert largest_loss([bad]) == 2.5 and largest_loss([]) == 1.0


def test_shares_add_up_and_long_or_strange_names_are_shown_plainly(rows):
    mask = np.zeros((3, 3), bool)
    mask[0, 0] = True
    row = rows[0]._replace(mask=mask, own_label="$x^2$", partner_label="a" * 40)
    own, partner = share_text(row).splitlines()
    assert own == r"\$x^2\$: 11 %" and partner == "a" * 15 + "…: 89 %"


def test_three_pictures_are_written_light_or_dark(trained, out):
    shutil.copytree(trained, out / "tiny")
    run = RunFolder(out / "tiny")
    light, dark = write_gallery(run), write_gallery(run, out / "dark", dark=True)
    names = ["gallery.png", "gallery-generations.png", "gallery-way.png"]
    assert [path.name for path in light] == [path.name for path in dark] == names
    assert light[0].parent == run.path / "figures" and all(map(is_png, [*light, *dark]))
    assert light[0].read_bytes() != dark[0].read_bytes()


def test_version_1_and_searches_are_drawn(tmp_path):
    for name in ("evolved", "search"):
        run = RunFolder(VERSION_1 / name)
        assert [path.name for path in write_gallery(run, tmp_path / name)] == ["gallery.png"]
        assert is_png(draw_gallery(run, tmp_path / f"{name}.png"))


def test_class_names_cannot_break_a_figure(tmp_path, monkeypatch):
    snapshot = read_snapshot(sorted((VERSION_1 / "evolved" / "elites").glob("*.npz"))[-1])
    snapshot["class_names"] = np.array([f"<b>$\\frac{number}" for number in range(10)])
    monkeypatch.setattr(gallery, "last_snapshot", lambda run: snapshot)
    assert is_png(draw_gallery(RunFolder(VERSION_1 / "evolved"), tmp_path / "strange.png"))


def test_a_run_without_pictures_is_one_line(tmp_path):
    with pytest.raises(RunFolderError, match="plain has no composed images: only `evolved` runs"):
        write_gallery(RunFolder(VERSION_1 / "plain"), tmp_path)
    assert not list(tmp_path.iterdir())
