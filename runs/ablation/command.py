"""`./run ablate`: runs the trials that are not done, then prints and writes their table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evo.errors import UserError
from runs.ablation.engines import Engine
from runs.ablation.file import SHELVES, chosen, fits, read_ablation
from runs.ablation.published import publish_done, publish_trial, with_needed, with_published
from runs.ablation.schedule import Estimate, Report, Schedule, accuracy, overview, run_schedule
from runs.ablation.tables import write_tables_of
from runs.ablation.trials import Trial, check_same_images
from training.places import PROJECT, spoken, user_path

ENGINES = ("local", "ray")


def run_ablation(
    name: str,
    publish: bool = False,
    *,
    workers: int = 1,
    engine: str = "local",
    retry: bool = False,
    only: Sequence[str] = (),
    dry_run: bool = False,
    tables: bool = False,
) -> None:
    """Run an ablation's trials that are not done, and write the tables of those that are.

    workers: processes of this machine at once; with Ray the cluster's resources say how many. retry: run again what
    failed before. only: variants, with what they need; tables are of all. dry_run: tell what would be run. tables:
    write the tables alone, of what is done so far. publish: keep results in runs/results too, each as soon as it is
    there; what is kept there counts as done. Raises UserError where trials are not done in the end, but for tables of
    some.
    """
    _check_options(engine, workers, tables and (dry_run or bool(only) or retry))
    file = ablation_path(name)
    trials = read_ablation(file)
    if publish:
        trials = with_published(file, trials)
    for trial in trials:  # all folders are checked before the first minute is spent
        trial.state()
    trials = without_removed(file, trials, only)
    schedule = Schedule(with_needed(chosen(trials, list(only))), retry)
    if dry_run:
        print("\n".join(planned(schedule, Estimate(trial for trial in trials if trial.state() == "done"), workers)))
        return
    make_place(trials[0].notes.parent)
    if publish:  # what was done before anyone asked for it to be published
        publish_done(file, trials)
    if tables:
        write_so_far(file, trials, publish)
        return
    options = ("--publish",) if publish else ()
    again = spoken("ablate", name, options=options)
    retried = spoken("ablate", name, options=(*options, "--retry"))
    if schedule.named("waiting"):
        try:
            started = start_engine(engine, workers, schedule.named("waiting"))
            kept = partial(publish_trial, file) if publish else lambda trial: None
            run_schedule(schedule, started, Report(schedule, started.slots), kept)
        except KeyboardInterrupt:
            print(f"\nrun: stopped; the same command goes on where it was: {again}", file=sys.stderr)
            raise SystemExit(130) from None
    else:
        print(overview(schedule, Estimate(()), 1), file=sys.stderr)
    done = [trial for trial in trials if is_done(trial)]
    if publish:  # by other processes
        publish_done(file, done)
    names = {trial.name for trial in done}
    unfinished = [trial for trial in schedule.trials.values() if trial.name not in names]
    check_same_images(done)
    write_tables_of(file, trials, done, publish)
    if unfinished:
        raise UserError("\n".join(unfinished_lines(schedule, unfinished, retried)))


def _check_options(engine: str, workers: int, tables_of_some: bool) -> None:
    """Raises UserError where options of an ablation cannot be, or do not go together."""
    if engine not in ENGINES:
        raise UserError(f"--engine: expected one of {', '.join(ENGINES)}, got {engine!r:.60}")
    if workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}")
    if tables_of_some:
        raise UserError(
            "--tables writes the tables of all that is done: expected no --dry-run, --only or --retry beside it"
        )


def without_removed(file: Path, trials: Sequence[Trial], only: Sequence[str]) -> list[Trial]:
    """The trials without those that are not done and cannot be, since options of theirs were removed; which are told.

    Raises UserError where nothing is left, or nothing of a variant that `only` names.
    """
    left = [trial for trial in trials if not trial.gone or trial.state() == "done"]
    lost = {trial.variant: trial.gone for trial in trials if trial not in left}
    said = {
        variant: f"{file.stem}: {variant} cannot be run any more: "
        + "; ".join(f"{option}={value} was removed" for option, value in gone.items())
        for variant, gone in lost.items()
    }
    kept = {trial.variant for trial in left}
    if asked := [
        said[variant]
        for variant in lost
        if variant not in kept and (not left or any(fits(variant, name) for name in only))
    ]:
        raise UserError("\n".join(asked))
    for variant, line in said.items():
        print(f"run: {line}{'; its results are kept' if variant in kept else ''}", file=sys.stderr)
    return left


def write_so_far(file: Path, trials: Sequence[Trial], publish: bool) -> None:
    """Write the tables of an ablation that goes on, or was stopped. Raises UserError where nothing is done yet."""
    done = [trial for trial in trials if is_done(trial)]
    if not done:
        raise UserError(
            f"{file.stem}: no trial is done yet, so there is nothing to show; leave out --tables to run them"
        )
    check_same_images(done)
    write_tables_of(file, trials, done, publish)
    if len(done) < len(trials):
        print(f"of {len(done)} of {len(trials)} trials, the others are not done", file=sys.stderr)


def make_place(folder: Path) -> None:
    """Make the folder of the trials' notes, and thereby the ablation's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made: {error.strerror}; expected a folder to write to, set EVOMIX_OUT to another"
        ) from None


