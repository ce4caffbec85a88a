"""Tables say what few seeds can tell, escape what they show, and read back what strangers wrote only if it is sound."""

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.comparison import bold_rows, notes
from analysis.comparison_forms import as_html, as_latex, as_markdown, as_text, write_tables
from analysis.per_seed import PER_SEED, per_seed, read_per_seed
from analysis.run_folder import RunFolder
from analysis.run_format import RunFolderError
from analysis.statistics import compare
from evo.errors import UserError
from runs.compare import run_compare

NASTY = r"a&b_50%|*{x}\y~^$#<b>[1]`c"
COMMAND = ("last_accuracy", None, None)


def trials(**variants):
    """variant -> accuracies of seeds 0, 1, ..."""
    rows = [
        (name, seed, value, value - 0.1, 115_200, 100.0 + seed, 2 - value / 100, 0.0, "")
        for name, values in variants.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(PER_SEED))


def clear(seeds):
    """Three variants, the last of which is better than the others in every seed."""
    noise = np.random.default_rng(0).normal(0, 0.5, (3, seeds))
    return trials(plain=60 + noise[0], other=60 + noise[1], best=65 + noise[2])


def test_all_forms_are_written(tmp_path):
    table = write_tables(trials(plain=[60, 62, 64], mixed=[62, 63.5, 66.5]), tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {
        "per_seed.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.svg",
    }  # fmt: skip
    assert next(csv.reader((folder / "per_seed.csv").open())) == list(PER_SEED)
    read = pd.read_csv(folder / "table.csv")
    assert read["variant"].tolist() == ["plain", "mixed"]
    assert read["mean"].tolist() == pytest.approx(table["mean"].tolist(), abs=1e-6)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    ET.parse(folder / "figure.svg")
    for text in ((folder / "table.md").read_text(), as_text(table)):
        assert "+2.00 ± 1.24" in text and "3 of 3" in text and "0.250" in text


def test_the_same_trials_give_the_same_files(tmp_path):
    for name in "ab":
        write_tables(clear(8), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        if path.suffix != ".svg":  # it has random marks within
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_nothing_is_written_of_trials_that_cannot_be_compared(tmp_path):
    with pytest.raises(ValueError, match="no variant 'c'"):
        write_tables(clear(2), tmp_path / "new", baseline="c")
    assert not (tmp_path / "new").exists()


def test_the_best_is_bold_only_where_every_other_can_be_told_from_it():
    sure = compare(clear(8))
    assert bold_rows(sure) == [False, False, True]
    assert re.findall(r"\*\*(.*?)\*\*", as_markdown(sure)) == [
        f"{sure['mean'][2]:.2f} ± {sure['high'][2] - sure['mean'][2]:.2f}"
    ]
    assert as_latex(sure).count(r"\textbf{") == as_html(sure).count("<strong>") == 1
    assert re.search(r"best 6\S+ is the highest mean; every other can be told from it at 95 %", notes(sure)[-1])
    by_intervals = compare(clear(4))
    assert any(bold_rows(by_intervals)) and notes(by_intervals)[-1].endswith("at 95 % (intervals that do not touch).")
    unsure = compare(trials(plain=[60, 62, 64, 61], mixed=[62, 63.5, 66.5, 62], low=[10, 11, 12, 11]))
    assert not any(bold_rows(unsure)) and "**" not in as_markdown(unsure) and "textbf" not in as_latex(unsure)
    assert notes(unsure)[-1] == (
        "mixed 63.50 is the highest mean; plain cannot be told from it at 95 %. The paired test, which has to compare all 3 "
        "pairs of variants for that, takes 7 seeds."
    )


def test_what_makes_the_best_bold_is_told_where_the_intervals_do_not_show_it():
    base = np.random.default_rng(0).normal(60, 3, 8)
    noise = 0.05 * np.arange(8)
    tested = compare(trials(a=base, b=base + 0.5, c=base + 1 + noise))
    assert any(bold_rows(tested)) and tested["low"][2] < tested["high"][1]
    assert notes(tested)[-1].endswith("told from it at 95 % (by the paired test; their intervals overlap).")
    some = trials(a=base, b=base + 1 + noise).query("variant == 'b' or seed < 7")
    far = pd.concat([some, trials(far=[0, 1])])
    assert notes(compare(far))[-1].endswith(
        "(a by the paired test, intervals overlap; else intervals that do not touch)."
    )


def test_the_lowest_is_the_best_of_what_is_spent():
    table = compare(trials(a=[1, 2], b=[1, 2]).assign(seconds=[20.0, 21.0, 10.0, 10.5]), "seconds")
    assert "b 10 is the lowest mean; " in notes(table)[-1]
    assert "seconds" in as_text(table).splitlines()[0] and "accuracy" not in as_text(table)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (2, "2 pairs of seeds and 2 comparisons the smallest p of the exact permutation test is 1; it takes 7 pairs"),
        (
            5,
            "5 pairs of seeds and 2 comparisons the smallest p of the exact permutation test is 0.12; it takes 7 pairs",
        ),
        (
            6,
            "6 pairs of seeds and 2 comparisons the smallest p of the exact permutation test is 0.062; it takes 7 pairs",
        ),
    ],
)
def test_seeds_too_few_for_the_test_are_told(seeds, words):
    table = compare(clear(seeds))
    for text in (as_text(table), as_html(table).replace("&lt;", "<"), as_markdown(table).replace("\\<", "<")):
        assert "No p < 0.05 is possible" in text and words in text
    assert "No p" not in as_text(compare(clear(7)))


