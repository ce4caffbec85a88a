"""The file of an ablation: variants x seeds of a recipe.

    recipe: cifar10-small
    seeds: [0, 1, 2]                    # or 3
    common: {train.epochs: 30}          # optional, for all
    by_seed: {data.subset_start: [0, 50]}  # optional, for all: seed S has value number S, from the first again behind the last
    variants:
      plain: {mix.name: plain}
      evolved: {title: "PatchMix, evolved", mix.name: evolved}   # a title is what tables and figures call it
      replay: {mix.name: bank, mix.bank: "trial:evolved"}
    grid:                               # instead of variants, or after them: every combination
      mix.patch_weight: [0.1, 0.5]
      model.head: [own, shared]
    resources: {cpus: 2, gpus: 1}       # optional: what a trial takes of a Ray cluster
    removed: [replay]                   # optional: variants with options that were removed; results of theirs are kept

A variant of the grid is named after its settings: patch_weight=0.1+head=own. `trial:NAME` stands for what variant NAME
and the same seed has found: its patterns for mix.bank and search.start, its model for search.reference.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from analysis.run_folder import out_root
from analysis.run_settings import RESULT_FILES
from evo.errors import UserError
from runs.ablation.trials import Trial
from runs.folders import with_run_paths
from training import removed
from training.config import Config, make_config
from training.recipe import read_yaml, recipe_path

REQUIRED = ("recipe", "seeds")
SHELVES = ("ablations", "evidence")  # folders of runs/: questions anyone may ask, and what our results are of
TITLE = "title"  # beside a variant's settings
TITLE_LENGTH = 80  # characters
OPTIONAL = ("common", "by_seed", "variants", "grid", "resources", "removed")
MOST = 10_000  # trials of a file: more is a slip
LONGEST = 200  # characters of a variant's name, which becomes a folder's
SET_BY_TRIAL = {
    "run.seed": "use seeds: [0, 1, 2] at the top of the file",
    "run.name": "trials are named after their variant and seed",
}
RESOURCES = ("cpus", "gpus")
REFERENCE = "trial:"


@dataclass(frozen=True)
class Plan:
    """An ablation's file, read: settings by variant."""

    file: Path
    sections: Mapping[str, Any]  # of the recipe
    seeds: list[int]
    by_seed: Mapping[str, list[Any]]
    variants: Mapping[str, dict[str, Any]]
    resources: Mapping[str, float]
    removed: Sequence[str]  # variants that cannot be run anew
    titles: Mapping[str, str]  # what tables and figures call a variant; those without have none

    def gone(self, variant: str) -> dict[str, Any]:
        """The options of a variant that were removed, with their values; none of a variant that can be run."""
        return removed.departing(self.sections, self.variants[variant]) if variant in self.removed else {}


def read_ablation(file: Path) -> list[Trial]:
    """The trials of an ablation's file, seed by seed. Raises UserError, one line per mistake."""
    plan = _read_plan(file)
    configs = {
        (variant, seed): _config(plan, variant, seed, settings)
        for seed in plan.seeds
        for variant, settings in plan.variants.items()
    }
    needs = {variant: _needed(plan, variant, configs) for variant in plan.variants}
    _check_cycles(plan, needs)
    return [
        Trial(
            variant,
            seed,
            _with_results(plan, config, seed),
            _folder(plan, variant, seed),
            tuple(f"{needed}-s{seed}" for needed in needs[variant]),
            plan.resources.get("cpus"),
            plan.resources.get("gpus"),
            ("ablate", str(file), "--only", variant),
            gone=plan.gone(variant),
        )
        for (variant, seed), config in configs.items()
    ]


def titles_of(file: Path) -> dict[str, str]:
    """What an ablation's file has tables and figures call its variants; only those that have a title."""
    return _titles(file, read_yaml(file).get("variants") or {})


