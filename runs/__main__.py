"""The command line: `./run COMMAND`. Commands import what they need when they run.

A user's mistake is one line and exit status 2; anything else that goes wrong is a bug and shows itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.states import State
from evo.errors import LostProcessError
from runs import LOST
from runs.failures import told
from runs.output import CLOSED, ClosedOutputError, give_up_output, plain_output
from runs.parameters import place, share, whole

if TYPE_CHECKING:
    from analysis.run_folder import RunFolder

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
RunNames = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders: names under runs/out, or paths.")]
Out = Annotated[
    Path | None, typer.Option("--out", parser=place, metavar="FOLDER", help="Write here; else into the run's figures.")
]
Dark = Annotated[bool, typer.Option("--dark", help="Light on dark.")]
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
    devices: Annotated[
        int, typer.Option(**whole(1, 1024), help="Processes to train with: GPUs of this machine, or CPU.")
    ] = 1,
    options: Annotated[bool, typer.Option("--options", help="List every option a recipe or -s may set.")] = False,
) -> None:
    """Train a model as a recipe says."""
    if options:
        from training.options import describe_options

        print(describe_options())
        return
    from runs.train_command import run_train

    raise typer.Exit(run_train(recipe, overrides or [], resume, devices))


@app.command()
def prepare(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="FOLDER/train/CLASS/*.jpg, FOLDER/val/CLASS/*.jpg.")],
    size: Annotated[int, typer.Option(**whole(4, 1024), help="Pixels a side.")] = 224,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; else FOLDER-prepared-SIZE.")] = None,
    workers: Annotated[int | None, typer.Option(**whole(1), help="Decoding threads; else one per core.")] = None,
    max_unreadable: Annotated[
        float, typer.Option(**share(0, 1), help="Share of image files that may be unreadable, and are left out.")
    ] = 0.001,
    levels: Annotated[
        str | None,
        typer.Option(metavar="BLACK,WHITE", help="Levels of images with more than 8 bits a channel, as data.levels."),
    ] = None,
) -> None:
    """Decode a folder of images once, into memory-mapped shards that training reads at full speed."""
    from runs.prepare import run_prepare

    run_prepare(folder, size, out, workers, max_unreadable, levels)


@app.command()
def search(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The trained run whose model scores; with --resume, where it is now."),
    ] = None,
    overrides: Set = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="auto|incremental|full", help="Forward new rows only, or all rows of new genomes."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="SEARCH", help="Go on with a search that was cut off, or extend one: -s search.generations=N."
        ),
    ] = None,
) -> None:
    """Evolve compositions of one batch against a trained run's model: a search experiment."""
    from runs.search_experiment import run_search

    run_search(run, overrides or [], evaluation, resume)


@app.command()
def ablate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Variants and seeds: a name in runs/ablations or runs/evidence, or a path."
        ),
    ],
    publish: Annotated[
        bool, typer.Option("--publish", help="Keep results in runs/results/ too; those there count as done.")
    ] = False,
    workers: Annotated[int, typer.Option(**whole(1, 256), help="Trials at once on this machine; not with Ray.")] = 1,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Where trials run; ray: on a cluster (extra `ray`).")
    ] = "local",
    retry: Annotated[bool, typer.Option("--retry", help="Run the trials again that failed.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="VARIANT", help="A name or pattern such as head=*, with what it needs."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials and their states; run nothing.")] = False,
    tables: Annotated[
        bool, typer.Option("--tables", help="Write the tables of what is done so far; run nothing.")
    ] = False,
) -> None:
    """Run variants x seeds of a recipe and print a table; what is done is skipped."""
    from runs.ablation.command import run_ablation

    run_ablation(
        file,
        publish=publish,
        workers=workers,
        engine=engine,
        retry=retry,
        only=only or [],
        dry_run=dry_run,
        tables=tables,
    )


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Of results, files of seeds (per_seed.csv), or run folders."),
    ],
    measure: Annotated[
        str,
        typer.Option(
            metavar="MEASURE", help="last_accuracy, median10_accuracy, last_test_loss, image_forwards or seconds."
        ),
    ] = "last_accuracy",
    baseline: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="Compared with all others; else the first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=place, metavar="FOLDER", help="Write the tables and the figure here.")
    ] = None,
) -> None:
    """Compare variants over the seeds they share: intervals, paired tests, effect sizes."""
    from runs.compare import run_compare

    run_compare(names, measure, baseline, out)