def test_five_pairs_are_too_few_for_one_comparison_and_six_are_not():
    two = {seeds: compare(clear(seeds).query("variant != 'other'")) for seeds in (5, 6)}
    assert "1 comparison the smallest p" in as_text(two[5]) and "No p" not in as_text(two[6])


def test_one_seed_has_no_interval_and_says_so():
    table = compare(trials(a=[60], b=[70]), order=["a", "b", "c"])
    text = as_text(table)
    assert "±" not in text and not any(bold_rows(table))
    assert "One seed each: no interval, and no variant can be called better. No finished trial: c." in text
    assert text.splitlines()[3].split() == ["c", "0", "-", "-", "-", "-", "-", "-"]
    assert "One seed only, so no interval: b." in as_text(compare(trials(a=[60, 61], b=[70])))
    assert "is the highest mean" not in as_text(compare(trials(a=[60, 61])))


def test_interquartile_means_are_shown_from_four_seeds_on():
    assert "interquartile" not in as_text(compare(clear(3)))
    assert "interquartile mean" in as_text(compare(clear(4))) and not re.search(r"\d to \d", as_text(compare(clear(4))))
    assert re.search(r"6\d\.\d\d \(6\d\.\d\d to 6\d\.\d\d\)", as_text(compare(clear(8))))


def test_names_are_escaped(tmp_path):
    table = write_tables(trials(**{NASTY: [60, 61], "$x^": [60, 62]}), tmp_path)
    latex = as_latex(table)
    assert r"a\&b\_50\%$|${*}\{x\}\textbackslash{}y\textasciitilde{}\textasciicircum{}\$\#$<$b$>${[}1]`c" in latex
    bare = re.sub(r"\\textbackslash\{\}|\\[&%$#_{}]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "±" not in latex
    rows = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [7, 7] and all(row.endswith(r" \\") for row in rows)
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in as_markdown(table).splitlines()[:4]]
    assert cells == [9] * 4 and "<b>" not in as_markdown(table).replace(r"\<b\>", "")
    page = ET.fromstring(f"<div>{as_html(table)}</div>")
    assert page.find(".//tbody/tr/th").text == NASTY and page.find(".//tbody/tr/th").get("scope") == "row"
    assert {th.get("scope") for th in page.iterfind(".//thead/tr/th")} == {"col"}
    assert read_per_seed(tmp_path / "per_seed.csv")["variant"].tolist() == [NASTY] * 2 + ["$x^"] * 2


def test_signs_in_latex_are_minus_signs():
    latex = as_latex(compare(trials(a=[60, 61], b=[58, 59.5])))
    assert r"$-$1.75 $\pm$ 3.18" in latex and "& -- &" in latex


@settings(max_examples=30)
@given(
    data=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12),
            st.integers(0, 999),
            st.floats(0, 100),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[:2],
    )
)
def test_what_is_written_is_read_back(data, tmp_path_factory):
    table = pd.DataFrame([(*row, row[2], 10, 1.5, row[2], 0.5, row[0]) for row in data], columns=list(PER_SEED))
    path = tmp_path_factory.mktemp("read") / "per_seed.csv"
    table.assign(more="x").to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_per_seed(path), table)