def _titles(file: Path, variants: Mapping[Any, Any]) -> dict[str, str]:
    titles = {
        str(name): settings[TITLE]
        for name, settings in variants.items()
        if isinstance(settings, dict) and TITLE in settings
    }
    seen: dict[str, str] = {}
    for name, title in titles.items():
        if not isinstance(title, str) or not title.isprintable() or not 0 < len(title.strip()) <= TITLE_LENGTH:
            raise UserError(
                f"{file}: {name}: title: expected up to {TITLE_LENGTH} printable characters, got {title!r:.60}"
            )
        if (other := seen.setdefault(title, name)) != name:
            raise UserError(f"{file}: variants {other} and {name} have the same title, {title!r}; give each its own")
        if title in variants and title != name:
            raise UserError(f"{file}: {name}: title: {title!r} is the name of another variant; give it another title")
    return titles


def _without_title(settings: Any) -> Any:
    return {key: value for key, value in settings.items() if key != TITLE} if isinstance(settings, dict) else settings


def chosen(trials: list[Trial], only: list[str]) -> list[Trial]:
    """The trials of some variants (names, or patterns such as head=*) and those they need; all where none is named."""
    variants = list(dict.fromkeys(trial.variant for trial in trials))
    for pattern in only:
        if not any(fits(variant, pattern) for variant in variants):
            raise UserError(f"--only {pattern}: there is no such variant (choose from {', '.join(variants)})")
    by_name = {trial.name: trial for trial in trials}
    wanted = [trial.name for trial in trials if not only or any(fits(trial.variant, pattern) for pattern in only)]
    for name in wanted:  # it grows
        wanted += [needed for needed in by_name[name].needs if needed not in wanted]
    return [trial for trial in trials if trial.name in set(wanted)]


def fits(variant: str, pattern: str) -> bool:
    """Whether a variant is the one that is named, or fits a pattern such as head=*."""
    return variant == pattern or fnmatchcase(variant, pattern)


def _read_plan(file: Path) -> Plan:
    data = read_yaml(file)
    if set(data) - {*REQUIRED, *OPTIONAL} or not set(REQUIRED) <= set(data) or not {"variants", "grid"} & set(data):
        raise UserError(
            f"{file}: expected the keys recipe, seeds, variants or grid, and perhaps common, by_seed, resources and removed, got "
            f"{', '.join(map(str, data))}"
        )
    seeds = _seeds(file, data["seeds"])
    common = _settings(file, "common", data.get("common"))
    listed = data.get("variants", {})
    if not isinstance(listed, dict) or not (listed or "grid" in data):
        raise UserError(f"{file}: variants: expected names with settings below them, got {listed!r:.60}")
    _check_keys(file, "variants", listed)
    titles = _titles(file, listed)
    variants = {
        str(name): {**common, **_settings(file, str(name), _without_title(settings))}
        for name, settings in listed.items()
    }
    for name, settings in _grid(file, data["grid"]) if "grid" in data else ():
        if name in variants:
            raise UserError(f"{file}: two variants have the name {name}; list them under variants, with other names")
        variants[name] = {**common, **settings}
    for name in variants:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", name) or len(name) > LONGEST:
            raise UserError(
                f"{file}: variant {name!r:.80}: expected a name of up to {LONGEST} letters, digits and . _ = + -"
            )
    folded: dict[str, str] = {}
    for name in variants:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise UserError(
                f"{file}: variants {other} and {name} differ in capital letters alone, and would share their folders where the "
                "file system ignores these; rename one"
            )
    if len(variants) * len(seeds) > MOST:
        raise UserError(
            f"{file}: expected up to {MOST:,} trials, got {len(variants):,} variants x {len(seeds):,} seeds"
        )
    by_seed = _by_seed(file, data.get("by_seed"), variants)
    sections = read_yaml(recipe_path(str(data["recipe"])))
    plan = Plan(
        file,
        sections,
        seeds,
        by_seed,
        variants,
        _resources(file, data.get("resources")),
        data.get("removed", []),
        titles,
    )
    _check_removed(plan)
    return plan


