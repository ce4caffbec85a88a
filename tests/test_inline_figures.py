"""Figures within a page's sentences are those of the results, and a mark that asks for what is not there is refused."""

import json

import pandas as pd
import pytest

from analysis.per_seed import PER_SEED
from evo.errors import UserError
from runs.inline_figures import with_figures

ACCURACIES = {"plain": [60, 62, 63], "patchmix": [62, 63, 64.5]}
SECONDS = {"plain": (100, 0), "patchmix": (130, 30)}


@pytest.fixture
def root(tmp_path):
    rows = [
        (name, seed, value, value, 100, SECONDS[name][0], 2 - value / 100, SECONDS[name][1], "")
        for name, values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]
    for name, shift in (("few", 0), ("more", 3)):
        table = pd.DataFrame(rows, columns=list(PER_SEED))
        table["seed"] += shift
        (tmp_path / name).mkdir()
        table.to_csv(tmp_path / name / "per_seed.csv", index=False)
    (tmp_path / "bench").mkdir()
    ratios = [{"case": "B64, 1 thread", "over": "theirs", "value": 6.5432, "target": None}]
    (tmp_path / "bench" / "mixing.json").write_text(json.dumps({"ratios": ratios}))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "figure"),
    [
        ("difference: few patchmix plain", "+1.50 ± 1.24"),  # of 2, 1, 1.5: t 4.303 x 0.5 / sqrt 3
        ("difference: few patchmix plain form=+.1f", "+1.5"),
        ("difference: few plain patchmix sign=no", "1.50 ± 1.24"),
        ("difference: few patchmix plain measure=last_test_loss", "-0.015 ± 0.012"),
        ("difference: few+more patchmix plain", "+1.50 ± 0.47"),  # six pairs: t 2.571 x 0.447 / sqrt 6
        ("mean: few plain", "61.67 ± 3.79"),
        ("mean: few plain measure=seconds form=.0f", "100"),
        ("pairs: few+more patchmix plain", "6"),
        ("won: few patchmix plain", "3 of 3"),
        ("share: few patchmix plain measure=seconds", "1.30"),
        ("adds: few patchmix", "+30 %"),
        ('benchmark: mixing "B64, 1 thread" theirs', "6.5"),
        ('benchmark: mixing "B64, 1 thread" theirs form=.2f', "6.54"),
    ],
)
def test_a_figure_is_that_of_the_results(root, asked, figure):
    line = f"before <!-- {asked} -->old<!-- end --> after"
    made = with_figures(line, root, "page line 1")
    assert made == f"before <!-- {asked} -->{figure}<!-- end --> after"
    assert with_figures(made, root, "page line 1") == made


def test_a_line_holds_several_figures_and_all_else_stays(root):
    mark = "<!-- pairs: few plain patchmix --><!-- end -->"
    line = f"in {mark}, {mark} <!-- a comment --> | x |\n"
    assert with_figures(line, root, "page") == line.replace("--><!--", "-->3<!--")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("<!-- pairs: few plain patchmix --><!-- end --> at the start", "a pairs begins the line"),
        ("a <!-- difference: fwe patchmix plain --><!-- end -->", "there is no results 'fwe'; did you mean 'few'"),
        ("a <!-- difference: few patchmx plain --><!-- end -->", "there is no variant of few 'patchmx'"),
        ("a <!-- difference: few patchmix --><!-- end -->", "difference: expected 3 names"),
        ("a <!-- mean: few plain measure=speed --><!-- end -->", "there is no measure 'speed'"),
        ("a <!-- mean: few plain -->61.67", "begins a figure that has no end on its line"),
        ('a <!-- mean: few "plain --><!-- end -->', "No closing quotation"),
        ("a <!-- benchmark: mixing B64 theirs --><!-- end -->", "there is no case of mixing 'B64'"),
    ],
)
def test_what_is_not_there_is_refused_with_its_place(root, line, said):
    with pytest.raises(UserError) as caught:
        with_figures(line, root, "README.md line 7")
    assert str(caught.value).startswith("README.md line 7: ") and said in str(caught.value)
