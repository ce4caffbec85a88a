"""The snippets of README.md run, and the commands, files and figures that it names exist. Rooms' pages: test_pages.py."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.rounding import decimal_text
from analysis.statistics import compare
from evo.objectives import OBJECTIVES
from runs.__main__ import app
from runs.results_page import run_results

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = {
    f"README.md {number}": snippet for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", TEXT, re.S))
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name, monkeypatch, tmp_path):
    if "lightning" in SNIPPETS[name]:
        pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)  # some write a file
    monkeypatch.setattr("evo.objectives.OBJECTIVES", dict(OBJECTIVES))
    torch.manual_seed(0)
    exec(compile(SNIPPETS[name], name, "exec"), {})


@pytest.mark.parametrize("words", ["mix = PatchMix(num_classes=10, grid=4, probability=0.5)", "while (proposal :="])
def test_loops_of_ones_own_take_ten_lines(words):
    snippet = next(snippet for snippet in SNIPPETS.values() if words in snippet)
    lines = [line for line in snippet.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_commands_exist():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"\./run ([a-z]+)", TEXT))
    assert named <= commands


def test_the_readme_is_read_at_one_sitting():
    assert 120 <= len(TEXT.splitlines()) <= 160


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"TODO|\b[A-Z]+_(OUTPUT|TABLE|FIGURES)\b", TEXT)


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md", "runs/results/TABLES.md", "runs/results/README.md"])
def test_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_tables_are_those_of_the_results(capsys):
    status = run_results(check=True)
    assert status == 0, capsys.readouterr().out
    assert "baseline=plain -->\n| training | accuracy, % |" in TEXT


@pytest.mark.parametrize(
    ("method", "better", "worse", "said"),
    [
        ("linear", "patchmix", "plain", "paired by seed: {} to plain training"),
        ("linear", "patchmix", "cutmix", "and {} to CutMix by the linear probe"),
        ("knn", "patchmix", "plain", "by the linear probe, {} and"),
        ("knn", "patchmix", "cutmix", "and {} by k-NN."),
        ("linear", "patchmix-p1", "patchmix", "costs none here: {} and"),
        ("knn", "patchmix-p1", "patchmix", "and {} to every second one."),
    ],
)
def test_differences_told_of_the_transfer_are_those_of_the_backbones(method, better, worse, said):
    folder = ROOT / "runs" / "results" / "transfer"
    rows = pd.read_csv(folder / "results.csv").set_index(["dataset", "method", "backbone"])["accuracies"]

    def of_seeds(variant):
        found = rows["cifar100", method, f"cifar10-2000/{variant}-s{{0,1,2,3,4}}"]
        return [float(accuracy) for accuracy in found.split()]

    told = paired(of_seeds(better), of_seeds(worse))
    assert said.format(told) in prose_of(folder / "table.md")
    if (method, better) == ("linear", "patchmix"):
        assert told in prose_of(ROOT / "RESULTS.md")


def paired(better, worse):
    both = pd.DataFrame({"better": better, "worse": worse}).rename_axis("seed").reset_index()
    return told_of(both.melt("seed", var_name="variant", value_name="last_accuracy"), "better", "worse")


def test_the_difference_told_of_two_processors_is_that_of_the_seeds():
    first, other = (
        pd.read_csv(ROOT / "runs" / "results" / name / "per_seed.csv")
        .query("variant == 'patchmix-p1'")
        .sort_values("seed")
        for name in ("cifar10-50", "cifar10-50-p1")
    )
    told = paired(first["last_accuracy"].to_list(), other["last_accuracy"].to_list())
    assert f"the same seeds came out {told.lstrip('+')} higher" in told_beside_tables()


def told_of(trials, better, worse, measure="last_accuracy"):
    """The paired difference with half its interval, of points, or nats where there are thousandths."""
    row = compare(trials, measure, worse).set_index("variant").loc[better]
    places = 3 if measure == "last_test_loss" else 2
    half = decimal_text(row.difference_high - row.difference, f".{places}f")
    return f"{decimal_text(row.difference, f'+.{places}f')} ± {half}"


def told_beside_tables():
    return prose_of(ROOT / "runs" / "results" / "TABLES.md")


def prose_of(page):
    return " ".join(page.read_text().split())
