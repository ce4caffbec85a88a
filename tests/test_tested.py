"""Accuracies on different test images are neither subtracted nor ranked: it is refused, or said first."""

import json
import re
import shutil
from pathlib import Path

import pytest

from analysis.run_folder import RunFolder
from analysis.tested import images_beside, images_of_test, unlike

OLD_RUN = Path(__file__).parent / "data" / "runs-v1" / "plain"


@pytest.fixture
def made(out):
    """A run folder with some options of data and some words of its first event."""

    def make(name, seed=0, start=None, /, **data):
        shutil.copytree(OLD_RUN, out / name)
        config = json.loads((out / name / "config.json").read_text())
        config["data"] |= data
        config["run"]["seed"] = seed
        (out / name / "config.json").write_text(json.dumps(config))
        if start:
            lines = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
            for line in lines:
                if line.get("event") in ("start", "end"):
                    line.update({key: value for key, value in start.items() if key in line or line["event"] == "start"})
            (out / name / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        return RunFolder(out / name)

    return make


UNLIKE = {  # what one of two runs has otherwise: options of data, what its first event says, what is told
    "data set": ({"name": "cifar100"}, None, "data.name: "),
    "near-duplicates": ({"exclude_near_duplicates": True}, None, "data.exclude_near_duplicates: false and true"),
    "validation": ({"validation": 5}, None, "data.validation: null and 5"),
    "number of classes": ({}, {"classes": ["a", "b"]}, "number of classes: "),
    "number of images": ({}, {"test_images": 77}, "number of test images: "),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_runs_that_were_tested_on_different_images_are_not_compared(cli, made, case):
    data, start, words = UNLIKE[case]
    made("one-s0"), made("other-s0", 0, start, **data)
    status, text, error = cli("compare", "one-s0", "other-s0")
    assert status == 2 and not text and len(error.splitlines()) == 1
    assert error.startswith("run: run one-s0 and run other-s0 were tested on different images (") and words in error


@pytest.mark.parametrize("case", UNLIKE)
def test_a_report_says_so_first_and_compares_nothing(made, case):
    from analysis.sections.caveats import caveats
    from analysis.sections.result import comparison

    data, start, words = UNLIKE[case]
    runs = [made("one"), made("other", 0, start, **data)]
    html = caveats(runs)
    assert html.index("Different test images") == min(found.start() for found in re.finditer("Different|Single", html))
    assert words in html
    shown = comparison(runs)
    assert "are not compared" in shown and "<svg" not in shown and words in shown


def test_other_test_images_of_the_same_number_are_told_by_their_digest(made):
    one = made("one", 0, {"test": "aa"})
    other = made("other", 0, {"test": "bb"})
    assert "(test images: aa and bb)" in unlike([images_of_test(one), images_of_test(other)])
    assert unlike([images_of_test(one), images_of_test(made("old"))]) == ""  # which has recorded none


def test_a_seed_may_have_training_images_of_its_own(cli, made):
    for seed, start in ((0, 0), (1, 50)):
        for name in ("one", "other"):
            made(f"{name}-s{seed}", seed, subset=20, subset_start=start)
    assert cli("compare", *(f"{name}-s{seed}" for name in ("one", "other") for seed in (0, 1)))[0] == 0


def test_images_set_aside_are_of_one_seed_the_same(made):
    runs = [made(f"one-s{seed}", seed, subset=20, subset_start=50 * seed, validation=5) for seed in (0, 1)]
    same = made("other-s1", 1, subset=20, subset_start=50, validation=5)
    unlike_ones = made("third-s1", 1, subset=20, subset_start=90, validation=5)
    assert unlike(list(map(images_of_test, [*runs, same]))) == ""
    assert "run one-s1 and run third-s1" in unlike(list(map(images_of_test, [*runs, unlike_ones])))


def table(folder, variant, data=None):
    folder.mkdir()
    rows = [f"{variant},{seed},{60 + seed},{60 + seed},1000,1" for seed in range(3)]
    head = "variant,seed,last_accuracy,median10_accuracy,image_forwards,seconds"
    (folder / "per_seed.csv").write_text("\n".join([head, *rows]) + "\n")
    if data:
        lines = [{"variant": variant, "seed": seed, "config": {"data": data}} for seed in range(3)]
        (folder / "trials.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_tables_tell_by_what_lies_beside_them(cli, out, made):
    out.mkdir()
    table(out / "x", "one", {"name": "cifar10"})
    table(out / "y", "other", {"name": "cifar10", "exclude_near_duplicates": True})
    table(out / "z", "third", {"name": "cifar10", "exclude_near_duplicates": False})
    status, _, error = cli("compare", "x", "y")
    assert (
        status == 2
        and "variant one, seed 0 of x and variant other, seed 0 of y" in error
        and len(error.splitlines()) == 1
    )
    status, text, error = cli("compare", "x", "z")
    assert status == 0 and "third" in text and error == ""
    made("run-s0")
    assert "data.name" in cli("compare", "x", "run-s0")[2]


def test_a_table_of_which_nothing_is_known_is_said_to_be_one(cli, out):
    out.mkdir()
    table(out / "x", "one", {"name": "cifar10"})
    table(out / "y", "other")
    (out / "y" / "trials.jsonl").write_text('{"variant": 3}\nrubbish\n')
    assert images_beside(out / "y" / "per_seed.csv") == []
    status, text, error = cli("compare", "x", "y")
    assert status == 0 and "other" in text
    assert "y/per_seed.csv is of cannot be told" in error and len(error.splitlines()) == 1
    assert cli("compare", "y")[2] == ""


def test_a_list_by_accuracy_says_where_it_ranks_nothing(cli, made):
    made("one"), made("other", name="cifar100")
    status, text, error = cli("list", "--sort", "accuracy")
    assert status == 0 and "one" in text and "data.name: " in error and len(error.splitlines()) == 1
    assert cli("list")[2] == cli("list", "--sort", "accuracy", "--data", "cifar100")[2] == ""


def test_curves_of_different_data_say_so(made, out):
    from analysis.curve_tables import settings_of

    folder = OLD_RUN.parent / "evolved"
    for name in ("a", "b"):
        shutil.copytree(folder, out / name)
    config = json.loads((out / "b" / "config.json").read_text())
    config["data"]["name"] = "cifar100"
    (out / "b" / "config.json").write_text(json.dumps(config))
    assert settings_of([RunFolder(out / "a"), RunFolder(out / "b")])[1][0].startswith("Of different data (cifar100, ")
