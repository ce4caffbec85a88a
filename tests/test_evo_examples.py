"""The engine's docstrings: their examples run and every public object has one. Its functions are short."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import evo
from evo import operators
from evo.objectives import OBJECTIVES
from evo.selection import SELECTIONS, best

FOLDER = Path(evo.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(evo.__path__, "evo."))
LONGEST = 60  # lines of a function
SOURCES = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(FOLDER.rglob("*.py"))]
REGISTRIES = [OBJECTIVES, SELECTIONS, *(value for name, value in vars(operators).items() if name.isupper())]
# What has a contract that stands once, at the head of its module or package.
ONE_CONTRACT = {getattr(entry, "func", entry) for registry in REGISTRIES for entry in registry.values()} | {best}
CONTRACTED = {function.__name__ for function in ONE_CONTRACT}


def public_objects(node, prefix=""):
    """Names and nodes of what is public, methods and properties included; setters are their property's matter."""
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
            continue
        if any(name.endswith("setter") or name == "overload" for name in decorators(child)):
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from public_objects(child, f"{child.name}.")


def decorators(node):
    return [ast.unparse(one) for one in node.decorator_list]


def lacking(node):
    """Sections that the docstring of a function should have and does not."""
    text = ast.get_docstring(node)
    names = [one.arg for one in (*node.args.args, *node.args.kwonlyargs) if one.arg not in ("self", "cls")]
    found = ["Args"] if names and "Args:" not in text else []
    gives = node.returns is not None and ast.unparse(node.returns) != "None"
    first = text.split("\n")[0]
    if gives and not any(word in text for word in ("Returns:", "Yields:")) and not first.startswith("Return "):
        found.append("Returns")
    return found


def test_every_example_in_the_engine_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    attempted = 0
    for name in MODULES:
        module = importlib.import_module(name)
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.failed == 0, f"python -m doctest {module.__file__}"
        attempted += found.attempted
    assert attempted >= 40  # else they are no longer found


@pytest.mark.parametrize(("path", "tree"), SOURCES, ids=lambda value: getattr(value, "name", ""))
def test_every_public_object_of_the_engine_says_what_it_is(path, tree):
    assert ast.get_docstring(tree)
    assert not [name for name, node in public_objects(tree) if not ast.get_docstring(node)]


@pytest.mark.parametrize(("path", "tree"), SOURCES, ids=lambda value: getattr(value, "name", ""))
def test_functions_of_the_engine_say_what_they_take_and_return(path, tree):
    functions = [(name, node) for name, node in public_objects(tree) if isinstance(node, ast.FunctionDef)]
    told = {
        name: lacking(node)
        for name, node in functions
        if not {"property", "cached_property", "abstractmethod", "contextmanager"} & set(decorators(node))
        and name not in CONTRACTED
    }
    assert not {name: sections for name, sections in told.items() if sections}


def test_no_function_of_the_engine_is_long():
    found = [
        f"{path.name}: {node.name}"
        for path, tree in SOURCES
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST
    ]
    assert not found