HEAD = ",".join(PER_SEED)


def test_what_search_adds_is_of_the_same_run_and_shown_where_anything_searched():
    data = trials(plain=[60, 62], mixed=[62, 63.5])
    assert "search adds" not in as_text(compare(data)) and "search_adds" not in compare(data)
    data["search_seconds"] = [0, 0, 20, 60.6]  # of 100 and 101
    assert compare(data)["search_adds"].tolist() == pytest.approx([0, (0.25 + 1.5) / 2])
    head, _, plain, mixed = as_markdown(compare(data)).splitlines()[:4]
    assert head.endswith("| search adds |") and plain.endswith("| +0 % |") and mixed.endswith("| +88 % |")
    assert "What search adds is its time over the rest of the same run's" in as_text(compare(data))
    assert as_markdown(compare(data, order=["plain", "mixed", "none"])).splitlines()[4].endswith("| - | - |")
    unknown = compare(data.assign(search_seconds=[0, 0, math.nan, math.nan]))
    assert "search_adds" not in unknown


def test_the_test_loss_stands_beside_the_accuracy_and_may_be_compared_by():
    data = trials(plain=[60, 62, 64], mixed=[62, 63.5, 66.5])
    text = as_text(compare(data))
    assert "test loss, nats" in text and "1.380 ± 0.050" in text and "1.360 ± 0.057" in text
    assert "The test loss is the mean cross-entropy at the last epoch." in text
    by_loss = compare(data, "last_test_loss")
    assert by_loss["best"].tolist() == [False, True] and by_loss["wins"][1] == 1  # lower is better
    assert "mixed 1.360 is the lowest mean" in as_text(by_loss) and as_text(by_loss).count("test loss, nats") == 1


def test_pairs_on_two_devices_are_told():
    data = trials(plain=[60, 62, 64], mixed=[62, 63.5, 66.5], other=[61, 63, 65])
    assert compare(data)["pairs_across"].tolist() == [0, 0, 0] and "Not on the device" not in as_text(compare(data))
    data["device_name"] = ["A", "A", "B", "A", "B", "A", "A", "A", ""]
    assert compare(data)["pairs_across"].tolist() == [0, 2, 0]  # seed 2 of other is not known
    told = "Not on the device that plain with the same seed ran on: mixed (2 of 3 pairs)."
    assert told in as_text(compare(data)).splitlines() and told in as_markdown(compare(data))
    others = compare(data, baseline="mixed")
    assert "mixed with the same seed ran on: plain (2 of 3 pairs), other (1 of 3 pairs)." in as_text(others)
    assert compare(data, order=["plain", "mixed", "other", "none"])["pairs_across"].tolist() == [0, 2, 0, 0]
    assert "pairs_across" not in compare(data.drop(columns="device_name"))


