"""The rooms of the design: imports go one way, also from file to file; evo knows no torch, analysis neither torch nor DEAP."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from analysis.run_settings import SEARCHING
from training.registry import MIXES

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
# written whole and folders locked, and what a user's mistake is. No DEAP in any.
READABLE = {
    "evo.arrays",
    "evo.bank",
    "evo.bank_files",
    "evo.durations",
    "evo.errors",
    "evo.locks",
    "evo.storage",
    "evo.symmetry",
}
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


def run_imports(node):
    """Its imports, also those within functions, but not those that only a type checker reads."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (child.module, *(f"{child.module}.{alias.name}" for alias in child.names))
        else:
            yield from run_imports(child)


def import_graph(sources):
    """sources: the text of each module by its dotted name -> the modules among them that each imports.

    To import a module of a package is to import the package too; that of one's own is there already.
    """
    graph = {}
    for name, text in sources.items():
        found = set()
        for imported in run_imports(ast.parse(text)):
            parts = imported.split(".")
            found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        graph[name] = {other for other in found & sources.keys() if not f"{name}.".startswith(f"{other}.")}
    return graph


def circle(sources):
    """The modules of a circle of imports, in order; none where there is none."""
    try:
        TopologicalSorter(import_graph(sources)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_imports_go_in_a_circle():
    """Not even by way of a function that imports when it is called: what needs each other is one thing, or three."""
    sources = {}
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        sources[name] = path.read_text(encoding="utf-8")
    assert not circle(sources)


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("import room.b", "from room.b import x", False),
        ("import room.b", "from room import a", True),
        ("from room import b", "def call():\n    from room.a import x", True),
        ("from room.b import x", "try:\n    import room.a\nfinally:\n    pass", True),
        ("from room.b import x", "if TYPE_CHECKING:\n    from room.a import y", False),
        ("from room.b import x", "if typing.TYPE_CHECKING:\n    pass\nelse:\n    from room.a import y", True),
    ],
)
def test_circles_are_found_at_any_level(first, second, found):
    assert bool(circle({"room": "", "room.a": first, "room.b": second})) == found


def test_analysis_knows_the_mixes_that_search_as_the_registry_does():
    assert set(SEARCHING) == {name for name, kind in MIXES.items() if kind.scores}
