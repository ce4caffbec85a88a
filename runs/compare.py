"""`./run compare NAME...`: variants of several tables and runs, compared over the seeds they share."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.run_folder import RunFolder, find_run, out_root
from analysis.run_format import REMOVED
from analysis.run_settings import Readings, common, counted, difference, readings_of
from analysis.tested import images_beside, images_of_test, unlike
from evo.errors import UserError, did_you_mean
from runs.folders import folder_to_write, known_config, shown
from training.places import PROJECT, spoken, user_path

if TYPE_CHECKING:
    import pandas as pd

SEED = re.compile(r"(.+)-s\d+")  # how ablations name the seeds of a variant
TABLE = "per_seed.csv"


def run_compare(names: list[str], measure: str, baseline: str | None, out: Path | None) -> None:
    """Print the comparison, against `baseline` or else the first variant; with `out` write its forms there.

    names: of tables (a per_seed.csv, or a folder with one, also by its name in runs/out or runs/results) and of runs,
    of which those named VARIANT-sN are seeds of one variant. Raises UserError.
    """
    from analysis.comparison_forms import as_text, write_tables
    from analysis.per_seed import MEASURES
    from analysis.statistics import compare
    from runs.ablation.tables import FORMS

    if measure not in MEASURES:
        raise UserError(
            f"--measure: expected one of {', '.join(MEASURES)}, got {measure!r:.60}{did_you_mean(measure, MEASURES)}"
        )
    found = {name: table_of(name) for name in names}
    tables = list(dict.fromkeys(table.resolve() for table in found.values() if table is not None))
    out = folder_to_write(out)
    if out is not None:
        check_place(out, tables, alone=len(found) == 1)
    runs = [find_run(name) for name, table in found.items() if table is None]
    check_tests(tables, runs)
    trials = read_trials(tables, runs)
    variants = list(dict.fromkeys(trials["variant"]))
    if baseline is not None and baseline not in variants:
        raise UserError(
            f"--baseline: there is no variant {baseline!r}{did_you_mean(baseline, variants)} (choose from {', '.join(variants)})"
        )
    if trials[measure].isna().all():
        raise UserError(f"--measure {measure}: these results are of before it was kept; choose another measure")
    for table in tables:
        print(f"from {shown(table)}")
    if out is None:
        print(as_text(compare(trials, measure, baseline)))
        return
    print(as_text(write_tables(trials, out, measure=measure, baseline=baseline)))
    print(f"tables in {shown(out)}: {', '.join(name for name in FORMS if (out / name).is_file())}")


def check_place(out: Path, tables: list[Path], alone: bool) -> None:
    """Raises UserError where the forms cannot be written into `out` without harm to what is there."""
    there = out / TABLE
    if not there.exists() or (alone and there.resolve() in tables):
        return
    what = "one of several that are compared" if there.resolve() in tables else "of another comparison"
    raise UserError(f"--out {out}: its {TABLE} is {what} and would be lost; name another folder, or remove the file")


def check_tests(tables: list[Path], runs: list[RunFolder]) -> None:
    """Raises UserError where trials were tested on different images; says of which tables that cannot be told."""
    known = {table: images_beside(table) for table in tables}
    tests = [*map(images_of_test, runs), *(one for found in known.values() for one in found)]
    if what := unlike(tests):
        raise UserError(
            f"{what}, and their accuracies cannot be compared; expected runs of one data set, tested on the same images: leave "
            "one out"
        )
    unknown = [shown(table) for table, found in known.items() if not found]
    if unknown and len(tables) + bool(runs) > 1:
        print(
            f"run: which images {', '.join(unknown)} is of cannot be told, for neither trials.jsonl nor run folders lie "
            "beside it; differences mean something only where all were tested on the same images",
            file=sys.stderr,
        )


def table_of(name: str) -> Path | None:
    """The per_seed.csv that a name stands for; None where it may be a run's."""
    given = user_path(name)
    if given.suffix == ".csv":
        if not given.is_file():
            raise UserError(f"there is no file {name}; expected a {TABLE}, a folder with one, or a run")
        return given
    if (out_root() / name / "config.json").is_file():
        return None
    for folder in (given, out_root() / name, PROJECT / "runs" / "results" / name):
        if (folder / TABLE).is_file():
            return folder / TABLE
    if (given / "config.json").is_file():
        return None
    tables = _known(TABLE)
    runs = _known("config.json")
    raise UserError(
        f"{name}: no run in {out_root()}, nor a folder with a {TABLE}{did_you_mean(name, tables + runs)}; "
        f"expected runs, or tables such as {', '.join(tables[:6])}"
    )


def read_trials(tables: list[Path], runs: list[RunFolder]) -> pd.DataFrame:
    """The trials of tables and runs, one row per variant and seed. Raises UserError."""
    from analysis.per_seed import read_per_seed

    parts = [(shown(table), read_per_seed(table)) for table in tables]
    return together([*parts, ("the runs named", read_runs(runs))] if runs else parts)


def read_runs(runs: list[RunFolder]) -> pd.DataFrame:
    """One row per run, the seeds of a variant under its name.

    Raises UserError for a run that has not ended, and a variant whose runs differ in more than their seed.
    """
    from analysis.per_seed import per_seed

    trials: list[tuple[str, int, RunFolder]] = []
    firsts: dict[str, RunFolder] = {}
    settings: dict[str, Readings] = {}
    seen: dict[tuple[str, int], str] = {}
    for run in {run.path.resolve(): run for run in runs}.values():
        if run.result is None:
            raise UserError(
                f"run {run.name} has not ended; finish it ({spoken('train', options=('--resume', run.name))}) or leave it out"
            )
        match = SEED.fullmatch(run.name)
        seed = known_config(run).run.seed
        readings = readings_of(run)
        variant = match[1] if match else run.name
        first, setting = firsts.setdefault(variant, run), settings.setdefault(variant, readings)
        if option := difference(setting, readings):
            values = " and ".join(
                str(counted(one).get(option, REMOVED.get(option, "not recorded"))) for one in (first, run)
            )
            raise UserError(
                f"runs {first.name} and {run.name} differ in {option} ({values}); expected runs of {variant} that differ in "
                "their seed only: leave one out, or rename its folder"
            )
        settings[variant] = common(setting, readings)
        if (other := seen.setdefault((variant, seed), run.name)) != run.name:
            raise UserError(f"runs {other} and {run.name} both have run.seed={seed}; leave one out")
        trials.append((variant, seed, run))
    return per_seed(trials)


def together(parts: list[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The trials of several sources as one table. Raises UserError where a variant is in two of them."""
    import pandas as pd

    seen: dict[str, str] = {}
    for source, trials in parts:
        for variant in trials["variant"]:
            if (other := seen.setdefault(variant, source)) != source:
                raise UserError(
                    f"variant {variant} is both in {other} and in {source}, and they may be of other settings; "
                    "rename it in a copy of one, or leave one out"
                )
    return pd.concat([trials for _, trials in parts], ignore_index=True)


def _known(file: str) -> list[str]:
    """The names of folders in runs/out and runs/results that hold a file."""
    roots = (out_root(), PROJECT / "runs" / "results")
    return sorted({str(path.parent.relative_to(root)) for root in roots for path in root.glob(f"**/{file}")})
