"""`./run results` writes what lies between a page's marks, leaves all else alone, and refuses what is not there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.comparison_forms import as_markdown
from analysis.per_seed import PER_SEED
from analysis.statistics import compare
from evo.errors import UserError
from runs import results_page
from runs.results_page import run_results

ACCURACIES = {"plain": [60, 62, 63], "cutmix": [61, 62.5, 65], "patchmix": [62, 63, 64.5], "two words": [61, 61, 66]}
TRIALS = pd.DataFrame(
    [
        (name, s, value, value, 115_200, 100 + s, 2 - value / 100, 0.0, "")
        for name, values in ACCURACIES.items()
        for s, value in enumerate(values)
    ],
    columns=list(PER_SEED),
)
BEFORE, AFTER = "# Title\n\nText  \n", "\nMore | text\n<!-- another comment -->\nno newline at the end"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with results `few`, and a README.md without marks."""
    monkeypatch.setattr(results_page, "PROJECT", tmp_path)
    folder = tmp_path / "runs" / "results" / "few"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "results" / "bench").mkdir()
    TRIALS.to_csv(folder / "per_seed.csv", index=False)
    made = {"schema": 1, "date": "2026-11-24T12:39:31+00:00", "command": "./run ablate few --publish"}
    (folder / "environment.json").write_text(json.dumps(made))
    (tmp_path / "README.md").write_text(BEFORE)
    return tmp_path


def marked(asked, within=""):
    return f"{BEFORE}<!-- table: {asked} -->\n{within}<!-- end -->\n{AFTER}"


def written(project, asked, within=""):
    """What the command puts between the marks; all around is as it was."""
    (project / "README.md").write_text(marked(asked, within))
    assert run_results() == 0
    text = (project / "README.md").read_text()
    head, tail = marked(asked).split("<!-- end -->")
    assert text.startswith(head) and text.endswith(f"<!-- end -->{tail}")
    return text.removeprefix(head).removesuffix(f"<!-- end -->{tail}")


LINK = "[all seeds](runs/results/few/per_seed.csv)\n"
ORIGIN = f"\n`./run ablate few --publish`, 2026-11-24: {LINK}"


def test_the_table_takes_the_place_of_what_was_there(project, capsys):
    found = written(project, "few", "| an old |\n| table |\n\nand its text\n")
    assert found == as_markdown(compare(TRIALS, baseline="patchmix")) + ORIGIN
    assert capsys.readouterr().out == "README.md changed\n"
    before = (project / "README.md").stat().st_mtime_ns
    assert run_results() == 0 and capsys.readouterr().out == "current: README.md\n"
    assert (project / "README.md").stat().st_mtime_ns == before


def names_of(found):
    return re.findall(r"^\| (.+?) \|", found, re.M)[2:], re.search(r"difference to (.+?) \|", found)[1]


@pytest.mark.parametrize(
    ("asked", "variants", "baseline"),
    [
        ("few", [*ACCURACIES], "patchmix"),
        ("few plain cutmix", ["plain", "cutmix"], "plain"),
        ("few patchmix plain", ["patchmix", "plain"], "patchmix"),
        ("few plain patchmix", ["plain", "patchmix"], "patchmix"),
        ("few baseline=plain", [*ACCURACIES], "plain"),
        ('few patchmix baseline="two words" "two words"', ["patchmix", "two words"], "two words"),
    ],
)
def test_rows_their_order_and_the_baseline_can_be_chosen(project, asked, variants, baseline):
    found = written(project, asked)
    assert names_of(found) == (variants, baseline)
    few = TRIALS[TRIALS["variant"].isin(variants)]
    assert found == as_markdown(compare(few, baseline=baseline, order=variants)) + ORIGIN


def test_results_without_patchmix_are_compared_with_their_first(project):
    path = project / "runs" / "results" / "few" / "per_seed.csv"
    TRIALS[TRIALS["variant"] != "patchmix"].to_csv(path, index=False)
    assert names_of(written(project, "few"))[1] == "plain"


def test_what_is_not_known_of_their_making_is_left_out(project):
    path = project / "runs" / "results" / "few" / "environment.json"
    path.write_text(json.dumps({"date": None, "command": "./run it"}))
    assert written(project, "few").endswith(f"\n\n`./run it`: {LINK}")
    path.unlink()
    assert written(project, "few").endswith(f"\n\n{LINK}")
    path.write_text("[1")
    with pytest.raises(UserError, match=r"environment.json is no JSON"):
        run_results()


def test_both_pages_and_several_tables(project, capsys):
    two = marked("few") + "\n" + marked("few baseline=plain")
    (project / "RESULTS.md").write_text(two)
    assert run_results() == 0 and capsys.readouterr().out == "RESULTS.md changed\n"
    text = (project / "RESULTS.md").read_text()
    assert [text.count(f"difference to {name} |") for name in ("patchmix", "plain")] == [1, 1]
    assert (project / "README.md").read_text() == BEFORE
    (project / "README.md").unlink()
    assert run_results() == 0 and capsys.readouterr().out == "current: RESULTS.md\n"


def test_links_are_from_a_page_to_the_seeds(project):
    page = project / "runs" / "results" / "TABLES.md"
    page.write_text(marked("few"))
    assert run_results() == 0 and "2026-11-24: [all seeds](few/per_seed.csv)\n" in page.read_text()


