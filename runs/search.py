"""`./run search RUN`: evolve the compositions of one batch against a trained run's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, find_run
from runs.folders import numbered, recorded_config, shown
from runs.train import train_in
from training.config import Config, make_config

# A search experiment is larger than a search within training; -s overrides these.
DEFAULTS = ("search.population=32", "search.generations=60", "search.batch=64", "search.elites=2")


def run_search(name: str, overrides: list[str]) -> None:
    run = find_run(name)
    trained = recorded_config(run)
    changes = [*DEFAULTS, "mix.name=evolved", "run.name=null", *overrides]
    config = make_config(trained.model_dump(), changes, "search", trains=False)
    folder = numbered(f"{run.name}-search")
    result = train_in(folder, lambda: search_in(folder, config, run, trained))
    found = RunFolder(folder)
    figures = _draw(found)
    print(
        f"fitness {result['first']:.3f} in the first generation, {result['last']:.3f} in the last; "
        f"{result['search_forwards']:,} image forwards in {result['seconds']:.1f} s "
        f"(evaluating every row of every generation would have taken {result['full_forwards']:,})"
    )
    print(f"run folder {shown(folder)}")
    for label, path in figures.items():
        print(f"{label} {shown(path)}")


def search_in(folder: Path, config: Config, run: RunFolder, trained: Config) -> dict[str, Any]:
    """Search one batch with `config` against the model of `run`; write the run folder; return its end event."""
    from training.experiment import search_batch  # torch: 5 s

    return search_batch(config, folder, run.path, trained)


def _draw(run: RunFolder) -> dict[str, Path]:
    from analysis.curves import draw_curves
    from analysis.gallery import draw_gallery
    from analysis.patterns import export_patterns

    exported = export_patterns(run)
    return {
        "fitness curve": draw_curves([run], run.figures() / "curves.png"),
        "patterns": exported[-1],
        "patterns (json)": exported[0],
        "gallery": draw_gallery(run, run.figures() / "gallery.png"),
    }