def _seeds(file: Path, given: Any) -> list[int]:
    if type(given) is int and 0 < given <= MOST:
        return list(range(given))
    if not isinstance(given, list) or not given or not all(type(seed) is int for seed in given):
        raise UserError(
            f"{file}: seeds: expected their number or a list of integers such as [0, 1, 2], got {given!r:.60}"
        )
    if len(set(given)) < len(given):
        raise UserError(f"{file}: seeds: each seed once, got {given}")
    return given


def _settings(file: Path, name: str, settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"{file}: {name}: expected settings such as {{mix.name: plain}}, got {settings!r:.60}")
    _check_keys(file, name, settings)
    return {str(key): value for key, value in settings.items()}


def _by_seed(file: Path, given: Any, variants: Mapping[str, dict[str, Any]]) -> dict[str, list[Any]]:
    found = _settings(file, "by_seed", given)
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{file}: by_seed: expected a list of values for each key, such as {{data.subset_start: [0, 50]}}, got "
                f"{key}: {values!r:.60}"
            )
        if name := next((name for name, settings in variants.items() if key in settings), None):
            raise UserError(f"{file}: {key} is set by seed and for {name}; leave out one of them")
    return found


def _check_keys(file: Path, name: str, given: Mapping[str, Any]) -> None:
    """Raises UserError for what each trial sets."""
    if found := [key for key in SET_BY_TRIAL if key in given]:
        raise UserError(f"{file}: {name}: {found[0]} is set for each trial; {SET_BY_TRIAL[found[0]]}")


def _resources(file: Path, given: Any) -> dict[str, float]:
    found = _settings(file, "resources", given)
    for key, value in found.items():
        if (
            key not in RESOURCES
            or type(value) not in (int, float)
            or not (0 <= value < 1e6)
            or (key, value) == ("cpus", 0)
        ):
            raise UserError(
                f"{file}: resources: expected what a trial takes, such as {{cpus: 2, gpus: 1}}, got {key}: {value!r:.60}"
            )
    return found


def _check_removed(plan: Plan) -> None:
    """Raises UserError where `removed` lists something else than variants with options that were removed."""
    given = plan.removed
    if not isinstance(given, list) or not all(isinstance(name, str) and name in plan.variants for name in given):
        raise UserError(
            f"{plan.file}: removed: expected a list of variants (of {', '.join(plan.variants)}), got {given!r:.60}"
        )
    if able := next((name for name in given if not plan.gone(name)), None):
        raise UserError(f"{plan.file}: removed: no option of variant {able} was removed; leave it out of the list")


# The grid


