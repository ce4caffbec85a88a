"""The rooms' pages: their Python blocks run, their commands parse, their options, links and headings exist."""

import json
import re
import shlex
import shutil
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer.main

from evo.objectives import OBJECTIVES
from evo.operators import (
    ARCHIVE_CROSSOVERS,
    CROSSOVERS,
    MASK_CROSSOVERS,
    MASK_MUTATIONS,
    MASK_SAMPLERS,
    PAIRING_CROSSOVERS,
    PAIRING_MUTATIONS,
)
from evo.selection import SELECTIONS
from evo.settings import SearchSettings
from runs.__main__ import app
from runs.benchmarks import BENCHMARKS
from training.config import Config, load_config
from training.registry import DATASETS, MIXES, MODELS

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "evo/README.md",
        "evo/operators/README.md",
        "training/README.md",
        "training/data/README.md",
        "analysis/README.md",
        "runs/README.md",
        "runs/benchmarks/README.md",
    )
}
ENGINE = [name for name in PAGES if name.startswith("evo/")]
OPTIONAL = ("lightning", "timm")  # blocks that import one of them run where it is installed
COMMANDS = typer.main.get_command(app).commands
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(page, language):
    return [text for name, text in FENCE.findall(PAGES[page]) if name == language]


def spans(page):
    """What stands between backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", PAGES[page]))


def commands(page):
    """The words behind ./run, or -m runs, of each command of a page."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    for line in [*lines, *(span for span in spans(page) if span.startswith("./run "))]:
        words = shlex.split(line, comments=True)
        if words and words[0] == "./run":
            yield words[1:]
        elif "runs" in words:
            yield words[words.index("runs") + 1 :]
        else:
            assert not words or words[0] in ("ssh", "sh"), f"{page}: {line}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_blocks_of_a_page_run_in_order(page, request, out, monkeypatch, tmp_path):
    if page == "analysis/README.md":
        shutil.copytree(request.getfixturevalue("trained"), out / "first")
        (tmp_path / "runs").symlink_to(ROOT / "runs")  # as from the repository's folder
    monkeypatch.chdir(tmp_path)  # some write files
    monkeypatch.setattr("evo.objectives.OBJECTIVES", dict(OBJECTIVES))
    torch.manual_seed(0)
    namespace = {}
    for number, block in enumerate(blocks(page, "python"), 1):
        if all(find_spec(name) for name in OPTIONAL if re.search(rf"^(import|from) {name}\b", block, re.M)):
            exec(compile(block, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", ENGINE)
def test_the_engines_pages_need_no_torch(page):
    assert not [block for block in blocks(page, "python") if re.search(r"\b(torch|training)\b", block)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        if block.startswith("# mine.yaml"):
            Path("mine.yaml").write_text(block)
    for name, *words in commands(page):
        if name.startswith("-"):
            continue
        assert name in COMMANDS, f"./run {name}"
        if "--help" in words:
            continue
        parameters = COMMANDS[name].make_context(name, list(words)).params  # raises for what it does not know
        if name == "train" and parameters["recipe"]:
            load_config(parameters["recipe"], parameters["overrides"] or ())
        for override in parameters.get("overrides") or ():
            assert_option(override.partition("=")[0])
        if name == "bench":
            assert parameters["name"] in BENCHMARKS
        if name == "ablate" and not parameters["file"].endswith(".yaml"):
            folders = (ROOT / "runs" / "ablations", ROOT / "runs" / "evidence")
            assert any((folder / f"{parameters['file']}.yaml").is_file() for folder in folders), parameters["file"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ENGINE])
def test_every_option_that_a_page_names_exists(page):
    for span in spans(page):
        if named := re.fullmatch(r"((?:data|model|mix|search|train|run)\.[a-z_]+)(=.*)?", span):
            assert_option(named[1])


def assert_option(option):
    section, _, name = option.partition(".")
    assert name in Config.model_fields[section].annotation.model_fields, option


def test_the_ablation_shown_is_one(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (shown,) = [block for block in blocks("runs/README.md", "yaml") if block.startswith("recipe:")]
    Path("study.yaml").write_text(shown)
    status, text, error = cli("ablate", "study.yaml", "--dry-run")
    assert status == 0 and not error
    assert len([line for line in text.splitlines() if "would be run" in line]) == 5 * (2 + 4)


def test_every_command_stands_on_the_page_of_commands():
    assert {name for name, *_ in commands("runs/README.md") if not name.startswith("-")} == set(COMMANDS)


def test_everything_that_is_chosen_by_name_is_explained():
    assert {*MIXES, *MODELS} <= set(spans("training/README.md")) and {*DATASETS} <= set(
        spans("training/data/README.md")
    )
    named = {span for page in ENGINE for span in spans(page)}
    operators = {*MASK_CROSSOVERS, *MASK_MUTATIONS, *PAIRING_CROSSOVERS, *PAIRING_MUTATIONS, *CROSSOVERS}
    assert {*OBJECTIVES, *MASK_SAMPLERS, *SELECTIONS, *ARCHIVE_CROSSOVERS, *operators} <= named
    settings = {field.name for field in fields(SearchSettings)}
    assert settings - named == {"population", "objective", "evaluation"}  # these stand in blocks and sentences
    assert all(f"{name}=" in PAGES["evo/README.md"] for name in ("population", "objective", "evaluation"))


def test_every_benchmark_and_ablation_is_named():
    benchmarks = {words[1] for words in commands("runs/benchmarks/README.md") if words[0] == "bench"}
    from runs.benchmarks import BENCHMARKS

    assert benchmarks == set(BENCHMARKS)
    assert {path.stem for path in (ROOT / "runs" / "ablations").glob("*.yaml")} <= set(spans("runs/README.md"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.M)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    assert not re.search(r"TODO|\b[A-Z]+_(OUTPUT|TABLE|FIGURES)\b", PAGES[page])


MEASURED = " ".join(PAGES["runs/benchmarks/README.md"].split())


def results(name):
    return json.loads((ROOT / "runs" / "results" / "bench" / f"{name}.json").read_text())


def medians(name):
    return {(row["case"], row["name"]): row["median"] for row in results(name)["rows"]}


def ratios(name):
    return {(ratio["case"], ratio["over"]): ratio["value"] for ratio in results(name)["ratios"]}


def test_figures_of_the_engine_are_those_of_the_benchmarks():
    for ratio in results("operators")["ratios"]:
        line = re.search(rf"^\| {re.escape(ratio['over'])} .*$", PAGES["runs/benchmarks/README.md"], re.M)
        assert ("memory" in ratio["over"]) or f"| {ratio['value']:.0f}x |" in line[0]
    over = {peer: value for (_, peer), value in ratios("search").items()}
    found = medians("search")
    needed, spent = (
        next(value for (_, name), value in found.items() if name == wanted)
        for wanted in ("Evomix Search, until textbook DEAP's best", "textbook DEAP, 100 generations")
    )
    assert f"DEAP spent {spent:,.0f} forwards in 100 generations." in MEASURED
    assert (
        f"as fit after {needed:,.0f} forwards, which is {over['textbook DEAP, 100 generations']:.0f} times" in MEASURED
    )
    assert f"and {over['pymoo GA, 100 generations']:.0f} times fewer than pymoo" in MEASURED
    at = "fitness at 8,192 forwards"
    theirs = {f"{found[at, peer]:.2f}" for peer in ("pymoo GA", "textbook DEAP")}
    assert f"genome had {found[at, 'Evomix Search']:.2f} nats, and theirs {theirs.pop()}." in MEASURED and not theirs
    share = next(value for (_, name), value in found.items() if name.endswith("all but the model's forward"))
    assert f"took {share:.1f} % of a generation" in MEASURED


def test_figures_after_a_training_step_are_those_of_the_benchmark():
    found = {
        steps: [medians("rescore")[f"cifar10-small, {steps} steps a round", f"rescore {name}"] for name in names]
        for names in [("survivors", "all", "none")]
        for steps in (1, 16)
    }
    said = "(`survivors`) found {:.2f} nats, forwarding everybody found {:.2f}, and keeping old losses found {:.2f}."
    assert said.format(*found[16]) in MEASURED
    assert "With one step all three were within 0.02." in MEASURED and max(found[1]) - min(found[1]) < 0.02


def test_figures_of_mixing_are_those_of_the_benchmarks():
    over = ratios("compose")
    large, middle = "64x3x224x224 float32, 1 thread", "128x3x64x64 float32, 1 thread"
    assert f"takes {1 / over[large, 'out.copy_(x)']:.1f} times as long as copying them" in MEASURED
    theirs = [over[large, peer] for peer in ("torchvision CutMix", "timm CutMix (batch)")]
    assert "CutMix takes {:.1f} times as long as ours, and timm's {:.1f} times.".format(*theirs) in MEASURED
    assert f"pixels it takes {over[middle, 'timm CutMix (batch)']:.2f} of our time" in MEASURED
    found = medians("overhead")
    for model in ("small ResNet", "ResNet-18"):
        case = f"{model}, 32 px, B128, bfloat16"
        random, evolved = found[case, "patchmix / plain"], found[case, "evolved / patchmix"]
        assert f"| {model} | {random:.2f}x | {evolved:.2f}x |" in MEASURED


def test_figures_of_looking_are_those_of_the_benchmark():
    found = {name: value for (_, name), value in medians("analysis").items()}
    report, memory, curves = (found[f"./run {name}"] for name in ("report", "report, peak memory", "curves"))
    assert f"report takes {report:.1f} s and {memory:.0f} MiB, and its curves take {curves:.1f} s." in MEASURED
    assert f"read in {found['read']:.2f} s" in MEASURED
