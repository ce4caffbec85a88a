"""A user's mistake: one kind of error, one line, and one form of hint for a wrong name."""

import ast
import subprocess
import sys

import numpy as np
import pytest

from analysis.run_format import RunFolderError
from evo.bank import random_masks
from evo.errors import BankError, LostProcessError, UserError, did_you_mean
from evo.search import Search
from evo.settings import SearchSettings
from runs.ablation.engines.packed_folder import ArchiveError
from runs.failures import told
from tests.test_rooms import SOURCES
from training.data.image_set import UnreadableImage
from training.data.levels import LevelsError
from training.mixes import PatchMix
from training.registry import MIXES, MODELS, load_entry


@pytest.mark.parametrize(
    "kind", [UserError, BankError, RunFolderError, LostProcessError, LevelsError, ArchiveError, UnreadableImage]
)
def test_every_error_of_ours_is_a_users_mistake_and_a_value_error(kind):
    assert issubclass(kind, UserError) and issubclass(kind, ValueError)
    if kind is not UnreadableImage:  # which is made of a path and a reason
        assert told(kind("first\nsecond"), "report") == ["first", "second"]
    assert told(ValueError("a bug of ours"), "report") is None


def test_errors_are_defined_below_one_and_names_are_compared_in_one_place():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        below = [one.name for one in classes if "ValueError" in [getattr(base, "id", "") for base in one.bases]]
        assert below == (["UserError"] if path.parts[-2:] == ("evo", "errors.py") else []), path
        assert "difflib" not in path.read_text(encoding="utf-8") or path.parts[-2:] == ("evo", "errors.py"), path


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("evolvd", {}, "; did you mean 'evolved'?"),
        ("EVOLVED", {}, "; did you mean 'evolved'?"),
        ("plian", {"prefix": "mix."}, "; did you mean 'mix.plain'?"),
        ("evolved1", {"most": 2}, "; did you mean 'evolved' or 'evolved2'?"),
        ("evolved1", {"most": 3}, "; did you mean 'evolved', 'evolved2' or 'Evolved_30'?"),
        ("", {}, ""),
        ("xyz", {}, ""),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_known_ones(name, options, hint):
    assert did_you_mean(name, ["plain", "evolved2", "Evolved_30", "evolved"], **options) == hint
    assert did_you_mean(name, [], **options) == ""


def test_errors_need_nothing_but_the_standard_library():
    heavy = "{'numpy', 'deap', 'torch', 'pydantic', 'typer'}"
    code = f"import sys, evo.errors; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: SearchSettings(crossover="asignment"), "unknown crossover 'asignment'; did you mean 'assignment'?"),
        (lambda: SearchSettings(mask_mutation="flip+shfit"), "did you mean 'shift'?"),
        (lambda: SearchSettings(pairing_mutation="0.5*swp+0.5*inversion"), "did you mean 'swap'?"),
        (lambda: SearchSettings(selection="tournement"), "did you mean 'tournament'?"),
        (lambda: SearchSettings(sampler="bx"), "did you mean 'box'?"),
        (lambda: Search(4, 2, objective="hrad"), "did you mean 'hard'?"),
        (lambda: Search(4, 2, objective="hard").forget("survivor"), "did you mean 'survivors'?"),
        (lambda: random_masks("boxes", 1, 2, np.random.default_rng(0)), "did you mean 'box'?"),
        (lambda: PatchMix(sampler="bernouli"), "did you mean 'bernoulli'?"),
        (lambda: load_entry(MIXES, "evolvd", "mix"), "unknown mix 'evolvd'; did you mean 'evolved'?"),
        (lambda: load_entry(MODELS, "resnet-smal", "model"), "did you mean 'resnet-small'?"),
    ],
)
def test_a_wrong_name_of_the_engine_or_a_registry_is_answered_with_the_nearest(call, hint):
    with pytest.raises(UserError) as found:
        call()
    assert hint in str(found.value) and "\n" not in str(found.value)