def is_done(trial: Trial) -> bool:
    try:
        return trial.state() == "done"
    except UserError:  # its folder has changed since; the schedule tells
        return False


def start_engine(engine: str, workers: int, trials: Sequence[Trial]) -> Engine:
    if engine == "ray":
        from runs.ablation.engines.ray import RayEngine

        return RayEngine(trials)
    from runs.ablation.engines.local import LocalEngine, tell_of_emulation

    tell_of_emulation(trials)
    return LocalEngine(workers)


def planned(schedule: Schedule, estimate: Estimate, workers: int) -> list[str]:
    """What a call would do, a line for each trial."""
    words = {"done": "done", "busy": "is being run by another process", "failed": "failed before", "blocked": "not run"}
    lines = []
    for name, trial in schedule.trials.items():
        standing = schedule.standing[name]
        if standing == "waiting":
            how = "would go on from its checkpoint" if trial.onward() == "started" else "would be run"
            after = [schedule.trials[needed].title for needed in trial.needs if schedule.standing[needed] != "done"]
            lines.append((trial.title, how + (f" after {' and '.join(after)}" if after else "")))
        elif standing == "done":
            lines.append((trial.title, f"done, {accuracy(trial)}"))
        else:
            reason = schedule.reasons.get(name)
            lines.append((trial.title, words[standing] + (f": {reason}" if reason else "")))
    width = max(len(title) for title, _ in lines)
    return [*(f"{title:<{width}}  {text}" for title, text in lines), overview(schedule, estimate, workers)]


def unfinished_lines(schedule: Schedule, unfinished: Sequence[Trial], retried: str) -> list[str]:
    failed = schedule.named("failed")
    what = "failed" if len(failed) == len(unfinished) else "are not done"
    lines = [f"{len(unfinished)} of {len(schedule.trials)} trials {what}"]
    for trial in unfinished:
        busy = schedule.standing.get(trial.name) == "busy"
        other = "is being run by another process" if busy else "its folder has changed meanwhile"
        lines.append(f"{trial.title}: {schedule.reasons.get(trial.name, other)}")
    return lines + ([f"to run what failed again: {retried}"] if failed else [])


def ablation_path(name: str) -> Path:
    """The file an ablation's name or path stands for."""
    found = {path.stem: path for shelf in SHELVES for path in sorted((PROJECT / "runs" / shelf).glob("*.yaml"))}
    if name in found:
        return found[name]
    if user_path(name).is_file():
        return user_path(name)
    raise UserError(f"no ablation {name!r}; expected a YAML file, or one of {', '.join(sorted(found))}")
