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
    assert "<!-- table: cifar10-50 -->\n| variant | seeds |" in TEXT


SEARCHED, DRAWN = "evolved-image_reducible-p1-every2", "best-of-k-image_reducible-p1-every2"
CHEAPER, LARGER = "evolved-image_reducible-p1-every6", "evolved-image_reducible-p1-p8-t4"
MORE_DRAWN = "best-of-k-image_reducible-p1-10"


ON_ONE_PAGE = {  # the rows of RESULTS.md's table: for each column an experiment, a variant and what it is compared with
    "plain": ["cifar10-50 plain", "cifar10-1000 plain", "cifar10-2000 plain", "cifar100-5000-long plain"],
    "CutMix": ["cifar10-50 cutmix", "cifar10-1000 cutmix", "cifar10-2000 cutmix", "cifar100-5000-long cutmix"],
    "MixUp": ["cifar10-50 mixup", "cifar10-1000 mixup", "cifar10-2000 mixup", ""],
    "without patch loss": [f"{name} patchmix-nopatchloss" for name in ("cifar10-50", "cifar10-1000", "cifar10-2000")]
    + [""],
    "every batch mixed": ["cifar10-50 patchmix-p1", "cifar10-1000-p1 patchmix-p1", "cifar10-2000 patchmix-p1", ""],
    "search by `hard`": [
        "cifar10-50 evolved-hard",
        "cifar10-1000-p1 evolved-hard-every2",
        "cifar10-2000 evolved-hard-every2",
        "",
    ],
    "search by `image_reducible`": [
        "",
        "cifar10-1000-p1 evolved-image_reducible",
        "cifar10-2000 evolved-image_reducible-every6",
        "cifar100-5000-long evolved-image_reducible",
    ],
    "every batch mixed, and search": ["", f"cifar10-1000-p1 {SEARCHED}", f"cifar10-2000 {CHEAPER}", ""],
    "*the same, to every batch mixed*": [
        "cifar10-50-p1 evolved-image_reducible-p1-batch20 patchmix-p1",
        f"cifar10-1000-p1 {SEARCHED} patchmix-p1",
        f"cifar10-2000 {CHEAPER} patchmix-p1",
        "",
    ],
    "every batch mixed, and a larger search of each": [f"cifar10-50 {LARGER}", f"cifar10-1000-p1 {LARGER}", "", ""],
    "*this, to every batch mixed*": [
        f"cifar10-50 {LARGER} patchmix-p1",
        f"cifar10-1000-p1 {LARGER} patchmix-p1",
        "",
        "",
    ],
    "best of as many draws as the search": [
        "",
        f"cifar10-1000-p1 {DRAWN}",
        "cifar10-2000 best-of-k-image_reducible-every6",
        "",
    ],
    "best of as many as the larger search": ["", f"cifar10-1000-p1 {MORE_DRAWN}", "", ""],
    "patterns replayed (`bank`)": [
        "cifar10-50 bank",
        "cifar10-1000 bank",
        "cifar10-2000 bank",
        "cifar100-5000 bank-of-cifar10",
    ],
}


def test_the_table_on_one_page_is_of_the_seeds():
    lines = (ROOT / "RESULTS.md").read_text().split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {name: cells for name, *cells in rows[2:]} == {
        name: [difference(*asked.split()) if asked else "" for asked in columns]
        for name, columns in ON_ONE_PAGE.items()
    }


def test_the_results_are_on_one_page():
    assert len((ROOT / "RESULTS.md").read_text().splitlines()) <= 80


