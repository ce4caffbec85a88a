"""The pattern atlas: symmetries, pieces, tests that are uniform under no preference and see one that is there."""

import json
import re
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import class_pairs, permutations
from analysis import pattern_export as module_patterns
from analysis import preferences as module
from analysis.atlas import atlas_of, rows_of_searches, where_it_mattered
from analysis.orbits import boundary, chance, orbits_of, pieces
from analysis.pattern_export import bank_of_classes, export_patterns, figures_of
from analysis.permutations import Rows
from analysis.run_folder import RunFolder
from evo.bank import PatternBank, random_masks
from evo.bank_files import load_bank, save_bank
from evo.errors import BankError, UserError
from evo.symmetry import canonical, images, orbits
from runs.patterns import run_patterns

COUNTS = {"min_cells": 0, "hold": False, "same_class": True, "self_pairing": True}


@settings(max_examples=60)
@given(st.integers(1, 10), st.integers(0, 2**31))
def test_all_that_are_alike_have_one_form(grid, seed):
    mask = np.random.default_rng(seed).random((1, grid, grid)) < 0.4
    alike = images(mask)[:, 0]
    forms, sizes = canonical(alike)
    assert len(alike) == 16 and (forms == forms[0]).all() and (sizes == sizes[0]).all()
    distinct = len({form.tobytes() for form in alike})
    assert sizes[0] == distinct and any(np.array_equal(forms[0], form) for form in alike)
    again, _ = canonical(forms[:1])
    assert np.array_equal(again, forms[:1])


def test_orbits_divide_all_masks_of_a_grid():
    every = (np.arange(512)[:, None] >> np.arange(9) & 1).astype(bool).reshape(-1, 3, 3)
    index, which = orbits(every)
    _, sizes = canonical(every[index])
    # Burnside: 102 of 3x3 under the square's symmetries; no mask of 9 cells is its own complement.
    assert len(index) == 51 and sizes.sum() == 512
    assert np.array_equal(np.bincount(which), sizes)


def slow_pieces(mask):
    left, found = set(zip(*np.nonzero(mask), strict=True)), 0
    while left:
        found += 1
        queue = deque([left.pop()])
        while queue:
            row, column = queue.popleft()
            for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if cell in left:
                    left.remove(cell)
                    queue.append(cell)
    return found


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 2**31))
def test_pieces_and_boundary_are_counted(grid, count, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, grid, grid)) < rng.random((count, 1, 1))
    assert pieces(masks).tolist() == [slow_pieces(mask) for mask in masks]
    edges = [
        sum(
            bool(m[r, c] != m[r + a, c + b])
            for a, b in ((0, 1), (1, 0))
            for r in range(grid - a)
            for c in range(grid - b)
        )
        for m in masks
    ]
    assert boundary(masks).tolist() == edges


def test_lift_is_one_where_masks_are_drawn_at_random():
    for sampler in ("bernoulli", "box", "connected"):
        bank = PatternBank(3, 2)
        bank.collect(
            random_masks(sampler, 30_000, 3, np.random.default_rng(1)), np.zeros(30_000, int), np.ones(30_000, int)
        )
        found = orbits_of(bank, sampler, np.random.default_rng(2))
        assert found.frequency.sum() == pytest.approx(1) and (np.diff(found.frequency) <= 0).all()
        np.testing.assert_allclose(found.lift[:6], 1, atol=0.12)


def test_random_masks_obey_min_cells():
    drawn = random_masks("bernoulli", 500, 3, np.random.default_rng(0), min_cells=2).sum((1, 2))
    assert drawn.min() == 2 and drawn.max() == 7
    with pytest.raises(ValueError, match="unknown sampler 'x'; there are bernoulli, box, connected"):
        random_masks("x", 1, 3, np.random.default_rng(0))


def by_chance(rng, sampler="bernoulli", searches=3, images=48, classes=4):
    """Rows of searches without any preference."""
    parts = []
    for number in range(searches):
        own, pairing = rng.integers(0, classes, images), rng.permutation(images)
        masks = random_masks(sampler, images, 4, rng)
        itself = pairing == np.arange(images)
        parts.append((masks, own, own[pairing], itself, np.full(images, number), np.full(images, images)))
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def preferences(rows, rng, sampler="bernoulli", **options):
    search = {**COUNTS, **options}
    alternatives = module.alternatives_to(rows.masks, sampler, search["min_cells"], rng)
    found, _ = module.statements_of(rows, alternatives, sampler, search, ["a", "b", "c", "d"], rng)
    return {s.name: s for s in found}