def _grid(file: Path, grid: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination of the grid's values, with its name."""
    if (
        not isinstance(grid, dict)
        or not grid
        or not all(isinstance(values, list) and values for values in grid.values())
    ):
        raise UserError(
            f"{file}: grid: expected keys with a list of values each, such as {{model.head: [own, shared]}}, got {grid!r:.60}"
        )
    if (count := len(list(itertools.islice(itertools.product(*grid.values()), MOST + 1)))) > MOST:
        raise UserError(f"{file}: grid: expected up to {MOST:,} combinations, got {count:,} or more")
    _check_keys(file, "grid", grid)
    keys = {str(key): _short(str(key), [str(other) for other in grid]) for key in grid}
    for values in itertools.product(*grid.values()):
        settings = dict(zip(keys, values, strict=True))
        yield "+".join(f"{keys[key]}={_word(value)}" for key, value in settings.items()), settings


def _short(key: str, keys: list[str]) -> str:
    """A key as it stands in a name: without its section where no other ends alike, and mix for mix.name."""
    section, _, last = key.rpartition(".")
    if last == "name" and section:
        return section
    return last if [other.rpartition(".")[2] for other in keys].count(last) == 1 else key


def _word(value: Any) -> str:
    """A value as it stands in a name."""
    if isinstance(value, list):
        return "-".join(map(_word, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", "none" if value is None else text)


# Configs


def _folder(plan: Plan, variant: str, seed: int) -> Path:
    return (out_root() / plan.file.stem / f"{variant}-s{seed}").absolute()


def _config(plan: Plan, variant: str, seed: int, settings: dict[str, Any]) -> Config:
    """The checked config, in which results of other trials are yet named by `trial:`, and only where they count."""
    by_seed = {key: values[seed % len(values)] for key, values in plan.by_seed.items()}
    settings = {**settings, **by_seed, "run.seed": seed, "run.name": f"{plan.file.stem}/{variant}-s{seed}"}
    sections = plan.sections
    if variant in plan.removed:
        sections = removed.without(sections)
        settings = {key: value for key, value in settings.items() if key not in removed.REMOVED}
    config = make_config(sections, source=f"{plan.file.name}: {variant}", settings=settings)
    counts = {
        "mix.bank": config.mix.kind.needs_bank,
        "search.start": config.searches,
        "search.reference": config.searches,
    }
    unused = [key for key in _references(config) if not counts[key]]
    return _replaced(config, {key: _default(key) for key in unused})


def _references(config: Config) -> dict[str, str]:
    """The variants whose results a config uses, by key."""
    values = {
        "mix.bank": config.mix.bank,
        "search.start": config.search.start,
        "search.reference": config.search.reference,
    }
    return {
        key: value.removeprefix(REFERENCE) for key, value in values.items() if value and value.startswith(REFERENCE)
    }


def _needed(plan: Plan, variant: str, configs: Mapping[tuple[str, int], Config]) -> list[str]:
    """The variants whose results a variant uses; checked to be there and to have such results."""
    seed = plan.seeds[0]
    for key, name in (found := _references(configs[variant, seed])).items():
        if name not in plan.variants:
            raise UserError(
                f"{plan.file}: {variant}: {key}: there is no variant {name!r} (choose from {', '.join(plan.variants)})"
            )
        if name in plan.removed:
            raise UserError(
                f"{plan.file}: {variant}: {key}: variant {name} has options that were removed and cannot be run, so that "
                "nothing can be trained on what it finds; use another variant"
            )
        if RESULT_FILES[key] and not (mix := configs[name, seed].mix).kind.finds_patterns:
            raise UserError(
                f"{plan.file}: {variant}: {key}: expected a variant that finds patterns (mix.name=evolved), and {name} has "
                f"mix.name={mix.name}"
            )
        grids = [configs[which, seed].model.grid for which in (variant, name)]
        if RESULT_FILES[key] and None not in grids and grids[0] != grids[1]:
            raise UserError(
                f"{plan.file}: {variant}: {key}: expected patterns of its own grid, model.grid={grids[0]}, and {name} has "
                f"model.grid={grids[1]}"
            )
    return list(dict.fromkeys(found.values()))


def _check_cycles(plan: Plan, needs: Mapping[str, list[str]]) -> None:
    """Raises UserError where a variant waits for itself."""

    def follow(way: list[str]) -> None:
        for needed in needs[way[-1]]:
            if needed in way:
                circle = " -> ".join([*way[way.index(needed) :], needed])
                raise UserError(f"{plan.file}: variants wait for each other: {circle}")
            if needed not in sound:
                follow([*way, needed])
        sound.add(way[-1])

    sound: set[str] = set()
    for variant in needs:
        follow([variant])


def _with_results(plan: Plan, config: Config, seed: int) -> Config:
    """The config with whole paths, those of other trials' results too, which are not there yet."""
    found = {key: str(_folder(plan, name, seed) / RESULT_FILES[key]) for key, name in _references(config).items()}
    plain = with_run_paths(_replaced(config, {key: _default(key) for key in found}))
    return _replaced(plain, found)


def _default(key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(Config(), section), name)


def _replaced(config: Config, values: Mapping[str, Any]) -> Config:
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    return config
