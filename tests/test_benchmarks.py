"""Benchmarks: the peers do what they are measured at, forwards are counted right. No timings."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runs.benchmarks as benchmarks
from analysis.run_folder import RunFolder
from evo.bank_files import load_bank
from evo.search import Rows, Search
from runs.benchmarks import BENCHMARKS, analysis, made_up, operators, package_version, peers, row, search_cost, table
from runs.benchmarks.peers import OURS, PEERS, Problem, partially_matched
from training.progress import Progress

SILENT = Progress(visible=False)
BATCH, GRID = 6, 2


def installed(peer):
    return peer is OURS or package_version(peer.package) is not None


CONTESTANTS = [
    pytest.param(
        peer, id=peer.name, marks=pytest.mark.skipif(not installed(peer), reason=f"{peer.package} is not installed")
    )
    for peer in (OURS, *PEERS)
]


def table_losses(seed, batch=BATCH, grid=GRID):
    """A free stand-in for a model: Rows -> cell losses (R,G,G), looked up by whose the cell is."""
    own, other = np.random.default_rng(seed).random((2, batch, grid, grid), dtype=np.float32)

    def evaluate(rows):
        return np.where(rows.masks, own[rows.image], other[rows.partner])

    return evaluate


@pytest.mark.parametrize("peer", CONTESTANTS)
def test_contestants_climb_to_all_cells_kept(peer):
    contestant = peer.start(Problem(8, BATCH, GRID))
    records = contestant.advance(60)
    assert len(records) == 61 and records[0].evaluated == 8
    assert contestant.best == max(record.maximum for record in records) > records[0].maximum + 0.1
    assert contestant.best > 0.9
    for record in records:
        assert record.minimum <= record.mean <= record.maximum and record.deviation >= 0
    assert (np.diff([record.clock for record in records]) > 0).all()
    onward = contestant.advance(2)
    assert len(onward) == 3 and onward[0].evaluated == 0
    assert onward[0].maximum == records[-1].maximum


@pytest.mark.parametrize("peer", CONTESTANTS)
def test_contestants_count_what_they_evaluate_and_keep_pairings_permutations(peer):
    asked = []

    def evaluate(masks, pairings):
        assert masks.dtype == bool and masks.shape == (*pairings.shape, GRID, GRID)
        assert (np.sort(pairings, axis=1) == np.arange(BATCH)).all()
        asked.append(len(masks))
        return masks.mean(axis=(1, 2, 3))

    records = peer.start(Problem(8, BATCH, GRID, seed=3, evaluate=evaluate)).advance(12)
    assert sum(record.evaluated for record in records) == sum(asked)
    assert records[-1].mean > records[0].mean


@pytest.mark.parametrize("peer", CONTESTANTS)
def test_contestants_vary_the_pairing(peer):
    """A fitness of the pairing alone: rows that are their own partner."""

    def at_home(masks, pairings):
        return (pairings == np.arange(BATCH)).mean(axis=1)

    contestant = peer.start(Problem(16, BATCH, GRID, seed=1, evaluate=at_home))
    assert contestant.advance(40)[0].maximum < contestant.best


def test_contestants_start_from_the_same_genomes():
    first = []
    for peer in (OURS, *PEERS):
        if installed(peer):
            peer.start(
                Problem(4, BATCH, GRID, 7, lambda masks, pairings: first.append(masks.copy()) or np.zeros(len(masks)))
            ).advance(0)
    assert all(np.array_equal(masks, first[0]) for masks in first)


@given(st.permutations(range(9)), st.permutations(range(9)), st.integers(0, 9), st.integers(0, 9))
def test_partially_matched_is_the_textbooks(receiver, donor, low, high):
    low, high = sorted((low, high))
    expected = list(receiver)
    expected[low:high] = donor[low:high]
    for place in [*range(low), *range(high, 9)]:
        while expected[place] in donor[low:high]:
            expected[place] = receiver[donor.index(expected[place])]
    found = partially_matched(np.array(receiver), np.array(donor), low, high)
    assert found.tolist() == expected


def test_operators_times_every_contestant():
    contestants = [peer for peer in (OURS, *PEERS) if installed(peer)]
    times = operators.time_generations(Problem(8, BATCH, GRID), contestants, {0.0: (9, 9), 600.0: (3, 2)}, SILENT)
    assert {name: len(values) for name, values in times.items()} == {peer.name: 6 for peer in contestants}
    assert all(value > 0 for values in times.values() for value in values)
    assert operators.extra_memory(Problem(8, BATCH, GRID)) > 0


def test_whole_genomes_count_rows_seen_before():
    from runs.benchmarks.search_quality import WholeGenomes

    rng = np.random.default_rng(0)
    masks, pairings = rng.random((5, BATCH, GRID, GRID)) < 0.5, np.argsort(rng.random((5, BATCH)), axis=1)
    evaluate = table_losses(0)
    genomes = WholeGenomes(evaluate)
    twice = genomes(np.concatenate([masks, masks]), np.concatenate([pairings, pairings]))
    again = genomes(masks, pairings)
    assert genomes.forwards == 15 * BATCH and genomes.computed <= 5 * BATCH
    for genome in range(5):
        direct = evaluate(Rows(np.arange(BATCH), masks[genome], pairings[genome])).mean()
        assert twice[genome] == twice[genome + 5] == again[genome] == pytest.approx(direct, rel=1e-6)


def test_curves_answer_both_ways():
    from runs.benchmarks.search_quality import Curve

    curve = Curve(np.array([10, 30, 70]), np.array([1.0, 2.0, 2.5]))
    assert [curve.at(forwards) for forwards in (10, 29, 30, 1000)] == [1.0, 1.0, 2.0, 2.5]
    assert np.isnan(curve.at(9))
    assert [curve.until(fitness) for fitness in (0.5, 1.5, 2.5)] == [10, 30, 70]
    assert curve.until(3.0) == np.inf


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Benchmarks at sizes of no interest, writing under tmp_path."""
    from runs.benchmarks import search_quality as search

    def scene(recipe, progress):
        def draw(batch, seed):
            return torch.zeros(batch, 1, 8, 8), torch.zeros(batch, dtype=torch.int64)

        return search.Scene("a table", GRID, draw, lambda images, labels: table_losses(len(images)))

    large = Problem(10, BATCH, GRID)
    targets = operators.TARGETS[operators.LARGE]
    monkeypatch.setattr(benchmarks, "PROJECT", tmp_path)
    monkeypatch.setattr(operators, "TARGETS", {Problem(8, BATCH, GRID): targets, large: targets})
    monkeypatch.setattr(operators, "LARGE", large)
    monkeypatch.setattr(operators, "SCHEDULES", {True: {600.0: (1, 1)}})
    monkeypatch.setattr(search_cost, "QUICK", {"P": [search_cost.Size(p, 8, 2) for p in (2, 4, 8)]})
    monkeypatch.setattr(search, "open_scene", scene)
    monkeypatch.setattr(search, "QUICK", search.Scale(8, BATCH, 2, 5, 10**4, 1))
    monkeypatch.setattr(search, "search_share", lambda scale, progress: [1.0, 2.0, 6.0])
    return tmp_path / "runs" / "results" / "bench"