@pytest.mark.parametrize("sampler", ["bernoulli", "box"])
def test_p_is_uniform_where_nothing_is_preferred(monkeypatch, sampler):
    for tested in (module, class_pairs):
        monkeypatch.setattr(tested, "PERMUTATIONS", 60)
        monkeypatch.setattr(tested, "STEPS", 60)
    rng = np.random.default_rng(0)
    trials = 100
    found = [preferences(by_chance(rng, sampler), rng, sampler) for _ in range(trials)]
    for name in ("share", "balance", "places", "pieces", "boundary", "patterns", "same class", "class pairs"):
        p = np.sort([trial[name].p for trial in found])
        # Kolmogorov and Smirnov: beyond 0.195 once in a thousand times for 100 values; p has steps of 1/61.
        assert abs(p - (np.arange(trials) + 0.5) / trials).max() < 0.195 + 1 / 61, name
    for name in ("unmixed", "itself"):  # of few values: no smaller than they should be
        assert np.mean([trial[name].p <= 0.05 for trial in found]) <= 0.13, name
    any_holm = [any(s.p_holm < 0.05 for s in trial.values()) for trial in found]
    assert np.mean(any_holm) <= 0.13


def test_what_is_preferred_is_seen_and_told():
    rng = np.random.default_rng(0)
    rows = by_chance(rng, images=96)
    masks = rows.masks.copy()
    masks[:, :2] |= rng.random((len(masks), 2, 4)) < 0.4  # the upper cells, which hang together
    partner = np.where(rng.random(len(masks)) < 0.5, (rows.own + 1) % 4, rows.partner)
    found = preferences(rows._replace(masks=masks, partner=partner), rng)
    for name in ("share", "places", "boundary", "class pairs"):
        assert found[name].p_holm < 0.05, name
        assert found[name].text.startswith("evolution prefers "), name
    assert "evolution prefers keeping more of the own image: " in found["share"].text
    assert "evolution prefers shorter boundaries: " in found["boundary"].text
    assert found["share"].observed == pytest.approx(100 * masks.mean())
    assert found["share"].expected == pytest.approx(50, abs=2)
    assert found["itself"].text.startswith("no preference seen: images as their own partners, ")


def test_statements_stand_by_strength_with_three_digits():
    rng = np.random.default_rng(0)
    rows = by_chance(rng, images=96)
    masks = rows.masks.copy()
    masks[:, :2] |= rng.random((len(masks), 2, 4)) < 0.4
    found = list(preferences(rows._replace(masks=masks), rng).values())
    told = [s for s in found if s.p_holm < 0.05]
    assert len(told) >= 2 and found[: len(told)] == told
    for part in (told, found[len(told) :]):
        assert [s.strength for s in part] == sorted((s.strength for s in part), reverse=True)
    for statement in found:
        for value in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", statement.text.split(":")[-1].replace("95 %", "")):
            digits = value.partition("e")[0].replace(",", "").replace(".", "").lstrip("0")
            assert len(digits) in (0, 3) or ("." not in value and len(digits) > 3), (value, statement.text)


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_pairs_of_classes_by_chance_are_seldom_beyond_it_and_planted_ones_are(classes, monkeypatch):
    monkeypatch.setattr(class_pairs, "PERMUTATIONS", 200)
    monkeypatch.setattr(class_pairs, "STEPS", 200)
    rng, beyond = np.random.default_rng(0), 0
    for _ in range(40):
        _, p = class_pairs.about_pairings(by_chance(rng, classes=classes), COUNTS, ["x"] * classes, rng)
        assert np.array_equal(p, p.T, equal_nan=True) and np.isnan(np.diag(p)).all()
        beyond += bool((p[np.triu_indices(classes, 1)] < 0.05).any())
    assert beyond <= 7  # of 40 at 5 %: more than seven with probability 0.002
    rows = by_chance(rng, classes=10, images=96)
    partner = np.where((rows.own == 2) & (rng.random(len(rows.own)) < 0.7), 7, rows.partner)
    _, p = class_pairs.about_pairings(rows._replace(partner=partner), COUNTS, ["x"] * 10, rng)
    assert p[2, 7] == p[7, 2] < 0.01 and np.nanmedian(p) > 0.05