@pytest.mark.parametrize(
    ("name", "better", "worse", "said"),
    [
        ("cifar10-1000-p1", SEARCHED, "patchmix", "On every second batch it is at {} to random"),
        ("cifar10-1000-p1", SEARCHED, "patchmix-p1", "random PatchMix and {} to it on every batch, over ten draws"),
        ("cifar10-1000-p1", LARGER, "patchmix", "it is at {} and"),
        ("cifar10-1000-p1", LARGER, "patchmix-p1", "and {}, over six draws, for five times the time."),
        ("cifar10-1000-p1", CHEAPER, LARGER, "on the six of the large search it is {} below it"),
        ("cifar10-1000-p1", MORE_DRAWN, LARGER, "as the large search, loses: it is {} below it"),
        ("cifar10-2000-long", SEARCHED, "patchmix-p1", "that of every second batch is at {} to every batch mixed, but"),
        ("cifar10-2000-long", "patchmix-p1", "patchmix", "but that itself at {} (five draws)"),
        ("cifar10-1000", "evolved-hard", "patchmix", "it was tried on, {}, and nothing"),
        ("cifar10-1000-p1", "evolved-hard-every2", "patchmix", "ten draws, {}, nor beyond"),
        ("cifar10-1000-p1", DRAWN, "patchmix", "The best of four is at {}, the small search"),
        ("cifar10-1000-p1", SEARCHED, DRAWN, "the small search {} above it"),
    ],
)
def test_differences_told_on_one_page_are_those_of_the_seeds(name, better, worse, said):
    figure = difference(name, better, worse)
    assert said.format(figure.lstrip("-") if "below" in said else figure) in told_on_one_page()


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        (SEARCHED, "patchmix", "highest mean of all: {} to random"),
        (SEARCHED, "patchmix-p1", "random PatchMix and {} to it on every batch."),
        ("patchmix-p1", "patchmix", "Mixing every batch alone gains {} on these images."),
        ("evolved-hard-every2", "patchmix", "a small search on every second mixed batch adds {} to random PatchMix"),
        ("evolved-hard-p8-t4", "patchmix", "8 genomes over 4 generations on each {}, for 125 %"),
        ("evolved-hard-p1", "patchmix-p1", "where every batch is mixed such a search adds {}."),
        ("best-of-k-hard", "patchmix", "gains what the search does ({} against"),
        ("best-of-k-hard-9", "patchmix", "and drawing {};"),
        ("evolved-hard-p8-t4", "best-of-k-hard-9", "the paired difference is {} (by"),
    ],
)
def test_differences_told_of_the_search_are_those_of_the_seeds(better, worse, said):
    assert said.format(difference("cifar10-1000-search", better, worse)) in told_beside_tables()


@pytest.mark.parametrize(
    ("better", "worse", "measure", "said"),
    [
        (SEARCHED, "patchmix", "last_accuracy", "It is {} points above random PatchMix,"),
        (SEARCHED, "patchmix-p1", "last_accuracy", "and {} above random PatchMix that mixes every batch too"),
        (SEARCHED, "patchmix-p1", "last_test_loss", "with a test loss {} nats lower"),
        (LARGER, "patchmix-p1", "last_accuracy", "forwards): {} to as much mixing at random"),
        (LARGER, "patchmix", "last_accuracy", "and {} to random PatchMix; to the search"),
        (LARGER, SEARCHED, "last_accuracy", "to the search of every second batch {}, to that"),
        (LARGER, CHEAPER, "last_accuracy", "to that of every sixth {}. The test loss"),
        (LARGER, "patchmix-p1", "last_test_loss", "by {} nats from mixing at random to the last"),
        (DRAWN, "patchmix", "last_accuracy", "The best of four random draws for each row gains {} to"),
        (MORE_DRAWN, "patchmix", "last_accuracy", "on every batch, loses: {} to random"),
        (LARGER, MORE_DRAWN, "last_accuracy", "the search of as many forwards is {} above it, on each"),
        (SEARCHED, DRAWN, "last_accuracy", "the search of as many forwards is {} above it, which"),
        (CHEAPER, "patchmix", "last_accuracy", "adds 34 % to the time and is {} above random PatchMix"),
        (CHEAPER, "patchmix-p1", "last_accuracy", "and {} above random PatchMix on every batch."),
        (CHEAPER, SEARCHED, "last_accuracy", "there it is {} below the search of every second batch"),
        ("evolved-image_reducible", "patchmix", "last_accuracy", "all of them searched, gains {} (six draws)"),
        ("patchmix-p1", "patchmix", "last_accuracy", "mixing every batch without a search {}, from -1.95 to"),
        ("patchmix-p1", "patchmix", "last_test_loss", "(the test loss falls, by {} nats)"),
        (
            "evolved-hard-every2",
            "patchmix",
            "last_accuracy",
            "Over ten draws of 1,000 images the small search is at {};",
        ),
    ],
)
def test_differences_told_of_other_images_are_those_of_the_seeds(better, worse, measure, said):
    figure = difference("cifar10-1000-p1", better, worse, measure)
    figure = figure.lstrip("-") if measure == "last_test_loss" or "below" in said else figure
    assert said.format(figure) in told_beside_tables()


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
        assert told in TEXT


def paired(better, worse):
    both = pd.DataFrame({"better": better, "worse": worse}).rename_axis("seed").reset_index()
    return told_of(both.melt("seed", var_name="variant", value_name="last_accuracy"), "better", "worse")


