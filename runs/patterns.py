"""`./run patterns RUN|FILE...`: export what runs found, draw it, tell what evolution prefers; merge and filter banks."""

from __future__ import annotations

from pathlib import Path

from analysis.run_folder import RunFolder, find_run
from analysis.run_format import RunFolderError
from evo.bank import PatternBank
from evo.bank_files import load_bank, save_bank
from evo.errors import UserError
from runs.folders import file_to_write, shown
from training.places import user_path

ENDINGS = (".json", ".npz")


def run_patterns(
    names: list[str], *, top: int | None, classes: list[str], min_weight: float | None, out: Path | None, dark: bool
) -> None:
    """Of one run: write its patterns, atlas, statements and figures, and print them. Of files, or several: merge them.

    top, classes, min_weight filter what is written: the heaviest, rows of these classes, those of this weight at least.
    out: the file to write instead; needed to write a merge, or patterns that are filtered.
    Raises UserError, RunFolderError and BankError.
    """
    out = file_to_write(out)
    if out is not None and out.suffix not in ENDINGS:
        raise UserError(f"--out: expected a file that ends in .json or .npz, got {out.name!r:.60}")
    filters = top is not None or bool(classes) or min_weight is not None
    sources = [source_of(name) for name in names]
    if len(sources) == 1 and isinstance(sources[0], RunFolder) and not filters and out is None:
        _atlas(sources[0], dark)
        return
    if out is None and len(sources) > 1:
        raise UserError("several runs or files are merged into one file; name it with --out FILE.json or FILE.npz")
    banks = [bank_of(source, classes) for source in sources]
    bank = banks[0] if len(banks) == 1 else PatternBank.merge(banks)
    if min_weight is not None:
        bank = bank.heavier_than(min_weight)
    if top is not None:
        bank = bank.top(top)
    print(bank.describe())
    if not len(bank):
        raise UserError("no pattern is left; loosen --top, --class or --min-weight")
    if out is None:
        print("(nothing is written; name a file with --out FILE.json or FILE.npz)")
        return
    save_bank(bank, out)
    print(shown(out))
    print(shown(draw_bank(bank, sources, out.with_name(f"{out.name}.png"), dark)))


def source_of(name: str) -> RunFolder | Path:
    """A pattern file, or else a run."""
    given = user_path(name)
    return given if given.suffix in ENDINGS else find_run(name)


def bank_of(source: RunFolder | Path, classes: list[str]) -> PatternBank:
    """The bank of a source; with classes that of their rows, which only a run's searches tell."""
    if isinstance(source, Path):
        bank = load_bank(source)
        if classes:
            bank.of_classes(classes)  # names a class it does not know
            raise UserError(f"--class: {source} does not keep masks by class; name the run that it comes from")
        return bank
    if not classes:
        return load_bank(source.bank_file())
    from analysis.pattern_export import bank_of_classes

    return bank_of_classes(source, classes)


def draw_bank(bank: PatternBank, sources: list[RunFolder | Path], path: Path, dark: bool) -> Path:
    """The picture of a bank beside its file. Lifts are over the runs' sampler where they have one in common."""
    from analysis.pattern_export import bank_figure
    from analysis.style import save, theme

    samplers = {source.config["mix"]["sampler"] if isinstance(source, RunFolder) else "" for source in sources}
    with theme(dark):
        return save(bank_figure(bank, samplers.pop() if len(samplers) == 1 else ""), path)


def _atlas(run: RunFolder, dark: bool) -> None:
    from analysis.atlas import atlas_of
    from analysis.pattern_export import draw_patterns, export_bank, export_patterns
    from analysis.style import theme

    bank = load_bank(run.bank_file())
    try:
        atlas = atlas_of(run)
    except RunFolderError as error:  # of the searches kept whole, which the patterns themselves do not need
        with theme(dark):
            written = [*export_bank(run, bank), draw_patterns(run, bank)]
        print(bank.describe())
        print(f"(what evolution prefers is left out: {error})")
        print(*map(shown, written), sep="\n")
        return
    with theme(dark):
        written = export_patterns(run, atlas)
    print(atlas.bank.describe())
    print(f"{atlas.orbits.number:,} patterns up to rotating, mirroring and exchanging the images")
    print()
    for statement in atlas.statements:
        print(statement.text)
    for note in atlas.notes:
        print(f"({note})")
    print()
    for path in written:
        print(shown(path))
