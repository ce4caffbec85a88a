"""Runs of one setting: their options are equal but for the seed, the name and where they ran.

Each seed may have training images of its own, as many of the same data set: of one seed they are the same.

An option that names the result of another run, such as mix.bank, may do so by the run's own seed: evolved-s0 for seed 0
and evolved-s1 for seed 1 are one value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.run_folder import RunFolder
from analysis.run_format import REMOVED

# Besides seed and name of a run: options that cannot change a result. training/options.py marks them and gives the reasons.
NO_SETTING = ("run.", "data.root", "data.download", "data.resident", "train.eval_batch_size", "train.save_minutes")
SEARCHING = ("evolved", "best-of-k")  # mixes for which the options of `search` count
IMAGES = ("data.subset_start", "data.subset_seed")  # options that say which images of the data set a run trains on
RESULT_FILES = {  # options that may name what another run has found: which file of its folder, "" for the folder itself
    "mix.bank": "patterns/bank.npz",
    "search.start": "patterns/bank.npz",
    "search.reference": "",
}

ANY = "*"  # no value as JSON
Readings = dict[str, frozenset[str]]  # of each option the values that it may stand for, as JSON


class Setting(NamedTuple):
    name: str
    runs: list[RunFolder]

    @property
    def seeds(self) -> list[int]:
        return [seed_of(run) for run in self.runs]


def seed_of(run: RunFolder) -> int:
    return int(run.config["run"]["seed"])


def counted(run: RunFolder) -> dict[str, Any]:
    """The options that make the run's setting, by their dotted names; a search experiment's `model` is one of them."""
    model = run.start.get("model")
    idle = () if model or run.mix in SEARCHING else ("search.",)
    options = {name: value for name, value in flat(run.config).items() if not name.startswith((*NO_SETTING, *idle))}
    return {**options, "model": model} if model else options


def images_of(run: RunFolder) -> list[Any]:
    """Which images of its data set a run trains on."""
    options = flat(run.config)
    return [options.get(name) for name in IMAGES]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options by their dotted names, as ./run train -s takes them."""
    options: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            options |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name != "schema":
            options[name] = value
    return options


def readings_of(run: RunFolder) -> Readings:
    """The run's setting, to compare with others by `difference`."""
    found = {name: {json.dumps(value)} for name, value in counted(run).items()}
    for name in (*RESULT_FILES, "model"):
        if name in found:
            found[name] |= {without_seed(value, seed_of(run)) for value in found[name]}
    for name in IMAGES:
        if name in found:
            found[name].add(ANY)
    return {name: frozenset(values) for name, values in found.items()}


def without_seed(path: str, seed: int) -> str:
    """A path with * in the place of the seed in the last name that ends in it, as in /x/evolved-s*/patterns/bank.npz."""
    return re.sub(rf'^(.*-s){seed}(?=/|"|$|\.(json|npz)\b)', r"\1*", path)


def difference(one: Readings, other: Readings) -> str:
    """The first option that makes two settings of them, as it does where only one has it; "" where they are one."""
    nothing: frozenset[str] = frozenset()
    names = dict.fromkeys((*one, *other))
    return next((name for name in names if not one.get(name, nothing) & other.get(name, nothing)), "")


def common(one: Readings, other: Readings) -> Readings:
    """What is left of two that are one setting, to compare a third with."""
    return {name: values & other[name] for name, values in one.items()}


def by_setting(runs: Sequence[RunFolder], *, repeats: bool = False) -> list[list[RunFolder]]:
    """The runs by setting, in their order. A seed that comes again with the same setting begins another one, but not
    with `repeats`.
    """
    groups: list[list[RunFolder]] = []
    settings: list[Readings] = []
    for run in runs:
        readings = readings_of(run)
        for place, (group, setting) in enumerate(zip(groups, settings, strict=True)):
            again = [other for other in group if seed_of(other) == seed_of(run)]
            fits = all(repeats and images_of(other) == images_of(run) for other in again)
            if fits and not difference(setting, readings):
                group.append(run)
                settings[place] = common(setting, readings)
                break
        else:
            groups.append([run])
            settings.append(readings)
    return groups


def settings_of(runs: Sequence[RunFolder]) -> list[Setting]:
    """The runs by setting, as by `by_setting`, with names of their own."""
    groups = by_setting(runs)
    return [Setting(name, found) for name, found in zip(_names(groups), groups, strict=True)]


def _names(groups: Sequence[Sequence[RunFolder]]) -> list[str]:
    """What the runs of each group have in common in their names; the first run's whole name where that is not unique."""
    stems = [_stem([run.name for run in group]) for group in groups]
    return [
        name if name and stems.count(name) == 1 else group[0].name for name, group in zip(stems, groups, strict=True)
    ]


def _stem(names: Sequence[str]) -> str:
    """The names without the seed at their end, where that makes them one; else the first."""
    if len(names) == 1:
        return names[0]
    bases = {re.sub(r"[-_./]*(seed|s)?\d+$", "", name) for name in names}
    return bases.pop() if len(bases) == 1 else names[0]


def differing(settings: Sequence[Setting]) -> dict[str, list[Any]]:
    """Options in which settings differ: the value of each setting, by option; – where it does not count."""
    configs = [_options(setting) for setting in settings]
    for name in [key for key in REMOVED if any(key in config for config in configs)]:
        for config in configs:
            if any(key.startswith("search.") for key in config):  # one without it did as its value there says
                config.setdefault(name, REMOVED[name])
    found = {}
    for name in dict.fromkeys(key for config in configs for key in config):
        values = [config[name] for config in configs if name in config]
        if any(value != values[0] for value in values):
            found[name] = [config.get(name, "–") for config in configs]
    return found


def _options(setting: Setting) -> dict[str, Any]:
    """What counts of a setting's runs; a result that each run names by its seed with * in the place of the seed, and * for
    images that each seed has of its own.
    """
    first, *others = (counted(run) for run in setting.runs)
    by_seed = [name for name, value in first.items() if any(other[name] != value for other in others)]
    own = {name: ANY if name in IMAGES else without_seed(first[name], setting.seeds[0]) for name in by_seed}
    return {**first, **own}