def test_older_tables_have_no_test_loss(tmp_path):
    path = tmp_path / "per_seed.csv"
    trials(a=[60, 61], b=[62, 63]).drop(columns="last_test_loss").to_csv(path, index=False)
    read = read_per_seed(path)
    assert tuple(read.columns) == PER_SEED and read["last_test_loss"].isna().all()
    assert "test loss" not in as_text(compare(read))
    with pytest.raises(ValueError, match="no trial tells its last_test_loss"):
        compare(read, "last_test_loss")
    with pytest.raises(UserError, match="--measure last_test_loss: these results are of before it was kept"):
        run_compare([str(path)], "last_test_loss", None, None)
    half = read.assign(last_test_loss=[1.0, 2.0, math.nan, math.nan])  # one of two tables together
    assert "1.500" in as_text(compare(half)) and as_text(compare(half)).splitlines()[2].split()[-3] == "-"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column variant; expected variant, seed, last_accuracy"),
        ("variant,seed\na,0\n", "has no column last_accuracy"),
        (HEAD, "has no rows"),
        (f"{HEAD}\na,0,60,60,1,2\na,1,sixty,60,1,2\n", "row 3: last_accuracy: expected a number, got 'sixty'"),
        (f"{HEAD}\na,0,nan,60,1,2\n", "row 2: last_accuracy: expected a number, got 'nan'"),
        (f"{HEAD}\na,0,60,1e999,1,2\n", "row 2: median10_accuracy: expected a number, got '1e999'"),
        (f"{HEAD}\na,0,60,,1,2\n", "row 2: median10_accuracy: expected a number, got ''"),
        (f"{HEAD}\na,0,60\n", "row 2: median10_accuracy: expected a number, got None"),
        (f"{HEAD}\na,0.5,60,60,1,2\n", "row 2: seed: expected a whole number, got '0.5'"),
        (f"{HEAD}\n,0,60,60,1,2\n", "row 2: variant: expected 1 to 200 printable characters, got ''"),
        (f"{HEAD}\na\x1b[2J,0,60,60,1,2\n", "row 2: variant: expected 1 to 200 printable characters"),
        (f"{HEAD}\n{'a' * 201},0,60,60,1,2\n", "row 2: variant: expected 1 to 200"),
        (f"{HEAD}\na,0,60,60,1,2\nb,0,60,60,1,2\na,0,61,61,1,2\n", "rows 2 and 4 are both variant a, seed 0"),
        (b"\xff\xfe\x00", "is not a table of comma-separated values"),
        ('"' + "a" * 200_000, "is not a table of comma-separated values"),
        (b"," * 10_000_001, "more than 10,000,000 bytes"),
    ],
    ids=range(16),
)
def test_unsound_files_are_refused_in_a_line(tmp_path, text, words):
    path = tmp_path / "per_seed.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunFolderError, match=re.escape(words)) as raised:
        read_per_seed(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RunFolderError, match=r"none.csv cannot be read: No such file"):
        read_per_seed(tmp_path / "none.csv")


@pytest.mark.parametrize(("variants", "seeds"), [(1, 1), (2, 30), (20, 2)])
def test_figures_of_few_and_many(tmp_path, variants, seeds):
    names = [f"search.objective=image_reducible,mix.grid={n},long$\\frac$name_with_{'x' * 40}" for n in range(variants)]
    write_tables(trials(**{name: 60 + np.random.default_rng(0).random(seeds) for name in names}), tmp_path)
    drawn = (tmp_path / "figure.svg").read_text()
    assert len(re.findall(r"<use ", drawn)) >= variants * seeds
    shown = "".join(re.findall(r"<text.*?>(.*?)</text>", drawn))
    assert "grid=0" in shown.replace(" ", "") and shown.count("x" * 30) >= variants


def test_a_variant_without_trials_has_no_row_in_the_figure_but_is_named(tmp_path):
    table = write_tables(trials(plain=[60, 62, 64], mixed=[62, 63.5, 66.5]), tmp_path, ["plain", "mixed", "later"])
    drawn = (tmp_path / "figure.svg").read_text()
    assert ">mixed</text>" in drawn and "later" not in drawn
    assert "No finished trial: later." in as_text(table)


# ./run compare


