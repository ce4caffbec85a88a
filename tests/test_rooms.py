"""The rooms of the design: imports go one way, evo knows no torch, analysis neither torch nor DEAP."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("evo", "training", "analysis", "runs")
ALLOWED = {"evo": {"evo"}, "training": {"training", "evo"}, "analysis": {"analysis"}, "runs": set(ROOMS)}
FORBIDDEN = {
    "evo": {"torch", "torchvision", "pandas", "matplotlib"},
    "training": {"deap", "pandas", "matplotlib"},
    "analysis": {"torch", "torchvision", "deap"},
    "runs": {"deap"},
}
# What a reader of run folders needs of a search: pattern files, masks under the grid's symmetries, how files are
# written whole, and what a user's mistake is. No DEAP in any.
READABLE = {"evo.bank", "evo.bank_files", "evo.errors", "evo.storage", "evo.symmetry"}
PEERS = ROOT / "runs" / "benchmarks" / "peers.py"  # DEAP is what it measures
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if "out" not in path.parts]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        top = name.split(".")[0]
        allowed = top in ALLOWED[room] or (room == "analysis" and name in READABLE)
        assert top not in ROOMS or allowed, f"{room} may not import {name}"
        assert top not in FORBIDDEN[room] or path == PEERS, f"{room} may not import {name}"


def test_files_import_the_bank_and_errors_nothing():
    assert not {"evo.bank_files", "evo.storage"} & set(imports(ROOT / "evo" / "bank.py"))
    assert not [name for name in imports(ROOT / "evo" / "errors.py") if name.split(".")[0] in ROOMS]