@pytest.mark.parametrize(
    "name",
    [name for name in BENCHMARKS if name not in ("compose", "rescore", "scores", "overhead", "speed", "analysis")],
)
def test_a_benchmark_writes_its_table(name, small, cli):
    status, text, _ = cli("bench", name, "--quick")
    assert status == 0, text
    written = json.loads((small / f"{name}-quick.json").read_text())
    assert set(written) == {"schema", "command", "date", "environment", "rows", "ratios"}
    assert written["schema"] == 1 and written["command"] == f"./run bench {name} --quick"
    for line in written["rows"]:
        assert set(line) == {"case", "name", "version", "median", "minimum", "unit"}
        assert line["name"] in text and line["case"] in text
        assert line["median"] is None or (np.isfinite(line["median"]) and line["minimum"] <= line["median"])
    for ratio in written["ratios"]:
        assert set(ratio) == {"case", "over", "value", "target"} and ratio["value"] > 0
    assert (small / f"{name}-quick.png").is_file() == (name not in ("operators", "estimates"))


def test_search_compares_what_was_counted(small):
    from runs.benchmarks import search_quality as search

    scene = search.open_scene("", SILENT)
    curves = search.run_searches(scene, search.QUICK, SILENT)
    for peer in PEERS:
        for curve in curves.get(peer.name, []):
            assert curve.forwards[0] == 8 * BATCH and curve.forwards[-1] <= 6 * 8 * BATCH
            assert (np.diff(curve.best) >= 0).all()
    limit = max(curve.forwards[-1] for name, found in curves.items() for curve in found if name != search.OURS)
    assert all(curve.forwards[-1] <= limit for curve in curves[search.OURS])

    halved = {
        name: [replace(curve, forwards=curve.forwards // 2) for curve in found] if name == search.OURS else found
        for name, found in curves.items()
    }
    before, after = (search.compare(scene, search.QUICK, found)[1] for found in (curves, halved))
    assert after[0]["value"] == pytest.approx(2 * before[0]["value"], rel=0.1)


def test_a_peer_not_installed_is_a_row_that_says_so(small, cli, monkeypatch):
    absent = replace(peers.PYMOO, package="no-such-package")
    monkeypatch.setattr(operators, "PEERS", (absent,))
    status, text, _ = cli("bench", "operators", "--quick")
    assert status == 0
    assert any(absent.name in line and "not installed" in line for line in text.splitlines())


def test_the_share_of_the_search_is_a_share():
    from runs.benchmarks.search_quality import Scale, search_share

    shares = search_share(Scale(population=8, batch=16, share_generations=2), SILENT)
    assert len(shares) == 2 and all(0 < share < 100 for share in shares)


def test_without_cifar_10_the_search_takes_digits(trained, out, monkeypatch, tmp_path, capsys):
    from runs.benchmarks.search_quality import open_scene

    monkeypatch.setenv("EVOMIX_DATA", str(tmp_path / "nothing"))
    shutil.copytree(trained, out / "bench-model-digits")
    scene = open_scene("cifar10-small", Progress())
    assert scene.name.startswith("digits") and "taking digits" in capsys.readouterr().err
    images, labels = scene.draw(5, 0)
    search = Search(5, scene.grid, labels.numpy(), population=2, objective="hard", sampler="bernoulli")
    proposal = search.ask()
    losses = scene.evaluate(images, labels)(proposal.rows)
    assert losses.shape == (10, scene.grid, scene.grid) and (losses >= 0).all()


def test_rescore_compares_what_the_search_holds_with_the_truth(trained, out, monkeypatch):
    from runs.benchmarks import rescore

    shutil.copytree(trained, out / "bench-model-digits")
    monkeypatch.setattr(rescore, "QUICK", rescore.Scale(6, 8, 1, 2, 96, (1,)))
    rows, ratios = rescore.measure(quick=True)
    assert [line["name"] for line in rows] == ["rescore all", "rescore survivors", "rescore none"]
    assert all(line["unit"] == "nats" and 0 < line["median"] < 20 for line in rows)
    assert len(ratios) == 2 and all(0.3 < ratio["value"] < 3 for ratio in ratios)


def test_estimated_scores_are_compared_with_exact_ones_at_every_depth(tmp_path, monkeypatch):
    from runs.benchmarks import scores

    monkeypatch.setenv("EVOMIX_DATA", str(tmp_path))  # no CIFAR-10 there: digits
    case = scores.Case("mini", "resnet-mini", (1,), ("model.width=4", "data.subset=6"))
    monkeypatch.setattr(scores, "QUICK", scores.Scale((case,), 6, 2, 8))
    rows, ratios = scores.measure(quick=True)
    found = {line["name"]: line for line in rows}
    assert not ratios and len(found) == len(rows) and {line["case"] for line in rows} == {"mini, epoch 1 of 1"}
    for depth in ("stage 1", "stage 2", "features", scores.OLD):
        for objective in scores.OBJECTIVE_NAMES:
            assert -1 <= found[f"{depth}: {objective}, rank correlation"]["median"] <= 1
            assert found[f"{depth}: {objective}, gain"]["median"] <= 100.001
            assert np.isfinite(found[f"{depth}: {objective}, bias"]["median"])
    spent = [
        found[f"{depth}: image forwards an image"]["median"] for depth in ("features", "stage 2", "stage 1", "pixels")
    ]
    assert spent[0] == 2 and spent == sorted(spent) and spent[-1] == 2 * 8


def test_rank_correlation_and_gain_are_those_of_each_images_own_compositions():
    from runs.benchmarks import scores

    exact = np.array([[0.0, 9.0], [1.0, 8.0], [2.0, 4.0]])  # (compositions, images)
    assert scores._rank_correlation(exact, 5 * exact + [3, -7]) == pytest.approx(1)
    assert scores._rank_correlation(exact, -exact) == pytest.approx(-1)
    assert scores._gain(exact, exact) == pytest.approx((2 + 9) / 2 - 4)
    assert scores._gain(exact, -exact) == pytest.approx((0 + 4) / 2 - 4)


def test_scaling_finds_the_slope_of_a_line():
    sizes = [search_cost.Size(population, 8) for population in (2, 4, 8, 16)]
    costs = {size: search_cost.Cost([3.0 * size.rows], [0.5 * size.rows**2]) for size in sizes}
    assert search_cost.slopes(sizes, costs) == pytest.approx({"time": 1.0, "memory": 2.0})


def test_tables_show_units_and_verdicts():
    rows = [
        row("a", "spent", [206848.0, 1.0, 206848.0], "forwards"),
        row("a", "memory", [12.34], "MiB"),
        row("a", "absent", None, "ms", "no-such-package"),
    ]
    ratios = [
        {"case": "a", "over": "peer", "value": 55.0, "target": 50},
        {"case": "a", "over": "peer", "value": 45.0, "target": 50},
        {"case": "a", "over": "peer", "value": 45.0, "target": None},
    ]
    lines = table(rows, ratios).splitlines()
    assert "206,848           1 forwards" in lines[1] and "12.3 MiB" in lines[2] and lines[3].endswith("not installed")
    assert lines[6].endswith("50.00 met") and lines[7].endswith("50.00 missed") and lines[8].endswith("45.00")


def test_the_run_that_analysis_is_measured_on_is_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "BATCH", 12)
    folder = made_up.make_run(tmp_path / "large", 3, 6, analysis.GENERATIONS)
    analysis.add_snapshots(folder, range(1, 7, 3))
    run = RunFolder(folder)
    assert run.state == "done" and len(run.generations) == 24 and len(run.epochs) == 3
    assert [int(snapshot["search"]) for snapshot in run.snapshots()] == [1, 4]
    assert load_bank(run.bank_file()).weights.sum() == 2 * 12 * analysis.GENERATIONS
    assert analysis.against("case", "work", 10.0, 4.0) == {
        "case": "case", "over": "work, 10 allowed", "value": 2.5, "target": 1.0,
    }  # fmt: skip


def test_the_peak_is_the_commands_own(tmp_path):
    folder = made_up.make_run(tmp_path / "large", 1, 1, 1)
    ballast = np.ones(60_000_000)  # 480 MB that a child must not be charged with
    seconds, peak = analysis.called(folder.parent, "list")
    assert seconds > 0 and 5 < peak < 300 < ballast.nbytes / 2**20