def test_the_strongest_pairs_say_where_they_are_within_chance(found):
    atlas = atlas_of(found)
    assert (atlas.pair_p[np.triu_indices(3, 1)] >= 0.05).all()
    title, figure, caption = figures_of(atlas)[2]
    assert title == "Class pairs" and "within chance: none of the 3 pairs is beyond it (smallest p 0." in caption
    assert "permutation test of the 120 rows" in caption
    assert "Strongest pairs of classes (within chance)" in [axes.get_title() for axes in figure.axes]
    atlas.pair_p[0, 1] = atlas.pair_p[1, 0] = 0.001
    _, figure, caption = figures_of(atlas)[2]
    assert "1 of the 3 pairs is beyond chance (solid lines" in caption
    assert "Strongest pairs of classes" in [axes.get_title() for axes in figure.axes]
    atlas.pair_p = None
    assert "was not tested" in figures_of(atlas)[2][2]


def test_the_two_maps_of_cells_have_one_scale_and_a_bar(found):
    atlas = atlas_of(found)
    _, figure, _ = figures_of(atlas)[1]
    images = [axes.images[0] for axes in figure.axes if axes.images]
    scales = {image.get_clim() for image in images}
    low, high = scales.pop()
    assert len(images) == 2 and not scales and low + high == pytest.approx(1)
    values = np.stack([atlas.kept, atlas.mattered])
    assert low <= values.min() + 1e-9 and high >= values.max() - 1e-9
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 1
    figure.draw_without_rendering()
    assert "50 %" in [label.get_text() for label in bars[0].get_yticklabels()]
    bank = module_patterns.bank_figure(atlas.bank, atlas.sampler)
    assert [axes.get_label() for axes in bank.findobj(type(bars[0]))].count("<colorbar>") == 2  # cells, class pairs


def test_what_rules_decide_is_not_preferences():
    rng = np.random.default_rng(0)
    rows = by_chance(rng)
    held = preferences(rows, rng, hold=True)
    assert np.isnan(held["share"].p) and "not tested, the run's rules hold every row's share" in held["share"].text
    assert np.isnan(held["class pairs"].p) and "same class" not in held
    assert "not tested" in preferences(rows, rng, same_class=False)["class pairs"].text
    assert "itself" not in preferences(rows, rng, self_pairing=False)


def test_the_fittest_genome_of_the_last_generation_is_what_is_preferences(monkeypatch):
    rng = np.random.default_rng(0)
    snapshot = {
        "generation": np.array([1, 2, 2]),
        "fitness": np.array([9.0, 1.0, 2.0]),
        "masks": rng.random((3, 10, 2, 2)) < 0.5,
        "pairings": np.stack([rng.permutation(10) for _ in range(3)]),
        "labels": rng.integers(0, 3, 10),
    }
    rows = rows_of_searches([snapshot, snapshot], 2)
    assert np.array_equal(rows.masks[10:], snapshot["masks"][2]) and rows.search.tolist() == [0] * 10 + [1] * 10
    assert np.array_equal(rows.partner[:10], snapshot["labels"][snapshot["pairings"][2]])
    monkeypatch.setattr("analysis.atlas.MOST_ROWS", 10)
    assert np.array_equal(rows_of_searches([snapshot, snapshot], 2).masks[:5], snapshot["masks"][2][::2])
    assert len(rows_of_searches([], 2).masks) == 0


