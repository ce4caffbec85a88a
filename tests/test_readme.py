"""The README's snippets run, and the commands and files it names exist."""

import re
from pathlib import Path

import pytest
import torch

from evo.objectives import OBJECTIVES
from runs.__main__ import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # some write a file
    monkeypatch.setattr("evo.objectives.OBJECTIVES", dict(OBJECTIVES))
    torch.manual_seed(0)
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("words", ["mix = PatchMix(num_classes=10, grid=4, probability=0.5)", "while (proposal :="])
def test_loops_of_ones_own_take_ten_lines(words):
    snippet = next(snippet for snippet in SNIPPETS if words in snippet)
    lines = [line for line in snippet.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_commands_exist():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"\./run ([a-z]+)", TEXT))
    assert named == commands


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"TODO|\b[A-Z]+_(OUTPUT|TABLE|FIGURES)\b", TEXT)


def test_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
