"""Names of new run folders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from analysis.run_folder import RunFolder, find_run, out_root
from training.config import Config, UserError, make_config


def new_run_folder(config: Config, stem: str) -> Path:
    """Where a run writes: run.name, else STEM-MIX-N with the first free number."""
    if config.run.name is not None:
        return out_root() / config.run.name
    return numbered(f"{stem}-{config.mix.name}")


def numbered(stem: str) -> Path:
    """The first of STEM-1, STEM-2, ... under runs/out that is free."""
    return next(path for n in itertools.count(1) if not (path := out_root() / f"{stem}-{n}").exists())


def shown(path: Path) -> str:
    """A path as a person reads it: relative where it lies below where they stand."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def with_run_paths(config: Config) -> Config:
    """The config with whole paths, so that a run can be gone on with from anywhere, also for runs by their names.

    Raises RunFolderError where search.reference or search.start names a run that is not there, UserError where mix.bank
    is no file.
    """
    search, found = config.search, dict[str, str]()
    if search.reference != "average":
        given = Path(search.reference).expanduser()
        found["reference"] = str((given if given.is_dir() else find_run(search.reference).path).resolve())
    if search.start is not None:
        given = Path(search.start).expanduser()
        pattern_file = given.suffix in (".json", ".npz")
        found["start"] = str((given if pattern_file else find_run(search.start).bank_file()).resolve())
    sections: dict[str, Any] = {"search": search.model_copy(update=found)}
    if config.mix.bank:
        bank = _whole(config.mix.bank)
        if config.mix.name == "bank" and not Path(bank).is_file():
            raise UserError(f"mix.bank: no pattern bank at {bank}; `./run patterns RUN` writes one")
        sections["mix"] = config.mix.model_copy(update={"bank": bank})
    if config.data.root:
        sections["data"] = config.data.model_copy(update={"root": _whole(config.data.root)})
    return config.model_copy(update=sections)


def _whole(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def recorded_config(run: RunFolder) -> Config:
    """The config a run was made with."""
    sections = {key: value for key, value in run.config.items() if key != "schema"}
    return make_config(sections, source=str(run.path / "config.json"), trains=False)
