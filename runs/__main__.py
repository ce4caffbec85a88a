"""The command line: `./run COMMAND`. Commands import what they need when they run.

A user's mistake is one line and exit status 2; anything else that goes wrong is a bug and shows itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from runs import LOST

app = typer.Typer(
    name="run",
    help="Evomix: train vision models with evolved image compositions (PatchMix, arXiv 2106.09011).",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override an option, e.g. -s search.population=32."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder: its name under runs/out, or a path.")]


@app.command()
def demo() -> None:
    """Train on real digits with evolved, random and no mixing, and show what came of it."""
    from runs.demo import run_demo

    run_demo()


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A name in runs/recipes, or a path.")] = None,
    overrides: Set = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that was cut off.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes to train with: GPUs of this machine, or CPU.")] = 1,
    options: Annotated[bool, typer.Option("--options", help="List every option a recipe or -s may set.")] = False,
) -> None:
    """Train a model as a recipe says."""
    if options:
        from training.config import describe_options

        print(describe_options())
        return
    from runs.train import run_train

    raise typer.Exit(run_train(recipe, overrides or [], resume, devices))


@app.command()
def prepare(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="FOLDER/train/CLASS/*.jpg, FOLDER/val/CLASS/*.jpg.")],
    size: Annotated[int, typer.Option(min=4, max=1024, help="Pixels a side.")] = 224,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; else FOLDER-prepared-SIZE.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; else one per core.")] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of image files that may be unreadable, and are left out.")
    ] = 0.001,
) -> None:
    """Decode a folder of images once, into memory-mapped shards that training reads at full speed."""
    from runs.prepare import run_prepare

    run_prepare(folder, size, out, workers, max_unreadable)


@app.command()
def search(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The trained run whose model scores.")] = None,
    overrides: Set = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="auto|incremental|full", help="Forward new rows only, or all rows of new genomes."),
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="SEARCH", help="Go on with a search that was cut off.")] = None,
) -> None:
    """Evolve compositions of one batch against a trained run's model: a search experiment."""
    from runs.search import run_search

    run_search(run, overrides or [], evaluation, resume)


@app.command()
def ablate(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Variants and seeds: a name in runs/ablations, or a path.")
    ],
    publish: Annotated[bool, typer.Option("--publish", help="Write the tables into runs/results/ as well.")] = False,
) -> None:
    """Run variants x seeds of a recipe and print a table; what is done is skipped."""
    from runs.tables import run_ablation

    run_ablation(file, publish)


@app.command()
def curves(runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One or more run folders.")]) -> None:
    """Draw the fitness curves of runs."""
    from analysis.curves import draw_curves
    from analysis.run_folder import find_run
    from runs.folders import shown

    found = [find_run(name) for name in runs]
    print(shown(draw_curves(found, found[0].figures() / "curves.png")))


@app.command()
def patterns(run: RunName) -> None:
    """Export the patterns a run found, as JSON, npz and a picture."""
    from analysis.patterns import export_patterns
    from analysis.run_folder import find_run
    from runs.folders import shown

    for path in export_patterns(find_run(run)):
        print(shown(path))


@app.command()
def lineage(run: RunName) -> None:
    """Tell which operators made a run's elites, and write the table as CSV."""
    from analysis.lineage import MEANING, as_text, operator_table, write_operator_table
    from analysis.run_folder import RunFolderError, find_run
    from runs.folders import shown

    found = find_run(run)
    table, path = operator_table(found), write_operator_table(found)
    if table is None or path is None:
        raise RunFolderError(f"run {found.name} kept no lineage: it has no search, or an older version made it")
    print(as_text(table))
    print(f"{MEANING}\n{shown(path)}")


@app.command()
def report(run: RunName) -> None:
    """Write a run's report: one HTML page that needs nothing else."""
    from analysis.report import write_report
    from analysis.run_folder import find_run
    from runs.folders import shown

    print(shown(write_report(find_run(run))))


@app.command()
def transfer(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One or more trained runs.")],
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", "-d", metavar="NAME", help="A data set to transfer to, or folder:PATH; several may be named."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option("--method", metavar="METHOD,...", help="Of linear, knn and finetune.")
    ] = "linear",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fine-tunings of each backbone.")] = 1,
    overrides: Set = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV too.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="model|ema", help="Which weights; else ema of runs that have train.ema.")
    ] = None,
    group: Annotated[bool, typer.Option("--group/--each", help="Seeds of one variant as one row, or one each.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute anew what an earlier call has left.")] = False,
) -> None:
    """Test trained backbones on other data: linear probe, k nearest neighbours, fine-tuning."""
    from runs.transfer import run_transfer

    run_transfer(
        runs,
        datasets or ["cifar10"],
        overrides or [],
        methods=methods,
        seeds=seeds,
        csv=csv,
        weights=weights,
        group=group,
        fresh=fresh,
    )


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="compose, overhead, speed, operators, search, scaling or rescore.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A small version within a minute.")] = False,
) -> None:
    """Run a benchmark; print its table and write it to runs/results/bench/."""
    from runs.benchmarks import run_benchmark

    run_benchmark(name, quick)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the test suite; further words go to pytest."""
    tests = Path(__file__).resolve().parent.parent
    os.chdir(tests)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *context.args])  # noqa: S606 (no shell is meant)


def user_errors() -> tuple[type[Exception], ...]:
    """The exceptions that mean a user's mistake, of the rooms imported so far."""
    kinds = (
        ("training.config", "UserError"),
        ("analysis.run_folder", "RunFolderError"),
        ("evo.bank", "BankError"),
    )
    return tuple(getattr(sys.modules[module], name) for module, name in kinds if module in sys.modules)


def is_a(error: Exception, name: str) -> bool:
    """Whether an exception is of a class so named: typer brings a click of its own, older ones import it."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        status = app(arguments, prog_name="./run", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print("\nrun: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if is_a(error, "NoArgsIsHelpError"):
            print(error)
        elif is_a(error, "UsageError"):
            context = getattr(error, "ctx", None)
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            print(f"run: {message} See {context.command_path if context else './run'} --help.", file=sys.stderr)
        elif isinstance(error, user_errors()):
            for line in str(error).splitlines():
                print(f"run: {line}", file=sys.stderr)
            if is_a(error, "LostProcessError"):
                return LOST
        else:
            raise
    return 2


if __name__ == "__main__":
    sys.exit(main())