@pytest.fixture
def runs(trained, out):
    """Two variants of two seeds: one's accuracies are 10 higher."""

    def make(name, seed, more=0.0, **changes):
        shutil.copytree(trained, out / name)
        config = json.loads((out / name / "config.json").read_text())
        config["run"]["seed"] = seed
        for option, value in changes.items():
            section, _, option = option.partition("__")
            config[section][option] = value
        (out / name / "config.json").write_text(json.dumps(config))
        lines = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
        lines[-1]["last_accuracy"] = 50.0 + seed + more
        (out / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    for seed in (0, 1):
        make(f"few/plain-s{seed}", seed)
        make(f"few/mixed-s{seed}", seed, more=10.0)
    return make


SEEDS = ["few/plain-s0", "few/plain-s1", "few/mixed-s0", "few/mixed-s1"]


def test_runs_are_compared_by_variant_and_seed(runs, capsys, tmp_path):
    run_compare([*SEEDS, "few/plain-s0"], *COMMAND)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["few/plain", "2", "50.50"] and "+10.00 ± 0.00" in lines[2]
    run_compare(SEEDS, "last_accuracy", "few/mixed", tmp_path / "out")
    assert "-10.00 ± 0.00" in capsys.readouterr().out
    assert (tmp_path / "out" / "table.tex").is_file()
    run_compare([str(tmp_path / "out"), "few/plain-s0"][:1], "seconds", None, None)
    text = capsys.readouterr().out
    assert text.startswith("from ") and "difference to few/plain" in text


def test_tables_are_found_by_file_folder_and_name(out, tmp_path, capsys, monkeypatch):
    write_tables(clear(2), out / "mine")
    write_tables(trials(more=[70, 71]), tmp_path / "theirs")
    monkeypatch.setattr("runs.compare.PROJECT", tmp_path)
    shutil.copytree(tmp_path / "theirs", tmp_path / "runs" / "results" / "published")
    for names in (["mine", "published"], [str(out / "mine"), str(tmp_path / "theirs" / "per_seed.csv")]):
        run_compare(names, *COMMAND)
        text = capsys.readouterr().out
        assert text.count("from ") - text.count("told from ") == 2 and "\nmore" in text and "\nbest" in text


def refused(words, *arguments):
    with pytest.raises((UserError, RunFolderError), match=re.escape(words)) as raised:
        run_compare(*arguments)
    assert "\n" not in str(raised.value)


def test_mistakes_are_told_in_a_line(runs, out, tmp_path):
    table = out / "mine" / "per_seed.csv"
    write_tables(clear(2), out / "mine")
    refused("--measure: expected one of last_accuracy", ["mine"], "last_acuracy", None, None)
    refused("no variant 'Plain'; did you mean 'plain'?", ["mine"], "seconds", "Plain", None)
    refused("did you mean 'mine'", ["mne"], *COMMAND)
    refused("there is no file none.csv", ["none.csv"], *COMMAND)
    refused("this is a file", ["mine"], "seconds", None, table)
    shutil.copytree(out / "mine", tmp_path / "copy")
    refused("variant plain is both in", ["mine", str(tmp_path / "copy")], *COMMAND)
    before = table.read_bytes()
    refused("name another folder", ["mine", *SEEDS], "seconds", None, out / "mine")
    write_tables(trials(a=[1, 2]), tmp_path / "unrelated")
    refused("is of another comparison and would be lost", ["mine"], "seconds", None, tmp_path / "unrelated")
    refused("is of another comparison and would be lost", SEEDS, "seconds", None, out / "mine")
    assert table.read_bytes() == before
    run_compare(["mine"], "last_accuracy", None, out / "mine")
    assert table.read_bytes() == before


def test_runs_that_differ_in_more_than_their_seed_are_refused(runs):
    runs("few/plain-s2", 2, train__lr=0.5)
    refused("runs few/plain-s0 and few/plain-s2 differ in train.lr (", ["few/plain-s0", "few/plain-s2"], *COMMAND)
    runs("few/plain-s3", 1)
    refused("runs few/plain-s1 and few/plain-s3 both have run.seed=1", ["few/plain-s1", "few/plain-s3"], *COMMAND)
    runs("other", 0, data__name="cifar10")
    refused("expected runs of one data set", ["few/plain-s0", "other"], *COMMAND)


def test_runs_without_a_result_are_refused(runs, out):
    log = out / "few" / "plain-s1" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    refused("run few/plain-s1 has not ended; finish it (./run train --resume few/plain-s1)", SEEDS, *COMMAND)
    end = json.loads(lines[-1])
    del end["last_accuracy"], end["median10_accuracy"]
    log.write_text("".join(lines[:-1]) + json.dumps(end) + "\n")
    refused("run few/plain-s1 has no last_accuracy: expected a run of ./run train", SEEDS, *COMMAND)


def test_trials_that_have_not_ended_are_left_out(runs, out):
    (out / "few" / "plain-s1" / "log.jsonl").write_text("")
    table = per_seed([("plain", seed, RunFolder(out / "few" / f"plain-s{seed}")) for seed in (0, 1)])
    assert table[["variant", "seed", "last_accuracy"]].to_numpy().tolist() == [["plain", 0, 50.0]]
    assert tuple(table.columns) == PER_SEED and not math.isnan(table["seconds"][0])


def test_the_test_loss_is_that_of_the_last_test(runs, out):
    run = RunFolder(out / "few" / "plain-s0")
    assert run.result["last_test_loss"] == list(run.epochs["test_loss"].dropna())[-1]
    table = per_seed([("plain", 0, run)])
    assert table["last_test_loss"].tolist() == [run.result["last_test_loss"]]