@pytest.mark.parametrize(
    ("name", "better", "worse", "said"),
    [
        ("cifar10-2000", "patchmix-p1", "patchmix", "Every batch mixed is at {} to random PatchMix"),
        ("cifar10-2000", CHEAPER, "patchmix-p1", "the search on top of that at {} to it;"),
        (
            "cifar10-2000",
            "evolved-image_reducible-every6",
            "patchmix",
            "every sixth of those searched at {}. By",
        ),
        ("cifar10-2000-long", "patchmix-p1", "patchmix", "Mixing every batch is at {} to random PatchMix here"),
        ("cifar10-2000-long", SEARCHED, "patchmix-p1", "the search on top of that at {} to it, on"),
        ("cifar10-2000-long", SEARCHED, "patchmix", "nats lower, and at {} to random PatchMix."),
        ("cifar10-50-p1", "evolved-image_reducible-p1", "patchmix-p1", "is at {} to as much mixing at random."),
        (
            "cifar10-50",
            "evolved-image_reducible",
            "patchmix",
            "half of the batches mixed (`cifar10-50`) a search is at {} to random",
        ),
        (
            "cifar10-50-p1",
            "evolved-image_reducible-p1-batch20",
            "patchmix-p1",
            "as by default (`batch20`), it is at {}, and",
        ),
        (
            "cifar10-50-p1",
            "evolved-image_reducible-p1-batch20",
            "evolved-image_reducible-p1",
            "and {} above the other:",
        ),
        ("cifar10-50", LARGER, "patchmix-p1", "gains nothing either: {} to as much mixing at random"),
        ("cifar100-5000-long", "evolved-image_reducible", "patchmix", "The search is at {} to it"),
        ("cifar10-1000-objectives", CHEAPER, "patchmix", "and {} to it on every second one. Over"),
        ("cifar10-1000-objectives", CHEAPER, "patchmix-p1", "Here it is at {} to random PatchMix"),
    ],
)
def test_differences_told_of_fewer_more_and_further_images_are_those_of_the_seeds(name, better, worse, said):
    assert said.format(difference(name, better, worse)) in told_beside_tables()


def test_the_difference_told_of_two_processors_is_that_of_the_seeds():
    first, other = (
        pd.read_csv(ROOT / "runs" / "results" / name / "per_seed.csv")
        .query("variant == 'patchmix-p1'")
        .sort_values("seed")
        for name in ("cifar10-50", "cifar10-50-p1")
    )
    told = paired(first["last_accuracy"].to_list(), other["last_accuracy"].to_list())
    assert f"the same seeds came out {told.lstrip('+')} higher" in told_beside_tables()


def test_differences_told_of_the_default_over_all_draws_are_those_of_the_seeds():
    draws = ("cifar10-1000-p1", "cifar10-1000-objectives")
    base, every_batch = (difference(draws, CHEAPER, worse) for worse in ("patchmix", "patchmix-p1"))
    assert f"eleven, that is {every_batch} and {base}:" in told_beside_tables()
    assert f"and is at {base} and {every_batch}, over eleven draws" in told_on_one_page()
    assert f"a third to the time, and {base} over eleven draws" in " ".join(TEXT.split())
    alone, loss = (
        difference(draws, "patchmix-p1", "patchmix", measure) for measure in ("last_accuracy", "last_test_loss")
    )
    assert (
        f"at {alone} to it on every second one, with a test loss {loss.lstrip('-')} nats lower." in told_beside_tables()
    )


@pytest.mark.parametrize("objective", ["easy", "image_easy"])
def test_test_losses_told_of_objectives_are_those_of_the_seeds(objective):
    loss = difference("cifar10-1000-objectives", f"evolved-{objective}-p1-every6", "patchmix-p1", "last_test_loss")
    assert f"`{objective}` ({loss})" in told_beside_tables()


def difference(names, better, worse="patchmix", measure="last_accuracy"):
    """Of one experiment, or of several whose seeds are not the same."""
    names = [names] if isinstance(names, str) else names
    trials = pd.concat(pd.read_csv(ROOT / "runs" / "results" / name / "per_seed.csv") for name in names)
    return told_of(trials[trials["variant"].isin([better, worse])], better, worse, measure)


def told_of(trials, better, worse, measure="last_accuracy"):
    """The paired difference with half its interval, of points, or nats where there are thousandths."""
    row = compare(trials, measure, worse).set_index("variant").loc[better]
    places = 3 if measure == "last_test_loss" else 2
    half = decimal_text(row.difference_high - row.difference, f".{places}f")
    return f"{decimal_text(row.difference, f'+.{places}f')} ± {half}"


def told_on_one_page():
    return prose_of(ROOT / "RESULTS.md")


def told_beside_tables():
    return prose_of(ROOT / "runs" / "results" / "TABLES.md")


def prose_of(page):
    return " ".join(page.read_text().split())
