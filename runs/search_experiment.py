"""`./run search RUN`: evolve the compositions of one batch against a trained run's model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.endings import ending
from analysis.estimate_checks import doubt, told_of_estimates
from analysis.rounding import decimal_text
from analysis.run_folder import RunFolder, find_run
from evo.ends import ENDS
from evo.errors import UserError
from runs.folders import config_to_go_on_with, known_config, new_run_folder, numbered, shown, with_run_paths
from runs.train_command import train_in
from training import removed
from training.belonging import checkpoint_digest
from training.config import Config, make_config
from training.places import spoken

END_OPTIONS = tuple(f"search.{end}" for end in ENDS)  # what a search may be extended by
# A search experiment is larger than a search within training; -s overrides these.
DEFAULTS = ("search.population=32", "search.generations=60", "search.batch_size=64", "search.elites=2")


def run_search(name: str | None, overrides: list[str], evaluation: str | None, resume: str | None) -> None:
    if name is None and resume is None:
        raise UserError("expected a RUN, or --resume SEARCH; RUN is a trained run under runs/out")
    if resume is not None:
        folder, result = resume_search(resume, overrides, evaluation, name)
    else:
        run = find_run(str(name))
        trained = known_config(run)
        if departs := removed.departing(run.config):
            told = ", ".join(f"{option}={value}" for option, value in departs.items())
            print(
                f"search: {run.name} was trained with {told}, removed since; the search does without", file=sys.stderr
            )
        asked = overrides if evaluation is None else [*overrides, f"search.evaluation={evaluation}"]
        config = search_config(trained, asked)
        place = new_run_folder(config, "") if config.run.name is not None else numbered(f"{run.name}-search")
        with place as folder:
            result = train_in(folder, lambda: search_in(folder, config, run, trained), "search")
    found = RunFolder(folder)
    try:
        figures = _draw(found)
    except OSError as error:
        error.add_note(f"the search itself has ended and is kept; draw it with ./run report {found.name}")
        raise
    print(
        f"fitness {decimal_text(result['first'], '.3f')} in the first generation, {decimal_text(result['last'], '.3f')} in the "
        f"last; {forwards_text(result)}"
    )
    if why := ending(found):
        print(why)
    for text in filter(None, (told_of_estimates(found), doubt(found))):
        print(text)
    print(f"run folder {shown(folder)}")
    for label, path in figures.items():
        print(f"{label} {shown(path)}")


def search_config(trained: Config, overrides: Sequence[str] = ()) -> Config:
    """The config of a search experiment on the model of a run that was trained with `trained`."""
    changes = [*DEFAULTS, "mix.name=evolved", "run.name=null"]
    if not trained.searches:
        changes.append("search.objective=hard")  # it has kept no average of its weights to compare with
    return with_run_paths(make_config(trained.model_dump(), [*changes, *overrides], "search", trains=False))


def forwards_text(result: Mapping[str, Any]) -> str:
    """What a search experiment has cost, from its `end` event."""
    return (
        f"{result['search_forwards']:,} image forwards in {result['seconds']:.1f} s "
        + (f"in place of the {result['scored']:,} that the rows scored would have taken " if "scored" in result else "")
        + f"(evaluating every row of every generation would have taken {result['full_forwards']:,})"
    )


def resume_search(
    name: str, overrides: list[str], evaluation: str | None, moved: str | None
) -> tuple[Path, dict[str, Any]]:
    """Go on with a search; one that has ended only with other ends. moved: where the trained run is now.

    Raises UserError where nothing is left to do, where it was never saved, or its model is not there or another one.
    """
    found = find_run(name)
    if evaluation:
        raise UserError("--resume goes on with the search's own config and takes no --evaluation")
    ends = [override for override in overrides if override.partition("=")[0].strip() in END_OPTIONS]
    start = found.start
    ended = f"{found.name} has ended; there is nothing to resume{_how_to_extend(found)}"
    if found.result is not None and ("model" not in start or not overrides):
        raise UserError(ended)
    if "model" not in start or not (found.path / "checkpoint" / "search.npz").is_file():
        raise UserError(f"{found.name} is no search that was cut off after its first generation; start it anew")
    words = ("search", "--resume", name, *(word for override in overrides for word in ("-s", override)))
    config = config_to_go_on_with(found, overrides, words, END_OPTIONS)
    if found.result is not None and not ends:
        raise UserError(ended)
    run = find_run(moved) if moved is not None else RunFolder(Path(start["model"]))
    if not (run.path / "config.json").is_file():
        raise UserError(
            f"the run that {found.name} searches with is not at {run.path} any more; put it back, or say where it is now: "
            + spoken(words[0], "RUN", options=words[1:])
        )
    kept = start.get("model_digest")
    if kept is not None and checkpoint_digest(run.path) != kept:
        raise UserError(
            f"run {run.name} at {run.path} has another checkpoint than when {found.name} began; give the run as it was"
        )
    work = lambda: search_in(found.path, config, run, known_config(run), resume=True, other_ends=ends)  # noqa: E731
    return found.path, train_in(found.path, work, "search")


def _how_to_extend(search: RunFolder) -> str:
    """The command that makes a search that has ended longer; "" of another run."""
    if "model" not in search.start:
        return ""
    reason = str((search.result or {}).get("stopped"))
    ends = [end for end in dict.fromkeys(reason.split(", ")) if end in ENDS] or ["generations"]
    words = ["--resume", search.name]
    for end in ends:
        value = search.config["search"].get(end)
        larger = f"{2 * value:g}" if isinstance(value, int | float) and end != "target" else "VALUE"
        words += ["-s", f"search.{end}={larger}"]
    return f"; to extend it, give it a later end, for example {spoken('search', options=tuple(words))}"


def search_in(
    folder: Path,
    config: Config,
    run: RunFolder,
    trained: Config,
    *,
    resume: bool = False,
    other_ends: Sequence[str] = (),
) -> dict[str, Any]:
    """Search one batch with `config` against the model of `run`; write the run folder; return its end event."""
    from training.experiment import search_batch  # torch: 5 s

    return search_batch(config, folder, run.path, trained, resume=resume, other_ends=other_ends)


def _draw(run: RunFolder) -> dict[str, Path]:
    from analysis.curves import draw_curves
    from analysis.gallery import draw_gallery
    from analysis.operator_table import operator_table, write_operator_table
    from analysis.pattern_export import draw_patterns, export_bank
    from evo.bank_files import load_bank

    bank = load_bank(run.bank_file())
    operators = operator_table(run)
    return {
        "fitness curve": draw_curves([run], run.figures() / "curves.png"),
        "patterns": draw_patterns(run, bank),
        "patterns (json)": export_bank(run, bank)[0],
        **({} if operators is None else {"operators": write_operator_table(run, operators)}),
        "gallery": draw_gallery(run, run.figures() / "gallery.png"),
    }