@app.command()
def results(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 where a page is not current.")
    ] = False,
) -> None:
    """Write the tables in README.md, RESULTS.md and runs/results/TABLES.md anew, from runs/results/."""
    from runs.results_page import run_results

    raise typer.Exit(run_results(check))


@app.command(name="list")
def list_runs(
    states: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE,...", help=f"{', '.join(State)}."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Runs on these data alone.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this model alone.")] = None,
    mix: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this mix alone.")] = None,
    sort: Annotated[str, typer.Option(metavar="COLUMN", help="A column of the table.")] = "age",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the runs: state, data, model, mix, epoch, accuracy, age."""
    from runs.listing import run_list

    run_list(
        states=[word for word in (states or "").split(",") if word],
        data=data,
        model=model,
        mix=mix,
        sort=sort,
        reverse=reverse,
        as_json=as_json,
    )


@app.command()
def show(run: RunName, as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Show one run: its state and why, progress, result, cost, how to repeat it."""
    from runs.card import run_show

    run_show(run, as_json=as_json)


@app.command()
def curves(runs: RunNames, out: Out = None, dark: Dark = False) -> None:
    """Draw the fitness curves of runs; seeds of one setting as one band."""
    from analysis.curves import write_curves
    from runs.folders import folder_to_write

    out = folder_to_write(out)
    found = found_runs(runs)
    print_paths(write_curves(found, out, dark=dark))
    tell_damage(found)


@app.command()
def patterns(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN|FILE...", help="A run, or pattern files and runs to be merged.")
    ],
    top: Annotated[int | None, typer.Option(**whole(1), help="Keep this many, the heaviest.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="What was found for rows of this class; may be given again."),
    ] = None,
    min_weight: Annotated[float | None, typer.Option(**share(0), help="Keep patterns of this weight at least.")] = None,
    out: Annotated[
        Path | None, typer.Option(parser=place, metavar="FILE", help="Write the patterns here, as .json or .npz.")
    ] = None,
    dark: Dark = False,
) -> None:
    """Export the patterns a run found, draw their atlas, and tell what evolution prefers; merge and filter them."""
    from runs.patterns import run_patterns

    run_patterns(names, top=top, classes=classes or [], min_weight=min_weight, out=out, dark=dark)


@app.command()
def gallery(run: RunName, out: Out = None, dark: Dark = False) -> None:
    """Draw composed images of a run: best and worst by generation, and one composition's way."""
    from analysis.gallery import write_gallery
    from runs.folders import folder_to_write

    out = folder_to_write(out)
    print_paths(write_gallery(found_runs([run])[0], out, dark=dark))


@app.command()
def lineage(
    run: RunName,
    out: Annotated[Path | None, typer.Option("--out", parser=place, metavar="FILE", help="Write the CSV here.")] = None,
) -> None:
    """Tell which operators made a run's elites, and write the table as CSV."""
    from analysis.operator_table import MEANING, as_text, of_one_kind, operator_table, write_operator_table
    from analysis.run_format import RunFolderError
    from runs.folders import file_to_write

    out = file_to_write(out)
    found = found_runs([run])[0]
    table = operator_table(found)
    if table is None:
        raise RunFolderError(f"run {found.name} kept no lineage: it has no search, or an older version made it")
    print("\n".join(text for text in (as_text(table), MEANING, of_one_kind(table)) if text))
    print_paths([write_operator_table(found, table, out)])


@app.command()
def report(
    runs: RunNames,
    out: Annotated[Path | None, typer.Option(parser=place, metavar="FILE", help="Write the page here.")] = None,
) -> None:
    """Write a report of runs: one HTML page that needs nothing else."""
    from analysis.report import write_report
    from runs.folders import file_to_write
    from training.config import Config

    out = file_to_write(out)
    found = found_runs(runs)
    print_paths([write_report(found, out, defaults=Config().model_dump())])
    tell_damage(found)


