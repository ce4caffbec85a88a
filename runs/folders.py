"""Places of new runs, and paths of old ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, find_run, out_root
from analysis.run_settings import flat
from evo.errors import UserError
from training import removed
from training.config import Config, make_config
from training.option_types import Place
from training.options import idle_options
from training.places import PROJECT, spoken, taken, user_path
from training.progress import speaks
from training.recipe import option_of
from training.registry import MIXES

TAKEN = "EVOMIX_RUN_FOLDER"  # for processes that train one run together: its folder, which their launcher has made


@contextmanager
def new_run_folder(config: Config, stem: str) -> Iterator[Path]:
    """A folder made for a run to write: run.name, else STEM-MIX-N with the first free number.

    To choose it and to make it are one step, so that of commands started at once each has its own. It is removed again
    where the block leaves it empty. Raises UserError where run.name is taken, or nothing can be made there.
    """
    if TAKEN in os.environ:
        yield Path(os.environ[TAKEN])
    elif config.run.name is not None:
        with _made(itertools.repeat(out_root() / config.run.name, 1)) as folder:
            yield folder
    else:
        with numbered(f"{stem}-{config.mix.name}") as folder:
            yield folder


@contextmanager
def numbered(stem: str) -> Iterator[Path]:
    """A folder made under runs/out: the first of STEM-1, STEM-2, ... that is free; otherwise as new_run_folder."""
    with _made(out_root() / f"{stem}-{number}" for number in itertools.count(1)) as folder:
        yield folder


@contextmanager
def _made(wanted: Iterator[Path]) -> Iterator[Path]:
    if not speaks():  # another process of this run, on its own machine perhaps, makes the folder and writes it
        yield next(wanted)
        return
    folder = _first_free(wanted)
    try:
        yield folder
    finally:
        with suppress(OSError):  # it is in use, or gone
            folder.rmdir()


def _first_free(wanted: Iterator[Path]) -> Path:
    """Make the first of these folders that is not there. Raises UserError."""
    folder = Path()
    for folder in wanted:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not os.path.lexists(folder):  # what is in the way lies above it
                raise UserError(f"{folder} cannot be made: {folder.parent} is no folder; set EVOMIX_OUT") from None
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made: {error.strerror}; choose another run.name or EVOMIX_OUT"
            ) from None
    raise UserError(taken(folder))


def shown(path: Path) -> str:
    """A path as a person reads it: relative where it lies below where they stand."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def file_to_write(given: Path | None, option: str = "--out") -> Path | None:
    """The file that an option names. Raises UserError, before any work, where no file can be there; the folder it is to
    lie in is made when it is written.
    """
    if given is None:
        return None
    path = user_path(given)
    if path.is_dir() or not path.name:
        raise UserError(f"{option} {given}: expected a file, and this is a folder; name a file in it")
    _check_folders(path.parent, given, option)
    return path


def folder_to_write(given: Path | None, option: str = "--out") -> Path | None:
    """The folder that an option names. Raises UserError, before any work, where none can be there; it is made when
    something is written into it.
    """
    if given is None:
        return None
    path = user_path(given)
    _check_folders(path, given, option)
    return path


def _check_folders(path: Path, given: Path, option: str) -> None:
    there = next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        what = "a link that leads nowhere" if not there.exists() else "a file"
        which = "this" if there.absolute() == user_path(given).absolute() else there
        raise UserError(f"{option} {given}: expected a folder, and {which} is {what}; name another place")


def with_run_paths(config: Config) -> Config:
    """The config with whole paths, so that a run can be gone on with from anywhere, also for runs by their names.

    Raises RunFolderError where search.reference or search.start names a run that is not there, UserError where mix.bank
    is no file.
    """
    search, found = config.search, dict[str, str]()
    if search.reference != "average":
        given = user_path(search.reference)
        found["reference"] = str((given if given.is_dir() else find_run(search.reference).path).resolve())
    if search.start is not None:
        given = user_path(search.start)
        pattern_file = given.suffix in (".json", ".npz")
        found["start"] = str((given if pattern_file else find_run(search.start).bank_file()).resolve())
    sections: dict[str, Any] = {"search": search.model_copy(update=found)}
    if config.mix.bank:
        bank = user_path(config.mix.bank).resolve()
        if config.mix.kind.needs_bank and not bank.is_file():
            raise UserError(f"mix.bank: no pattern bank at {bank}; `./run patterns RUN` writes one")
        sections["mix"] = config.mix.model_copy(update={"bank": str(bank)})
    if config.data.root:
        sections["data"] = config.data.model_copy(update={"root": str(user_path(config.data.root).resolve())})
    return config.model_copy(update=sections)


