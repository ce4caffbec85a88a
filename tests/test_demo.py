"""`./run demo` at tiny size: its trainings, its search experiment, and the files that it names."""

from pathlib import Path

import pytest

from analysis.log_lines import read_lines
from analysis.run_folder import RunFolder
from tests.conftest import TINY


@pytest.fixture
def demo(cli, monkeypatch):
    """The lines that a tiny demo prints."""
    import runs.demo

    monkeypatch.setattr(runs.demo, "SMALLER", ())
    load = runs.demo.load_config
    monkeypatch.setattr(runs.demo, "load_config", lambda recipe, overrides: load(recipe, [*TINY, *overrides]))
    status, text, error = cli("demo")
    assert status == 0, error
    return text.strip().splitlines()


def test_demo_ends_with_a_fitness_curve_of_thirty_generations_or_more_and_files_that_exist(demo, out):
    table = demo.index(next(line for line in demo if line.startswith("mix ")))
    assert [line.split()[0] for line in demo[table + 1 : table + 4]] == ["plain", "patchmix", "evolved"]
    files = {line[:17].strip(): Path(line[17:]) for line in demo[-5:]}
    assert list(files) == ["fitness curve", "patterns", "patterns (json)", "report", "run folders"]
    assert all(path.exists() for path in files.values())

    search = RunFolder(out / "demo-1" / "search")
    assert files["fitness curve"] == search.path / "figures" / "curves.png"
    curve = [record["best"] for record in read_lines(search.path / "generations.jsonl")]
    assert search.result is not None and len(curve) == search.result["generations"] >= 30
    assert curve == sorted(curve) and len(set(curve)) > 10  # a curve, not a line between two points

    generations, fitness = (
        next(line for line in demo if line.startswith(word)) for word in ("generation", "fitness (hard)")
    )
    at = [int(word) for word in generations.split()[1:]]
    assert at[0] == 1 and at[-1] == len(curve) and len(at) >= 5
    assert fitness.split()[-len(at) :] == [f"{curve[generation - 1]:.3f}" for generation in at]
    assert any(line.startswith(f"{search.result['search_forwards']:,} image forwards in ") for line in demo)
