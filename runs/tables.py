"""`./run ablate`: run the trials, then print and write their table."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.run_folder import RunFolder, out_root
from runs.ablate import chosen, read_ablation
from runs.engines import Engine
from runs.folders import shown
from runs.schedule import Estimate, Report, Schedule, accuracy, overview, run_schedule
from runs.trials import Trial
from training.config import PROJECT, UserError, read_yaml, recipe_path

FORMS = ("per_seed.csv", "table.csv", "table.md", "table.tex", "figure.png", "figure.svg")
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
) -> None:
    """Run an ablation's trials that are not done, and write the tables of those that are.

    workers: processes of this machine at once; with Ray the cluster's resources say how many. retry: run again what
    failed before. only: variants, with what they need; tables are of all. dry_run: tell what would be run.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine: expected one of {', '.join(ENGINES)}, got {engine!r:.60}")
    if workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}")
    file = ablation_path(name)
    trials = read_ablation(file)
    for trial in trials:  # all folders are checked before the first minute is spent
        trial.state()
    schedule = Schedule(chosen(trials, list(only)), retry)
    if dry_run:
        print("\n".join(planned(schedule, Estimate(trial for trial in trials if trial.state() == "done"), workers)))
        return
    again = shlex.join(["./run", "ablate", name])
    if schedule.named("waiting"):
        try:
            started = start_engine(engine, workers, schedule.named("waiting"))
            run_schedule(schedule, started, Report(schedule, started.slots))
        except KeyboardInterrupt:
            print(f"\nrun: stopped; the same command goes on where it was: {again}", file=sys.stderr)
            raise SystemExit(130) from None
    else:
        print(overview(schedule, Estimate(()), 1), file=sys.stderr)
    write(file, trials, publish)
    if unfinished := schedule.named("failed", "blocked", "stopped"):
        raise UserError("\n".join(unfinished_lines(schedule, unfinished, again)))


def start_engine(engine: str, workers: int, trials: Sequence[Trial]) -> Engine:
    if engine == "ray":
        from runs.engines.ray import RayEngine

        return RayEngine(trials)
    from runs.engines.local import LocalEngine

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


def unfinished_lines(schedule: Schedule, unfinished: Sequence[Trial], again: str) -> list[str]:
    failed = schedule.named("failed")
    what = "failed" if len(failed) == len(unfinished) else "are not done"
    lines = [f"{len(unfinished)} of {len(schedule.trials)} trials {what}"]
    lines += [f"{trial.title}: {schedule.reasons[trial.name]}" for trial in unfinished]
    return lines + ([f"to run what failed again: {again} --retry"] if failed else [])


def write(file: Path, trials: Sequence[Trial], publish: bool) -> None:
    """Print and write the tables of what is done, if anything is."""
    done = [(trial.variant, trial.seed, trial.run) for trial in trials if trial.state() == "done"]
    if not done:
        return
    from analysis.ablation import as_text, per_seed, write_tables

    folder, variants = out_root() / file.stem, list(dict.fromkeys(trial.variant for trial in trials))
    print(as_text(write_tables(per_seed(done), folder, variants)))
    print(f"tables in {shown(folder)}: {', '.join(name for name in FORMS if (folder / name).is_file())}")
    if publish:
        print(f"and in {shown(publish_tables(file, done[0][2], folder))}")


def ablation_path(name: str) -> Path:
    """The file an ablation's name or path stands for."""
    shelf = PROJECT / "runs" / "ablations"
    for path in (shelf / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise UserError(
        f"no ablation {name!r}; expected a YAML file, or one of "
        f"{', '.join(sorted(p.stem for p in shelf.glob('*.yaml')))}"
    )


def publish_tables(file: Path, made: RunFolder, folder: Path) -> Path:
    """Copy the tables, the ablation's file, its recipe and the environment into runs/results/NAME."""
    results = PROJECT / "runs" / "results" / file.stem
    results.mkdir(parents=True, exist_ok=True)
    for name in FORMS:
        if (folder / name).is_file():
            shutil.copy(folder / name, results / name)
    shutil.copy(file, results / "ablation.yaml")
    shutil.copy(recipe_path(str(read_yaml(file)["recipe"])), results / "recipe.yaml")
    environment = made.environment
    environment["command"] = f"./run ablate {file.stem} --publish"
    (results / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
    return results