def recorded_config(run: RunFolder) -> Config:
    """The config a run was made with, to go on with it.

    Raises UserError where it has an option that was removed, with a value that does something that no longer exists.
    """
    if run.mix not in MIXES or not MIXES[run.mix].scores:  # whose section `search` does not count
        return known_config(run)
    return make_config(_sections(run), source=str(run.path / "config.json"), trains=False)


def known_config(run: RunFolder) -> Config:
    """The config a run was made with, for what uses its model or its data alone: without options that were removed."""
    sections = removed.without(_sections(run))
    return make_config(sections, source=str(run.path / "config.json"), trains=False)


def _sections(run: RunFolder) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key != "schema"}


def config_to_go_on_with(
    run: RunFolder, overrides: Sequence[str], command: tuple[str, ...], free: Sequence[str] = ()
) -> Config:
    """The config of a run that goes on, with other values of options that cannot change its result.

    Such an option says where its images or patterns lie now; whether they are the same ones, digests decide later.
    command: what the user types to go on, for errors. free: further options that may have another value. Raises
    UserError for other values of other options, and for what is not there.
    """
    recorded = recorded_config(run)
    config = make_config(recorded.model_dump(), overrides, "--resume", trains=False)
    check_unchanged(recorded, config, overrides, free)
    for option, value in places_used(config).items():
        if not user_path(value).exists() and (option == "data.root" or not _is_run(value)):
            raise UserError(
                f"{option}: {value} is not there any more; put it back, or say where it is now: "
                + spoken(command[0], options=(*command[1:], "-s", f"{option}=PLACE"))
            )
    return with_run_paths(config)


def check_unchanged(recorded: Config, wanted: Config, overrides: Sequence[str], free: Sequence[str] = ()) -> None:
    """Raise UserError where a run with the config `recorded` cannot go on with `wanted`, which may change its result.

    overrides: the texts `section.key=value` that make the one of the other. free: options that may differ, besides those
    that cannot change the result.
    """
    written = {option_of(override): override for override in overrides}
    allowed = [option for option in idle_options() if option != "run.name"]
    before, after = (flat(config.model_dump()) for config in (recorded, wanted))
    for option, value in after.items():
        if option in allowed or option in free or value == before[option]:
            continue
        if option == "train.epochs":
            raise UserError(f"-s {written[option]}: {why_epochs_stay(recorded)}")
        raise UserError(
            f"-s {written[option]}: a run goes on with its own config, here {option}={before[option]}, since another value "
            "could change its result: start a run anew for it; what cannot change it may be given anew: "
            + ", ".join(allowed)
            + (f"; a search's ends may be given anew as well: {', '.join(free)}" if free else "")
        )


def why_epochs_stay(config: Config) -> str:
    """Why a run of this config cannot be made longer or shorter, and what to do."""
    train = config.train
    follows = {
        "cosine": f"falls along a cosine to 0 at the end of its own {train.epochs} epochs",
        "onecycle": f"rises and falls in one cycle to 0 at the end of its own {train.epochs} epochs",
        "step": f"is lowered after the shares {train.step_at} of its own {train.epochs} epochs",
        "constant": f"is constant, but its last ten tests, and where it searches its first search, are those of its own "
        f"{train.epochs} epochs",
    }
    return (
        f"the run's learning rate (train.schedule={train.schedule}) {follows[train.schedule]}, so that another number of "
        "epochs is another run; train anew with -s train.epochs=N"
    )


def places_used(config: Config) -> dict[str, str]:
    """The options of a config that name a file or folder it needs, with their values."""
    counts = {
        "data.root": config.data.root is not None,
        "mix.bank": config.mix.kind.needs_bank,
        "search.start": config.searches and config.search.start is not None,
        "search.reference": config.searches and config.search.reference != "average",
    }
    values = config.model_dump()
    return {
        option: str(values[option.partition(".")[0]][option.partition(".")[2]])
        for option in idle_options(Place)
        if counts[option]
    }


def _is_run(name: str) -> bool:
    return (out_root() / name / "config.json").is_file()


def python_path() -> str:
    """PYTHONPATH for processes started from here: this project's folder before the user's own."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