def test_check_writes_nothing_and_names_what_is_not_current(project, cli):
    (project / "README.md").write_text(marked("few"))
    (project / "RESULTS.md").write_text(BEFORE)
    status, text, _ = cli("results", "--check")
    assert status == 1 and text == "README.md is not current; ./run results makes it so\n"
    assert (project / "README.md").read_text() == marked("few")
    assert cli("results")[0] == 0
    assert cli("results", "--check") == (0, "current: README.md, RESULTS.md\n", "")
    path = project / "runs" / "results" / "few" / "per_seed.csv"
    path.write_text(path.read_text().replace("patchmix,0,62.0,", "patchmix,0,62.5,"))
    assert cli("results", "--check")[0] == 1


def test_the_measure_can_be_chosen(project):
    found = written(project, "few measure=last_test_loss plain patchmix")
    few = TRIALS[TRIALS["variant"].isin(["plain", "patchmix"])]
    assert found == as_markdown(compare(few, "last_test_loss", "patchmix", ["plain", "patchmix"])) + ORIGIN


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (marked("fw"), "line 4: there is no results 'fw'; did you mean 'few'? (choose from few)"),
        (marked("bench"), "line 4: there is no results 'bench' (choose from few)"),
        (marked("../few"), "there is no results '../few'"),
        (marked("few plain Cutmix"), "no variant of few 'Cutmix'; did you mean 'cutmix'? (choose from plain, cutmix, "),
        (marked("few baseline=other"), "there is no variant in the table of few 'other'"),
        (marked("few plain baseline=cutmix"), "no variant in the table of few 'cutmix' (choose from plain)"),
        (marked("few measure=acc"), "there is no measure 'acc' (choose from last_accuracy, "),
        (marked('few "plain'), "line 4: 'few \"plain': No closing quotation; expected NAME [VARIANT...]"),
        (marked("few").replace("<!-- end -->", ""), "line 4: the table of few has no end; expected a line <!-- end -->"),
        (marked("few").replace("<!-- table: few -->", ""), "line 5: '<!-- end -->'; expected a line <!-- table: NAME"),
        (marked("few", "<!-- table: few -->\n"), "line 5: '<!-- table: few -->' within that of RESULTS.md line 4"),
        (marked("few").replace("<!-- table: few", "<!--Table:few"), "line 4: '<!--Table:few -->'; expected a line"),
        (marked("few").replace("<!-- table", " <!-- table"), "line 4: '<!-- table: few -->'; expected a line"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line_and_nothing_is_written(project, cli, page, words):
    (project / "README.md").write_text(marked("few"))  # this one could be written
    (project / "RESULTS.md").write_text(page)
    status, text, error = cli("results")
    assert status == 2 and text == "" and error.startswith("run: RESULTS.md line ") and words in error
    assert error.count("\n") == 1
    assert (project / "README.md").read_text() == marked("few") and (project / "RESULTS.md").read_text() == page


def test_torch_is_not_loaded():
    code = "import sys\nfrom runs.__main__ import main\nmain(['results', '--check'])\nprint('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.splitlines()[-1] == "False" and "README.md" in done.stdout, done.stderr


def test_a_measure_that_was_not_kept_is_told_in_a_line(project, cli):
    (project / "README.md").write_text(marked("few measure=last_test_loss"))
    TRIALS.drop(columns="last_test_loss").to_csv(project / "runs" / "results" / "few" / "per_seed.csv", index=False)
    status, _, error = cli("results")
    assert status == 2 and "the results of few are of before last_test_loss was kept" in error
    assert error.count("\n") == 1


def test_an_unsound_file_of_seeds_is_told_in_a_line(project, cli):
    (project / "README.md").write_text(marked("few"))
    (project / "runs" / "results" / "few" / "per_seed.csv").write_text("variant,seed\n")
    status, _, error = cli("results")
    assert status == 2 and "has no column last_accuracy" in error and error.count("\n") == 1


def test_rows_have_the_titles_of_the_ablations_file(project):
    titles = {"plain": "No mixing", "patchmix": "PatchMix (every batch)"}
    variants = "".join(f"  {name}: {{title: {title}}}\n" for name, title in titles.items())
    (project / "runs" / "results" / "few" / "ablation.yaml").write_text(f"variants:\n{variants}")
    named = {"plain": "No mixing", "cutmix": "cutmix", "patchmix": "PatchMix (every batch)"}
    assert names_of(written(project, "few plain cutmix patchmix")) == (list(named.values()), named["patchmix"])


def test_a_summary_has_five_columns_at_most(project):
    (project / "README.md").write_text(marked("few plain patchmix baseline=plain").replace("table:", "summary:"))
    assert run_results() == 0
    table = [line for line in (project / "README.md").read_text().splitlines() if line.startswith("|")]
    assert table[0] == "| training | accuracy, % | over plain | test loss, nats |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| plain", "| patchmix"]


def test_what_explains_the_columns_stands_below_the_first_table_alone(project):
    (project / "README.md").write_text(marked("few") + "\n" + marked("few baseline=plain"))
    assert run_results() == 0
    text = (project / "README.md").read_text()
    assert text.count("Means over seeds") == 1 and text.count("Accuracy is of the test images") == 1
    assert run_results(check=True) == 0


def test_figures_stand_within_sentences_and_code_is_left_alone(project):
    sentence = "It gains <!-- difference: few patchmix plain -->?<!-- end --> points.\n"
    shown = "```\n<!-- table: NAME -->\n<!-- difference: NAME A B --><!-- end -->\n```\n"
    (project / "README.md").write_text(sentence + shown)
    assert run_results() == 0
    assert (project / "README.md").read_text() == sentence.replace("?", "+1.50 ± 1.24") + shown