def test_where_it_mattered_is_the_share_of_cell_losses():
    snapshot = {
        "gallery_kind": np.array(["best", "way"]),
        "gallery_masks": np.array([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], bool),
        "gallery_cell_losses": np.ones((2, 2, 2), np.float32),
    }
    share, rows = where_it_mattered([snapshot], 2)
    assert rows == 1 and share.tolist() == [[1, 0], [1, 0]]
    assert where_it_mattered([], 2) == (None, 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run folder with three searches by chance."""
    path = tmp_path_factory.mktemp("out") / "found"
    (path / "elites").mkdir(parents=True)
    (path / "config.json").write_text(
        json.dumps({"schema": 1, "mix": {"name": "evolved", "sampler": "bernoulli"}, "search": COUNTS})
    )
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "$x$"]
    bank = PatternBank(4, 3, names)
    for number in range(1, 4):
        masks, labels = random_masks("bernoulli", 80, 4, rng).reshape(2, 40, 4, 4), rng.integers(0, 3, 40)
        pairings = np.stack([rng.permutation(40) for _ in range(2)]).astype(np.int32)
        bank.collect(masks[1], labels, labels[pairings[1]])
        pictures = np.zeros((4, 1, 8, 8), np.uint8)
        np.savez(
            path / "elites" / f"{number:06d}.npz", schema=1, epoch=number, search=number, generation=np.array([1, 2]),
            fitness=np.array([1.0, 2.0]), masks=masks, pairings=pairings, labels=labels, class_names=np.array(names),
            gallery_own=pictures, gallery_partner=pictures, gallery_mixed=pictures, gallery_masks=masks[1, :4],
            gallery_cell_losses=rng.random((4, 4, 4), np.float32), gallery_scores=np.zeros(4),
            gallery_labels=np.zeros((4, 2), int),
        )  # fmt: skip
    save_bank(bank, path / "patterns" / "bank.npz")
    return RunFolder(path)


def test_an_atlas_says_and_draws_what_it_found(found):
    atlas = atlas_of(found)
    assert atlas.tested == 120 and atlas.pictured == 12 and atlas.epochs.tolist() == [1, 2, 3] and atlas.by == "epoch"
    assert len(atlas.statements) == 10 and all(0 < s.p <= s.p_holm <= 1 for s in atlas.statements)
    assert atlas.statements == atlas_of(found).statements  # the same each time
    figures = figures_of(atlas)
    assert [title for title, _, _ in figures] == [
        "Patterns up to symmetry",
        "Cells kept",
        "Class pairs",
        "Over training",
    ]
    table = atlas.orbits.table()
    assert len(table) == len(atlas.orbits.masks) and table["frequency"].sum() == pytest.approx(1)


def test_what_is_exported(found):
    written = export_patterns(found)
    names = [path.name for path in written]
    assert names[:4] == ["patterns.json", "patterns.npz", "atlas.csv", "statements.json"]
    assert names[-1] == "patterns.png" and "atlas-class-pairs.svg" in names and all(p.is_file() for p in written)
    statements = json.loads(written[3].read_text())
    assert statements["schema"] == 1 and len(statements["statements"]) == 10
    lines = written[2].read_text().splitlines()
    assert lines[0].startswith("form,masks,frequency,lift,share") and all(line.count(",") == 7 for line in lines)


def test_patterns_of_a_class_are_those_of_its_rows(found):
    bank = bank_of_classes(found, ["dog"])
    labels = np.concatenate([s["labels"] for s in found.snapshots()])
    assert bank.weights.sum() == (labels == 1).sum() == bank.pairs[1].sum() and not bank.pairs[[0, 2]].any()
    with pytest.raises(BankError, match=r"no class 'dgo'.*did you mean 'dog'\? .they are cat, dog"):
        bank_of_classes(found, ["dgo"])


def call(*names, **options):
    given = {"top": None, "classes": [], "min_weight": None, "out": None, "dark": False, **options}
    run_patterns([str(name) for name in names], **given)


def test_the_command_merges_and_filters(found, tmp_path, capsys):
    out = tmp_path / "merged.json"
    call(found.path, found.path / "patterns" / "bank.npz", out=out, top=5)
    merged, own = load_bank(out), load_bank(found.bank_file())
    assert len(merged) == 5 and merged.weights.tolist() == (2 * own.weights[:5]).tolist()
    assert np.array_equal(merged.pairs, 2 * own.pairs) and out.with_name(f"{out.name}.png").is_file()
    assert "5 patterns of 4x4 cells" in capsys.readouterr().out
    call(found.path, min_weight=2.0)
    assert "nothing is written" in capsys.readouterr().out
    call(found.path, dark=True)
    assert "no preference seen: " in capsys.readouterr().out


def test_mistakes_are_told_in_a_line(found, tmp_path):
    file = found.path / "patterns" / "bank.npz"
    other = PatternBank(4, 2)
    save_bank(other, tmp_path / "other.json")
    cases = [
        (lambda: call(found.path, file), UserError, "name it with --out"),
        (lambda: call(found.path, out=tmp_path / "a.txt"), UserError, "ends in .json or .npz, got 'a.txt'"),
        (lambda: call(file, classes=["cat"]), UserError, "does not keep masks by class"),
        (lambda: call(file, classes=["cta"]), BankError, "did you mean 'cat'"),
        (lambda: call(file, min_weight=1e9), UserError, "no pattern is left"),
        (lambda: call(file, tmp_path / "other.json", out=tmp_path / "b.json"), BankError, "of the same classes"),
    ]
    for work, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            work()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "b.json").exists()


def test_chance_is_a_distribution():
    every = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(bool).reshape(-1, 2, 2)
    assert sum(chance(mask, "bernoulli") for mask in every) == pytest.approx(1)
    assert chance(every[0], "box") is None
    assert permutations.share_as_far(1, np.zeros(99)) == 0.01  # never zero