@app.command()
def watch(
    runs: RunNames,
    port: Annotated[int, typer.Option(**whole(1, 65535), help="Of 127.0.0.1; else the next free one.")] = 8321,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser on it.")] = False,
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="HOST[:PORT]",
            help="A name it is reached by through a tunnel or proxy, e.g. localhost:9999.",
        ),
    ] = None,
    base_path: Annotated[
        str, typer.Option("--base-path", metavar="PATH", help="Where a proxy shows it, e.g. /user/me/proxy/8321/.")
    ] = "/",
) -> None:
    """Show the report as a live page while runs go on."""
    from runs.watch import run_watch

    run_watch(runs, port=port, open_browser=open_browser, allow_hosts=allow_hosts or [], base_path=base_path)


def found_runs(names: list[str]) -> list[RunFolder]:
    from analysis.run_folder import find_run

    return [find_run(name, forgiving=True).checked() for name in names]


def tell_damage(runs: list[RunFolder]) -> None:
    """A line on standard error for each file of the runs that could not be read, whatever was made without it."""
    for line in dict.fromkeys(line for run in runs for line in run.damaged()):
        print(f"run: {line}", file=sys.stderr)


def print_paths(paths: list[Path]) -> None:
    from runs.folders import shown

    for path in paths:
        print(shown(path))


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
    seeds: Annotated[int, typer.Option("--seeds", **whole(1, 10_000), help="Fine-tunings of each backbone.")] = 1,
    overrides: Set = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", parser=place, metavar="FILE", help="Write the table as CSV too.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="model|ema", help="Which weights; else ema of runs that have train.ema.")
    ] = None,
    group: Annotated[bool, typer.Option("--group/--each", help="Seeds of one variant as one row, or one each.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute anew what an earlier call has left.")] = False,
) -> None:
    """Test trained backbones on other data: linear probe, k nearest neighbours, fine-tuning."""
    from runs.transfer_command import run_transfer

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
        str,
        typer.Argument(
            metavar="NAME",
            help="compose, overhead, speed, operators, search, scaling, rescore, estimates, scores, analysis.",
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A small version within a minute.")] = False,
) -> None:
    """Run a benchmark; print its table and write it to runs/results/bench/."""
    from runs.benchmarks import run_benchmark

    run_benchmark(name, quick)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the test suite; further words go to pytest."""
    from training.cores import usable_cores

    os.chdir(Path(__file__).resolve().parent.parent)
    # Files of tests side by side; what a person names is run in one process.
    words = context.args or ["-n", str(min(usable_cores(), 8)), "--dist", "loadfile"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *words])  # noqa: S606 (no shell is meant)


def is_a(error: Exception, name: str) -> bool:
    """Whether an exception is of a class so named: typer brings a click of its own, older ones import it."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        with plain_output():
            return run_command(arguments)
    except ClosedOutputError:
        give_up_output()
        return CLOSED
    except OSError as error:  # of what was still to be written to standard output
        give_up_output()
        if (lines := told(error)) is None:
            raise
        print(*(f"run: {line}" for line in lines), sep="\n", file=sys.stderr)
        return 2


def run_command(arguments: list[str] | None) -> int:
    """Run the command line; return the exit status. What is no bug is told on standard error."""
    try:
        status = app(arguments, prog_name="./run", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        print("\nrun: stopped", file=sys.stderr)
        return 130
    except ClosedOutputError:
        raise
    except Exception as error:
        if is_a(error, "NoArgsIsHelpError"):
            print(error)
        elif is_a(error, "UsageError"):
            context = getattr(error, "ctx", None)
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            print(f"run: {message} See {context.command_path if context else './run'} --help.", file=sys.stderr)
        elif (lines := told(error, command_of(arguments))) is not None:
            for line in lines:
                print(f"run: {line}", file=sys.stderr)
            if isinstance(error, LostProcessError):
                return LOST
        else:
            raise
    return 2


def command_of(arguments: list[str] | None) -> str:
    """The command's name, the first word that is no option; "" where there is none, or it was told where to write."""
    words = sys.argv[1:] if arguments is None else arguments
    placed = any(word.partition("=")[0] == "--out" for word in words)
    return "" if placed else next((word for word in words if not word.startswith("-")), "")


if __name__ == "__main__":
    sys.exit(main())
