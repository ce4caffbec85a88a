"""Run folders are read forgivingly, tables say what they should, pages ask nothing of anyone."""

import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.ablation import as_markdown, as_text, half_width, summarise, write_tables
from analysis.curves import by_generation, draw_curves
from analysis.gallery import draw_gallery, rows_of
from analysis.patterns import chance, export_patterns
from analysis.report import write_report
from analysis.run_folder import RunFolder, RunFolderError, find_run, first_to_last, read_lines
from evo.bank import PatternBank
from evo.operators import MASK_SAMPLERS


@pytest.fixture
def run(trained, out):
    """A copy of the tiny run that a test may write into."""
    shutil.copytree(trained, out / "tiny")
    return find_run("tiny")


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def test_runs_are_found_by_name_and_by_path(run, out):
    assert find_run("tiny").path == find_run(str(out / "tiny")).path
    assert find_run("tiny").name == "tiny"
    with pytest.raises(RunFolderError, match=r"no run 'tinny' .*did you mean 'tiny'\?"):
        find_run("tinny")


def test_torn_last_lines_are_forgiven_and_damaged_ones_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\nrubbish\n{"a": 2}\n')
    with pytest.raises(RunFolderError, match="line 2 is damaged: 'rubbish'"):
        read_lines(path)


def test_newer_runs_are_refused(run):
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "schema": 2}))
    with pytest.raises(RunFolderError, match="schema 2, this version reads 1; update Evomix"):
        _ = RunFolder(run.path).config


def test_curves_are_the_means_over_searches(run):
    table = by_generation(run)
    raw = run.generations
    assert table.index.tolist() == [1, 2]
    assert table["best"].iloc[0] == pytest.approx(raw[raw["generation"] == 1]["best"].mean())
    assert table["per_image"].iloc[0] == pytest.approx(4.0)  # the first generation forwards every genome
    assert first_to_last(run) == (table["best"].iloc[0], table["best"].iloc[1])
    assert is_png(draw_curves([run], run.figures() / "curves.png"))
    assert is_png(draw_curves([run, run], run.figures() / "two.png"))


def test_patterns_are_exported_readable(run):
    json_file, npz_file, picture = export_patterns(run)
    assert is_png(picture)
    exported = json.loads(json_file.read_text())
    assert exported["schema"] == 1 and exported["grid"] == 4 and exported["class_names"] == [str(d) for d in range(10)]
    for path in (json_file, npz_file):
        bank = PatternBank.load(path)
        assert bank.weights.sum() == bank.pairs.sum() > 0
    assert exported["patterns"][0]["weight"] == bank.weights[0]


def test_chance_is_the_samplers():
    masks = MASK_SAMPLERS["bernoulli"](200_000, 2, np.random.default_rng(0))
    kinds, counts = np.unique(masks.reshape(-1, 4), axis=0, return_counts=True)
    for kind, count in zip(kinds, counts, strict=True):
        assert count / 200_000 == pytest.approx(chance(kind.reshape(2, 2), "bernoulli"), rel=0.05)
    assert sum(chance(kind, "bernoulli") for kind in kinds) == pytest.approx(1)
    assert chance(kinds[0], "box") is None


def test_the_gallery_shows_shares_and_losses(run):
    rows = rows_of(run.snapshots()[-1])
    assert len(rows) == 8 and all(0 <= row["share"] <= 1 for row in rows)
    assert is_png(draw_gallery(run, run.figures() / "gallery.png"))


def test_the_report_needs_nothing_else(run):
    page = write_report(run).read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "@import" not in page and "url(" not in page
    assert "<script" not in page
    for words in ("accuracy at the last epoch", "Gallery", "Patterns", "cell losses", "How it was run", "One seed"):
        assert words in page
    assert f"{run.result['last_accuracy']:.2f} %" in page
    assert all("alt='" in tag for tag in re.findall(r"<img[^>]*>", page))


def test_the_report_escapes_what_it_shows(run):
    environment = json.loads((run.path / "environment.json").read_text())
    environment["command"] = "<script>alert(1)</script>"
    (run.path / "environment.json").write_text(json.dumps(environment))
    assert "<script" not in write_report(RunFolder(run.path)).read_text()


def test_a_run_without_search_and_an_unfinished_one_have_reports(run):
    (run.path / "generations.jsonl").unlink()
    events = (run.path / "log.jsonl").read_text().splitlines()
    (run.path / "log.jsonl").write_text("\n".join(events[:-1]) + "\n")
    page = write_report(RunFolder(run.path)).read_text()
    assert "This run has not ended: 2 of 2 epochs are logged" in page and "Gallery" not in page


def trials():
    return pd.DataFrame(
        [
            {
                "variant": variant,
                "seed": seed,
                "last_accuracy": value,
                "median10_accuracy": value,
                "image_forwards": 100,
                "seconds": 3.0,
            }
            for variant, values in {"plain": (60.0, 62.0, 64.0), "mixed": (62.0, 64.5, 65.5)}.items()
            for seed, value in enumerate(values)
        ]
    )


def test_tables_pair_by_seed():
    table = summarise(trials())
    plain, mixed = table.to_dict("records")
    assert plain["mean"] == 62 and plain["interval"] == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-4)
    assert math.isnan(plain["difference"])
    assert mixed["difference"] == pytest.approx(2.0)
    assert mixed["difference_interval"] == pytest.approx(4.30265 * 0.5 / math.sqrt(3), rel=1e-4)
    one_seed_missing = trials().iloc[:-1]
    assert summarise(one_seed_missing)["difference"].iloc[1] == pytest.approx(2.25)
    assert math.isnan(half_width(pd.Series([1.0])))


def test_tables_are_written(tmp_path):
    table = write_tables(trials(), tmp_path)
    assert pd.read_csv(tmp_path / "per_seed.csv").columns.tolist() == [
        "variant", "seed", "last_accuracy", "median10_accuracy", "image_forwards", "seconds",
    ]  # fmt: skip
    assert "| mixed | 3 | 64.00 ± 4.48 | +2.00 ± 1.24 |" in as_markdown(table)
    assert "+2.00 ± 1.24" in as_text(table) and is_png(tmp_path / "figure.png")


def test_the_first_variant_of_the_file_is_the_one_compared_with():
    late = trials().iloc[1:].iloc[::-1]  # the first variant's first seed is missing, and rows come in any order
    table = summarise(late, order=["plain", "mixed"])
    assert table["variant"].tolist() == ["plain", "mixed"] and table["difference"].iloc[1] == pytest.approx(2.0)
    without = summarise(trials().iloc[3:], order=["plain", "mixed"])
    assert without["seeds"].tolist() == [0, 3] and math.isnan(without["difference"].iloc[1])
    assert "| plain | 0 | - | - | - | - |" in as_markdown(without)


def test_two_processes_may_draw_one_picture(tmp_path, monkeypatch):
    """As two ablations of one file do at their ends."""
    path, figure = tmp_path / "figure.png", style.new_figure(1, 1)
    savefig = figure.savefig

    def meanwhile(*arguments, **options):
        savefig(*arguments, **options)
        figure.savefig = savefig
        monkeypatch.setattr(style.os, "getpid", lambda: 12345)
        style.save(figure, path)

    figure.savefig = meanwhile
    assert style.save(figure, path) == path
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
